// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "calls an assembly routine that touches region bytes; see the module `copy`")]
//! Copying one run while the next one is fetched.
//!
//! What a small request costs is the first access to its cache lines. So while one run is copied, block by block, the lines
//! of the next are asked for at the same pace: into the second-level cache, where a whole small request has room, and only
//! as many at a time as the CPU has buffers for.

use std::arch::global_asm;

use super::{Ended, Outcome, copy, finish};
use crate::cursor::{MemReader, MemWriter};
use crate::error::CopyError;
use crate::fault::may_fault;
use crate::kmap::Kmap;
use crate::persist::Stores;
#[cfg(feature = "testing")]
use crate::testing::record;

/// Lengths for which it pays: more would push out of the cache what it fetches.
const PACED: std::ops::RangeInclusive<usize> = 1024..=32 << 10;

// As the routines of `copy`. AVX, which every x86-64-v3 machine has; the caller looks.
global_asm!(
    ".pushsection .text.pageless_mem_ahead,\"ax\",@progbits",
    // pageless_mem_ahead(dst, src, len, next): 128-byte blocks, the tail by a string instruction
    ".p2align 6",
    ".globl pageless_mem_ahead",
    ".hidden pageless_mem_ahead",
    ".type pageless_mem_ahead,@function",
    "pageless_mem_ahead:",
    "    mov r9d, edx",
    "    and r9d, 127",
    "    shr rdx, 7",
    "    jz 3f",
    ".p2align 5",
    "2:",
    "    prefetcht1 [rcx]",
    "    prefetcht1 [rcx + 64]",
    "pageless_mem_ahead_loop_at:",
    "    vmovdqu ymm0, [rsi]",
    "    vmovdqu ymm1, [rsi + 32]",
    "    vmovdqu ymm2, [rsi + 64]",
    "    vmovdqu ymm3, [rsi + 96]",
    "    vmovdqu [rdi], ymm0",
    "    vmovdqu [rdi + 32], ymm1",
    "    vmovdqu [rdi + 64], ymm2",
    "    vmovdqu [rdi + 96], ymm3",
    "pageless_mem_ahead_loop_past:",
    "    sub rsi, -128",
    "    sub rdi, -128",
    "    sub rcx, -128",
    "    dec rdx",
    "    jnz 2b",
    "    vzeroupper",
    "3:",
    "    mov ecx, r9d",
    "    jecxz 4f", // which costs less than moving nothing
    "pageless_mem_ahead_tail_at:",
    "    rep movsb",
    "pageless_mem_ahead_tail_past:",
    "4:  xor eax, eax",
    "    ret",
    "pageless_mem_ahead_loop_landing:",
    "    vzeroupper",
    "    shl rdx, 7",
    "    lea rax, [rdx + r9]",
    "    mov rdx, r8",
    "    ret",
    "pageless_mem_ahead_tail_landing:",
    "    mov rax, rcx",
    "    mov rdx, r8",
    "    ret",
    ".size pageless_mem_ahead, . - pageless_mem_ahead",
    ".popsection",
    may_fault!("pageless_mem_ahead_loop_at", "pageless_mem_ahead_loop_past", "pageless_mem_ahead_loop_landing"),
    may_fault!("pageless_mem_ahead_tail_at", "pageless_mem_ahead_tail_past", "pageless_mem_ahead_tail_landing"),
);

unsafe extern "C" {
    fn pageless_mem_ahead(dst: usize, src: usize, len: usize, next: usize) -> Outcome;
}

/// As [`copy()`](fn@copy), and has what `next` shows fetched meanwhile. Of `next` nothing is read, and it never faults.
#[inline(always)]
pub fn copy_ahead(from: &mut MemReader<'_>, to: &mut MemWriter<'_>, next: &Kmap<'_>) -> Result<usize, CopyError> {
    let len = from.remaining().min(to.remaining());
    if to.stores != Stores::Cached
        || next.len() < len
        || !PACED.contains(&len)
        || !std::arch::is_x86_feature_detected!("avx")
    {
        next.prefetch();
        return copy(from, to);
    }
    #[cfg(feature = "testing")]
    let recorded = record::storing(to.addr, len, false);
    // SAFETY: both runs lie in windows (module `copy`), the CPU has AVX, and `next` is only prefetched.
    let outcome = unsafe { pageless_mem_ahead(to.addr, from.addr, len, next.addr()) };
    #[cfg(feature = "testing")]
    drop(recorded);
    match outcome.left {
        0 => Ended::well(len),
        _ => finish(&from.twin(), &to.twin(), len, outcome),
    }
    .account(from, to)
}
