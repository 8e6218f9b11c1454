// SPDX-License-Identifier: MIT OR Apache-2.0
//! From addresses of this process to frames: [`AddrRun`].

use std::cell::Cell;

use super::{Entry, RegionTable};
use crate::pfn::PhysRange;

/// What lies at an address.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum AddrRun {
    /// Frames of one region: of the bytes asked for, those up to its end or to what one range can name.
    Frames {
        /// Where they are in the frame space.
        range: PhysRange,
        /// Whether the region may be written.
        writable: bool,
    },
    /// No region, for this many of the bytes asked for.
    Gap(usize),
}

/// Entries by address.
#[derive(Debug, Default)]
pub(super) struct ByAddr {
    /// First addresses: the search touches nothing else.
    addrs: Vec<usize>,
    entries: Vec<u32>,
}

impl ByAddr {
    pub(super) fn of(entries: &[Entry]) -> ByAddr {
        let mut indices: Vec<u32> = (0..).take(entries.len()).collect();
        indices.sort_unstable_by_key(|index| entries[*index as usize].addr);
        ByAddr { addrs: indices.iter().map(|index| entries[*index as usize].addr).collect(), entries: indices }
    }

    /// The last entry that starts at this address or before.
    #[inline]
    pub(super) fn at_or_below(&self, addr: usize) -> Option<u32> {
        let after = self.addrs.partition_point(|start| *start <= addr);
        self.entries.get(after.checked_sub(1)?).copied()
    }

    /// Where the next entry behind this address starts; the last address where there is none.
    fn above(&self, addr: usize) -> usize {
        let after = self.addrs.partition_point(|start| *start <= addr);
        self.addrs.get(after).copied().unwrap_or(usize::MAX)
    }
}

impl RegionTable {
    /// What lies at `addr`, looking at most `len` bytes ahead. `hint` is the entry of the last call.
    #[inline]
    pub(crate) fn run_at(&self, addr: usize, len: usize, hint: &Cell<u32>) -> AddrRun {
        let entry = match self.entries.get(hint.get() as usize) {
            Some(entry) if entry.covers(addr) => entry,
            _ => match self.search_addr(addr, hint) {
                Ok(entry) => entry,
                Err(gap) => return AddrRun::Gap(gap.min(len)),
            },
        };
        let offset = (addr - entry.addr) as u64;
        let most = (entry.len - offset).min(len as u64).min(u64::from(PhysRange::MAX_LEN));
        match u32::try_from(most) {
            Ok(len @ 1..) => {
                AddrRun::Frames { range: PhysRange::at(entry.start + offset, len), writable: entry.writable }
            }
            _ => AddrRun::Gap(0),
        }
    }

    /// The entry that holds this address, or how far it is to the next one.
    #[inline(never)]
    fn search_addr(&self, addr: usize, hint: &Cell<u32>) -> Result<&Entry, usize> {
        if let Some(index) = self.by_addr.at_or_below(addr)
            && let entry = &self.entries[index as usize]
            && entry.covers(addr)
        {
            hint.set(index);
            return Ok(entry);
        }
        Err(self.by_addr.above(addr) - addr)
    }
}

impl Entry {
    #[inline]
    fn covers(&self, addr: usize) -> bool {
        (addr.wrapping_sub(self.addr) as u64) < self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Backing, Memory};

    #[test]
    fn addresses_lead_to_frames_or_say_how_far_the_next_are() {
        let memory = Memory::new().unwrap();
        let regions: Vec<_> =
            (0..9).map(|i| memory.register(Backing::memfd((i + 1) * 4096).unwrap()).unwrap()).collect();
        let mut places: Vec<(usize, usize)> =
            regions.iter().map(|r| (r.inner().addr(), r.inner().addr() + usize::try_from(r.len()).unwrap())).collect();
        places.sort_unstable();
        let mut reader = memory.reader();
        let online = reader.online();
        for region in regions.iter().chain(regions.iter().rev()) {
            let (addr, len) = (region.inner().addr(), usize::try_from(region.len()).unwrap());
            for offset in [0, 1, 4095, len - 1] {
                let AddrRun::Frames { range, writable } = online.run_at(addr + offset, usize::MAX, Access::Read) else {
                    panic!("{offset}")
                };
                assert_eq!(Some(range), region.range(offset as u64, (len - offset) as u64));
                assert!(writable);
                let AddrRun::Frames { range, .. } = online.run_at(addr + offset, 1, Access::Write) else { panic!() };
                assert_eq!(range.len(), 1);
            }
        }
        for (i, (_, end)) in places.iter().enumerate() {
            let next = places.get(i + 1).map_or(usize::MAX, |(start, _)| *start);
            if *end < next {
                assert_eq!(online.run_at(*end, usize::MAX, Access::Read), AddrRun::Gap(next - end));
                assert_eq!(online.run_at(*end, 7, Access::Read), AddrRun::Gap(7));
            }
        }
        let below = places[0].0 - 1;
        assert_eq!(online.run_at(below, 2, Access::Read), AddrRun::Gap(1));
        assert_eq!(online.run_at(0, usize::MAX, Access::Read), AddrRun::Gap(below + 1));
        assert_eq!(Memory::new().unwrap().reader().online().run_at(5, 9, Access::Read), AddrRun::Gap(9));
    }
}
