// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `benches/callgrind-online.sh` counts of a memory disk: 4 KiB reads, 32 of them together and one alone.

#![forbid(unsafe_code)]

use pageless_block::{Bio, BlockDevice, Completion, Queue, Sector};
use pageless_drivers::RamDisk;
use pageless_mem::{Backing, Memory, PhysRange};

type Failure = Box<dyn std::error::Error>;

const READS: usize = 32;

/// Executes what was submitted.
#[inline(never)]
fn polls_many(queue: &mut dyn Queue, out: &mut Vec<Completion>) -> bool {
    queue.poll(out).is_ok_and(|done| done == READS)
}

/// The same, of a single one.
#[inline(never)]
fn polls_one(queue: &mut dyn Queue, out: &mut Vec<Completion>) -> bool {
    queue.poll(out).is_ok_and(|done| done == 1)
}

fn submit(queue: &mut dyn Queue, bio: Bio) -> Result<(), Failure> {
    queue.submit(bio).map_err(|refused| format!("{:?}", refused.why).into())
}

fn main() -> Result<(), Failure> {
    let memory = Memory::new()?;
    let disk = RamDisk::new(&memory, memory.register(Backing::anon(4 << 20)?)?, "ram:4M");
    let buffer = memory.register(Backing::anon((READS as u64) << 12)?)?;
    let frames: Vec<PhysRange> = (0..READS as u64).filter_map(|n| buffer.range(n << 12, 4096)).collect();
    let mut queue = disk.open_queue()?;
    let mut out = Vec::with_capacity(READS);
    for (n, frame) in frames.iter().enumerate() {
        submit(&mut *queue, Bio::write(Sector(n as u64 * 8), *frame, 0))?; // a hole would not be copied
    }
    queue.poll(&mut out)?;
    for round in 0..1000 {
        for (n, frame) in frames.iter().enumerate() {
            let at = (round + n * 37) % READS * 8;
            submit(&mut *queue, Bio::read(Sector(at as u64), *frame, n as u64))?;
        }
        out.clear();
        assert!(polls_many(&mut *queue, &mut out));
        submit(&mut *queue, Bio::read(Sector((round % READS * 8) as u64), frames[0], 0))?;
        out.clear();
        assert!(polls_one(&mut *queue, &mut out));
    }
    Ok(())
}
