// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`IovIter`]: a cursor over memory that *extracts* frames, a request at a time.
//!
//! What `iov_iter_extract_pages()` is with the page replaced by the frame number. The cursor knows addresses or frames and
//! how far it has come; it holds nothing. [`IovIter::extract`] names the frames of as many bytes as one request under
//! [`Limits`](crate::Limits) may carry. Naming takes no hold either: whoever does the I/O takes the
//! [`Inflight`](pageless_mem::Inflight), and where a region went away between the two, that answers
//! [`Gone`](pageless_mem::Fault::Gone).

mod error;
mod extract;
mod extracted;
mod gaps;
#[cfg(test)]
mod tests;

use pageless_mem::PhysRange;

pub use error::{IovError, RegisterError};
pub use extracted::{Extracted, Release};

/// The most iovecs in one call: the kernel's `UIO_MAXIOV`.
pub const MAX_IOVECS: usize = 1024;

/// Bytes at an address of this process: `struct iovec` as numbers. It grants nothing and may lead nowhere.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct UserIovec {
    /// First address.
    pub addr: usize,
    /// Bytes.
    pub len: usize,
}

impl UserIovec {
    /// Whether its end is no address any more.
    #[inline]
    fn wraps(self) -> bool {
        self.len > 0 && self.addr.checked_add(self.len).is_none()
    }
}

/// The most bytes in one call: what its result can count.
const MOST_BYTES: usize = isize::MAX.unsigned_abs();

/// A cursor over a list of iovecs or of frames, at any byte alignment.
///
/// It moves [forward](IovIter::advance), [back](IovIter::revert), and can be made [shorter](IovIter::truncate) for a while.
/// A clone is a second cursor at the same place.
#[derive(Clone, Debug)]
pub struct IovIter<'a> {
    source: Source<'a>,
    /// The element that holds the next byte.
    index: usize,
    /// Bytes of that element already passed.
    passed: usize,
    /// Bytes passed in all; how far it can be reverted.
    at: usize,
    /// Where it ends for now.
    end: usize,
    /// Where it ends when it is not truncated.
    total: usize,
}

#[derive(Copy, Clone, Debug)]
enum Source<'a> {
    User(&'a [UserIovec]),
    Frames(&'a [PhysRange]),
}

impl Source<'_> {
    /// Bytes of one element; 0 past the last.
    #[inline]
    fn len_of(self, index: usize) -> usize {
        match self {
            Source::User(iovecs) => iovecs.get(index).map_or(0, |iovec| iovec.len),
            Source::Frames(ranges) => ranges.get(index).map_or(0, |range| range.len() as usize),
        }
    }

    /// First byte, in its own space, and bytes of each element.
    fn extents(self) -> Vec<(u64, u64)> {
        match self {
            Source::User(iovecs) => iovecs.iter().map(|iovec| (iovec.addr as u64, iovec.len as u64)).collect(),
            Source::Frames(ranges) => {
                ranges.iter().map(|range| (range.byte_address(), u64::from(range.len()))).collect()
            }
        }
    }

    fn count(self) -> usize {
        match self {
            Source::User(iovecs) => iovecs.len(),
            Source::Frames(ranges) => ranges.len(),
        }
    }
}

