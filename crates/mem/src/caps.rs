// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Caps`]: what may be done with the memory of a region, as far as anybody found out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pageless_sys::Errno;

use crate::backing::Backing;
use crate::region::{Pinned, Region};

/// What may be done with memory. Whether the kernel pins it is found out when an I/O first needs it, never by asking here:
/// until then it is [`Pinned::Unknown`].
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Caps {
    /// Stores.
    pub writable: bool,
    /// CPU loads, through a window.
    pub cpu_map: bool,
    /// There is a dma-buf descriptor to hand to a device.
    pub dma_buf: bool,
    /// The kernel pins it for one operation (`O_DIRECT`).
    pub short_pin: Pinned,
    /// The kernel pins it for long (fixed buffers, device mappings).
    pub long_pin: Pinned,
}

impl Caps {
    /// Memory that everything may be done with but to hand it out as a dma-buf.
    pub const PAGES: Caps =
        Caps { writable: true, cpu_map: true, dma_buf: false, short_pin: Pinned::Ok, long_pin: Pinned::Ok };
}

/// The [`Caps`] of a region in one word, which anybody may read while somebody learns.
#[derive(Debug)]
pub(crate) struct CapsCell(AtomicU64);

const WRITABLE: u64 = 1;
const CPU_MAP: u64 = 1 << 1;
const DMA_BUF: u64 = 1 << 2;
/// Where the verdicts on pins lie: 0 unknown, 1 ok, 2 + errno refused, in 16 bits each.
const SHORT_PIN: u32 = 16;
const LONG_PIN: u32 = 32;
const VERDICT: u64 = 0xffff;

impl CapsCell {
    /// What is known of fresh memory.
    pub(crate) fn new(backing: &Backing) -> CapsCell {
        let bit = |set: bool, bit| if set { bit } else { 0 };
        // Every backing there is has a mapping.
        let bits = bit(backing.writable(), WRITABLE) | CPU_MAP | bit(has_dma_buf(backing), DMA_BUF);
        CapsCell(AtomicU64::new(bits))
    }

    #[inline]
    pub(crate) fn load(&self) -> Caps {
        let bits = self.0.load(Relaxed);
        Caps {
            writable: bits & WRITABLE != 0,
            cpu_map: bits & CPU_MAP != 0,
            dma_buf: bits & DMA_BUF != 0,
            short_pin: verdict(bits >> SHORT_PIN),
            long_pin: verdict(bits >> LONG_PIN),
        }
    }

    pub(crate) fn set_short_pin(&self, verdict: Pinned) {
        self.set(SHORT_PIN, verdict);
    }

    pub(crate) fn set_long_pin(&self, verdict: Pinned) {
        self.set(LONG_PIN, verdict);
    }

    fn set(&self, at: u32, verdict: Pinned) {
        let code = match verdict {
            Pinned::Unknown => 0,
            Pinned::Ok => 1,
            Pinned::Refused(errno) => 2 + u64::from(errno.raw().unsigned_abs()).min(VERDICT - 2),
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, |bits| Some(bits & !(VERDICT << at) | code << at));
    }
}

#[inline]
fn verdict(bits: u64) -> Pinned {
    match bits & VERDICT {
        0 => Pinned::Unknown,
        1 => Pinned::Ok,
        #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
        refused => Pinned::Refused(Errno::from_raw(refused as i32 - 2)),
    }
}

#[cfg(feature = "pmem-io")]
fn has_dma_buf(backing: &Backing) -> bool {
    backing.kind() == crate::MemKind::DmaBuf && backing.file_behind().is_some()
}

#[cfg(not(feature = "pmem-io"))]
fn has_dma_buf(_: &Backing) -> bool {
    false
}

impl Region {
    /// What may be done with its memory, as far as anybody found out.
    pub fn caps(&self) -> Caps {
        self.inner().caps.load()
    }

    /// Remembers what somebody found out about long pins.
    pub fn set_long_pin(&self, verdict: Pinned) {
        self.inner().caps.set_long_pin(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, Memory};

    #[test]
    fn verdicts_do_not_disturb_each_other() {
        let region = Memory::new().unwrap().register(Backing::anon(4096).unwrap()).unwrap();
        let fresh = Caps { short_pin: Pinned::Unknown, long_pin: Pinned::Unknown, ..Caps::PAGES };
        assert_eq!(region.caps(), fresh);
        for short_pin in [Pinned::Ok, Pinned::Refused(Errno::EFAULT), Pinned::Unknown] {
            for long_pin in [Pinned::Refused(Errno::EOPNOTSUPP), Pinned::Unknown, Pinned::Ok] {
                region.set_short_pin(short_pin);
                region.set_long_pin(long_pin);
                assert_eq!(region.caps(), Caps { short_pin, long_pin, ..fresh });
                assert_eq!(region.short_pin(), short_pin);
            }
        }
    }

    #[test]
    fn a_range_has_the_caps_of_its_region() {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::memfd(8192).unwrap()).unwrap();
        region.set_short_pin(Pinned::Refused(Errno::EFAULT));
        let range = region.range(5000, 100).unwrap();
        let mut reader = memory.reader();
        assert_eq!(reader.online().caps(range), Ok(region.caps()));
        drop(region);
        assert_eq!(reader.online().caps(range), Err(Fault::Gone));
    }
}
