// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frame numbers, and runs of frames and bytes named by them. Numbers grant nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Bytes in a frame.
pub const FRAME_SIZE: u64 = 4096;

const FRAME_SHIFT: u32 = 12;

/// Frames in the flat frame space: a frame's byte address fits 64 bits.
pub const FRAME_SPACE: u64 = 1 << 52;

/// The number of a 4 KiB frame in this process's frame space. Given out once, never reused (I2).
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u64);

impl Pfn {
    /// The frame with this number, if the frame space has one. Nothing need be there.
    pub fn new(number: u64) -> Option<Pfn> {
        (number < FRAME_SPACE).then_some(Pfn(number))
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// A non-empty half-open run of frames.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct FrameRange {
    start: Pfn,
    count: u64,
}

/// The next frame to give out. It is the process's, not a table's, so that a number from one table can never name
/// memory of another (ADR 0001). Frame 0 is never given out.
static NEXT_FRAME: AtomicU64 = AtomicU64::new(1);

impl FrameRange {
    /// Takes `count` fresh frames and a guard frame behind them, so that no two regions are ever contiguous.
    pub(crate) fn take(count: u64) -> Result<FrameRange, Error> {
        let mut next = NEXT_FRAME.load(Ordering::Relaxed);
        loop {
            let left = FRAME_SPACE - next;
            let taken = count.checked_add(1).filter(|frames| *frames <= left);
            let taken = taken.ok_or(Error::FrameSpace { frames: count, left })?;
            match NEXT_FRAME.compare_exchange_weak(next, next + taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(start) => return Ok(FrameRange { start: Pfn(start), count }),
                Err(now) => next = now,
            }
        }
    }

    /// First frame.
    pub fn start(self) -> Pfn {
        self.start
    }

    /// Frames in the run.
    pub fn count(self) -> u64 {
        self.count
    }
}

/// Contiguous bytes: Linux's `bio_vec` with the page replaced by the frame number.
// Two numbers, which go from place to place in registers. Three are moved as one run of bytes, for which the CPU waits where they
// were stored one by one.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
pub struct PhysRange {
    /// The position in the frame space: frame and offset in one.
    byte: u64,
    len: u32,
}

const _: () = assert!(size_of::<PhysRange>() == 16);

impl PhysRange {
    /// The longest run one range can name.
    pub const MAX_LEN: u32 = !4095;

    /// `len` bytes from `offset` in frame `pfn`. `None` when the offset is no offset in a frame, there are no bytes,
    /// or they leave the frame space.
    pub fn new(pfn: Pfn, offset: u32, len: u32) -> Option<PhysRange> {
        // 2^64 itself would be an end too, but no region reaches it.
        let in_frame = u64::from(offset) < FRAME_SIZE;
        if in_frame { PhysRange::from_byte((pfn.0 << FRAME_SHIFT) + u64::from(offset), len) } else { None }
    }

    /// `len` bytes from this byte of the frame space on. `None` when there are none, or they leave it.
    #[inline]
    pub fn from_byte(byte: u64, len: u32) -> Option<PhysRange> {
        let exists = len > 0 && byte.checked_add(len.into()).is_some();
        exists.then(|| PhysRange::at(byte, len))
    }

    /// From a byte position in the frame space, which the caller knows to lie in a region.
    #[inline]
    pub(crate) fn at(byte: u64, len: u32) -> PhysRange {
        PhysRange { byte, len }
    }

    /// The frame of the first byte.
    #[inline]
    pub fn pfn(self) -> Pfn {
        Pfn(self.byte >> FRAME_SHIFT)
    }

    /// The first byte's offset in its frame.
    #[inline]
    pub fn offset(self) -> u32 {
        u32::try_from(self.byte % FRAME_SIZE).unwrap_or(0)
    }

    /// Bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    #[inline]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Position in the frame space, for alignment checks.
    #[inline]
    pub fn byte_address(self) -> u64 {
        self.byte
    }

    /// The first `n` bytes and the rest; `None` unless both have bytes.
    #[inline]
    pub fn split_at(self, n: u32) -> Option<(PhysRange, PhysRange)> {
        (0 < n && n < self.len).then(|| {
            let head = PhysRange { len: n, ..self };
            (head, PhysRange { byte: self.byte + u64::from(n), len: self.len - n })
        })
    }

    /// Both as one, where `next` starts where this ends. Guard frames keep this from joining two regions.
    #[inline]
    pub fn merge(self, next: PhysRange) -> Option<PhysRange> {
        let adjacent = self.byte + u64::from(self.len) == next.byte;
        let len = self.len.checked_add(next.len).filter(|len| adjacent && *len <= PhysRange::MAX_LEN)?;
        Some(PhysRange { len, ..self })
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{}", self.byte_address(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_never_given_out_twice_and_never_adjacent() {
        let a = FrameRange::take(3).unwrap();
        let b = FrameRange::take(1).unwrap();
        assert!(b.start().number() > a.start().number() + a.count(), "a guard frame lies between regions");
        let left = FrameRange::take(FRAME_SPACE).unwrap_err();
        assert!(matches!(left, Error::FrameSpace { frames: FRAME_SPACE, .. }), "{left}");
        assert!(FrameRange::take(u64::MAX).is_err());
    }

    #[test]
    fn ranges_split_and_merge_back() {
        let range = PhysRange::new(Pfn::new(7).unwrap(), 4000, 200).unwrap();
        let (head, tail) = range.split_at(96).unwrap();
        assert_eq!((tail.pfn().number(), tail.offset(), tail.len()), (8, 0, 104));
        assert_eq!(head.merge(tail), Some(range));
        assert_eq!(tail.merge(head), None);
        assert_eq!((range.split_at(0), range.split_at(200)), (None, None));
    }

    #[test]
    fn impossible_ranges_do_not_exist() {
        let last = Pfn::new(FRAME_SPACE - 1).unwrap();
        assert_eq!(Pfn::new(FRAME_SPACE), None);
        assert_eq!(PhysRange::new(last, 4096, 1), None);
        assert_eq!(PhysRange::new(last, 0, 0), None);
        assert_eq!(PhysRange::new(last, 1, 4096), None);
    }
}
