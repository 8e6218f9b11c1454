// SPDX-License-Identifier: MIT OR Apache-2.0
//! What atomic sectors cost.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin btt           (ROUNDS=15)
//! ```
//! Bars, random 4 KiB requests in batches of 32 to the same memory, once as a plain disk and once through its BTT: writes
//! >= 0.6 times as many, reads >= 0.85 times as many; two threads >= 1.7 times one; a BTT of 1 TiB opens in < 1 s.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, Offsets, interleave, ratios, verdict};
use pageless_block::{Bio, BlockDevice, Completion, Op, Queue, Sector, open_checked};
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, Placement};
use pageless_drivers::btt::{BttDisk, CreateOptions, OpenOptions};
use pageless_drivers::{PmemDisk, RamDisk};
use pageless_mem::{Backing, FileOptions, Memory, PhysRange, Region};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 4096;
const DEPTH: u64 = 32;
const BATCHES: u32 = 1024;

fn main() -> Result<(), Failure> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    println!("median [min .. max] of {rounds} interleaved rounds");
    let memory = Memory::new()?;
    against_raw(rounds, &memory, "ram:1G", [Backing::anon(GIB)?, Backing::anon(GIB)?])?;
    let paths = [0, 1].map(|number| std::env::temp_dir().join(format!("btt-bench-{}-{number}", std::process::id())));
    let options = FileOptions { size: Some(GIB / 2), create: true, read_only: false };
    let files = paths.each_ref().map(|path| Backing::file(path, options));
    let measured = files
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::from)
        .and_then(|files| <[Backing; 2]>::try_from(files).map_err(|_| "two files".into()))
        .and_then(|files| against_raw(rounds, &memory, "pmem:512M", files));
    for path in paths {
        std::fs::remove_file(path)?;
    }
    measured?;
    opening(rounds, &memory)
}

fn register(memory: &Memory, len: u64) -> Result<Region, Failure> {
    Ok(memory.register(Backing::anon(len)?)?)
}

fn made(memory: &Memory, region: &Region) -> Result<BttDisk, Failure> {
    let size = LbaSize::new(4096).ok_or("4096 is a size")?;
    BttDisk::create(memory, region, &CreateOptions::new(size, Placement::V1_1, Uuid([1; 16])))?;
    Ok(BttDisk::open(memory, region, "btt", &OpenOptions::default())?)
}

/// One thread's queue and its frames.
struct User {
    queue: Box<dyn Queue>,
    slots: Vec<PhysRange>,
    out: Vec<Completion>,
    _frames: Region,
}

impl User {
    fn new(memory: &Memory, disk: &dyn BlockDevice) -> Result<User, Failure> {
        let frames = register(memory, 2 << 20)?;
        frames.zero(0, frames.len()).map_err(|fault| format!("{fault:?}"))?;
        let slots =
            (0..DEPTH).map(|slot| frames.range(slot * BLOCK, BLOCK).ok_or("outside")).collect::<Result<_, _>>()?;
        Ok(User { queue: Box::new(open_checked(disk)?), slots, out: Vec::with_capacity(64), _frames: frames })
    }

    fn batch(&mut self, op: Op, mut block: impl FnMut() -> u64) {
        for (range, tag) in self.slots.iter().zip(0..) {
            let sector = Sector(block() * 8);
            let bio = if op == Op::Read { Bio::read(sector, *range, tag) } else { Bio::write(sector, *range, tag) };
            if self.queue.submit(bio).is_err() {
                std::process::abort();
            }
        }
        while self.out.len() < self.slots.len() {
            if self.queue.poll(&mut self.out).is_err() {
                std::process::abort();
            }
        }
        if self.out.drain(..).any(|done| !done.status.is_ok()) {
            std::process::abort();
        }
    }
}

