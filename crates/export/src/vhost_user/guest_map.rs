// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`GuestMap`]: where a guest's addresses are in the frame space. The only place that makes one from the other.
//!
//! A map is made once for each change of the front-end's memory table and never changes. It grants nothing: what it names
//! may be gone by the time it is touched, which opening a window finds out.

use std::fmt;
use std::sync::Arc;

use pageless_mem::{FRAME_SIZE, PhysRange, Region};

/// An address of the guest's physical memory.
#[derive(Copy, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GuestAddr(pub(crate) u64);

impl GuestAddr {
    /// So many bytes on; `None` past the end of the address space.
    #[inline]
    pub(crate) fn plus(self, bytes: u64) -> Option<GuestAddr> {
        self.0.checked_add(bytes).map(GuestAddr)
    }
}

impl fmt::Debug for GuestAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest {:#x}", self.0)
    }
}

/// One entry of the memory table: a run of guest memory, and what it is here.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Where the guest has it.
    pub(crate) guest: GuestAddr,
    /// Where the front-end has it: ring addresses are given so.
    pub(crate) user: u64,
    /// The mapping it lies in.
    pub(crate) region: Region,
    /// Its first byte in that.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// Why a memory table is none.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MapError {
    /// An entry ends where no address is, or has no bytes.
    #[error("memory table: {len:#x} bytes at {at:#x} are no run of addresses")]
    Run {
        /// First address.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// An entry is longer than what backs it.
    #[error("memory table: {len:#x} bytes at {offset:#x} of a mapping that has {mapped:#x}")]
    Unbacked {
        /// First byte in the mapping.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes that were mapped.
        mapped: u64,
    },
    /// Two entries have an address in common.
    #[error("memory table: {len:#x} bytes at {at:#x} overlap what starts at {other:#x}")]
    Overlap {
        /// First address of one.
        at: u64,
        /// Its bytes.
        len: u64,
        /// First address of the other.
        other: u64,
    },
}

/// As many entries are looked through sooner than searched.
const FEW: usize = 4;

/// What a lookup needs of a slot.
#[derive(Copy, Clone, Debug)]
struct Run {
    guest: u64,
    len: u64,
    /// The first byte in the frame space.
    byte: u64,
}

impl Run {
    /// Bytes from this address to the end, and where they start in the frame space.
    #[inline]
    fn at(&self, at: u64) -> Option<(u64, u64)> {
        let offset = at.wrapping_sub(self.guest);
        (offset < self.len).then(|| (self.byte + offset, self.len - offset))
    }
}

/// The guest's memory, sorted by address.
#[derive(Debug, Default)]
pub(crate) struct GuestMap {
    runs: Vec<Run>,
    slots: Vec<Arc<Slot>>,
}

impl GuestMap {
    /// The map of these entries.
    ///
    /// # Errors
    /// [`MapError`] when they overlap, wrap or are not backed.
    pub(crate) fn new(mut slots: Vec<Arc<Slot>>) -> Result<GuestMap, MapError> {
        for slot in &slots {
            for at in [slot.guest.0, slot.user] {
                if slot.len == 0 || at.checked_add(slot.len).is_none() {
                    return Err(MapError::Run { at, len: slot.len });
                }
            }
            let mapped = slot.region.frames().count() * FRAME_SIZE;
            if slot.offset.checked_add(slot.len).is_none_or(|end| end > mapped) {
                return Err(MapError::Unbacked { offset: slot.offset, len: slot.len, mapped });
            }
        }
        slots.sort_by_key(|slot| slot.user);
        check_disjoint(&slots, |slot| slot.user)?;
        slots.sort_by_key(|slot| slot.guest);
        check_disjoint(&slots, |slot| slot.guest.0)?;
        let run = |slot: &Arc<Slot>| Run {
            guest: slot.guest.0,
            len: slot.len,
            byte: slot.region.frames().start().number() * FRAME_SIZE + slot.offset,
        };
        Ok(GuestMap { runs: slots.iter().map(run).collect(), slots })
    }

    /// The entries, by guest address.
    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// The guest's address of what the front-end has at this one.
    pub(crate) fn guest_of_user(&self, user: u64) -> Option<GuestAddr> {
        let within = |slot: &&Arc<Slot>| user.checked_sub(slot.user).is_some_and(|offset| offset < slot.len);
        let slot = self.slots.iter().find(within)?;
        slot.guest.plus(user - slot.user)
    }

    /// The frames of these bytes, where they lie in one entry.
    #[inline]
    pub(crate) fn range(&self, at: GuestAddr, len: u32) -> Option<PhysRange> {
        let (byte, left) = self.find(at.0)?;
        if u64::from(len) > left { None } else { PhysRange::from_byte(byte, len) }
    }

