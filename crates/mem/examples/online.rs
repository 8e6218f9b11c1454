// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loops that `benches/callgrind-online.sh` counts: what an online section and fault containment add to a 4 KiB copy,
//! and what taking memory in flight costs. Run by itself it prints nanoseconds instead.
#![allow(unsafe_code, reason = "what one writes by hand")]

use std::hint::black_box;
use std::time::Instant;

use pageless_mem::{Access, Backing, Error, FRAME_SIZE, Memory, PhysRange, Reader, copy};

const ROUNDS: usize = 1000;
const FRAMES: u64 = 256;

/// Windows and copies, all in one section.
#[inline(never)]
fn copies_in_one_section(reader: &mut Reader, from: &[PhysRange], to: &[PhysRange]) -> usize {
    let online = reader.online();
    let mut moved = 0;
    for (from, to) in from.iter().zip(to) {
        let (Ok(from), Ok(to)) = (online.kmap(*from, Access::Read), online.kmap(*to, Access::Write)) else { return 0 };
        moved += copy(&mut from.reader(), &mut to.writer()).unwrap_or(0);
    }
    moved
}

/// The same, and a section for each.
#[inline(never)]
fn copies_in_sections_of_their_own(reader: &mut Reader, from: &[PhysRange], to: &[PhysRange]) -> usize {
    let mut moved = 0;
    for (from, to) in from.iter().zip(to) {
        let online = reader.online();
        let (Ok(from), Ok(to)) = (online.kmap(*from, Access::Read), online.kmap(*to, Access::Write)) else { return 0 };
        moved += copy(&mut from.reader(), &mut to.writer()).unwrap_or(0);
    }
    moved
}

/// Windows and cursors without a copy.
#[inline(never)]
fn cursors_in_one_section(reader: &mut Reader, from: &[PhysRange], to: &[PhysRange]) -> usize {
    let online = reader.online();
    let mut opened = 0;
    for (from, to) in from.iter().zip(to) {
        let (Ok(from), Ok(to)) = (online.kmap(*from, Access::Read), online.kmap(*to, Access::Write)) else { return 0 };
        let cursors = (from.reader(), to.writer());
        let (from, to) = black_box(&cursors);
        opened += from.remaining().min(to.remaining());
    }
    opened
}

/// A copy that nobody contains.
#[inline(never)]
fn copies_by_hand(memory: &mut [u8], offsets: &[usize]) -> usize {
    let base = memory.as_mut_ptr();
    let mut moved = 0;
    for offset in offsets {
        let len = 4096.min(memory.len() / 2 - offset);
        // SAFETY: the run lies in the first half of `memory`, its copy in the second.
        unsafe {
            std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") base.wrapping_add(*offset) => _,
                inout("rdi") base.wrapping_add(offset + memory.len() / 2) => _);
        }
        moved += len;
    }
    moved
}

/// The same without the copy.
#[inline(never)]
fn no_copies_by_hand(memory: &mut [u8], offsets: &[usize]) -> usize {
    let base = memory.as_mut_ptr();
    let mut moved = 0;
    for offset in offsets {
        let len = 4096.min(memory.len() / 2 - offset);
        black_box((base.wrapping_add(*offset), base.wrapping_add(offset + memory.len() / 2)));
        moved += len;
    }
    moved
}

/// Takes ranges in flight and lets go of them, `rounds` times.
fn pins(reader: &mut Reader, ranges: &[PhysRange], rounds: usize) -> usize {
    (0..rounds).filter(|_| reader.online().pin(black_box(ranges), Access::Write).map(drop).is_ok()).count()
}

#[inline(never)]
fn pins_of_one(reader: &mut Reader, ranges: &[PhysRange]) -> usize {
    pins(reader, &ranges[..1], ROUNDS)
}

#[inline(never)]
fn pins_of_sixty_four(reader: &mut Reader, ranges: &[PhysRange]) -> usize {
    pins(reader, &ranges[..64], ROUNDS)
}

/// Sections with nothing in them.
#[inline(never)]
fn empty_sections(reader: &mut Reader) -> usize {
    for _ in 0..ROUNDS {
        black_box(&reader.online());
    }
    ROUNDS
}

fn main() -> Result<(), Error> {
    let memory = Memory::new()?;
    let region = memory.register(Backing::anon(2 * FRAMES * FRAME_SIZE)?)?;
    let offsets: Vec<u64> = (0..ROUNDS as u64).map(|n| n * 37 % FRAMES * FRAME_SIZE).collect();
    let ranges = |base: u64| offsets.iter().filter_map(|at| region.range(base + at, FRAME_SIZE)).collect::<Vec<_>>();
    let (from, to) = (ranges(0), ranges(FRAMES * FRAME_SIZE));
    let mut plain = vec![0; usize::try_from(2 * FRAMES * FRAME_SIZE).unwrap_or(0)];
    let places: Vec<usize> = offsets.iter().filter_map(|at| usize::try_from(*at).ok()).collect();
    let mut reader = memory.reader();
    let counted = [
        copies_in_one_section(&mut reader, &from, &to),
        copies_in_sections_of_their_own(&mut reader, &from, &to),
        cursors_in_one_section(&mut reader, &from, &to),
        copies_by_hand(&mut plain, &places),
        no_copies_by_hand(&mut plain, &places),
        pins_of_one(&mut reader, &from),
        pins_of_sixty_four(&mut reader, &from),
        empty_sections(&mut reader),
    ];
    println!("{counted:?}");
    for (name, len) in [("1 range", 1), ("64 ranges", 64)] {
        let mut best = f64::INFINITY;
        for _ in 0..if std::env::var_os("TIME").is_some() { 50 } else { 0 } {
            let begin = Instant::now();
            black_box(pins(&mut reader, &from[..len], 10_000));
            best = best.min(begin.elapsed().as_secs_f64() * 1e5);
        }
        println!("in flight and back, {name}: {best:.1} ns");
    }
    Ok(())
}
