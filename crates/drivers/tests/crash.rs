// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices on memory that loses power, as shipped: every state that the explorer of `testkit` finds is recovered and judged.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use pageless_block::BlockDevice;
use pageless_drivers::PmemDisk;
use pageless_mem::testing::record::What;
use pageless_mem::{Durability, Memory, Region};
use pageless_testkit::crash::{Config, CrashOp, CrashTarget, Explorer, Kind, Workload, explore, honest};

/// Memory as a disk: no recovery, no metadata, 8 bytes that do not tear.
#[derive(Debug)]
struct RawMemory;

impl CrashTarget for RawMemory {
    fn create(&self, _memory: &Memory, _region: &Region) -> Result<(), String> {
        Ok(())
    }

    fn recover(&self, memory: &Memory, region: &Region) -> Result<Box<dyn BlockDevice>, String> {
        Ok(Box::new(PmemDisk::new(memory, region.clone(), "pmem")))
    }
}

/// A block torn into words is what this device allows, so almost any state will do: fewer are looked at.
fn config() -> Config {
    let config = Config::default();
    Config { states: config.states / 10, ..config }
}

fn pmem(durability: Durability, kinds: &[Kind]) {
    let mut explorer = Explorer::new(&RawMemory, 64 << 10, durability, config()).unwrap();
    match explore(&mut explorer, 2, kinds) {
        Ok(counts) => println!("pmem, {durability:?}: {counts}"),
        Err(failure) => panic!("pmem, {durability:?}: {failure}"),
    }
}

#[test]
fn what_pmem_acknowledged_is_there_after_power_cuts() {
    for durability in [Durability::Clwb, Durability::Fence, Durability::Msync] {
        pmem(durability, &[Kind::Write, Kind::Write, Kind::Flush, Kind::Discard]);
    }
}

#[test]
fn zeroes_that_pmem_acknowledged_are_there_after_power_cuts() {
    for durability in [Durability::Clwb, Durability::Fence, Durability::Msync] {
        pmem(durability, &[Kind::Write, Kind::WriteZeroes, Kind::Flush]);
    }
}

#[test]
fn frames_that_pmem_gave_back_as_acknowledged_zeroes_stay_zeroes() {
    let zeroes = |fua| CrashOp { kind: Kind::WriteZeroes, blocks: 16, fua, ..CrashOp::write(0) };
    for durability in [Durability::Clwb, Durability::Fence, Durability::Msync] {
        for ops in [vec![zeroes(true)], vec![zeroes(false), CrashOp::flush()]] {
            let config = Config { blocks: 16, ..config() };
            let mut explorer = Explorer::new(&RawMemory, 64 << 10, durability, config).unwrap();
            explorer.create().unwrap();
            if let Err(failure) = explorer.try_workload(&Workload::of(ops), &honest) {
                panic!("{durability:?}: {failure}");
            }
        }
    }
}

#[test]
fn a_fence_that_pmem_lacks_is_caught() {
    let mut explorer = Explorer::new(&RawMemory, 64 << 10, Durability::Clwb, config()).unwrap();
    explorer.create().unwrap();
    let workload = Workload::of([CrashOp::write(1), CrashOp::write(2), CrashOp::flush()]);
    explorer.try_workload(&workload, &honest).unwrap();
    let failure = explorer
        .try_workload(&workload, &|events| events.retain(|event| event.what != What::Fence))
        .expect_err("what was streamed is never durable");
    assert_eq!(failure.ops.len(), 1, "{failure}");
}

#[test]
fn pmem_that_promised_whole_blocks_would_break_its_word() {
    #[derive(Debug)]
    struct Braggart(PmemDisk, pageless_block::Limits);
    impl BlockDevice for Braggart {
        fn name(&self) -> &str {
            "braggart"
        }
        fn capacity(&self) -> u64 {
            self.0.capacity()
        }
        fn limits(&self) -> &pageless_block::Limits {
            &self.1
        }
        fn open_queue(&self) -> Result<Box<dyn pageless_block::Queue>, pageless_block::Error> {
            self.0.open_queue()
        }
    }
    struct Target;
    impl CrashTarget for Target {
        fn create(&self, _memory: &Memory, _region: &Region) -> Result<(), String> {
            Ok(())
        }
        fn recover(&self, memory: &Memory, region: &Region) -> Result<Box<dyn BlockDevice>, String> {
            let disk = PmemDisk::new(memory, region.clone(), "pmem");
            assert_eq!(disk.limits().atomic_write_unit, 8);
            let limits = pageless_block::Limits { atomic_write_unit: 512, ..disk.limits().clone() };
            Ok(Box::new(Braggart(disk, limits)))
        }
    }
    let mut explorer = Explorer::new(&Target, 64 << 10, Durability::Clwb, config()).unwrap();
    explorer.create().unwrap();
    let failure = explorer.try_workload(&Workload::of([CrashOp::write(0)]), &honest).expect_err("a torn block");
    assert!(failure.message.contains("from byte"), "{failure}");
}
