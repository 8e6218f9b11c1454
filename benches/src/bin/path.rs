// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the path costs that is not the copy.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin path          (ROUNDS=15)
//! ```
//! Bars: a window on one of 1,000 regions <= 10 ns for independent lookups, <= 30 ns for dependent ones, <= 3 ns for the
//! region used last; a 4 KiB read through `Checked`, `dyn Queue`, two windows and a completion <= 60 ns over the bare copy;
//! `PhysRange` 16 bytes; random 4 KiB reads of a 1 GiB ram disk at batch depth 32 >= 1.5 times a memcpy loop on the heap.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, Offsets, differences, interleave, ratios, verdict};
use pageless_block::{Bio, BlockDevice, Queue, Sector, open_checked};
use pageless_drivers::RamDisk;
use pageless_mem::{Access, Backing, Memory, Online, PhysRange, Region, copy};
use std::hint::black_box;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const GIB: u64 = 1 << 30;

fn main() -> Result<(), Failure> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    println!("median [min .. max] of {rounds} interleaved rounds");
    lookups(rounds)?;
    for (len, bar) in [(4096, Bar::AtMost(60.0)), (64 << 10, Bar::None), (1 << 20, Bar::None)] {
        stack(rounds, len, bar)?;
    }
    println!("{:<52} {:9} bytes    bar = 16", "size of PhysRange", size_of::<PhysRange>());
    random_reads(rounds)
}

fn nanoseconds(operations: u32, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(operations)
}

fn register(memory: &Memory, len: u64) -> Result<Region, Failure> {
    Ok(memory.register(Backing::anon(len)?)?)
}

fn part(region: &Region, offset: u64, len: u64) -> Result<PhysRange, Failure> {
    region.range(offset, len).ok_or_else(|| "outside the region".into())
}

/// Opens a window and loads the word in it.
#[inline]
fn word(online: &Online<'_>, range: PhysRange) -> u64 {
    online.kmap(range, Access::Read).ok().and_then(|window| window.cell(0)?.load().ok()).unwrap_or(0)
}

/// Windows on 1,000 regions.
fn lookups(rounds: usize) -> Result<(), Failure> {
    const REGIONS: u32 = 1000;
    const LOOKUPS: u32 = 1 << 20;
    let memory = Memory::new()?;
    let regions: Vec<Region> = (0..REGIONS).map(|_| register(&memory, 16384)).collect::<Result<_, _>>()?;
    // Words in different sets of the cache, each holding the number of the region to look at next: one long cycle.
    let ranges: Vec<PhysRange> =
        regions.iter().zip(0..).map(|(region, i)| part(region, i * 64 % 4096, 64)).collect::<Result<_, _>>()?;
    let mut order: Vec<u64> = (0..u64::from(REGIONS)).collect();
    let mut random = Offsets::new(7);
    for i in (1..order.len()).rev() {
        order.swap(i, usize::try_from(random.below(i as u64))?);
    }
    let mut reader = memory.reader();
    {
        let online = reader.online();
        for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
            let window = online.kmap(ranges[usize::try_from(*from)?], Access::Write).map_err(|f| format!("{f:?}"))?;
            window.writer().write(&to.to_le_bytes()).map_err(|e| format!("{e:?}"))?;
        }
    }
    let picks: Vec<PhysRange> = (0..4096)
        .map(|_| Ok(ranges[usize::try_from(random.below(u64::from(REGIONS)))?]))
        .collect::<Result<_, std::num::TryFromIntError>>()?;
    let (mut a, mut b, mut c, mut d) = (memory.reader(), memory.reader(), memory.reader(), memory.reader());
    let [loops, independent, last, dependent, open] = interleave(
        rounds,
        [
            &mut || {
                nanoseconds(LOOKUPS, || {
                    for i in 0..LOOKUPS as usize {
                        black_box(picks[i % 4096]);
                    }
                })
            },
            &mut || {
                let online = a.online();
                nanoseconds(LOOKUPS, || {
                    for i in 0..LOOKUPS as usize {
                        black_box(online.kmap(picks[i % 4096], Access::Read).map_or(0, |window| window.len()));
                    }
                })
            },
            &mut || {
                let online = b.online();
                nanoseconds(LOOKUPS, || {
                    for _ in 0..LOOKUPS {
                        black_box(online.kmap(black_box(ranges[500]), Access::Read).map_or(0, |window| window.len()));
                    }
                })
            },
            &mut || {
                let online = c.online();
                let mut at = 0;
                nanoseconds(LOOKUPS, || {
                    for _ in 0..LOOKUPS {
                        at = usize::try_from(word(&online, ranges[at])).unwrap_or(0);
                    }
                    black_box(at);
                })
            },
            &mut || {
                let online = d.online();
                let windows: Vec<_> =
                    ranges.iter().filter_map(|range| online.kmap(*range, Access::Read).ok()).collect();
                let mut at = 0;
                nanoseconds(LOOKUPS, || {
                    for _ in 0..LOOKUPS {
                        let next = windows[at].cell::<u64>(0).and_then(|cell| cell.load().ok());
                        at = usize::try_from(next.unwrap_or(0)).unwrap_or(0);
                    }
                    black_box(at);
                })
            },
        ],
    );
    verdict("window, 1,000 regions, independent", "ns", &differences(&independent, &loops), Bar::AtMost(10.0));
    verdict("window, 1,000 regions, dependent", "ns", &differences(&dependent, &open), Bar::AtMost(30.0));
    verdict("  of the same chain over windows held open", "ns", &open, Bar::None);
    verdict("window, the region used last", "ns", &differences(&last, &loops), Bar::AtMost(3.0));
    Ok(())
}

