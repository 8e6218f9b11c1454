// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`LanePool`]: the lanes of an arena that no queue has.
//!
//! A lane is owned: it is in the pool, or in one queue, or in one write of that queue. Nobody shares it or takes it away,
//! so what it says of its flog slot and of its free block cannot be out of date.

use std::collections::VecDeque;

use super::flog::{Seq, Which};
use super::sync::{Mutex, give_way, lock};

/// Lanes of an arena that a queue takes, at most: as many writes share their fences.
pub(super) const PER_QUEUE: usize = 16;

/// A queue takes one share of the lanes that are left.
const SHARES: usize = 16;

/// A lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// Which.
    pub(super) number: u32,
    /// Its free block.
    pub(super) free: u32,
    /// The entry of its pair that the next write stores.
    pub(super) next: Which,
    /// With this number.
    pub(super) seq: Seq,
    /// The free block may be bad: it is tried before it is used.
    pub(super) suspect: bool,
}

impl Lane {
    /// Exchanges it for one of `others` whose free block nobody reads, and waits where there is none: as long as a copy takes.
    pub(super) fn find_unread(&mut self, others: &mut VecDeque<Lane>, read: impl Fn(u32) -> bool) {
        let mut tried = 0;
        while read(self.free) {
            if let Some(other) = others.pop_front() {
                others.push_back(std::mem::replace(self, other));
            }
            tried += 1;
            if tried > others.len() {
                give_way();
                tried = 0;
            }
        }
    }
}

/// Lanes that are free to be taken.
#[derive(Debug)]
pub(super) struct LanePool(Mutex<Vec<Lane>>);

impl LanePool {
    pub(super) fn new(lanes: Vec<Lane>) -> LanePool {
        LanePool(Mutex::new(lanes))
    }

    /// Up to [`PER_QUEUE`] lanes, and no more than a part of those that are left, so that many queues find some: of 256
    /// lanes, 53 queues. None when there are none.
    pub(super) fn take(&self) -> VecDeque<Lane> {
        let mut idle = lock(&self.0);
        let wanted = idle.len().div_ceil(SHARES).min(PER_QUEUE);
        let keep = idle.len() - wanted;
        idle.split_off(keep).into()
    }

    /// Gives lanes back.
    pub(super) fn put_back(&self, lanes: impl IntoIterator<Item = Lane>) {
        lock(&self.0).extend(lanes);
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn idle(&self) -> usize {
        lock(&self.0).len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn many_queues_find_lanes_and_no_lane_is_found_twice() {
        let lane = |number| Lane { number, free: number, next: Which::Second, seq: Seq::FIRST, suspect: false };
        let pool = LanePool::new((0..256).map(lane).collect());
        let mut taken: Vec<VecDeque<Lane>> =
            std::iter::from_fn(|| Some(pool.take()).filter(|lanes| !lanes.is_empty())).collect();
        assert_eq!((taken.len(), taken[0].len(), taken[1].len()), (53, 16, 15));
        let mut numbers: Vec<u32> = taken.iter().flatten().map(|lane| lane.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..256).collect::<Vec<_>>());
        pool.put_back(taken.remove(0));
        assert_eq!((pool.idle(), pool.take().len()), (16, 1));
    }

    #[test]
    fn a_lane_whose_block_is_read_gives_way_to_another() {
        let lane = |free| Lane { number: free, free, next: Which::First, seq: Seq::FIRST, suspect: false };
        let mut others: VecDeque<Lane> = [2, 3].map(lane).into();
        let mut wanted = lane(1);
        wanted.find_unread(&mut others, |block| block < 3);
        assert_eq!((wanted, others), (lane(3), [1, 2].map(lane).into()));
    }
}
