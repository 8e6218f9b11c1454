// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two threads keep disks and frames busy while both are taken from them, round after round.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;

/// All that may ever be read, and what may never be: bytes of the test, and of a later owner.
const OURS: u8 = 0x11;
const LATER: u8 = 0xee;
const SIZE: u64 = 128 * KIB;
const WORKERS: usize = 2;

/// Rounds: few enough for every run, unless asked for more.
fn rounds() -> u64 {
    let rounds = std::env::var("PAGELESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(200);
    println!("{rounds} rounds");
    rounds
}

/// What is taken away in one round.
struct Round {
    disk: RamDisk,
    frames: Region,
    /// Bios that ended well, and as `Gone`, by worker.
    done: [AtomicU64; WORKERS],
    gone: [AtomicU64; WORKERS],
}

impl Round {
    fn new(memory: &Memory, number: u64) -> Round {
        let make = |kind: u64| match kind % 3 {
            0 => Backing::anon(SIZE),
            1 => Backing::memfd(SIZE),
            _ => Backing::secret(SIZE),
        };
        let [disk, frames] = [make(number), make(number / 3)].map(|backing| {
            let region = memory.register(backing.unwrap()).unwrap();
            fill(memory, &region, OURS);
            region
        });
        let disk = RamDisk::new(memory, disk, "lost");
        Round { disk, frames, done: Default::default(), gone: Default::default() }
    }

    fn wait_for(&self, counts: &[AtomicU64; WORKERS], least: u64) {
        let start = Instant::now();
        while counts.iter().any(|count| count.load(Ordering::Relaxed) < least) {
            assert!(start.elapsed() < LONG, "nothing happens");
            std::thread::yield_now();
        }
    }
}

fn fill(memory: &Memory, region: &Region, byte: u8) {
    let all = region.range(0, region.len()).unwrap();
    TestFrames::of(memory, region.clone()).put(&all.into(), &vec![byte; region.len() as usize]).unwrap();
}

fn contents(memory: &Memory, region: &Region) -> Vec<u8> {
    let all = region.range(0, region.len()).unwrap();
    TestFrames::of(memory, region.clone()).get(&all.into()).unwrap()
}

/// Small, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn worker(memory: &Memory, index: usize, path: &FileDisk, current: &Mutex<Option<Arc<Round>>>, stop: &AtomicBool) {
    let kept = RamDisk::new(memory, ram(memory, SIZE, OURS), "kept");
    let mut mine = TestFrames::of(memory, ram(memory, SIZE, OURS));
    let (mut file, mut other) = (open_checked(path).unwrap(), open_checked(&kept).unwrap());
    let mut random = Random(0x9e37 + index as u64);
    let mut out = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Some(round) = current.lock().unwrap().clone() else { continue };
        let mut lost = open_checked(&round.disk).unwrap_or_else(|error| panic!("{error}"));
        // A few batches on the same queue, so that some of them begin before and end after.
        for _ in 0..4 {
            let mut submitted = [0; 3];
            for tag in 0..1 + random.below(12) {
                let target = random.below(3) as usize;
                let queue: &mut Checked = [&mut lost, &mut file, &mut other][target];
                let at = random.below(16) * 4096;
                let len = [512, 4096, 8192, 64 << 10][random.below(4) as usize];
                let Some(part) = (if target == 0 { mine.region() } else { &round.frames }).range(at, len) else {
                    round.gone[index].fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let mut list = ScatterList::from(part);
                if len == 8192 && target != 0 {
                    list.push(mine.range(at, 4096));
                }
                let bio = match random.below(10) {
                    0..4 => Bio::read(Sector(at / 512), list, tag),
                    4..7 => Bio::write(Sector(at / 512), list, tag),
                    7 if target != 0 || round.disk.limits().discard => Bio::discard(Sector(at / 512), len, tag),
                    7 | 8 => Bio::write_zeroes(Sector(at / 512), len, tag).with_flags(Flags::NO_UNMAP),
                    _ => Bio::flush(tag),
                };
                queue.submit(bio).unwrap();
                submitted[target] |= 1 << tag;
            }
            for (queue, tags) in [&mut lost, &mut file, &mut other].into_iter().zip(submitted) {
                let mut seen = 0;
                out.clear();
                wait(queue, &mut out).unwrap();
                for completion in &out {
                    assert_eq!(seen & 1 << completion.tag, 0, "{completion:?} came twice");
                    seen |= 1 << completion.tag;
                    let count = match completion.status {
                        Status::Ok => &round.done,
                        Status::Gone => &round.gone,
                        _ => panic!("{completion:?}"),
                    };
                    count[index].fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(seen, tags, "each came back");
            }
            let place = mine.range(random.below(16) * 4096, 4096);
            assert!(mine.get(&place.into()).unwrap().iter().all(|byte| matches!(*byte, 0 | OURS)), "not ours");
        }
    }
}

#[test]
fn disks_and_frames_are_revoked_under_load() {
    let rounds = rounds();
    let begin = Instant::now();
    let memory = Memory::new().unwrap();
    let path = file(SIZE);
    std::fs::write(path.path(), vec![OURS; SIZE as usize]).unwrap();
    let disk = open(&memory, &path, 512 * KIB);
    let (current, stop) = (Mutex::new(None), AtomicBool::new(false));
    let (mut done, mut gone) = (0, 0);
    std::thread::scope(|scope| {
        for index in 0..WORKERS {
            let (memory, disk, current, stop) = (&memory, &disk, &current, &stop);
            let run = move || worker(memory, index, disk, current, stop);
            std::thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, run).unwrap();
        }
        let mut later: VecDeque<Region> = VecDeque::new();
        for number in 0..rounds {
            let round = Arc::new(Round::new(&memory, number));
            *current.lock().unwrap() = Some(Arc::clone(&round));
            round.wait_for(&round.done, 1 + number % 7);
            for region in [round.disk.region(), &round.frames] {
                let released = region.revoke(LONG).unwrap();
                assert_eq!(region.in_flight(), 0);
                if number % 16 == 0 {
                    assert!(released.wait(LONG).unwrap());
                }
                let next = memory.register(Backing::anon(SIZE).unwrap()).unwrap();
                fill(&memory, &next, LATER);
                later.push_back(next);
            }
            round.wait_for(&round.gone, 1);
            while later.len() > 6 {
                let region = later.pop_front().unwrap();
                assert!(contents(&memory, &region).iter().all(|byte| *byte == LATER), "a later owner's byte was lost");
            }
            done += round.done.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
            gone += round.gone.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let file = std::fs::read(path.path()).unwrap();
    assert!(file.iter().all(|byte| matches!(*byte, 0 | OURS)), "somebody else's bytes were written");
    println!("{done} bios done, {gone} gone, {} rounds in {:?}", rounds, begin.elapsed());
}
