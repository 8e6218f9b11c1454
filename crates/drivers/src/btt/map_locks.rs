// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MapLocks`]: one writer at a time for each external block.
//!
//! # Lock contract
//! A writer holds the lock of a block from before it reads the block's map entry until the new entry is durable. So whoever
//! finds an entry can rely on it to survive, and of all flog entries of one block at most one is ahead of the map. Locks are
//! taken in their order, all at once, and nothing else is waited for while one is held; so nobody waits in a circle.

use super::sync::{Mutex, MutexGuard, lock};

/// Entries of the map in a cache line: they share a lock, as they share the line.
const ENTRIES: u64 = 16;

/// Locks that a batch takes, at most.
pub(super) const AT_ONCE: usize = super::lanes::PER_GROUP;

/// Locks of a disk: enough that two batches rarely want the same one.
pub(super) const MOST: usize = 1024;

/// Locks for all external blocks, each for many.
#[derive(Debug)]
pub(super) struct MapLocks(Box<[Mutex<()>]>);

/// Locks that are held.
pub(super) type Held<'l> = [Option<MutexGuard<'l, ()>>; AT_ONCE];

impl MapLocks {
    /// So many, or the next power of two, and [`MOST`] at most.
    pub(super) fn new(count: usize) -> MapLocks {
        MapLocks((0..count.clamp(1, MOST).next_power_of_two()).map(|_| Mutex::new(())).collect())
    }

    fn of(&self, block: u64) -> usize {
        (block / ENTRIES) as usize & (self.0.len() - 1)
    }

    /// Takes the locks of these external blocks, of which there are at most [`AT_ONCE`].
    pub(super) fn hold(&self, blocks: impl Iterator<Item = u64>) -> Held<'_> {
        // A bit for each: they come out in order, and none of them twice.
        let mut wanted = [0_u64; MOST / 64];
        for index in blocks.map(|block| self.of(block)) {
            wanted[index / 64] |= 1 << (index % 64);
        }
        let mut held = [const { None }; AT_ONCE];
        let mut slots = held.iter_mut();
        for (mut word, first) in wanted.into_iter().zip((0..).step_by(64)) {
            while word != 0 {
                let index = first + word.trailing_zeros() as usize;
                word &= word - 1;
                if let Some(slot) = slots.next() {
                    *slot = Some(lock(&self.0[index]));
                }
            }
        }
        held
    }

    /// How many blocks from this one on have the same lock.
    pub(super) fn run(block: u64) -> u64 {
        ENTRIES - block % ENTRIES
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_line_share_a_lock_and_a_batch_takes_each_once() {
        let locks = MapLocks::new(4);
        let held = locks.hold([70, 3, 0, 15, 16, 65, 4].into_iter());
        // 0..16 and 64..80 are of the first, 16..32 of the second.
        assert_eq!(held.iter().flatten().count(), 2);
        assert!(locks.0[0].try_lock().is_err() && locks.0[1].try_lock().is_err());
        assert!(locks.0[2].try_lock().is_ok());
        drop(held);
        assert!(locks.0[0].try_lock().is_ok());
        assert_eq!((MapLocks::run(0), MapLocks::run(15), MapLocks::run(18)), (16, 1, 14));
    }
}
