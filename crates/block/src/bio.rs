// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Bio`]: one I/O, by value.

use crate::{ScatterList, Sector};
use std::fmt;

/// What an I/O does.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Device to frames.
    Read,
    /// Frames to device.
    Write,
    /// Makes every write that completed before this was submitted durable, whichever queue wrote it.
    Flush,
    /// The content is no longer needed; what is read afterwards is old data or zeroes.
    Discard,
    /// The range reads as zeroes afterwards.
    WriteZeroes,
}

impl Op {
    /// Whether it changes what is on the device.
    #[inline]
    pub const fn modifies(self) -> bool {
        matches!(self, Op::Write | Op::Discard | Op::WriteZeroes)
    }

    /// Whether it moves bytes between the device and frames.
    #[inline]
    pub const fn has_data(self) -> bool {
        matches!(self, Op::Read | Op::Write)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Discard => "discard",
            Op::WriteZeroes => "write-zeroes",
        })
    }
}

bitflags::bitflags! {
    /// How an I/O is to be done.
    #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Flags: u8 {
        /// Durable before it completes. Means something on [`Op::Write`], [`Op::Discard`] and
        /// [`Op::WriteZeroes`], and nothing elsewhere.
        const FUA = 1;
        /// [`Op::WriteZeroes`] leaves the blocks allocated (NBD `NO_HOLE`).
        const NO_UNMAP = 2;
        /// [`Op::WriteZeroes`] completes as `Unsupported` rather than store zero by zero
        /// (NBD `FAST_ZERO`).
        const FAST_ONLY = 4;
    }
}

/// One I/O. It moves into a queue and its `tag` comes back in the completion.
#[derive(Clone, Debug)]
pub struct Bio {
    /// What to do.
    pub op: Op,
    /// How.
    pub flags: Flags,
    /// Where on the device; ignored by [`Op::Flush`].
    pub sector: Sector,
    /// How many bytes of the device; 0 for [`Op::Flush`] only.
    pub len: u64,
    /// The frames: `len` bytes for [`Op::Read`] and [`Op::Write`], empty for the others.
    pub data: ScatterList,
    /// The submitter's name for it, below `1 << 63`.
    pub tag: u64,
}

// A bio moves by value through every layer.
const _: () = assert!(size_of::<Bio>() <= 208);

impl Bio {
    fn new(op: Op, sector: Sector, len: u64, data: ScatterList, tag: u64) -> Bio {
        Bio { op, flags: Flags::empty(), sector, len, data, tag }
    }

    /// Fills these frames from the device.
    #[inline]
    pub fn read(sector: Sector, data: impl Into<ScatterList>, tag: u64) -> Bio {
        let data = data.into();
        Bio::new(Op::Read, sector, data.len_bytes(), data, tag)
    }

    /// Writes these frames to the device.
    #[inline]
    pub fn write(sector: Sector, data: impl Into<ScatterList>, tag: u64) -> Bio {
        let data = data.into();
        Bio::new(Op::Write, sector, data.len_bytes(), data, tag)
    }

    /// Makes completed writes durable.
    pub fn flush(tag: u64) -> Bio {
        Bio::new(Op::Flush, Sector(0), 0, ScatterList::new(), tag)
    }

    /// Gives `len` bytes back to the device.
    pub fn discard(sector: Sector, len: u64, tag: u64) -> Bio {
        Bio::new(Op::Discard, sector, len, ScatterList::new(), tag)
    }

    /// Makes `len` bytes read as zeroes.
    pub fn write_zeroes(sector: Sector, len: u64, tag: u64) -> Bio {
        Bio::new(Op::WriteZeroes, sector, len, ScatterList::new(), tag)
    }

    /// The same I/O with these flags in place of its own.
    #[must_use]
    pub fn with_flags(mut self, flags: Flags) -> Bio {
        self.flags = flags;
        self
    }

    /// Passes it to `next`, by its parts where it has one range, as most have: it was just made of small pieces, and to move all of its
    /// room in larger ones the CPU would wait until those are in the cache.
    #[inline]
    pub fn pass<T>(self, next: impl FnOnce(Bio) -> T) -> T {
        match self.data.single() {
            Some(range) => next(Bio { data: range.into(), ..self }),
            None => next(self),
        }
    }

    /// Whether the submitter asked that it be durable before it completes.
    #[inline]
    pub fn wants_fua(&self) -> bool {
        self.op.modifies() && self.flags.contains(Flags::FUA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless_mem::{Pfn, PhysRange};

    #[test]
    fn fua_means_something_only_on_what_modifies() {
        let fua = |bio: Bio| bio.with_flags(Flags::FUA).wants_fua();
        assert!(fua(Bio::write(Sector(0), ScatterList::new(), 1)));
        assert!(fua(Bio::discard(Sector(0), 512, 1)));
        assert!(fua(Bio::write_zeroes(Sector(0), 512, 1)));
        assert!(!fua(Bio::read(Sector(0), ScatterList::new(), 1)));
        assert!(!fua(Bio::flush(1)));
        assert!(!Bio::write_zeroes(Sector(0), 512, 1).wants_fua());
    }

    #[test]
    fn a_bio_is_passed_whole_however_many_ranges_it_has() {
        for count in [0, 1, 2, 9] {
            let range = |n| PhysRange::new(Pfn::new(2 * n).unwrap(), 8, 512).unwrap();
            let list: ScatterList = (0..count).map(range).collect();
            let bio = Bio::write(Sector(count), list, 7).with_flags(Flags::FUA);
            let as_it_was = format!("{bio:?}");
            assert_eq!(bio.pass(|bio| format!("{bio:?}")), as_it_was);
        }
    }
}
