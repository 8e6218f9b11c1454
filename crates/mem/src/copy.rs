// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "calls the assembly routines that are the only code to touch region bytes")]
//! The only code that moves bytes to or from a region.
//!
//! # Safety of touching region memory
//! Region bytes may be written by other processes, guests and devices at any time, and may vanish. So they are never
//! behind a reference: assembly, opaque to the compiler, moves them. A racing writer makes wrong bytes, not undefined
//! behaviour. *In a window* below means: addresses that a [`Resolved`](crate::table) range names, while the table that
//! resolved it is held. Such addresses are mapped, or fault, or belong to the region; they are never anybody else's.
//!
//! # Exact counts
//! Every routine either finishes or stops at a fault with the number of bytes left. String instructions stop at the very
//! byte; the 64-byte loop stops before the block, and [`copy`] then takes the plain routine up to the byte.

mod ahead;

use std::arch::global_asm;

use pageless_sys::cpu::{WriteBack, write_back as best_write_back};
use pageless_sys::fault::FaultRange;

use crate::Fault;
use crate::cursor::{MemReader, MemWriter};
use crate::error::CopyError;
#[cfg(feature = "testing")]
use crate::testing::record;

pub(crate) use ahead::FAULT_RANGES as AHEAD_FAULT_RANGES;
pub use ahead::copy_ahead;

/// Below this, bypassing the caches costs more than it saves.
const NONTEMPORAL_MIN: usize = 512;

/// Bytes not moved, and the address that faulted if there are any.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
struct Outcome {
    left: usize,
    fault_address: usize,
}

// Each routine: System V arguments, result in rax:rdx. The handler of `sys::fault` resumes at the landing pad of the
// range that faulted, with the fault address in r8.
global_asm!(
    ".pushsection .text.pageless_mem_copy,\"ax\",@progbits",
    // pageless_mem_copy(dst, src, len)
    ".p2align 6",
    ".globl pageless_mem_copy",
    ".hidden pageless_mem_copy",
    ".type pageless_mem_copy,@function",
    "pageless_mem_copy:",
    "    mov rcx, rdx",
    "pageless_mem_copy_at:",
    "    rep movsb",
    "pageless_mem_copy_past:",
    "    xor eax, eax",
    "    ret",
    "pageless_mem_copy_landing:",
    "    mov rax, rcx",
    "    mov rdx, r8",
    "    ret",
    ".size pageless_mem_copy, . - pageless_mem_copy",
    // pageless_mem_stream(dst, src, len): 64-byte blocks by non-temporal stores, the edges by plain ones
    ".p2align 6",
    ".globl pageless_mem_stream",
    ".hidden pageless_mem_stream",
    ".type pageless_mem_stream,@function",
    "pageless_mem_stream:",
    "    mov r9, rdx",
    "    mov rcx, rdi",
    "    neg rcx",
    "    and ecx, 63",
    "    cmp rcx, r9",
    "    cmova rcx, r9",
    "    sub r9, rcx",
    "pageless_mem_stream_head_at:",
    "    rep movsb",
    "pageless_mem_stream_head_past:",
    "    mov rcx, r9",
    "    and r9d, 63",
    "    shr rcx, 6",
    "    jz 3f",
    ".p2align 5",
    "2:",
    "pageless_mem_stream_loop_at:",
    "    movdqu xmm0, [rsi]",
    "    movdqu xmm1, [rsi + 16]",
    "    movdqu xmm2, [rsi + 32]",
    "    movdqu xmm3, [rsi + 48]",
    "    movntdq [rdi], xmm0",
    "    movntdq [rdi + 16], xmm1",
    "    movntdq [rdi + 32], xmm2",
    "    movntdq [rdi + 48], xmm3",
    "pageless_mem_stream_loop_past:",
    "    add rsi, 64",
    "    add rdi, 64",
    "    dec rcx",
    "    jnz 2b",
    "3:",
    "    mov rcx, r9",
    "    xor r9d, r9d",
    "pageless_mem_stream_tail_at:",
    "    rep movsb",
    "pageless_mem_stream_tail_past:",
    "    xor eax, eax",
    "    ret",
    "pageless_mem_stream_loop_landing:",
    "    shl rcx, 6",
    "pageless_mem_stream_edge_landing:",
    "    lea rax, [rcx + r9]",
    "    mov rdx, r8",
    "    ret",
    ".size pageless_mem_stream, . - pageless_mem_stream",
    // pageless_mem_zero(dst, len)
    ".p2align 6",
    ".globl pageless_mem_zero",
    ".hidden pageless_mem_zero",
    ".type pageless_mem_zero,@function",
    "pageless_mem_zero:",
    "    mov rcx, rsi",
    "    xor eax, eax",
    "pageless_mem_zero_at:",
    "    rep stosb",
    "pageless_mem_zero_past:",
    "    ret",
    "pageless_mem_zero_landing:",
    "    mov rax, rcx",
    "    mov rdx, r8",
    "    ret",
    ".size pageless_mem_zero, . - pageless_mem_zero",
    // pageless_mem_clwb / clflushopt / clflush(first line, end)
    ".p2align 4",
    ".globl pageless_mem_clwb",
    ".hidden pageless_mem_clwb",
    "pageless_mem_clwb:",
    "pageless_mem_flush_at:",
    "2:  clwb [rdi]",
    "    add rdi, 64",
    "    cmp rdi, rsi",
    "    jb 2b",
    "    xor eax, eax",
    "    ret",
    ".p2align 4",
    ".globl pageless_mem_clflushopt",
    ".hidden pageless_mem_clflushopt",
    "pageless_mem_clflushopt:",
    "2:  clflushopt [rdi]",
    "    add rdi, 64",
    "    cmp rdi, rsi",
    "    jb 2b",
    "    xor eax, eax",
    "    ret",
    ".p2align 4",
    ".globl pageless_mem_clflush",
    ".hidden pageless_mem_clflush",
    "pageless_mem_clflush:",
    "2:  clflush [rdi]",
    "    add rdi, 64",
    "    cmp rdi, rsi",
    "    jb 2b",
    "    xor eax, eax",
    "    ret",
    "pageless_mem_flush_past:",
    "pageless_mem_flush_landing:",
    "    mov rax, rsi",
    "    sub rax, rdi",
    "    mov rdx, r8",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn pageless_mem_copy(dst: usize, src: usize, len: usize) -> Outcome;
    fn pageless_mem_stream(dst: usize, src: usize, len: usize) -> Outcome;
    fn pageless_mem_zero(dst: usize, len: usize) -> Outcome;
    fn pageless_mem_clwb(first: usize, end: usize) -> Outcome;
    fn pageless_mem_clflushopt(first: usize, end: usize) -> Outcome;
    fn pageless_mem_clflush(first: usize, end: usize) -> Outcome;
}

