// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`LanePool`]: the lanes of an arena, and [`LaneSet`], those that a batch has.
//!
//! # Lane contract
//! A lane is owned: it is in its group of the pool, or in one batch, or in one write of that batch. Nobody shares it or takes
//! it away, so what it says of its flog slot and of its free block cannot be out of date. Lanes come in groups, each
//! behind a lock that a batch holds while it has something to write. A batch tries its queue's home group first, then
//! the others. It waits for one only when it holds none at all, of no arena; so nobody waits in a circle, and an idle
//! queue holds nothing.

use std::collections::VecDeque;

use super::flog::{Seq, Which};
use super::sync::{Mutex, MutexGuard, give_way, lock, try_lock};

/// Lanes of a group, at most: as many writes share their fences.
pub(super) const PER_GROUP: usize = 16;

/// Groups, at least, as long as there are lanes.
const GROUPS: usize = 16;

/// Arenas of which a batch has lanes at once.
const ARENAS: usize = 4;

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

/// Lanes that are held together.
type Group = VecDeque<Lane>;

/// A group has cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Line(Mutex<Group>);

/// All lanes of an arena.
#[derive(Debug)]
pub(super) struct LanePool(Box<[Line]>);

impl LanePool {
    pub(super) fn new(lanes: Vec<Lane>) -> LanePool {
        let size = lanes.len().div_ceil(GROUPS).clamp(1, PER_GROUP);
        let mut lanes = lanes.into_iter().peekable();
        let groups = std::iter::from_fn(|| lanes.peek().is_some().then(|| lanes.by_ref().take(size).collect()));
        LanePool(groups.map(|group| Line(Mutex::new(group))).collect())
    }

    /// The groups, from somebody's home on.
    fn from(&self, home: usize) -> impl Iterator<Item = &Mutex<Group>> {
        let (before, after) = self.0.split_at(home % self.0.len().max(1));
        after.iter().chain(before).map(|line| &line.0)
    }

    /// A group that nobody holds and that has lanes.
    fn find(&self, home: usize) -> Option<MutexGuard<'_, Group>> {
        self.from(home).filter_map(try_lock).find(|group| !group.is_empty())
    }

    /// The same, waiting for those that are held. `None`: all lanes were lost to bad blocks.
    fn wait(&self, home: usize) -> Option<MutexGuard<'_, Group>> {
        self.find(home).or_else(|| self.from(home).map(lock).find(|group| !group.is_empty()))
    }

    #[cfg(all(test, loom))]
    pub(super) fn all(&self) -> Vec<u32> {
        self.from(0).flat_map(|group| lock(group).iter().map(|lane| lane.free).collect::<Vec<_>>()).collect()
    }
}

/// The lanes that one batch has, a group each of a few arenas.
#[derive(Debug)]
pub(super) struct LaneSet<'s> {
    /// The number of the queue among all that there are.
    home: usize,
    held: [Option<(&'s LanePool, MutexGuard<'s, Group>)>; ARENAS],
}

impl<'s> LaneSet<'s> {
    pub(super) fn new(home: usize) -> LaneSet<'s> {
        LaneSet { home, held: [const { None }; ARENAS] }
    }

    /// A lane of an arena that does nothing. `None`: give back what is written, and [`LaneSet::wait`].
    #[inline(always)]
    pub(super) fn next(&mut self, pool: &'s LanePool) -> Option<Lane> {
        if let Some(group) = self.of(pool) {
            return group.pop_front();
        }
        self.more(pool)
    }

    /// One of a group more.
    #[cold]
    fn more(&mut self, pool: &'s LanePool) -> Option<Lane> {
        let free = self.held.iter_mut().find(|held| held.is_none())?;
        let (_, group) = free.insert((pool, pool.find(self.home)?));
        group.pop_front()
    }

    /// Gives back all lanes, none of which may be in use, and takes one as soon as there is any. `None`: there will be none.
    #[cold]
    pub(super) fn wait(&mut self, pool: &'s LanePool) -> Option<Lane> {
        self.held = [const { None }; ARENAS];
        let group = pool.wait(self.home)?;
        let (_, group) = self.held[0].insert((pool, group));
        group.pop_front()
    }

    /// One that was taken from there.
    #[inline]
    pub(super) fn give_back(&mut self, pool: &LanePool, lane: Lane) {
        if let Some(group) = self.of(pool) {
            group.push_back(lane);
        }
    }

    /// The lanes of an arena that do nothing, if this batch has any of that arena.
    #[inline]
    pub(super) fn of(&mut self, pool: &LanePool) -> Option<&mut Group> {
        self.held.iter_mut().find_map(|held| match held {
            Some((held, group)) if std::ptr::eq(*held, pool) => Some(&mut **group),
            _ => None,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn lane(number: u32) -> Lane {
        Lane { number, free: number, next: Which::Second, seq: Seq::FIRST, suspect: false }
    }

    fn taken(set: &mut LaneSet<'_>, pool: &LanePool) -> Vec<u32> {
        set.of(pool).map_or(Vec::new(), |group| group.drain(..).map(|lane| lane.number).collect())
    }

    #[test]
    fn batches_have_lanes_of_their_own_and_give_them_back() {
        let pool = LanePool::new((0..256).map(lane).collect());
        let mut sets: Vec<_> = (0..16).map(|home| LaneSet::new(home / 2)).collect();
        let mut numbers = Vec::new();
        for set in &mut sets {
            numbers.push(set.next(&pool).unwrap().number);
            let more = taken(set, &pool);
            assert_eq!(more.len(), PER_GROUP - 1);
            numbers.extend(more);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..256).collect::<Vec<_>>());
        assert_eq!(LaneSet::new(3).next(&pool), None);
        sets[5].of(&pool).unwrap().push_back(lane(80));
        sets.remove(5);
        assert_eq!(LaneSet::new(3).next(&pool), Some(lane(80)));
    }

    #[test]
    fn lanes_that_are_lost_are_not_waited_for() {
        let last = LanePool::new(vec![lane(7)]);
        let pools = [(); ARENAS + 1].map(|()| LanePool::new((0..2).map(lane).collect()));
        let mut set = LaneSet::new(1);
        // One group is at home, and the other one is found next.
        assert_eq!((set.next(&pools[0]), set.next(&pools[0])), (Some(lane(1)), None));
        assert_eq!((set.wait(&pools[0]), set.wait(&pools[0])), (Some(lane(0)), None));
        // A few arenas at once; for one more, all others are given back.
        assert!(pools[1..].iter().all(|pool| set.next(pool).is_some()));
        assert_eq!(set.next(&pools[0]), None);
        assert_eq!((set.next(&last), set.wait(&last)), (None, Some(lane(7))));
        assert!(pools[1..].iter().all(|pool| set.of(pool).is_none()));
    }

    #[test]
    fn a_lane_whose_block_is_read_gives_way_to_another() {
        let mut others: VecDeque<Lane> = [2, 3].map(lane).into();
        let mut wanted = lane(1);
        wanted.find_unread(&mut others, |block| block < 3);
        assert_eq!((wanted, others), (lane(3), [1, 2].map(lane).into()));
    }
}
