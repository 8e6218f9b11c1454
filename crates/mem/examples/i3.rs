// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two loops that `benches/callgrind-i3.sh` compares: 4 KiB copies through the region table, and by a hand-written
//! bounds-checked base and offset (here a slice) with the same kind of copy.

use pageless_mem::{Access, Backing, Error, FRAME_SIZE, Memory, PhysRange, Reader, copy};

const ROUNDS: u64 = 1000;
const FRAMES: u64 = 256;

/// One region, one kmap a side, one copy.
#[inline(never)]
fn through_the_table(reader: &mut Reader, from: &[PhysRange], to: &[PhysRange]) -> usize {
    let online = reader.online();
    let mut moved = 0;
    for (from, to) in from.iter().zip(to) {
        let (Ok(from), Ok(to)) = (online.kmap(*from, Access::Read), online.kmap(*to, Access::Write)) else { return 0 };
        moved += copy(&mut from.reader(), &mut to.writer()).unwrap_or(0);
    }
    moved
}

/// What one writes by hand: offset and length against the size, then `memcpy`.
#[inline(never)]
fn base_and_offset(memory: &mut [u8], from: &[u64], to: &[u64], len: usize) -> usize {
    let mut moved = 0;
    for (from, to) in from.iter().zip(to) {
        let (Ok(from), Ok(to)) = (usize::try_from(*from), usize::try_from(*to)) else { return 0 };
        let (Some(from_end), Some(to_end)) = (from.checked_add(len), to.checked_add(len)) else { return 0 };
        if from_end > memory.len() || to_end > memory.len() {
            return 0;
        }
        memory.copy_within(from..from_end, to);
        moved += len;
    }
    moved
}

fn main() -> Result<(), Error> {
    let memory = Memory::new()?;
    let region = memory.register(Backing::anon(2 * FRAMES * FRAME_SIZE)?)?;
    let offsets: Vec<u64> = (0..ROUNDS).map(|n| n * 37 % FRAMES * FRAME_SIZE).collect();
    let targets: Vec<u64> = offsets.iter().map(|offset| offset + FRAMES * FRAME_SIZE).collect();
    let ranges = |offsets: &[u64]| offsets.iter().filter_map(|at| region.range(*at, FRAME_SIZE)).collect::<Vec<_>>();
    let (from, to) = (ranges(&offsets), ranges(&targets));
    let mut reader = memory.reader();
    let mut plain = vec![0; usize::try_from(2 * FRAMES * FRAME_SIZE).unwrap_or(0)];
    let a = through_the_table(&mut reader, &from, &to);
    let b = base_and_offset(&mut plain, &offsets, &targets, 4096);
    println!("{a} {b}");
    Ok(())
}