macro_rules! ranges {
    ($($at:ident $past:ident $landing:ident)*) => {
        unsafe extern "C" { $(static $at: u8; static $past: u8;)* }
        /// Where these routines may fault.
        pub(crate) static FAULT_RANGES: &[FaultRange] = &[$(FaultRange {
            start: &raw const $at,
            end: &raw const $past,
            landing: &raw const $landing,
        },)*];
    };
}

unsafe extern "C" {
    static pageless_mem_copy_landing: u8;
    static pageless_mem_stream_loop_landing: u8;
    static pageless_mem_stream_edge_landing: u8;
    static pageless_mem_zero_landing: u8;
    static pageless_mem_flush_landing: u8;
}

ranges! {
    pageless_mem_copy_at pageless_mem_copy_past pageless_mem_copy_landing
    pageless_mem_stream_head_at pageless_mem_stream_head_past pageless_mem_stream_edge_landing
    pageless_mem_stream_loop_at pageless_mem_stream_loop_past pageless_mem_stream_loop_landing
    pageless_mem_stream_tail_at pageless_mem_stream_tail_past pageless_mem_stream_edge_landing
    pageless_mem_zero_at pageless_mem_zero_past pageless_mem_zero_landing
    pageless_mem_flush_at pageless_mem_flush_past pageless_mem_flush_landing
}

/// Moves as many bytes as both sides have. The runs should not overlap: where they do, the destination holds some mix.
#[inline]
pub fn copy(from: &mut MemReader<'_>, to: &mut MemWriter<'_>) -> Result<usize, CopyError> {
    let len = from.remaining().min(to.remaining());
    let streaming = to.streaming && len >= NONTEMPORAL_MIN;
    #[cfg(feature = "testing")]
    let recorded = record::storing(to.addr, len, streaming);
    let outcome = if streaming {
        // SAFETY: both runs lie in windows (module doc).
        unsafe { pageless_mem_stream(to.addr, from.addr, len) }
    } else {
        // SAFETY: both runs lie in windows (module doc).
        unsafe { pageless_mem_copy(to.addr, from.addr, len) }
    };
    #[cfg(feature = "testing")]
    drop(recorded);
    if outcome.left == 0 && !to.write_back {
        from.advance(len);
        to.advance(len);
        return Ok(len);
    }
    finish(from, to, len, outcome, streaming)
}

