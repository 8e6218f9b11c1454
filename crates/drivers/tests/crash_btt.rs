// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BTT as shipped, cut off from power: while it is created, written by one thread and by several, and recovered.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use pageless_drivers::btt::layout::Placement;
use pageless_mem::Durability;
use pageless_mem::testing::record::{Event, What};
use pageless_testkit::crash::{Config, CrashOp, Explorer, Failure, Kind, Workload, explore, honest};
use target::{Btt, Place};

#[path = "crash_btt/target.rs"]
mod target;

const KINDS: [Kind; 6] = [Kind::Write, Kind::Write, Kind::Write, Kind::WriteZeroes, Kind::Discard, Kind::Flush];

/// Looks at `share` of a hundred of all states.
fn explored(lba_size: u32, durability: Durability, share: usize) {
    explored_on(&Btt::new(lba_size, 4), "", durability, share);
}

fn explored_on(btt: &Btt, what: &str, durability: Durability, share: usize) {
    let lba_size = btt.lba_size.bytes();
    let config = Config::of(if cfg!(debug_assertions) { 1_000 } else { 20_000 });
    let per_point = if cfg!(debug_assertions) { 16 } else { config.per_point };
    let config = Config { states: config.states * share / 100, per_point, ..config };
    let mut explorer = Explorer::new(btt, btt.len(), durability, config).unwrap();
    match explore(&mut explorer, 2, &KINDS) {
        Ok(counts) => println!("btt of {lba_size} bytes{what}, {durability:?}: {counts}"),
        Err(failure) => panic!("btt of {lba_size} bytes{what}, {durability:?}: {failure}"),
    }
}

#[test]
fn power_cuts_where_lines_are_written_back() {
    explored(512, Durability::Clwb, 30);
}

#[test]
fn power_cuts_where_lines_are_written_back_and_blocks_are_large() {
    explored(4096, Durability::Clwb, 10);
}

#[test]
fn power_cuts_where_lines_are_written_back_and_blocks_have_metadata() {
    explored(520, Durability::Clwb, 15);
}

#[test]
fn power_cuts_where_the_caches_survive() {
    explored(512, Durability::Fence, 15);
}

#[test]
fn power_cuts_where_pages_are_synced() {
    explored(512, Durability::Msync, 15);
}

#[test]
fn power_cuts_of_version_1_1() {
    explored_on(&Btt::with(Placement::V1_1, 1, 512, 4), " (1.1)", Durability::Clwb, 5);
}

/// Operations on blocks of both arenas, some of them on both at once.
#[test]
fn power_cuts_of_two_arenas() {
    for placement in [Placement::V1_1, Placement::V2_0] {
        let what = format!(" ({}, two arenas)", placement.version());
        explored_on(&Btt::with(placement, 2, 512, 4), &what, Durability::Clwb, 5);
    }
}

/// A BTT that does what ours does, in another way: what it recorded is changed. Nothing but `tamper` is wrong.
fn caught(workload: &Workload, tamper: &dyn Fn(&Btt, &mut Vec<Event>)) -> Box<Failure> {
    caught_on(&Btt::new(4096, 2), workload, tamper)
}

fn caught_on(btt: &Btt, workload: &Workload, tamper: &dyn Fn(&Btt, &mut Vec<Event>)) -> Box<Failure> {
    let mut explorer =
        Explorer::new(btt, btt.len(), Durability::Clwb, Config { per_point: 100, ..Config::of(0) }).unwrap();
    explorer.prepare().unwrap();
    explorer.try_workload(workload, &honest).unwrap();
    let failure = explorer.try_workload(workload, &|events| tamper(btt, events)).expect_err("the bug is found");
    println!("{failure}");
    failure
}

fn one_write() -> Workload {
    Workload::of([CrashOp::write(1)])
}

/// One write as it was recorded: data and the first half of the flog entry, its other half, and the map, each with its
/// fence; and what comes after.
fn steps(events: &[Event]) -> [Vec<Event>; 4] {
    let mut parts = events.split_inclusive(|event| event.what == What::Fence).map(<[Event]>::to_vec);
    let steps = [(); 4].map(|()| parts.next().unwrap_or_default());
    assert!(steps.iter().all(|step| !step.is_empty()), "three fences: {events:?}");
    steps
}

