// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Limits`]: what a device takes in one request.

use crate::{Error, Sector};

/// What a device can do. A driver states it once; [`Checked`](crate::Checked) holds submitters to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sector and length of every request are multiples of this power of two, at least 512.
    pub block_size: u32,
    /// What the medium writes without reading first.
    pub physical_block: u32,
    /// The request size the device likes best, in bytes.
    pub optimal_io: u32,
    /// The longest read or write the driver takes, in bytes.
    pub max_bytes: u64,
    /// The longest discard or write-zeroes the driver takes, in bytes.
    pub max_unmap: u64,
    /// The most ranges in one request.
    pub max_segments: u32,
    /// What ranges of frames are aligned to for the fastest route. Any alignment is accepted.
    pub memory_align: u32,
    /// Bytes that a power failure leaves either old or new.
    pub atomic_write_unit: u32,
    /// Nothing that modifies is accepted.
    pub read_only: bool,
    /// [`Op::Flush`](crate::Op::Flush) exists.
    pub flush: bool,
    /// [`Flags::FUA`](crate::Flags::FUA) exists. Where it does not and `flush` does, `Checked` makes it
    /// from a flush.
    pub fua: bool,
    /// [`Op::Discard`](crate::Op::Discard) exists.
    pub discard: bool,
    /// What a discard frees is made of whole units of this many bytes.
    pub discard_granularity: u32,
    /// [`Op::WriteZeroes`](crate::Op::WriteZeroes) exists.
    pub write_zeroes: bool,
    /// Seeks cost.
    pub rotational: bool,
}

/// A device that can read and write 512-byte blocks, and nothing else.
impl Default for Limits {
    fn default() -> Limits {
        Limits {
            block_size: 512,
            physical_block: 4096,
            optimal_io: 4096,
            max_bytes: Self::UNLIMITED,
            max_unmap: Self::UNLIMITED,
            max_segments: u32::MAX,
            memory_align: 1,
            atomic_write_unit: 512,
            read_only: false,
            flush: false,
            fua: false,
            discard: false,
            discard_granularity: 4096,
            write_zeroes: false,
            rotational: false,
        }
    }
}

impl Limits {
    /// As many bytes as can be named: a multiple of every block size.
    pub const UNLIMITED: u64 = 1 << 63;

    /// Whether these are limits that a device of this size can have.
    ///
    /// # Errors
    /// [`Error::Limits`] says what is wrong.
    pub fn validate(&self, capacity: u64) -> Result<(), Error> {
        let wrong = |what, value| Err(Error::Limits { what, value });
        let block = u64::from(self.block_size);
        if !self.block_size.is_power_of_two() || block < Sector::SIZE {
            return wrong("block size", block);
        }
        if capacity >= Self::UNLIMITED || !capacity.is_multiple_of(block) {
            return wrong("capacity", capacity);
        }
        if self.max_bytes < block {
            return wrong("longest read or write", self.max_bytes);
        }
        if self.max_unmap < block {
            return wrong("longest discard or write-zeroes", self.max_unmap);
        }
        if self.max_segments == 0 {
            return wrong("ranges in one request", 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fits_every_whole_number_of_blocks() {
        for capacity in [0, 512, 1 << 40, (1 << 63) - 512] {
            Limits::default().validate(capacity).unwrap();
        }
    }

    #[test]
    fn impossible_limits_are_named() {
        let check = |change: fn(&mut Limits), capacity: u64, says: &str| {
            let mut limits = Limits::default();
            change(&mut limits);
            let message = limits.validate(capacity).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        };
        check(|l| l.block_size = 256, 0, "block size cannot be 256");
        check(|l| l.block_size = 1536, 0, "block size cannot be 1536");
        check(|_| (), 513, "capacity cannot be 513");
        check(|_| (), 1 << 63, "capacity");
        check(|l| l.max_bytes = 511, 512, "longest read or write cannot be 511");
        check(|l| l.max_unmap = 0, 512, "longest discard");
        check(|l| l.max_segments = 0, 512, "ranges in one request cannot be 0");
    }
}
