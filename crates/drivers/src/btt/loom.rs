// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of lanes, claims and read tracking, on the code that ships; map and blocks are words here.
//! `RUSTFLAGS="--cfg loom" cargo test -p pageless-drivers --release --lib loom::`

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::claims::Claims;
use super::flog::{Seq, Which};
use super::lanes::{Lane, LanePool, LaneSet};
use super::read_table::{Block, Place, ReadTable};
use super::sync::Ordering;

/// One external block, and one internal block more than there are lanes.
struct Model {
    map: AtomicU32,
    /// Loom fails when one is read while it is written.
    blocks: Vec<UnsafeCell<()>>,
    claims: Arc<Claims>,
    lanes: LanePool,
    reads: Arc<ReadTable>,
}

impl Model {
    fn new(lanes: u32) -> Arc<Model> {
        let lane = |number| Lane { number, free: number + 1, next: Which::First, seq: Seq::FIRST, suspect: false };
        Arc::new(Model {
            map: AtomicU32::new(0),
            blocks: (0..=lanes).map(|_| UnsafeCell::new(())).collect(),
            claims: Arc::new(Claims::new()),
            lanes: LanePool::new((0..lanes).map(lane).collect()),
            reads: Arc::new(ReadTable::new()),
        })
    }

    /// The steps of a write, by the queue with this place.
    fn write<'s>(&'s self, lanes: &mut LaneSet<'s>, place: usize) {
        let mut lane = lanes.next(&self.lanes).or_else(|| lanes.wait(&self.lanes)).unwrap();
        let watched = self.reads.look();
        lane.find_unread(lanes.of(&self.lanes).unwrap(), |block| watched && self.reads.reads(Block::new(0, block)));
        self.blocks[lane.free as usize].with_mut(|_| ());
        let mut claims = self.claims.enter(place);
        let claimed = claims.claim(std::iter::once(0));
        let old = self.map.load(Ordering::Acquire);
        assert_ne!(old, lane.free, "a block is free and mapped");
        self.map.store(lane.free, Ordering::Release);
        drop(claimed);
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
        model.write(&mut lanes, 0);
        model.write(&mut lanes, 0);
        drop(lanes);
        reader.join().unwrap();
    });
}

/// Two writers of the same block, from the same home; as many lanes as that, or one for both.
fn two_writers(lanes: u32) {
    loom::model(move || {
        let model = Model::new(lanes);
        let other = Arc::clone(&model);
        let writer = thread::spawn(move || other.write(&mut LaneSet::new(0), 1));
        model.write(&mut LaneSet::new(0), 0);
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
        let writer = thread::spawn(move || other.write(&mut LaneSet::new(0), 1));
        model.write(&mut LaneSet::new(0), 0);
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
        let run = |pools: [&Model; 2], place| {
            let mut lanes = LaneSet::new(0);
            pools.into_iter().for_each(|model| model.write(&mut lanes, place));
        };
        let backward = thread::spawn(move || run([&others[1], &others[0]], 1));
        run([&pools[0], &pools[1]], 0);
        backward.join().unwrap();
    });
}

/// Each claims two lines, of which they share one or both; whoever has one touches it. Twice, so that one meets what is left of
/// a claim.
fn two_claimants(lines: [[usize; 2]; 2]) {
    fn run(place: usize, [first, last]: [usize; 2], claims: &Arc<Claims>, touched: &[UnsafeCell<()>; 3]) {
        let mut claimant = claims.enter(place);
        for lines in [[first, last], [last, last]] {
            let _claimed = claimant.claim(lines.into_iter().map(|line| line as u64 * 16));
            lines.into_iter().for_each(|line| touched[line].with_mut(|_| ()));
        }
    }
    loom::model(move || {
        let claims = Arc::new(Claims::new());
        let touched = Arc::new([(); 3].map(|()| UnsafeCell::new(())));
        let (others, touches) = (Arc::clone(&claims), Arc::clone(&touched));
        let other = thread::spawn(move || run(1, lines[1], &others, &touches));
        run(0, lines[0], &claims, &touched);
        other.join().unwrap();
    });
}

#[test]
fn what_two_claim_they_have_one_after_the_other() {
    two_claimants([[0, 1], [1, 2]]);
}

#[test]
fn who_claims_the_same_in_another_order_does_not_wait_in_a_circle() {
    two_claimants([[0, 1], [1, 0]]);
}
