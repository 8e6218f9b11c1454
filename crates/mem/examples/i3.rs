// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two loops that `benches/callgrind-i3.sh` compares: 4 KiB copies through the region table, and by a hand-written
//! bounds-checked base and offset with the same kind of copy.
#![allow(unsafe_code, clippy::cast_possible_truncation, reason = "what one writes by hand")]

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

/// What one writes by hand: offset and length against the size, the address, `rep movsb`.
#[inline(never)]
fn base_and_offset(memory: &mut [u8], from: &[(u64, u32)], to: &[(u64, u32)]) -> usize {
    let (base, size) = (memory.as_mut_ptr(), memory.len() as u64);
    let mut moved = 0;
    for ((from, from_len), (to, to_len)) in from.iter().zip(to) {
        let outside = |at: u64, len: u32| at >= size || u64::from(len) > size - at;
        if outside(*from, *from_len) || outside(*to, *to_len) {
            return 0;
        }
        let len = (*from_len).min(*to_len) as usize;
        // SAFETY: both runs were just found to lie in `memory`, which is borrowed mutably.
        unsafe {
            std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rdi") base.wrapping_add(*to as usize) => _,
                inout("rsi") base.wrapping_add(*from as usize) => _);
        }
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
    let pairs = |offsets: &[u64]| offsets.iter().map(|at| (*at, 4096)).collect::<Vec<_>>();
    let a = through_the_table(&mut reader, &from, &to);
    let b = base_and_offset(&mut plain, &pairs(&offsets), &pairs(&targets));
    println!("{a} {b}");
    Ok(())
}
