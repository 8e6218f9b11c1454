// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turning the next bytes of an [`IovIter`] into frames, or counting what that would give.

use pageless_mem::{Access, AddrRun, Online, PhysRange};

use super::{Extracted, IovError, IovIter, MAX_IOVECS, Source};
use crate::{Limits, ScatterList};

/// Elements that usually need no memory of a list of their own.
const FEW: usize = 8;

impl IovIter<'_> {
    /// Names the frames of the next bytes, as many as one request under `limits` may carry, and moves past them. They are
    /// whole blocks; where nothing is left, the list is empty. `access` is what will be done to the memory: a read from a
    /// device is [`Access::Write`].
    ///
    /// # Overlap contract
    /// Bytes that are named twice are extracted twice, whatever the access: `extract` does not look for them. Only
    /// [`check_disjoint`](IovIter::check_disjoint) refuses them, for a caller who asks before the first extraction. Where
    /// nobody does, a source is read as often as it is named. Each byte of a destination is one of those that were to go
    /// there, in no order that can be relied on, and the completion is `Ok` all the same: as with the kernel's `readv`, wrong
    /// bytes in memory that the caller gave, and nothing worse.
    ///
    /// # Errors
    /// [`IovError`]; the iterator has not moved. Never [`IovError::Overlapping`].
    pub fn extract(&mut self, online: &Online<'_>, limits: &Limits, access: Access) -> Result<Extracted, IovError> {
        let (mut list, mut walked) = self.list(online, limits, access)?;
        if let Some(cut) = self.whole_blocks(walked.bytes, limits)? {
            (list, walked) = cut.list(online, limits, access)?;
        }
        (self.index, self.passed) = (walked.index, walked.passed);
        self.at += walked.bytes;
        Ok(Extracted::new(list, Vec::new()))
    }

    /// How many ranges [`extract`](IovIter::extract) would give now, without a list and without moving.
    ///
    /// # Errors
    /// As `extract`, but for destinations that may not be written.
    pub fn segments(&self, online: &Online<'_>, limits: &Limits) -> Result<usize, IovError> {
        let mut walked = self.walk(online, limits, Access::Read, |_| ())?;
        if let Some(cut) = self.whole_blocks(walked.bytes, limits)? {
            walked = cut.walk(online, limits, Access::Read, |_| ())?;
        }
        Ok(walked.segments)
    }

    /// Bytes that one request may carry of those left.
    #[inline]
    pub(super) fn request_bytes(&self, limits: &Limits) -> usize {
        // A block is a power of two, so this is no division.
        let most = limits.max_bytes & !(u64::from(limits.block_size) - 1);
        usize::try_from(most).unwrap_or(usize::MAX).min(self.len())
    }

    /// The ranges of the next bytes until a limit is reached.
    fn list(&self, online: &Online<'_>, limits: &Limits, access: Access) -> Result<(ScatterList, Walked), IovError> {
        let left = self.source.count().saturating_sub(self.index).min(limits.max_segments as usize).min(MAX_IOVECS);
        if left > FEW {
            // Room for all at once, and nothing but a store for each.
            let mut ranges = Vec::with_capacity(left);
            let walked = self.walk(online, limits, access, |range| ranges.push(range))?;
            Ok((ScatterList::of_joined(ranges, walked.bytes as u64), walked))
        } else {
            let mut list = ScatterList::new();
            let walked = self.walk(online, limits, access, |range| list.push(range))?;
            Ok((list, walked))
        }
    }

    /// Where the bytes that fit end inside a block: the iterator cut to the blocks before that.
    #[inline]
    fn whole_blocks(&self, bytes: usize, limits: &Limits) -> Result<Option<Self>, IovError> {
        let Limits { block_size, max_segments, .. } = *limits;
        match bytes & !(block_size as usize - 1) {
            whole if whole == bytes && (bytes > 0 || self.is_empty()) => Ok(None),
            0 if self.len() < block_size as usize => Err(IovError::PartBlock { left: self.len(), block_size }),
            0 => Err(IovError::Fragmented { block_size, max_segments }),
            whole => {
                let mut cut = self.clone();
                cut.truncate(whole);
                Ok(Some(cut))
            }
        }
    }

    /// Gives `emit` the ranges of the next bytes, joined where they touch, until a limit is reached.
    #[inline]
    fn walk(
        &self,
        online: &Online<'_>,
        limits: &Limits,
        access: Access,
        emit: impl FnMut(PhysRange),
    ) -> Result<Walked, IovError> {
        let most = self.request_bytes(limits);
        let mut walked = Walked { bytes: 0, index: self.index, passed: self.passed, segments: 0 };
        let mut joiner = Joiner { last: None, segments: 0, most: limits.max_segments as usize, emit };
        let reads = access == Access::Read;
        match self.source {
            Source::User(iovecs) => {
                while walked.bytes < most {
                    let iovec = iovecs[walked.index];
                    let rest = iovec.len - walked.passed;
                    let (addr, len) = (iovec.addr + walked.passed, rest.min(most - walked.bytes));
                    match online.run_at(addr, len) {
                        AddrRun::Frames { range, writable } if writable || reads => {
                            if !joiner.push(range) {
                                break;
                            }
                            walked.pass(range.len() as usize, rest);
                        }
                        _ if len == 0 => walked.pass(0, rest),
                        // It would not have fitted anyway.
                        _ if joiner.is_full() => break,
                        run => return Err(no_address(addr, run, walked.bytes)),
                    }
                }
            }
            Source::Frames(ranges) => {
                while walked.bytes < most {
                    let whole = ranges[walked.index];
                    let range = part(whole, walked.passed, most - walked.bytes);
                    match online.caps(range) {
                        Ok(caps) if caps.writable || reads => {
                            if !joiner.push(range) {
                                break;
                            }
                            walked.pass(range.len() as usize, whole.len() as usize - walked.passed);
                        }
                        _ if joiner.is_full() => break,
                        Ok(_) => return Err(IovError::ReadOnlyFrames { range, after: walked.bytes }),
                        Err(_gone) => return Err(IovError::Gone { range, after: walked.bytes }),
                    }
                }
            }
        }
        walked.segments = joiner.finish();
        Ok(walked)
    }
}