/// What is left to do after a fault, or towards memory whose cache lines must be written back.
#[cold]
#[inline(never)]
fn finish(
    from: &mut MemReader<'_>,
    to: &mut MemWriter<'_>,
    len: usize,
    outcome: Outcome,
    streamed: bool,
) -> Result<usize, CopyError> {
    let result = match outcome.left {
        0 => Ok(len),
        left => after_fault(to, len - left, len, |to_addr, done, left| {
            // SAFETY: both runs lie in windows (module doc); the bytes before `done` are moved.
            unsafe { pageless_mem_copy(to_addr, from.addr + done, left) }
        })
        .map_err(|(moved, fault)| CopyError { moved, fault: fault.unwrap_or_else(|| from.load_fault(moved)) }),
    };
    let moved = result.unwrap_or_else(|error| error.moved);
    if to.write_back && moved > 0 {
        // What came after a fault was stored by the plain routine: its lines are in the caches.
        write_back_stored(to.addr, moved, streamed && outcome.left == 0).map_err(|()| to.media_fault(0))?;
    }
    from.advance(moved);
    to.advance(moved);
    result
}

/// Stores `len` zeroes.
pub(crate) fn zero(to: &mut MemWriter<'_>, len: usize) -> Result<usize, CopyError> {
    let len = len.min(to.remaining());
    #[cfg(feature = "testing")]
    let recorded = record::storing(to.addr, len, false);
    // SAFETY: the run lies in a window (module doc).
    let outcome = unsafe { pageless_mem_zero(to.addr, len) };
    #[cfg(feature = "testing")]
    drop(recorded);
    let result = match outcome.left {
        0 => Ok(len),
        left => after_fault(to, len - left, len, |to_addr, _, left| {
            // SAFETY: the run lies in a window (module doc).
            unsafe { pageless_mem_zero(to_addr, left) }
        })
        .map_err(|(moved, fault)| CopyError { moved, fault: fault.unwrap_or(Fault::Media) }),
    };
    let moved = result.unwrap_or_else(|error| error.moved);
    if to.write_back && moved > 0 {
        write_back_stored(to.addr, moved, false).map_err(|()| to.media_fault(0))?;
    }
    to.advance(moved);
    result
}

/// Goes on after a fault with the routine that stops at the very byte: fills holes of files, each page once, and ends
/// with the exact count. The fault is `None` when it was not the destination's.
#[cold]
fn after_fault(
    to: &MemWriter<'_>,
    start: usize,
    len: usize,
    run: impl Fn(usize, usize, usize) -> Outcome,
) -> Result<usize, (usize, Option<Fault>)> {
    let (mut moved, mut filled) = (start, None);
    loop {
        #[cfg(feature = "testing")]
        let recorded = record::storing(to.addr + moved, len - moved, false);
        let outcome = run(to.addr + moved, moved, len - moved);
        #[cfg(feature = "testing")]
        drop(recorded);
        moved = len - outcome.left;
        if outcome.left == 0 {
            return Ok(len);
        }
        let page = (to.addr + moved) & !4095;
        if outcome.fault_address & !4095 != page {
            return Err((moved, None));
        }
        if filled == Some(page) {
            return Err((moved, Some(to.media_fault(moved).fault)));
        }
        to.fill_hole(moved).map_err(|fault| (moved, Some(fault)))?;
        filled = Some(page);
    }
}

/// Writes back what was just stored with plain stores: all of it, or the edges of a streamed run.
fn write_back_stored(addr: usize, len: usize, streamed: bool) -> Result<(), ()> {
    if !streamed {
        return write_back(addr, len);
    }
    let end = addr + len;
    if !addr.is_multiple_of(64) {
        write_back(addr, 1)?;
    }
    if end.is_multiple_of(64) { Ok(()) } else { write_back(end - 1, 1) }
}

/// Writes the cache lines of a run back to memory; durable after the next [`fence`]. Fails when the run faults.
pub(crate) fn write_back(addr: usize, len: usize) -> Result<(), ()> {
    if len == 0 {
        return Ok(());
    }
    #[cfg(feature = "testing")]
    record::writing_back(addr, len);
    let (first, end) = (addr & !63, addr + len);
    let outcome = match best_write_back() {
        // SAFETY: the lines lie in a window, which is made of whole frames (module doc), and the CPU has clwb.
        WriteBack::Clwb => unsafe { pageless_mem_clwb(first, end) },
        // SAFETY: as above, for clflushopt.
        WriteBack::ClflushOpt => unsafe { pageless_mem_clflushopt(first, end) },
        // SAFETY: as above; every x86-64 has clflush.
        WriteBack::Clflush => unsafe { pageless_mem_clflush(first, end) },
    };
    if outcome.left == 0 { Ok(()) } else { Err(()) }
}

/// Orders this thread's non-temporal stores and write-backs before what it stores next (`sfence`). Once per batch,
/// before the completions of the batch are published.
#[inline]
pub fn fence() {
    // SAFETY: every x86-64 has SSE.
    unsafe { std::arch::x86_64::_mm_sfence() };
    #[cfg(feature = "testing")]
    record::fenced();
}

#[cfg(test)]
mod tests;
