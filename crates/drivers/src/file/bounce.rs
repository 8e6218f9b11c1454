// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Pool`]: the memory that frames which cannot be pinned are moved through.

use pageless_mem::io::Ring;
use pageless_mem::{Backing, Error, Memory, PhysRange, Region};
use std::ops::Range;

/// Bytes of one slot, the smallest part of the pool that a chunk takes.
pub(super) const SLOT: u32 = 128 << 10;

/// The most that one chunk holds. A disk is faster with few large operations; the copy of one chunk overlaps the I/O of
/// those beside it.
pub(super) const CHUNK: u32 = 8 * SLOT;

/// A bounded number of slots. Each chunk of a bio takes as many that lie side by side as it needs, or as there are, and
/// moves in one operation.
///
/// Nothing of it is resident before the first bounce: a queue that goes direct pays for address space only.
#[derive(Debug)]
pub(super) struct Pool {
    region: Region,
    /// What is in each slot, by the first one of a chunk; meaningful for slots that are taken.
    chunks: Vec<Chunk>,
    taken: Vec<bool>,
    /// No slot before this one is free. The lowest are taken first: they are the ones most likely still cached.
    low: u32,
    registered: bool,
}

/// A part of a bio on its way through slots.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where it starts in the bio.
    pub(super) at: u64,
    /// Its length.
    pub(super) len: u32,
    /// How much of it went between slot and disk.
    pub(super) moved: u32,
}

impl Chunk {
    /// The slots it takes from `first` on.
    fn slots(self, first: u32) -> Range<usize> {
        first as usize..(first + self.len.div_ceil(SLOT).max(1)) as usize
    }
}

impl Pool {
    pub(super) fn new(memory: &Memory, bytes: u64) -> Result<Pool, Error> {
        let slots = u32::try_from(bytes / u64::from(SLOT)).unwrap_or(u32::MAX).max(1);
        let region = memory.register(Backing::anon(u64::from(slots) * u64::from(SLOT))?)?;
        let chunks = vec![Chunk::default(); slots as usize];
        Ok(Pool { region, chunks, taken: vec![false; slots as usize], low: 0, registered: false })
    }

    /// Registers the slots as fixed buffers, once. A refusal (RLIMIT_MEMLOCK) costs a pin per operation, nothing else.
    pub(super) fn register(&mut self, ring: &mut Ring) {
        if !std::mem::replace(&mut self.registered, true) {
            let _refused = ring.register_bounce(&self.region);
        }
    }

    /// Slots for a chunk that starts at byte `at` of a bio and of whose bytes `rest` are left: the first slot and the
    /// chunk's length. `None` when no slot is free.
    pub(super) fn take(&mut self, at: u64, rest: u64) -> Option<(u32, u32)> {
        let wanted = u32::try_from(rest).map_or(CHUNK, |rest| rest.min(CHUNK));
        let (first, count) = self.find(wanted.div_ceil(SLOT))?;
        let len = wanted.min(count * SLOT);
        let chunk = Chunk { at, len, moved: 0 };
        self.chunks[first as usize] = chunk;
        self.taken[chunk.slots(first)].fill(true);
        Some((first, len))
    }

    /// The first run of as many free slots, or the longest of the shorter ones: its start and length.
    fn find(&mut self, wanted: u32) -> Option<(u32, u32)> {
        while self.taken.get(self.low as usize) == Some(&true) {
            self.low += 1;
        }
        let (mut best, mut run) = ((0, 0), 0);
        for (slot, taken) in (self.low..).zip(&self.taken[self.low as usize..]) {
            run = if *taken { 0 } else { run + 1 };
            if run > best.1 {
                best = (slot + 1 - run, run);
            }
            if run == wanted {
                break;
            }
        }
        (best.1 > 0).then_some(best)
    }