/// Why these addresses are none for this I/O.
#[cold]
fn no_address(addr: usize, run: AddrRun, after: usize) -> IovError {
    match run {
        AddrRun::Frames { range, .. } => IovError::ReadOnly { addr, len: range.len() as usize, after },
        AddrRun::Gap(len) => IovError::Unregistered { addr, len, after },
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
    segments: usize,
}

impl Walked {
    /// Moves on by `n` bytes of the `rest` of an element.
    #[inline]
    fn pass(&mut self, n: usize, rest: usize) {
        self.bytes += n;
        if n == rest {
            (self.index, self.passed) = (self.index + 1, 0);
        } else {
            self.passed += n;
        }
    }
}

/// Joins ranges that touch, and emits the others.
struct Joiner<E> {
    /// Counted, and not yet emitted.
    last: Option<PhysRange>,
    segments: usize,
    most: usize,
    emit: E,
}

impl<E: FnMut(PhysRange)> Joiner<E> {
    /// Takes one more, unless that makes too many.
    #[inline]
    fn push(&mut self, range: PhysRange) -> bool {
        if let Some(last) = self.last {
            if let Some(joined) = last.merge(range) {
                self.last = Some(joined);
                return true;
            }
            if self.is_full() {
                return false;
            }
            (self.emit)(last);
        }
        self.last = Some(range);
        self.segments += 1;
        true
    }

    fn is_full(&self) -> bool {
        self.segments >= self.most
    }

    /// Emits the last one, and says how many there were.
    #[inline]
    fn finish(mut self) -> usize {
        if let Some(last) = self.last {
            (self.emit)(last);
        }
        self.segments
    }
}
