// SPDX-License-Identifier: MIT OR Apache-2.0
//! From addresses of this process to frames: [`AddrRun`].

use std::cell::Cell;

use super::directory::Directory;
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

/// What extraction needs of a region, so that it looks at nothing else.
#[derive(Debug, Copy, Clone)]
pub(super) struct Place {
    /// First virtual address.
    addr: u64,
    /// Bytes.
    len: u64,
    /// First byte in the frame space.
    start: u64,
    writable: bool,
}

/// Places by address.
#[derive(Debug, Default)]
pub(super) struct ByAddr {
    directory: Directory,
    places: Vec<Place>,
}

impl ByAddr {
    pub(super) fn of(entries: &[Entry]) -> ByAddr {
        let mut places: Vec<Place> = entries.iter().map(Place::of).collect();
        places.sort_unstable_by_key(|place| place.addr);
        let addrs: Vec<u64> = places.iter().map(|place| place.addr).collect();
        ByAddr { directory: Directory::of(&addrs), places }
    }

    /// The last place that starts at this address or before.
    pub(super) fn at_or_below(&self, addr: usize) -> Option<&Place> {
        self.places.get(self.find(addr)? as usize)
    }

    /// The place that holds this address. Out of line, so that the last hit stays short.
    #[inline(never)]
    fn search(&self, addr: usize, hint: &Cell<u32>) -> Option<&Place> {
        let index = self.find(addr)?;
        hint.set(index);
        self.places.get(index as usize).filter(|place| place.covers(addr))
    }

    #[inline]
    fn find(&self, addr: usize) -> Option<u32> {
        self.directory.find(addr as u64, &self.places, |place| place.addr)
    }

    /// How far it is from this address, which no place holds, to the next that does.
    #[cold]
    #[inline(never)]
    fn gap(&self, addr: usize) -> usize {
        let after = self.find(addr).map_or(0, |index| index as usize + 1);
        let next = self.places.get(after).map_or(u64::MAX, |place| place.addr);
        usize::try_from(next - addr as u64).unwrap_or(usize::MAX)
    }
}

impl Place {
    fn of(entry: &Entry) -> Place {
        Place { addr: entry.addr as u64, len: entry.len, start: entry.start, writable: entry.stores.is_some() }
    }

    /// First address, and the one past the last.
    pub(super) fn span(&self) -> (usize, usize) {
        let end = self.addr.saturating_add(self.len);
        (usize::try_from(self.addr).unwrap_or(usize::MAX), usize::try_from(end).unwrap_or(usize::MAX))
    }

    #[inline]
    fn covers(&self, addr: usize) -> bool {
        (addr as u64).wrapping_sub(self.addr) < self.len
    }
}

impl RegionTable {
    /// What lies at `addr`, looking at most `len` bytes ahead. `hint` is the place of the last call.
    #[inline]
    pub(crate) fn run_at(&self, addr: usize, len: usize, hint: &Cell<u32>) -> AddrRun {
        let place = match self.by_addr.places.get(hint.get() as usize) {
            Some(place) if place.covers(addr) => place,
            _ => match self.by_addr.search(addr, hint) {
                Some(place) => place,
                None => return AddrRun::Gap(self.by_addr.gap(addr).min(len)),
            },
        };
        let offset = addr as u64 - place.addr;
        let most = (place.len - offset).min(len as u64).min(u64::from(PhysRange::MAX_LEN));
        match u32::try_from(most) {
            Ok(len @ 1..) => {
                AddrRun::Frames { range: PhysRange::at(place.start + offset, len), writable: place.writable }
            }
            _ => AddrRun::Gap(0),
        }
    }

    /// The frames behind addresses of this process, where they all lie in one region.
    pub(crate) fn resolve_addr(&self, addr: usize, len: usize) -> Option<PhysRange> {
        let place = self.by_addr.at_or_below(addr)?;
        let offset = addr as u64 - place.addr;
        let end = offset.checked_add(len as u64)?;
        let len = u32::try_from(len).ok().filter(|len| *len > 0)?;
        (end <= place.len).then(|| PhysRange::at(place.start + offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, Memory};

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
                let AddrRun::Frames { range, writable } = online.run_at(addr + offset, usize::MAX) else {
                    panic!("{offset}")
                };
                assert_eq!(Some(range), region.range(offset as u64, (len - offset) as u64));
                assert!(writable);
                let AddrRun::Frames { range, .. } = online.run_at(addr + offset, 1) else { panic!() };
                assert_eq!(range.len(), 1);
            }
        }
        for (i, (_, end)) in places.iter().enumerate() {
            let next = places.get(i + 1).map_or(usize::MAX, |(start, _)| *start);
            if *end < next {
                assert_eq!(online.run_at(*end, usize::MAX), AddrRun::Gap(next - end));
                assert_eq!(online.run_at(*end, 7), AddrRun::Gap(7));
            }
        }
        let below = places[0].0 - 1;
        assert_eq!(online.run_at(below, 2), AddrRun::Gap(1));
        assert_eq!(online.run_at(0, usize::MAX), AddrRun::Gap(below + 1));
        assert_eq!(Memory::new().unwrap().reader().online().run_at(5, 9), AddrRun::Gap(9));
    }
}
