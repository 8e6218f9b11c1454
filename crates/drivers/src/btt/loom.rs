// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of lanes, locks and read tracking, on the code that ships; map and blocks are words here.
//! `RUSTFLAGS="--cfg loom" cargo test -p pageless-drivers --release --lib loom::`

use std::collections::VecDeque;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::flog::{Seq, Which};
use super::lanes::{Lane, LanePool};
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
    fn write(&self, lanes: &mut VecDeque<Lane>) {
        let mut lane = lanes.pop_front().unwrap();
        ReadTable::look();
        lane.find_unread(lanes, |block| self.reads.reads(Block::new(0, block)));
        self.blocks[lane.free as usize].with_mut(|_| ());
        let held = self.locks.hold(std::iter::once(0));
        let old = self.map.load(Ordering::Acquire);
        assert_ne!(old, lane.free, "a block is free and mapped");
        self.map.store(lane.free, Ordering::Release);
        drop(held);
        lane.free = old;
        lanes.push_back(lane);
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
        let mut lanes = model.lanes.take();
        model.write(&mut lanes);
        model.write(&mut lanes);
        model.lanes.put_back(lanes);
        reader.join().unwrap();
    });
}

#[test]
fn two_writers_of_one_block_lose_no_block() {
    loom::model(|| {
        let model = Model::new(2);
        let other = Arc::clone(&model);
        let writer = thread::spawn(move || {
            let mut lanes = other.lanes.take();
            other.write(&mut lanes);
            other.lanes.put_back(lanes);
        });
        let mut lanes = model.lanes.take();
        assert_eq!(lanes.len(), 1);
        model.write(&mut lanes);
        model.lanes.put_back(lanes);
        writer.join().unwrap();
        let free = std::iter::from_fn(|| Some(model.lanes.take()).filter(|lanes| !lanes.is_empty())).flatten();
        let mut blocks: Vec<u32> = free.map(|lane| lane.free).collect();
        blocks.push(model.map.load(Ordering::Acquire));
        blocks.sort_unstable();
        assert_eq!(blocks, [0, 1, 2]);
    });
}

#[test]
fn a_reader_and_two_writers_share_lanes_one_after_the_other() {
    loom::model(|| {
        let model = Model::new(1);
        let mut place = model.reads.enter().unwrap();
        let reading = Arc::clone(&model);
        let reader = thread::spawn(move || reading.read(&mut place));
        let other = Arc::clone(&model);
        let writer = thread::spawn(move || {
            let mut lanes = other.lanes.take();
            if !lanes.is_empty() {
                other.write(&mut lanes);
            }
            other.lanes.put_back(lanes);
        });
        let mut lanes = model.lanes.take();
        if !lanes.is_empty() {
            model.write(&mut lanes);
        }
        model.lanes.put_back(lanes);
        writer.join().unwrap();
        reader.join().unwrap();
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
