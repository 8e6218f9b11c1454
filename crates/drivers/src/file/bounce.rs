// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pool`]: the memory that frames which cannot be pinned are moved through.

use pageless_mem::io::Ring;
use pageless_mem::{Backing, Error, Memory, PhysRange, Region};

/// Bytes of one slot: large enough that the disk does not notice the cut, small enough that the copy of one slot
/// stays in the processor's cache and overlaps the I/O of the next.
pub(super) const SLOT: u32 = 128 << 10;

/// A bounded number of slots, each holding at most one chunk of one bio.
///
/// Nothing of it is resident before the first bounce: a queue that goes direct pays for address space only.
#[derive(Debug)]
pub(super) struct Pool {
    region: Region,
    /// What is in each slot; meaningful for slots that are not free.
    chunks: Vec<Chunk>,
    /// Taken from the end, so that the slot used last (and still cached) is used next.
    free: Vec<u32>,
    registered: bool,
}

/// A part of a bio on its way through a slot.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where it starts in the bio.
    pub(super) at: u64,
    /// Its length, at most [`SLOT`].
    pub(super) len: u32,
    /// How much of it went between slot and disk.
    pub(super) moved: u32,
}

impl Pool {
    pub(super) fn new(memory: &Memory, bytes: u64) -> Result<Pool, Error> {
        let slots = u32::try_from(bytes / u64::from(SLOT)).unwrap_or(u32::MAX).max(1);
        let region = memory.register(Backing::anon(u64::from(slots) * u64::from(SLOT))?)?;
        let chunks = vec![Chunk::default(); slots as usize];
        Ok(Pool { region, chunks, free: (0..slots).rev().collect(), registered: false })
    }

    /// Registers the slots as fixed buffers, once. A refusal (RLIMIT_MEMLOCK) costs a pin per operation, nothing else.
    pub(super) fn register(&mut self, ring: &mut Ring) {
        if !std::mem::replace(&mut self.registered, true) {
            let _refused = ring.register_bounce(&self.region);
        }
    }

    /// A free slot, now holding `chunk`.
    pub(super) fn take(&mut self, chunk: Chunk) -> Option<u32> {
        let slot = self.free.pop()?;
        self.chunks[slot as usize] = chunk;
        Some(slot)
    }

    pub(super) fn give(&mut self, slot: u32) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} given back twice");
        self.free.push(slot);
    }

    pub(super) fn chunk(&mut self, slot: u32) -> &mut Chunk {
        &mut self.chunks[slot as usize]
    }

    /// The frames of a slot's bytes `from..to`; `None` for no bytes.
    pub(super) fn range(&self, slot: u32, from: u32, to: u32) -> Option<PhysRange> {
        self.region.range(u64::from(slot) * u64::from(SLOT) + u64::from(from), u64::from(to.checked_sub(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_disjoint_and_come_back() {
        let mut pool = Pool::new(&Memory::new().unwrap(), 3 * u64::from(SLOT)).unwrap();
        let chunk = Chunk { at: 7, len: 512, moved: 0 };
        let slots: Vec<u32> = std::iter::from_fn(|| pool.take(chunk)).collect();
        assert_eq!(slots.len(), 3);
        assert_eq!(pool.take(chunk), None);
        let starts = slots.iter().map(|slot| pool.range(*slot, 0, SLOT).unwrap().byte_address());
        let mut starts: Vec<u64> = starts.collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == u64::from(SLOT)));
        pool.give(slots[1]);
        assert_eq!(pool.take(Chunk::default()), Some(slots[1]));
        assert_eq!(*pool.chunk(slots[0]), chunk);
    }

    #[test]
    fn a_pool_has_at_least_one_slot() {
        let mut pool = Pool::new(&Memory::new().unwrap(), 1).unwrap();
        assert!(pool.take(Chunk::default()).is_some());
        assert!(pool.range(0, 512, 512).is_none());
    }
}
