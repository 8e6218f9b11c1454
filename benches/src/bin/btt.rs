// SPDX-License-Identifier: MIT OR Apache-2.0
//! What atomic sectors cost.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin btt           (ROUNDS=15)
//! ```
//! Bars, random 4 KiB requests in batches of 32 to the same memory, once as a plain disk and once through its BTT: at least 0.6
//! times as many writes, 0.85 times as many reads; two threads at least 1.7 times one; a BTT of 1 TiB opens in less than 1 s,
//! all of its blocks written or none; a check of its maps is as fast as a loop that only reads them. Takes 1.1 GiB for that;
//! `ONLY=terabyte` measures that alone, `LBA=512` the same of sectors of 512 bytes, whose maps are 8 GiB.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, Offsets, interleave, ratios, verdict};
use pageless_block::{Bio, BlockDevice, Completion, Op, Queue, Sector, open_checked};
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{CheckOptions, Finding, Watch, check, look};
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, Placement};
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{BttDisk, CreateOptions, OpenOptions};
use pageless_drivers::{PmemDisk, RamDisk};
use pageless_mem::{Backing, Durability, FileOptions, Memory, PhysRange, Region};
use std::ops::ControlFlow;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 4096;
const DEPTH: u64 = 32;
const BATCHES: u32 = 1024;
/// Bytes of a map that are stored or read in one go.
const PIECE: usize = 128 << 10;

fn main() -> Result<(), Failure> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    println!("median [min .. max] of {rounds} interleaved rounds");
    let memory = Memory::new()?;
    if std::env::var("ONLY").is_ok_and(|only| only == "terabyte") {
        return terabyte(rounds, &memory);
    }
    against_raw(rounds, &memory, "ram:1G", [Backing::anon(GIB)?, Backing::anon(GIB)?])?;
    let paths = [0, 1].map(|number| std::env::temp_dir().join(format!("btt-bench-{}-{number}", std::process::id())));
    let options = FileOptions { size: Some(GIB / 2), create: true, read_only: false };
    let files = paths.each_ref().map(|path| Backing::file(path, options));
    let measured = files
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::from)
        .and_then(|files| <[Backing; 2]>::try_from(files).map_err(|_| "two files".into()))
        .and_then(|files| {
            against_raw(rounds, &memory, "pmem:512M", files)?;
            // As the same files would be in persistent memory: stores past the cache, and fences.
            let persistent = paths.each_ref().map(|path| Backing::file(path, options));
            let [raw, btt] = persistent.map(|file| file.map(|file| file.assuming(Durability::Clwb)));
            against_raw(rounds, &memory, "pmem:512M, as if written back by CLWB", [raw?, btt?])
        });
    for path in paths {
        std::fs::remove_file(path)?;
    }
    measured?;
    terabyte(rounds, &memory)
}

fn register(memory: &Memory, len: u64) -> Result<Region, Failure> {
    Ok(memory.register(Backing::anon(len)?)?)
}

