// SPDX-License-Identifier: MIT OR Apache-2.0
//! What atomic sectors cost: a BTT beside the raw medium it lies on, in this process and without a server.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin btt_files -- RAW BTT read|write      one rate each, for benches/btt.sh
//! ```
//! RAW is a file, BTT one with a BTT of 4096 byte sectors. Prints the 4 KiB operations per second on the raw one, and on the BTT:
//! random places, batches of 32, both in this round.

#![forbid(unsafe_code)]

use std::time::Instant;

use pageless_benches::Offsets;
use pageless_block::{Bio, BlockDevice, Queue as _, Sector, Status, open_checked};
use pageless_drivers::PmemDisk;
use pageless_drivers::btt::{BttDisk, OpenOptions};
use pageless_mem::{Backing, FileOptions, Memory, PhysRange, Region};

type Failure = Box<dyn std::error::Error>;

const BLOCK: u64 = 4096;
const DEPTH: u64 = 32;
const OPERATIONS: u64 = 1 << 18;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [raw, btt, what] = &words[..] else { return Err("usage: btt_files RAW BTT read|write".into()) };
    let memory = Memory::new()?;
    let file = |path: &String| -> Result<Region, Failure> {
        let size = std::fs::metadata(path)?.len() / BLOCK * BLOCK;
        Ok(memory.register(Backing::file(
            path.as_ref(),
            FileOptions { size: Some(size), create: false, read_only: false },
        )?)?)
    };
    let raw = PmemDisk::new(&memory, file(raw)?, "raw");
    let btt = BttDisk::open(&memory, &file(btt)?, "btt", &OpenOptions::default())?;
    let frames = memory.register(Backing::anon(DEPTH * BLOCK)?)?;
    let write = what == "write";
    println!("{:.0} {:.0}", rate(&raw, &frames, write)?, rate(&btt, &frames, write)?);
    Ok(())
}

/// Operations per second.
fn rate(disk: &dyn BlockDevice, frames: &Region, write: bool) -> Result<f64, Failure> {
    let slots: Vec<PhysRange> =
        (0..DEPTH).map(|i| frames.range(i * BLOCK, BLOCK).ok_or("no frame")).collect::<Result<_, _>>()?;
    let mut queue = open_checked(disk)?;
    let mut random = Offsets::new(11);
    let mut out = Vec::with_capacity(64);
    let blocks = disk.capacity() / BLOCK;
    // All of it in order first: then every page is mapped, and on the BTT every block has been written.
    let mut took = 0.0;
    for (operations, in_order) in [(blocks, true), (OPERATIONS, false)] {
        let begin = Instant::now();
        for done in (0..operations).step_by(slots.len()) {
            for (range, tag) in slots.iter().zip(0..) {
                let place = if in_order { (done + tag).min(blocks - 1) } else { random.below(blocks) };
                let sector = Sector(place * (BLOCK / 512));
                let bio = if write { Bio::write(sector, *range, tag) } else { Bio::read(sector, *range, tag) };
                queue.submit(bio).map_err(|_| "refused")?;
            }
            while out.len() < slots.len() {
                queue.poll(&mut out)?;
            }
            if out.iter().any(|done| done.status != Status::Ok) {
                return Err("an operation failed".into());
            }
            out.clear();
        }
        took = begin.elapsed().as_secs_f64();
    }
    Ok(OPERATIONS as f64 / took)
}
