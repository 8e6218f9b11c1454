// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`ReadTable`]: which internal blocks are being read, so that none of them is written meanwhile.
//!
//! # Read contract
//! A reader publishes the block that the map names, and then looks at the map again: if it still names that block, nobody
//! stores to the block until the reader is done. A writer that freed a block changes the map first, then looks here, and
//! leaves a block alone that anybody has published. Between its two steps each side has a full fence, so at least one of
//! them sees the other. A writer never waits here with blocks claimed, and a reader never waits, so the wait is as long as a copy.

use std::sync::Arc;

use super::places::{self, PLACES, Places, Told};
use super::sync::{Mutex, Ordering, fence, lock};

/// Blocks that one queue reads at once.
pub(super) const AT_ONCE: usize = places::WORDS;

/// A block of an arena.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Block(u64);

impl Block {
    /// No block at all.
    pub(super) const NONE: Block = Block(u64::MAX);

    pub(super) const fn new(arena: u32, block: u32) -> Block {
        Block((arena as u64) << 32 | block as u64)
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct ReadTable {
    places: Places,
    taken: Mutex<Box<[bool]>>,
}

impl ReadTable {
    pub(super) fn new() -> ReadTable {
        ReadTable { places: Places::new(), taken: Mutex::new(vec![false; PLACES].into()) }
    }

    /// A place for one more queue, if there is one.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let index = taken.iter().position(|taken| !taken)?;
        taken[index] = true;
        self.places.take(index);
        Some(Place { table: Arc::clone(self), index })
    }

    /// To be called between the change of the map that freed blocks, and [`ReadTable::reads`] of them. False: none of them
    /// is read.
    pub(super) fn look(&self) -> bool {
        fence(Ordering::SeqCst);
        self.places.used().iter().any(places::Place::tells)
    }

    /// Whether anybody reads the block.
    pub(super) fn reads(&self, block: Block) -> bool {
        self.places.used().iter().any(|place| place.tells_any(|read| read == block.0))
    }
}

/// One queue's place in the table.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<ReadTable>,
    index: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table.taken)[self.index] = false;
    }
}

impl Place {
    /// Its number among all queues that there can be.
    pub(super) fn number(&self) -> usize {
        self.index
    }

    /// Publishes the blocks that `look_up` finds in the map for the first `count` of what is to be read, at most
    /// [`AT_ONCE`]. It is asked again until each one is published that it finds last.
    pub(super) fn publish(&mut self, count: usize, mut look_up: impl FnMut(usize) -> Block) -> Told<'_> {
        let reads = self.table.places.at(self.index);
        let mut found = [Block::NONE; AT_ONCE];
        let found = &mut found[..count.min(AT_ONCE)];
        for (at, block) in found.iter_mut().enumerate() {
            *block = look_up(at);
            reads.set(at, block.0);
        }
        reads.tell(found.len());
        fence(Ordering::SeqCst);
        for (at, block) in found.iter_mut().enumerate() {
            while *block != Block::NONE {
                let again = look_up(at);
                if again == *block {
                    break;
                }
                *block = again;
                reads.set(at, again.0);
                fence(Ordering::SeqCst);
            }
        }
        Told(reads)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_until_it_is_dropped() {
        let table = Arc::new(ReadTable::new());
        let (mut one, mut two) = (table.enter().unwrap(), table.enter().unwrap());
        let block = |number| Block::new(1, number);
        let first = one.publish(2, |at| block([5, 6][at]));
        let second = two.publish(1, |_| block(6));
        assert!(table.reads(block(5)) && table.reads(block(6)) && !table.reads(block(7)));
        assert!(!table.reads(Block::new(0, 5)), "of another arena");
        drop(first);
        assert!(table.reads(block(6)) && !table.reads(block(5)));
        drop(second);
        assert!(!table.reads(block(6)));
    }

    #[test]
    fn what_the_map_says_after_the_publication_counts() {
        let table = Arc::new(ReadTable::new());
        let mut place = table.enter().unwrap();
        let mut answers = [1, 2, 3, 3].into_iter();
        let _published = place.publish(1, |_| Block::new(0, answers.next().unwrap()));
        assert!(table.reads(Block::new(0, 3)) && !table.reads(Block::new(0, 1)));
        assert_eq!(answers.next(), None);
    }

    #[test]
    fn places_are_given_back() {
        let table = Arc::new(ReadTable::new());
        let all: Vec<Place> = std::iter::from_fn(|| table.enter()).collect();
        assert_eq!(all.len(), PLACES);
        drop(all);
        assert_eq!(table.enter().unwrap().index, 0);
    }
}
