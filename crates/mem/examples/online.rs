// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `benches/callgrind-online.sh` counts: what an online section and fault containment add to a 4 KiB copy, and what
//! taking memory in flight costs. Run by itself it prints nanoseconds instead.
#![allow(unsafe_code, clippy::cast_possible_truncation, reason = "what one writes by hand")]

use std::hint::black_box;
use std::time::Instant;

use pageless_mem::{Access, Backing, Error, FRAME_SIZE, Memory, Online, PhysRange, Reader, copy};

const ROUNDS: usize = 1000;
const FRAMES: u64 = 256;

/// Two windows and a copy. Not inlined, as the others are not: what a loop around them spills is no cost of theirs.
#[inline(never)]
fn contained(online: &Online<'_>, from: PhysRange, to: PhysRange) -> usize {
    let Ok(from) = online.kmap(from, Access::Read) else { return 0 };
    let Ok(to) = online.kmap(to, Access::Write) else { return 0 };
    copy(&mut from.reader(), &mut to.writer()).unwrap_or(0)
}

/// The same in a section of its own.
#[inline(never)]
fn section_of_its_own(reader: &mut Reader, from: PhysRange, to: PhysRange) -> usize {
    let online = reader.online();
    let Ok(from) = online.kmap(from, Access::Read) else { return 0 };
    let Ok(to) = online.kmap(to, Access::Write) else { return 0 };
    copy(&mut from.reader(), &mut to.writer()).unwrap_or(0)
}

/// The same windows, and a copy that nobody contains, between the same places of other memory.
#[inline(never)]
fn uncontained(online: &Online<'_>, other: &mut Other<'_>, from: PhysRange, to: PhysRange) -> usize {
    let (source, target) = (other.at(from), other.at(to));
    let Ok(from) = online.kmap(from, Access::Read) else { return 0 };
    let Ok(to) = online.kmap(to, Access::Write) else { return 0 };
    let len = from.len().min(to.len());
    // SAFETY: both windows lie in the region, which is as long as `other` is.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") source => _, inout("rdi") target => _);
    }
    len
}

/// As long as the region.
struct Other<'m> {
    memory: &'m mut [u8],
    /// Where the region is in the frame space.
    start: u64,
}

impl Other<'_> {
    fn at(&mut self, range: PhysRange) -> *mut u8 {
        self.memory.as_mut_ptr().wrapping_add((range.byte_address() - self.start) as usize)
    }
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

fn main() -> Result<(), Error> {
    let memory = Memory::new()?;
    let region = memory.register(Backing::anon(2 * FRAMES * FRAME_SIZE)?)?;
    let offsets: Vec<u64> = (0..ROUNDS as u64).map(|n| n * 37 % FRAMES * FRAME_SIZE).collect();
    let ranges = |base: u64| offsets.iter().filter_map(|at| region.range(base + at, FRAME_SIZE)).collect::<Vec<_>>();
    let (from, to) = (ranges(0), ranges(FRAMES * FRAME_SIZE));
    let mut plain = vec![0; usize::try_from(2 * FRAMES * FRAME_SIZE).unwrap_or(0)];
    let mut other = Other { memory: &mut plain, start: region.range(0, 1).map_or(0, PhysRange::byte_address) };
    let mut reader = memory.reader();
    let pairs = || from.iter().copied().zip(to.iter().copied());
    let each: usize = pairs().map(|(from, to)| section_of_its_own(&mut reader, from, to)).sum();
    let online = reader.online();
    let one: usize = pairs().map(|(from, to)| contained(&online, from, to)).sum();
    let hand: usize = pairs().map(|(from, to)| uncontained(&online, &mut other, from, to)).sum();
    drop(online);
    let counted = [each, one, hand, pins_of_one(&mut reader, &from), pins_of_sixty_four(&mut reader, &from)];
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