/// Nanoseconds for one request, by so many threads together.
fn requests(memory: &Memory, disk: &dyn BlockDevice, op: Op, threads: u32, seed: &mut Offsets) -> f64 {
    let blocks = disk.capacity() / BLOCK;
    let barrier = std::sync::Barrier::new(threads as usize);
    let seeds: Vec<u64> = (0..threads).map(|_| seed.below(u64::MAX - 1) + 1).collect();
    let took = std::thread::scope(|scope| {
        let run = |seed| {
            let barrier = &barrier;
            scope.spawn(move || {
                let Ok(mut user) = User::new(memory, disk) else { std::process::abort() };
                let mut offsets = Offsets::new(seed);
                user.batch(op, || offsets.below(blocks));
                barrier.wait();
                let begin = Instant::now();
                for _ in 0..BATCHES {
                    user.batch(op, || offsets.below(blocks));
                }
                begin.elapsed().as_secs_f64()
            })
        };
        let threads: Vec<_> = seeds.into_iter().map(run).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).fold(0.0, f64::max)
    });
    took * 1e9 / (f64::from(BATCHES * threads) * 32.0)
}

fn against_raw(rounds: usize, memory: &Memory, name: &str, [raw, btt]: [Backing; 2]) -> Result<(), Failure> {
    let (raw, btt) = (memory.register(raw)?, memory.register(btt)?);
    let disk = made(memory, &btt)?;
    let raw: Box<dyn BlockDevice> = match name.starts_with("ram") {
        true => Box::new(RamDisk::new(memory, raw, "ram")),
        false => Box::new(PmemDisk::new(memory, raw, "pmem")),
    };
    println!("{name}: {}", disk.promise());
    for disk in [&*raw, &disk] {
        let mut user = User::new(memory, disk)?;
        for first in (0..disk.capacity() / BLOCK).step_by(32) {
            let mut block = first;
            user.batch(Op::Write, || {
                block += 1;
                (block - 1) % (disk.capacity() / BLOCK)
            });
        }
    }
    for (op, bar) in [(Op::Write, Bar::AtLeast(0.6)), (Op::Read, Bar::AtLeast(0.85))] {
        // all see the same places in a round, and others in the next
        let mut seeds = [(); 4].map(|()| Offsets::new(5));
        let [one, two, three, four] = &mut seeds;
        let [plain, atomic, pair, plain_pair] = interleave(
            rounds,
            [
                &mut || requests(memory, &*raw, op, 1, one),
                &mut || requests(memory, &disk, op, 1, two),
                &mut || requests(memory, &disk, op, 2, three),
                &mut || requests(memory, &*raw, op, 2, four),
            ],
        );
        verdict(&format!("random 4 KiB {op}s of the plain disk"), "ns", &plain, Bar::None);
        verdict("  through the BTT", "ns", &atomic, Bar::None);
        verdict("  times as fast", "x", &ratios(&plain, &atomic), bar);
        verdict("  two threads against one", "x", &ratios(&atomic, &pair), Bar::AtLeast(1.7));
        verdict("  two threads against one, plain disk", "x", &ratios(&plain, &plain_pair), Bar::None);
    }
    Ok(())
}

/// A terabyte, most of which is a hole.
fn opening(rounds: usize, memory: &Memory) -> Result<(), Failure> {
    let region = memory.register(Backing::memfd(1 << 40)?)?;
    let begin = Instant::now();
    drop(made(memory, &region)?);
    println!("{:<52} {:9.2} ms", "create a BTT of 1 TiB of holes", begin.elapsed().as_secs_f64() * 1e3);
    let [opened] = interleave(
        rounds,
        [&mut || {
            let begin = Instant::now();
            match BttDisk::open(memory, &region, "btt", &OpenOptions::default()) {
                Ok(disk) => drop(disk),
                Err(_) => std::process::abort(),
            }
            begin.elapsed().as_secs_f64() * 1e3
        }],
    );
    verdict("open a BTT of 1 TiB", "ms", &opened, Bar::AtMost(1000.0));
    Ok(())
}