fn made(memory: &Memory, region: &Region) -> Result<BttDisk, Failure> {
    let size = std::env::var("LBA").ok().map_or(Ok(4096), |text| text.parse())?;
    let size = LbaSize::new(size).ok_or("LBA: not a size of blocks")?;
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

/// A terabyte: as it was made, and with all its blocks written, in their own order and in none.
fn terabyte(rounds: usize, memory: &Memory) -> Result<(), Failure> {
    let region = memory.register(Backing::memfd(1 << 40)?)?;
    let begin = Instant::now();
    drop(made(memory, &region)?);
    println!("{:<52} {:9.2} ms", "create a BTT of 1 TiB of holes", begin.elapsed().as_secs_f64() * 1e3);
    let [opened] = interleave(rounds, [&mut || opening(memory, &region)]);
    verdict("open a BTT of 1 TiB of holes", "ms", &opened, Bar::AtMost(1000.0));
    // Each of them takes seconds.
    let rounds = rounds.min(5);
    for (name, factor) in [("in their own order", 1), ("in no order", 2_654_435_761)] {
        let maps = fill(memory, &region, factor)?;
        let bytes: u64 = maps.iter().map(|(_, len)| len).sum();
        println!("a BTT of 1 TiB whose blocks are all written, {name}: maps of {} MiB", bytes >> 20);
        let [opened, first, floor, checked] = interleave(
            rounds,
            [
                &mut || opening(memory, &region),
                &mut || first_write(memory, &region),
                &mut || reading(memory, &region, &maps),
                &mut || checking(memory, &region),
            ],
        );
        let speed = |ms: &[f64]| ms.iter().map(|ms| bytes as f64 / 1e6 / ms).collect::<Vec<f64>>();
        verdict("  open it", "ms", &opened, Bar::AtMost(1000.0));
        verdict("  the first write to an arena of 512 GiB", "ms", &first, Bar::None);
        verdict("  read the maps from the first byte to the last", "GB/s", &speed(&floor), Bar::None);
        verdict("  check all of it", "GB/s", &speed(&checked), Bar::None);
        verdict("  check, of the reading's speed", "x", &ratios(&floor, &checked), Bar::None);
    }
    Ok(())
}

/// Milliseconds.
fn timed(run: impl FnOnce() -> Result<(), Failure>) -> f64 {
    let begin = Instant::now();
    if run().is_err() {
        std::process::abort();
    }
    begin.elapsed().as_secs_f64() * 1e3
}

fn opening(memory: &Memory, region: &Region) -> f64 {
    timed(|| {
        drop(BttDisk::open(memory, region, "btt", &OpenOptions::default())?);
        Ok(())
    })
}

fn first_write(memory: &Memory, region: &Region) -> f64 {
    let Ok(disk) = BttDisk::open(memory, region, "btt", &OpenOptions::default()) else { std::process::abort() };
    let Ok(mut user) = User::new(memory, &disk) else { std::process::abort() };
    user.slots.truncate(1);
    timed(|| {
        user.batch(Op::Write, || 0);
        Ok(())
    })
}

/// Copies into a buffer that stays in the cache.
fn reading(memory: &Memory, region: &Region, maps: &[(u64, u64)]) -> f64 {
    let (mut medium, mut buffer) = (Medium::new(memory, region.clone()), vec![0; PIECE]);
    timed(|| {
        for (start, len) in maps {
            for offset in (*start..start + len).step_by(PIECE) {
                let left = usize::try_from(start + len - offset)?.min(PIECE);
                medium.read(offset, &mut buffer[..left])?;
            }
        }
        Ok(())
    })
}

fn checking(memory: &Memory, region: &Region) -> f64 {
    timed(|| {
        let report = check(&mut Medium::new(memory, region.clone()), CheckOptions::default(), &mut Unwatched)?;
        if report.counts.consistent() { Ok(()) } else { Err("inconsistent".into()) }
    })
}

struct Unwatched;

impl Watch for Unwatched {
    fn found(&mut self, _finding: &Finding) {}

    fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Has each LBA of a new BTT of 1 TiB written, so that it has the block of its number times `factor`. Where the maps lie.
fn fill(memory: &Memory, region: &Region, factor: u64) -> Result<Vec<(u64, u64)>, Failure> {
    drop(made(memory, region)?);
    let mut medium = Medium::new(memory, region.clone());
    let report = look(&mut medium, CheckOptions::default(), &mut Unwatched)?;
    let mut maps = Vec::new();
    for arena in &report.arenas {
        let geometry = arena.info.geometry;
        let count = u64::from(geometry.external_nlba());
        let mut lba = 0;
        while lba < count {
            let end = (lba + PIECE as u64 / 4).min(count);
            let entry = |lba: u64| u32::try_from(lba * factor % count).map(|block| MapEntry::normal(block).raw());
            let words: Vec<u32> = (lba..end).map(entry).collect::<Result<_, _>>()?;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            medium.put(arena.start + geometry.map_offset(u32::try_from(lba)?), &bytes)?;
            lba = end;
        }
        maps.push((arena.start + geometry.mapoff(), geometry.map_len()));
    }
    Ok(maps)
}
