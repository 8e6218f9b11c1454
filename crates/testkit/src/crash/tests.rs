// SPDX-License-Identifier: MIT OR Apache-2.0
mod model;
mod toy;

use super::{Config, CrashOp, Explorer, Failure, Kind, Workload, explore};
use pageless_mem::Durability;
use toy::{Bug, LEN, Toy};

const KINDS: [Kind; 4] = [Kind::Write, Kind::Write, Kind::Write, Kind::Flush];

fn try_toy(bug: Bug, durability: Durability, states: usize) -> Result<(), Box<Failure>> {
    let toy = Toy(bug);
    let config = Config { states: Config::default().states.min(states), ..Config::default() };
    let mut explorer = Explorer::new(&toy, LEN, durability, config).unwrap();
    let counts = explore(&mut explorer, 2, &KINDS)?;
    println!("{durability:?}: {counts}");
    Ok(())
}

fn caught(bug: Bug, durability: Durability) -> Box<Failure> {
    let failure = try_toy(bug, durability, 20_000).expect_err("the bug is found");
    println!("{bug:?}: {failure}");
    failure
}

#[test]
fn a_device_that_keeps_its_promises_passes() {
    for durability in [Durability::Clwb, Durability::Fence] {
        if let Err(failure) = try_toy(Bug::None, durability, 5_000) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_missing_fence_is_caught() {
    let failure = caught(Bug::NoFence, Durability::Clwb);
    assert_eq!(failure.ops.len(), 1, "{failure}");
}

#[test]
fn a_map_before_its_data_is_caught() {
    caught(Bug::MapBeforeData, Durability::Clwb);
    caught(Bug::MapBeforeData, Durability::Fence);
}

#[test]
fn a_map_before_its_log_is_caught() {
    caught(Bug::MapBeforeLog, Durability::Clwb);
}

#[test]
fn a_shared_lane_is_caught() {
    caught(Bug::SharedLane, Durability::Clwb);
}

#[test]
fn an_acknowledgement_too_early_is_caught() {
    caught(Bug::EarlyAck, Durability::Clwb);
    assert!(try_toy(Bug::EarlyAck, Durability::Fence, 1_000).is_ok(), "where caches survive it is no bug");
}

#[test]
fn a_missing_write_back_is_caught() {
    caught(Bug::NoWriteBack, Durability::Clwb);
}

#[test]
fn a_creation_that_says_too_early_that_it_is_done_is_caught() {
    caught(Bug::HeadFirst, Durability::Clwb);
}

#[test]
fn a_recovery_that_cannot_be_cut_short_is_caught() {
    let failure = caught(Bug::CarelessRecovery, Durability::Clwb);
    assert!(failure.cuts.len() > 1, "{failure}");
}

#[test]
fn a_store_that_nobody_recorded_is_found() {
    let toy = Toy(Bug::None);
    let mut explorer = Explorer::new(&toy, LEN, Durability::Clwb, Config::default()).unwrap();
    explorer.create().unwrap();
    let byte = explorer.bytes.range(LEN - 1, 1);
    explorer.bytes.put(&byte.into(), &[1]).unwrap();
    let failure = explorer.record(&Workload::of([CrashOp::write(0)])).unwrap_err();
    assert_eq!(failure.message, "a store to byte 0x7fff was not recorded");
}