impl<'a> IovIter<'a> {
    /// Over addresses of this process. An iovec of no bytes is legal wherever it points.
    ///
    /// # Errors
    /// [`IovError::TooMany`], [`IovError::Wraps`] or [`IovError::TooLong`], with the numbers.
    pub fn user(iovecs: &'a [UserIovec]) -> Result<IovIter<'a>, IovError> {
        if iovecs.len() > MAX_IOVECS {
            return Err(IovError::TooMany { count: iovecs.len() });
        }
        // No way out in the loop, so that it is a few vector instructions; which one is wrong is found when one is.
        let (mut total, mut wraps) = (0_usize, false);
        for iovec in iovecs {
            total = total.saturating_add(iovec.len);
            wraps |= iovec.wraps();
        }
        if wraps || total > MOST_BYTES {
            return Err(refusal(iovecs));
        }
        Ok(IovIter::new(Source::User(iovecs), total))
    }

    /// Over frames.
    ///
    /// # Errors
    /// [`IovError::TooLong`].
    pub fn frames(ranges: &'a [PhysRange]) -> Result<IovIter<'a>, IovError> {
        let mut total = 0;
        for (index, range) in ranges.iter().enumerate() {
            total = sum(total, range.len() as usize, index)?;
        }
        Ok(IovIter::new(Source::Frames(ranges), total))
    }

    fn new(source: Source<'a>, total: usize) -> IovIter<'a> {
        IovIter { source, index: 0, passed: 0, at: 0, end: total, total }
    }

    /// Bytes left.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.at
    }

    /// Whether no bytes are left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves `n` bytes on, or to the end, and says how many that were.
    pub fn advance(&mut self, n: usize) -> usize {
        let n = n.min(self.len());
        let mut left = n;
        while left > 0 {
            let rest = self.source.len_of(self.index) - self.passed;
            if left < rest {
                self.passed += left;
                break;
            }
            left -= rest;
            self.index += 1;
            self.passed = 0;
        }
        self.at += n;
        n
    }

    /// Moves `n` bytes back, or to where it began, and says how many that were.
    pub fn revert(&mut self, n: usize) -> usize {
        let n = n.min(self.at);
        let mut left = n;
        while left > self.passed {
            left -= self.passed;
            self.index -= 1;
            self.passed = self.source.len_of(self.index);
        }
        self.passed -= left;
        self.at -= n;
        n
    }

    /// Ends it `len` bytes from here, unless it ends before that. [`reexpand`](IovIter::reexpand) undoes it.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.at.saturating_add(len));
    }

    /// Ends it where it ended before it was truncated.
    pub fn reexpand(&mut self) {
        self.end = self.total;
    }

    /// What is left, as an iterator of its own that cannot be reverted or reexpanded beyond that.
    #[must_use]
    pub fn remainder(&self) -> IovIter<'a> {
        IovIter { at: 0, end: self.len(), total: self.len(), ..*self }
    }

    /// Refuses bytes that are named twice, as the destination of a read must not: two writers would race for them. A source
    /// may name them as often as it likes. Nothing else looks: see the overlap contract of [`extract`](IovIter::extract). It
    /// compares addresses, or frames: one memory that is mapped twice has two of each.
    ///
    /// # Errors
    /// [`IovError::Overlapping`], with two of the iovecs that do.
    pub fn check_disjoint(&self) -> Result<(), IovError> {
        let mut left = Vec::new();
        let (mut bytes, mut passed) = (self.len() as u64, self.passed as u64);
        for (index, (start, len)) in self.source.extents().into_iter().enumerate().skip(self.index) {
            let (start, len) = (start + passed, (len - passed).min(bytes));
            (bytes, passed) = (bytes - len, 0);
            if len > 0 {
                left.push((start, start + len, index));
            }
        }
        left.sort_unstable();
        match left.windows(2).find(|pair| pair[1].0 < pair[0].1) {
            Some(pair) => {
                let (a, b) = (pair[0].2, pair[1].2);
                let overlap = pair[0].1.min(pair[1].1) - pair[1].0;
                Err(IovError::Overlapping { first: a.min(b), second: a.max(b), at: pair[1].0, len: overlap })
            }
            None => Ok(()),
        }
    }
}

/// The first iovec that is wrong, of some of which one is.
#[cold]
fn refusal(iovecs: &[UserIovec]) -> IovError {
    let mut before = 0;
    for (index, iovec) in iovecs.iter().enumerate() {
        let &UserIovec { addr, len } = iovec;
        if iovec.wraps() {
            return IovError::Wraps { index, addr, len };
        }
        match sum(before, len, index) {
            Ok(sum) => before = sum,
            Err(error) => return error,
        }
    }
    IovError::TooLong { index: iovecs.len(), len: 0, before }
}

/// The total with one more length, where the kernel would take it.
fn sum(total: usize, len: usize, index: usize) -> Result<usize, IovError> {
    match total.checked_add(len) {
        Some(sum) if sum <= MOST_BYTES => Ok(sum),
        _ => Err(IovError::TooLong { index, len, before: total }),
    }
}
