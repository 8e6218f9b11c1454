// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "calls an assembly routine that touches region bytes; see the module `copy`")]
//! Copying four runs side by side.
//!
//! One core waits for as many cache lines at a time as it has buffers for, and from one page it rarely asks for that many: the
//! streams that it sees by itself are short. Of four pages, a block of each in turn, it does.

use std::arch::global_asm;

use super::copy;
use crate::cursor::{MemReader, MemWriter};
use crate::error::CopyError;
use crate::fault::may_fault;
use crate::persist::Stores;
#[cfg(feature = "testing")]
use crate::testing::record;

/// Runs that are copied side by side: two or three are slower, and so are five.
pub const ABREAST: usize = 4;

/// Lengths for which it pays.
const PACED: std::ops::RangeInclusive<usize> = 1024..=32 << 10;

// As the routines of `copy`: 128 bytes of each run in turn, loaded before any of them is stored; the lines 512 bytes on are asked for
// meanwhile: further ahead is slower where the data is in a cache, less far where it is not. AVX, which every x86-64-v3 machine has; the caller looks.
global_asm!(
    ".pushsection .text.pageless_mem_abreast,\"ax\",@progbits",
    // pageless_mem_abreast(addresses: four sources, then four targets; len: a multiple of 128) -> bytes of each that were moved
    ".p2align 6",
    ".globl pageless_mem_abreast",
    ".hidden pageless_mem_abreast",
    ".type pageless_mem_abreast,@function",
    "pageless_mem_abreast:",
    "    push rbx",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    mov rbx, [rdi]",
    "    mov r9, [rdi + 8]",
    "    mov r10, [rdi + 16]",
    "    mov r11, [rdi + 24]",
    "    mov r12, [rdi + 32]",
    "    mov r13, [rdi + 40]",
    "    mov r14, [rdi + 48]",
    "    mov r15, [rdi + 56]",
    "    xor eax, eax",
    "    mov edx, 512",
    ".p2align 5",
    "2:",
    "    cmp rdx, rsi",
    "    jae pageless_mem_abreast_at",
    "    prefetcht1 [rbx + rdx]",
    "    prefetcht1 [rbx + rdx + 64]",
    "    prefetcht1 [r9 + rdx]",
    "    prefetcht1 [r9 + rdx + 64]",
    "    prefetcht1 [r10 + rdx]",
    "    prefetcht1 [r10 + rdx + 64]",
    "    prefetcht1 [r11 + rdx]",
    "    prefetcht1 [r11 + rdx + 64]",
    "pageless_mem_abreast_at:",
    "    vmovdqu ymm0, [rbx + rax]",
    "    vmovdqu ymm1, [rbx + rax + 32]",
    "    vmovdqu ymm2, [rbx + rax + 64]",
    "    vmovdqu ymm3, [rbx + rax + 96]",
    "    vmovdqu ymm4, [r9 + rax]",
    "    vmovdqu ymm5, [r9 + rax + 32]",
    "    vmovdqu ymm6, [r9 + rax + 64]",
    "    vmovdqu ymm7, [r9 + rax + 96]",
    "    vmovdqu ymm8, [r10 + rax]",
    "    vmovdqu ymm9, [r10 + rax + 32]",
    "    vmovdqu ymm10, [r10 + rax + 64]",
    "    vmovdqu ymm11, [r10 + rax + 96]",
    "    vmovdqu ymm12, [r11 + rax]",
    "    vmovdqu ymm13, [r11 + rax + 32]",
    "    vmovdqu ymm14, [r11 + rax + 64]",
    "    vmovdqu ymm15, [r11 + rax + 96]",
    "    vmovdqu [r12 + rax], ymm0",
    "    vmovdqu [r12 + rax + 32], ymm1",
    "    vmovdqu [r12 + rax + 64], ymm2",
    "    vmovdqu [r12 + rax + 96], ymm3",
    "    vmovdqu [r13 + rax], ymm4",
    "    vmovdqu [r13 + rax + 32], ymm5",
    "    vmovdqu [r13 + rax + 64], ymm6",
    "    vmovdqu [r13 + rax + 96], ymm7",
    "    vmovdqu [r14 + rax], ymm8",
    "    vmovdqu [r14 + rax + 32], ymm9",
    "    vmovdqu [r14 + rax + 64], ymm10",
    "    vmovdqu [r14 + rax + 96], ymm11",
    "    vmovdqu [r15 + rax], ymm12",
    "    vmovdqu [r15 + rax + 32], ymm13",
    "    vmovdqu [r15 + rax + 64], ymm14",
    "    vmovdqu [r15 + rax + 96], ymm15",
    "pageless_mem_abreast_past:",
    "    sub rax, -128",
    "    sub rdx, -128",
    "    cmp rax, rsi",
    "    jb 2b",
    // The blocks before the one that faulted are moved, of every run.
    "pageless_mem_abreast_landing:",
    "    vzeroupper",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbx",
    "    ret",
    ".size pageless_mem_abreast, . - pageless_mem_abreast",
    ".popsection",
    may_fault!("pageless_mem_abreast_at", "pageless_mem_abreast_past", "pageless_mem_abreast_landing"),
);

unsafe extern "C" {
    fn pageless_mem_abreast(addresses: *const [usize; 2 * ABREAST], len: usize) -> usize;
}

/// Moves four runs, side by side as far as that pays: not where they are short or long, or are not to be stored through the
/// caches. Each ends as by [`copy`](fn@crate::copy).
#[inline]
pub fn copy_abreast(
    from: &mut [MemReader<'_>; ABREAST],
    to: &mut [MemWriter<'_>; ABREAST],
) -> [Result<usize, CopyError>; ABREAST] {
    let before = side_by_side(from, to);
    let mut runs = from.iter_mut().zip(to);
    std::array::from_fn(|_| match runs.next() {
        Some((from, to)) if from.remaining().min(to.remaining()) > 0 => match copy(from, to) {
            Ok(moved) => Ok(before + moved),
            Err(error) => Err(CopyError { moved: before + error.moved, ..error }),
        },
        _ => Ok(before),
    })
}

/// Moves the first bytes of each, as many of one as of the other, and says how many.
#[inline]
pub(super) fn side_by_side(from: &mut [MemReader<'_>; ABREAST], to: &mut [MemWriter<'_>; ABREAST]) -> usize {
    let runs = || from.iter().zip(&*to);
    let len = runs().map(|(from, to)| from.remaining().min(to.remaining())).min().unwrap_or(0) & !127;
    let cached = to.iter().all(|to| to.stores == Stores::Cached);
    if !cached || !PACED.contains(&len) || !std::arch::is_x86_feature_detected!("avx") {
        return 0;
    }
    let mut addresses = [0; 2 * ABREAST];
    for (index, (from, to)) in runs().enumerate() {
        (addresses[index], addresses[ABREAST + index]) = (from.addr, to.addr);
    }
    #[cfg(feature = "testing")]
    let recorded = to.each_ref().map(|to| record::storing(to.addr, len, false));
    // SAFETY: all runs lie in windows (module `copy`) and have as many bytes, and the CPU has AVX.
    let moved = unsafe { pageless_mem_abreast(&raw const addresses, len) };
    #[cfg(feature = "testing")]
    drop(recorded);
    for (from, to) in from.iter_mut().zip(to) {
        from.advance(moved);
        to.advance(moved);
    }
    moved
}
