// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `benches/callgrind-i3.sh` compares: 4 KiB copies through the region table, and by a hand-written bounds-checked base
//! and offset with the same kind of copy.
#![allow(unsafe_code, clippy::cast_possible_truncation, reason = "what one writes by hand")]

use pageless_mem::{Access, Backing, Error, FRAME_SIZE, Memory, Online, PhysRange, copy};

const ROUNDS: u64 = 1000;
const FRAMES: u64 = 256;

/// One kmap a side, one copy. Not inlined: what a loop around it spills is no cost of the table.
#[inline(never)]
fn through_the_table(online: &Online<'_>, from: PhysRange, to: PhysRange) -> usize {
    let Ok(from) = online.kmap(from, Access::Read) else { return 0 };
    let Ok(to) = online.kmap(to, Access::Write) else { return 0 };
    copy(&mut from.reader(), &mut to.writer()).unwrap_or(0)
}

/// What one writes by hand: offset and length against the size, the address, `rep movsb`.
#[inline(never)]
fn base_and_offset(memory: &mut [u8], from: (u64, u32), to: (u64, u32)) -> usize {
    let (base, size) = (memory.as_mut_ptr(), memory.len() as u64);
    let outside = |(at, len): (u64, u32)| at >= size || u64::from(len) > size - at;
    if outside(from) || outside(to) {
        return 0;
    }
    let len = from.1.min(to.1) as usize;
    // SAFETY: both runs were just found to lie in `memory`, which is borrowed mutably.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rdi") base.wrapping_add(to.0 as usize) => _,
            inout("rsi") base.wrapping_add(from.0 as usize) => _);
    }
    len
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
    let online = reader.online();
    let a: usize = from.iter().zip(&to).map(|(from, to)| through_the_table(&online, *from, *to)).sum();
    let both = offsets.iter().zip(&targets);
    let b: usize = both.map(|(from, to)| base_and_offset(&mut plain, (*from, 4096), (*to, 4096))).sum();
    println!("{a} {b}");
    Ok(())
}
