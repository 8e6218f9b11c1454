// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of lanes, locks and read tracking, on the code that ships; map and blocks are words here.
//! `RUSTFLAGS="--cfg loom" cargo test -p pageless-drivers --release --lib loom::`

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::flog::{Seq, Which};
use super::lanes::{Lane, LanePool, LaneSet};
use super::map_locks::MapLocks;
use super::read_table::{Block, Place, ReadTable};
use super::sync::Ordering;

/// One external block, and one internal block more than there are lanes.
struct Model {
    map: AtomicU32,
    /// Loom fails when one is read while it is written.
    blocks: Vec<UnsafeCell<()>>,
    locks: MapLocks,
    lanes: LanePool,
    reads: Arc<ReadTable>,
}

impl Model {
    fn new(lanes: u32) -> Arc<Model> {
        let lane = |number| Lane { number, free: number + 1, next: Which::First, seq: Seq::FIRST, suspect: false };
        Arc::new(Model {
            map: AtomicU32::new(0),
            blocks: (0..=lanes).map(|_| UnsafeCell::new(())).collect(),
            locks: MapLocks::new(1),
            lanes: LanePool::new((0..lanes).map(lane).collect()),
            reads: Arc::new(ReadTable::new()),
        })
    }

    /// The steps of a write.
    fn write<'s>(&'s self, lanes: &mut LaneSet<'s>) {
        let mut lane = lanes.next(&self.lanes).or_else(|| lanes.wait(&self.lanes)).unwrap();
        let watched = self.reads.look();
        lane.find_unread(lanes.of(&self.lanes).unwrap(), |block| watched && self.reads.reads(Block::new(0, block)));
        self.blocks[lane.free as usize].with_mut(|_| ());
        let held = self.locks.hold(std::iter::once(0));
        let old = self.map.load(Ordering::Acquire);
        assert_ne!(old, lane.free, "a block is free and mapped");
        self.map.store(lane.free, Ordering::Release);
        drop(held);
        lane.free = old;
        lanes.of(&self.lanes).unwrap().push_back(lane);
    }

    fn read(&self, place: &mut Place) {
        let mut mapped = 0;
        let _published = place.publish(1, |_| {
            mapped = self.map.load(Ordering::Acquire);
            Block::new(0, mapped)
        });
        self.blocks[mapped as usize].with(|_| ());
    }
}

#[test]
fn no_block_is_written_while_it_is_read() {
    loom::model(|| {
        let model = Model::new(1);
        let mut place = model.reads.enter().unwrap();
        let reading = Arc::clone(&model);
        let reader = thread::spawn(move || reading.read(&mut place));
        let mut lanes = LaneSet::new(0);
        model.write(&mut lanes);
        model.write(&mut lanes);
        drop(lanes);
        reader.join().unwrap();
    });
}

/// Two writers of the same block, from the same home; as many lanes as that, or one for both.
fn two_writers(lanes: u32) {
    loom::model(move || {
        let model = Model::new(lanes);
        let other = Arc::clone(&model);
        let writer = thread::spawn(move || other.write(&mut LaneSet::new(0)));
        model.write(&mut LaneSet::new(0));
        writer.join().unwrap();
        let mut blocks = model.lanes.all();
        blocks.push(model.map.load(Ordering::Acquire));
        blocks.sort_unstable();
        assert_eq!(blocks, (0..=lanes).collect::<Vec<_>>());
    });
}

#[test]
fn two_writers_of_one_block_lose_no_block() {
    two_writers(2);
}

#[test]
fn two_queues_that_want_the_same_lane_have_it_one_after_the_other() {
    two_writers(1);
}

#[test]
fn a_reader_and_two_writers_share_lanes_one_after_the_other() {
    loom::model(|| {
        let model = Model::new(1);
        let mut place = model.reads.enter().unwrap();
        let reading = Arc::clone(&model);
        let reader = thread::spawn(move || reading.read(&mut place));
        let other = Arc::clone(&model);
        let writer = thread::spawn(move || other.write(&mut LaneSet::new(0)));
        model.write(&mut LaneSet::new(0));
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// Each has lanes of one arena when it wants some of the other one's.
#[test]
fn batches_of_two_arenas_do_not_wait_in_a_circle() {
    loom::model(|| {
        let pools = Arc::new([Model::new(1), Model::new(1)]);
        let others = Arc::clone(&pools);
        let run = |pools: [&Model; 2]| {
            let mut lanes = LaneSet::new(0);
            pools.into_iter().for_each(|model| model.write(&mut lanes));
        };
        let backward = thread::spawn(move || run([&others[1], &others[0]]));
        run([&pools[0], &pools[1]]);
        backward.join().unwrap();
    });
}

#[test]
fn batches_that_take_many_locks_do_not_wait_in_a_circle() {
    loom::model(|| {
        let locks = Arc::new(MapLocks::new(2));
        let other = Arc::clone(&locks);
        let forward = thread::spawn(move || drop(other.hold([0, 16].into_iter())));
        drop(locks.hold([16, 0].into_iter()));
        forward.join().unwrap();
    });
}