    /// Gives back what the chunk that starts in `slot` took.
    pub(super) fn give(&mut self, slot: u32) {
        let slots = &mut self.taken[self.chunks[slot as usize].slots(slot)];
        debug_assert!(slots.iter().all(|taken| *taken), "slot {slot} given back twice");
        slots.fill(false);
        self.low = self.low.min(slot);
    }

    pub(super) fn chunk(&mut self, slot: u32) -> &mut Chunk {
        &mut self.chunks[slot as usize]
    }

    /// The frames of bytes `from..to` of the chunk in a slot; `None` for no bytes.
    pub(super) fn range(&self, slot: u32, from: u32, to: u32) -> Option<PhysRange> {
        self.region.range(u64::from(slot) * u64::from(SLOT) + u64::from(from), u64::from(to.checked_sub(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(slots: u64) -> Pool {
        Pool::new(&Memory::new().unwrap(), slots * u64::from(SLOT)).unwrap()
    }

    #[test]
    fn slots_are_disjoint_and_come_back() {
        let mut pool = pool(3);
        let slots: Vec<u32> = std::iter::from_fn(|| pool.take(7, 512)).map(|(slot, _)| slot).collect();
        assert_eq!(slots.len(), 3);
        let starts = slots.iter().map(|slot| pool.range(*slot, 0, SLOT).unwrap().byte_address());
        let mut starts: Vec<u64> = starts.collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == u64::from(SLOT)));
        pool.give(slots[1]);
        assert_eq!(pool.take(0, 512), Some((slots[1], 512)));
        assert_eq!(*pool.chunk(slots[0]), Chunk { at: 7, len: 512, moved: 0 });
    }

    #[test]
    fn a_chunk_takes_slots_side_by_side_or_as_many_as_there_are() {
        let mut pool = pool(12);
        let slot = u64::from(SLOT);
        assert_eq!(pool.take(0, u64::MAX), Some((0, CHUNK)), "no chunk is larger");
        assert_eq!(pool.take(0, slot), Some((8, SLOT)));
        assert_eq!(pool.take(0, slot + 512), Some((9, SLOT + 512)), "the last slot need not be full");
        pool.give(8);
        assert_eq!(pool.take(0, 8 * slot), Some((8, SLOT)), "8 and 11 are free, apart");
        pool.give(0);
        assert_eq!(pool.take(0, 2 * slot), Some((0, 2 * SLOT)));
        assert_eq!(pool.take(0, 8 * slot), Some((2, 6 * SLOT)), "the longest run");
        assert_eq!(pool.take(0, 8 * slot), Some((11, SLOT)));
        assert_eq!(pool.take(0, 512), None);
    }

    #[test]
    fn whatever_is_taken_and_given_back_no_slot_has_two_chunks() {
        let (mut pool, mut held, mut random) = (pool(37), Vec::<(u32, u32)>::new(), 1_u64);
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (coin, pick) = (random >> 62, random >> 33);
            if coin == 0 && !held.is_empty() {
                let held_slot = usize::try_from(pick).unwrap() % held.len();
                pool.give(held.swap_remove(held_slot).0);
            } else if let Some((first, len)) = pool.take(round, 1 + pick % (u64::from(CHUNK) + 1)) {
                held.push((first, len.div_ceil(SLOT)));
            }
            let mut owners = [0; 37];
            held.iter().for_each(|(first, count)| (*first..first + count).for_each(|slot| owners[slot as usize] += 1));
            assert!(owners.iter().zip(&pool.taken).all(|(owners, taken)| *owners == u32::from(*taken)), "{held:?}");
        }
        held.iter().for_each(|(first, _)| pool.give(*first));
        assert_eq!((pool.find(37), pool.low), (Some((0, 37)), 0));
    }

    #[test]
    fn a_pool_has_at_least_one_slot() {
        let mut pool = Pool::new(&Memory::new().unwrap(), 1).unwrap();
        assert!(pool.take(0, 1).is_some());
        assert!(pool.range(0, 512, 512).is_none());
    }
}