    /// The frames of these bytes, piece by piece where they lie in neighbouring entries. False, after what could be named
    /// was emitted, where some lie in none.
    #[inline]
    pub(crate) fn ranges(&self, at: GuestAddr, len: u32, emit: &mut impl FnMut(PhysRange)) -> bool {
        let (mut at, mut len) = (at.0, len);
        while len > 0 {
            let Some((byte, left)) = self.find(at) else { return false };
            let piece = len.min(u32::try_from(left).unwrap_or(PhysRange::MAX_LEN)).min(PhysRange::MAX_LEN);
            let Some(range) = PhysRange::from_byte(byte, piece) else { return false };
            emit(range);
            // An entry does not end at the last address, so what goes on behind one is an address.
            at += u64::from(piece);
            len -= piece;
        }
        true
    }

    #[inline]
    fn find(&self, at: u64) -> Option<(u64, u64)> {
        // One or two entries are what most guests have.
        if self.runs.len() <= FEW {
            return self.runs.iter().find_map(|run| run.at(at));
        }
        let after = self.runs.partition_point(|run| run.guest <= at);
        self.runs.get(after.checked_sub(1)?)?.at(at)
    }
}

/// Whether none of these, which are sorted by that address, reaches into the next.
fn check_disjoint(slots: &[Arc<Slot>], start: impl Fn(&Slot) -> u64) -> Result<(), MapError> {
    for pair in slots.windows(2) {
        let (at, len, other) = (start(&pair[0]), pair[0].len, start(&pair[1]));
        if other - at < len {
            return Err(MapError::Overlap { at, len, other });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless_mem::{Backing, Memory};

    fn slot(memory: &Memory, guest: u64, user: u64, len: u64) -> Arc<Slot> {
        let region = memory.register(Backing::memfd(len.max(4096)).unwrap()).unwrap();
        Arc::new(Slot { guest: GuestAddr(guest), user, region, offset: 0, len })
    }

    #[test]
    fn addresses_are_found_at_the_edges_and_nowhere_else() {
        let memory = Memory::new().unwrap();
        let (low, high) = (slot(&memory, 0x1000, 0x7f00_0000, 0x3000), slot(&memory, 0x4000, 0x6f00_0000, 0x1000));
        let map = GuestMap::new(vec![Arc::clone(&high), Arc::clone(&low)]).unwrap();
        assert_eq!(map.range(GuestAddr(0x1000), 0x3000), low.region.range(0, 0x3000));
        assert_eq!(map.range(GuestAddr(0x4fff), 1), high.region.range(0xfff, 1));
        for (at, len) in
            [(0xfff, 1), (0x5000, 1), (0x4000, 0x1001), (0x3fff, 2), (u64::MAX, 1), (0x1000, u32::MAX), (0x1000, 0)]
        {
            assert_eq!(map.range(GuestAddr(at), len), None, "{at:#x}+{len:#x}");
        }
        let mut found = Vec::new();
        assert!(map.ranges(GuestAddr(0x3ffe), 4, &mut |range| found.push(range)));
        assert_eq!(found, [low.region.range(0x2ffe, 2).unwrap(), high.region.range(0, 2).unwrap()]);
        assert!(!map.ranges(GuestAddr(0x4ffe), 3, &mut |_| ()));
        assert!(map.ranges(GuestAddr(9), 0, &mut |_| panic!("nothing is named")));
        assert_eq!(map.guest_of_user(0x7f00_2fff), Some(GuestAddr(0x3fff)));
        assert_eq!(map.guest_of_user(0x6f00_0000), Some(GuestAddr(0x4000)));
        assert_eq!((map.guest_of_user(0x7f00_3000), map.guest_of_user(0)), (None, None));
        assert_eq!(GuestMap::default().range(GuestAddr(0), 1), None);
    }

    #[test]
    fn tables_that_are_none_are_refused_with_their_numbers() {
        let memory = Memory::new().unwrap();
        let refused = |slots| GuestMap::new(slots).unwrap_err();
        let (a, b) = (slot(&memory, 0, 0x10000, 0x2000), slot(&memory, 0x1fff, 0x20000, 0x1000));
        assert_eq!(refused(vec![b, a]), MapError::Overlap { at: 0, len: 0x2000, other: 0x1fff });
        let (a, b) = (slot(&memory, 0, 0x10000, 0x2000), slot(&memory, 0x2000, 0x11000, 0x1000));
        assert_eq!(refused(vec![a, b]), MapError::Overlap { at: 0x10000, len: 0x2000, other: 0x11000 });
        let wraps = slot(&memory, u64::MAX - 0xfff, 0, 0x1000);
        assert_eq!(refused(vec![wraps]), MapError::Run { at: u64::MAX - 0xfff, len: 0x1000 });
        assert_eq!(refused(vec![slot(&memory, 0, 0, 0)]), MapError::Run { at: 0, len: 0 });
        let region = memory.register(Backing::memfd(4096).unwrap()).unwrap();
        let long = Arc::new(Slot { guest: GuestAddr(0), user: 0, region, offset: 1, len: 4096 });
        assert_eq!(refused(vec![long]), MapError::Unbacked { offset: 1, len: 4096, mapped: 4096 });
    }
}