/// One request at a time through the whole stack, over the copy alone. Source and destination stay in the cache, so that
/// what is left is instructions.
fn stack(rounds: usize, len: u64, bar: Bar) -> Result<(), Failure> {
    let operations = u32::try_from((256 << 20) / len)?.min(1 << 16);
    let memory = Memory::new()?;
    let medium = register(&memory, 2 << 20)?;
    let frames = register(&memory, 2 << 20)?;
    let (from, to) = (part(&medium, 0, len)?, part(&frames, 0, len)?);
    medium.zero(0, medium.len()).map_err(|f| format!("{f:?}"))?;
    let disk = RamDisk::new(&memory, medium.clone(), "ram:2M");
    let mut queue = open_checked(&disk)?;
    let mut out = Vec::with_capacity(16);
    let mut reader = memory.reader();
    let [whole, bare] = interleave(
        rounds,
        [
            &mut || {
                nanoseconds(operations, || {
                    for tag in 0..u64::from(operations) {
                        if queue.submit(Bio::read(Sector(0), black_box(to), tag)).is_err()
                            || queue.poll(&mut out).is_err()
                        {
                            std::process::abort();
                        }
                        black_box(out.pop());
                    }
                })
            },
            &mut || {
                let online = reader.online();
                let (Ok(source), Ok(target)) = (online.kmap(from, Access::Read), online.kmap(to, Access::Write)) else {
                    std::process::abort()
                };
                nanoseconds(operations, || {
                    for _ in 0..operations {
                        let _ = black_box(copy(&mut source.reader(), &mut target.writer()));
                    }
                })
            },
        ],
    );
    let name = format!("{} KiB read through the stack", len >> 10);
    verdict(&name, "ns", &whole, Bar::None);
    verdict("  the copy alone", "ns", &bare, Bar::None);
    verdict("  the rest", "ns", &differences(&whole, &bare), bar);
    verdict("  as a ratio", "x", &ratios(&whole, &bare), Bar::None);
    Ok(())
}

/// Batches of 32 random reads of a disk larger than every cache, against copies at the same places on the heap.
fn random_reads(rounds: usize) -> Result<(), Failure> {
    const DEPTH: u64 = 32;
    const BATCHES: u32 = 2048;
    const BLOCK: u64 = 4096;
    let memory = Memory::new()?;
    let medium = register(&memory, GIB)?;
    let frames = register(&memory, DEPTH * BLOCK)?;
    fill(&memory, &medium)?;
    let disk = RamDisk::new(&memory, medium, "ram:1G");
    assert_eq!(disk.capacity(), GIB);
    let mut queue = open_checked(&disk)?;
    let slots: Vec<PhysRange> = (0..DEPTH).map(|i| part(&frames, i * BLOCK, BLOCK)).collect::<Result<_, _>>()?;
    let heap = vec![1_u8; usize::try_from(GIB)?];
    let mut buffers: Vec<Vec<u8>> = (0..DEPTH).map(|_| vec![0; 4096]).collect();
    let mut out = Vec::with_capacity(64);
    let operations = BATCHES * 32;
    // both see the same places in a round, and others in the next
    let (mut ours, mut theirs) = (Offsets::new(11), Offsets::new(11));
    let [disk, plain] = interleave(
        rounds,
        [
            &mut || {
                nanoseconds(operations, || {
                    for _ in 0..BATCHES {
                        for (range, tag) in slots.iter().zip(0..) {
                            let sector = Sector(ours.below(GIB / BLOCK) * 8);
                            if queue.submit(Bio::read(sector, *range, tag)).is_err() {
                                std::process::abort();
                            }
                        }
                        while out.len() < 32 {
                            if queue.poll(&mut out).is_err() {
                                std::process::abort();
                            }
                        }
                        out.clear();
                    }
                })
            },
            &mut || {
                nanoseconds(operations, || {
                    for _ in 0..BATCHES {
                        for buffer in &mut buffers {
                            let at = usize::try_from(theirs.below(GIB / BLOCK) * BLOCK).unwrap_or(0);
                            buffer.copy_from_slice(&heap[at..at + 4096]);
                        }
                        black_box(&mut buffers);
                    }
                })
            },
        ],
    );
    verdict("random 4 KiB reads of ram:1G, batches of 32", "ns", &disk, Bar::None);
    verdict("  memcpy on the heap, same places", "ns", &plain, Bar::None);
    verdict("  times as fast", "x", &ratios(&plain, &disk), Bar::AtLeast(1.5));
    Ok(())
}

fn fill(memory: &Memory, region: &Region) -> Result<(), Failure> {
    let bytes = vec![1; 1 << 20];
    let mut reader = memory.reader();
    for offset in (0..region.len()).step_by(1 << 20) {
        let range = part(region, offset, 1 << 20)?;
        let online = reader.online();
        let window = online.kmap(range, Access::Write).map_err(|f| format!("{f:?}"))?;
        window.writer().write(&bytes).map_err(|e| format!("{e:?}"))?;
    }
    Ok(())
}
