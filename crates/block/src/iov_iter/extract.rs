// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turning the next bytes of an [`IovIter`] into frames, or counting what that would give.

use pageless_mem::{Access, AddrRun, Online, PhysRange};

use super::{Extracted, IovError, IovIter, MAX_IOVECS, Source};
use crate::{Limits, ScatterList};

impl IovIter<'_> {
    /// Names the frames of the next bytes, as many as one request under `limits` may carry, and moves past them. They are
    /// whole blocks. Nothing is left is an empty list. `access` is what will be done to the memory: a read from a device is
    /// [`Access::Write`].
    ///
    /// # Errors
    /// [`IovError`]; the iterator has not moved.
    pub fn extract(&mut self, online: &Online<'_>, limits: &Limits, access: Access) -> Result<Extracted, IovError> {
        let most = MAX_IOVECS.min(limits.max_segments as usize);
        let elements = self.source.count() - self.index.min(self.source.count());
        let mut list = ScatterList::with_capacity(elements.min(most));
        let walked = self.walk(online, limits, access, &mut list)?;
        let whole = self.whole_blocks(walked, limits)?;
        if whole == walked.bytes {
            (self.index, self.passed) = (walked.index, walked.passed);
            self.at += whole;
        } else {
            list.truncate(whole as u64);
            self.advance(whole);
        }
        Ok(Extracted::new(list, Vec::new()))
    }

    /// How many ranges [`extract`](IovIter::extract) would give now, without a list and without moving.
    ///
    /// # Errors
    /// As `extract`, but for destinations that may not be written.
    pub fn segments(&self, online: &Online<'_>, limits: &Limits) -> Result<usize, IovError> {
        let mut count = Count { block: u64::from(limits.block_size), ..Count::default() };
        let walked = self.walk(online, limits, Access::Read, &mut count)?;
        let whole = self.whole_blocks(walked, limits)?;
        Ok(if whole == walked.bytes { count.segments } else { count.whole })
    }

    /// Of the bytes that were walked over, those in whole blocks.
    #[inline]
    fn whole_blocks(&self, walked: Walked, limits: &Limits) -> Result<usize, IovError> {
        let Limits { block_size, max_segments, .. } = *limits;
        // A power of two, so this is no division.
        let whole = walked.bytes & !(block_size as usize - 1);
        match whole {
            0 if self.is_empty() => Ok(0),
            0 if self.len() < block_size as usize => Err(IovError::PartBlock { left: self.len(), block_size }),
            0 => Err(IovError::Fragmented { block_size, max_segments }),
            whole => Ok(whole),
        }
    }

    /// Gives `sink` the ranges of the next bytes until it, or a limit, has enough.
    #[inline]
    fn walk(
        &self,
        online: &Online<'_>,
        limits: &Limits,
        access: Access,
        sink: &mut impl Sink,
    ) -> Result<Walked, IovError> {
        let most = self.request_bytes(limits);
        let mut walked = Walked { bytes: 0, index: self.index, passed: self.passed };
        while walked.bytes < most {
            let len = self.source.len_of(walked.index);
            if walked.passed >= len {
                (walked.index, walked.passed) = (walked.index + 1, 0);
                continue;
            }
            let range = match self.range_at(online, walked, most - walked.bytes, access) {
                Ok(range) => range,
                // It would not have fitted anyway.
                Err(_) if sink.count() >= limits.max_segments as usize => break,
                Err(error) => return Err(error),
            };
            if !sink.push(range, limits.max_segments as usize) {
                break;
            }
            walked.bytes += range.len() as usize;
            walked.passed += range.len() as usize;
        }
        Ok(walked)
    }

    /// Bytes that one request may carry of those left.
    pub(super) fn request_bytes(&self, limits: &Limits) -> usize {
        let most = limits.max_bytes & !(u64::from(limits.block_size) - 1);
        usize::try_from(most).unwrap_or(usize::MAX).min(self.len())
    }

    /// The next bytes in one range, at most `most`.
    #[inline]
    fn range_at(&self, online: &Online<'_>, at: Walked, most: usize, access: Access) -> Result<PhysRange, IovError> {
        let after = at.bytes;
        match self.source {
            Source::User(iovecs) => {
                let iovec = iovecs[at.index];
                let (addr, len) = (iovec.addr + at.passed, (iovec.len - at.passed).min(most));
                match online.run_at(addr, len, access) {
                    AddrRun::Frames { range, writable } if writable || access == Access::Read => Ok(range),
                    AddrRun::Frames { range, .. } => Err(IovError::ReadOnly { addr, len: range.len() as usize, after }),
                    AddrRun::Gap(len) => Err(IovError::Unregistered { addr, len, after }),
                }
            }
            Source::Frames(ranges) => {
                let range = part(ranges[at.index], at.passed, most);
                match online.caps(range) {
                    Ok(caps) if caps.writable || access == Access::Read => Ok(range),
                    Ok(_) => Err(IovError::ReadOnlyFrames { range, after }),
                    Err(_gone) => Err(IovError::Gone { range, after }),
                }
            }
        }
    }
}

/// The bytes of a range behind the first `passed`, at most `most` of them.
fn part(range: PhysRange, passed: usize, most: usize) -> PhysRange {
    let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let rest = range.split_at(cut(passed)).map_or(range, |(_, rest)| rest);
    rest.split_at(cut(most)).map_or(rest, |(head, _)| head)
}

/// How far a walk has come.
#[derive(Copy, Clone, Debug)]
struct Walked {
    bytes: usize,
    index: usize,
    passed: usize,
}

/// What takes ranges: a list, or a count of what the list would hold.
trait Sink {
    /// Takes a range, joined to the last one where they touch; false where that would be more than `most` ranges.
    fn push(&mut self, range: PhysRange, most: usize) -> bool;

    /// Ranges taken.
    fn count(&self) -> usize;
}

impl Sink for ScatterList {
    #[inline]
    fn push(&mut self, range: PhysRange, most: usize) -> bool {
        self.push_within(range, most)
    }

    fn count(&self) -> usize {
        self.as_slice().len()
    }
}

#[derive(Debug, Default)]
struct Count {
    block: u64,
    last: Option<PhysRange>,
    bytes: u64,
    segments: usize,
    /// Segments up to the end of the last whole block.
    whole: usize,
}

impl Sink for Count {
    #[inline]
    fn push(&mut self, range: PhysRange, most: usize) -> bool {
        match self.last.and_then(|last| last.merge(range)) {
            Some(merged) => self.last = Some(merged),
            None if self.segments >= most => return false,
            None => {
                self.last = Some(range);
                self.segments += 1;
            }
        }
        let before = self.bytes;
        self.bytes += u64::from(range.len());
        if self.bytes & !(self.block - 1) > before {
            self.whole = self.segments;
        }
        true
    }

    fn count(&self) -> usize {
        self.segments
    }
}