#[test]
fn a_fence_too_few_before_the_flog_is_caught() {
    let failure = caught(&one_write(), &|_, events| {
        let fence = events.iter().position(|event| event.what == What::Fence).unwrap();
        events.remove(fence);
    });
    assert!(failure.message.starts_with("block 1 may hold"), "{failure}");
}

#[test]
fn a_fence_too_few_before_the_map_is_caught() {
    caught(&one_write(), &|_, events| {
        let mut fences = (0..events.len()).filter(|at| events[*at].what == What::Fence);
        let second = fences.nth(1).unwrap();
        events.remove(second);
    });
}

#[test]
fn a_map_that_is_never_written_back_is_caught() {
    // The flog has the last write of a lane, so that it takes a second one to lose the first.
    let workload = Workload::of([CrashOp::write(1), CrashOp::write(2)]);
    let failure = caught(&workload, &|btt, events| {
        events.retain(|event| !(matches!(event.what, What::WriteBack { .. }) && btt.is(event, Place::Map)));
    });
    assert_eq!(failure.ops.len(), 2, "{failure}");
}

#[test]
fn a_map_of_the_second_arena_that_is_never_written_back_is_caught() {
    // The first one has as many blocks as lanes.
    let workload = Workload::of([CrashOp::write(3), CrashOp::write(4)]);
    let failure = caught_on(&Btt::with(Placement::V1_1, 2, 4096, 2), &workload, &|btt, events| {
        events.retain(|event| !(matches!(event.what, What::WriteBack { .. }) && btt.is(event, Place::Map)));
    });
    assert_eq!(failure.ops.len(), 2, "{failure}");
}

#[test]
fn a_map_before_its_data_is_caught() {
    let failure = caught(&one_write(), &|btt, events| {
        let [first, flog, map, end] = steps(events);
        let (data, first): (Vec<_>, Vec<_>) = first.into_iter().partition(|event| btt.is(event, Place::Data));
        let fence = flog.last().cloned();
        *events = [first, flog, map, data, fence.into_iter().collect(), end].concat();
    });
    assert!(failure.message.starts_with("block 1 may hold"), "{failure}");
}

#[test]
fn a_map_before_its_flog_is_caught() {
    let failure = caught(&one_write(), &|btt, events| {
        let [first, flog, map, end] = steps(events);
        let (old, first): (Vec<_>, Vec<_>) = first.into_iter().partition(|event| btt.is(event, Place::Flog));
        *events = [first, map, old, flog, end].concat();
    });
    // The flog still has the block free that the map has already.
    assert!(failure.message.contains("free, and an lba has it too"), "{failure}");
}

#[test]
fn a_flog_entry_whose_halves_change_places_is_caught() {
    caught(&one_write(), &|btt, events| {
        let [first, flog, map, end] = steps(events);
        let (old, first): (Vec<_>, Vec<_>) = first.into_iter().partition(|event| btt.is(event, Place::Flog));
        let (new, fence): (Vec<_>, Vec<_>) = flog.into_iter().partition(|event| btt.is(event, Place::Flog));
        *events = [first, new, fence.clone(), old, fence, map, end].concat();
    });
}

/// Two queues that begin from the same flog take the same lane, unless somebody sees to it that they do not.
#[test]
fn a_lane_that_two_threads_share_is_caught() {
    let btt = Btt::new(4096, 2);
    let config = Config { per_point: 100, ..Config::of(0) };
    let mut explorer = Explorer::new(&btt, btt.len(), Durability::Clwb, config).unwrap();
    explorer.prepare().unwrap();
    let workload = Workload::of([CrashOp::write(1), CrashOp { thread: 1, ..CrashOp::write(2) }]);
    explorer.try_workload(&workload, &honest).unwrap();
    let first = explorer.record_thread(&workload, 0).unwrap();
    let mut second = explorer.record_thread(&workload, 1).unwrap();
    second.iter_mut().for_each(|event| event.thread = 1);
    let in_turn: Vec<Event> = first.iter().zip(&second).flat_map(|(one, two)| [one.clone(), two.clone()]).collect();
    assert_eq!(in_turn.len(), first.len() + second.len());
    for events in [in_turn, [first, second].concat()] {
        let failure = explorer.try_events(&workload, &events).expect_err("the bug is found");
        println!("{failure}");
    }
}
