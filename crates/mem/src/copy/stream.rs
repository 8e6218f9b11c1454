// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "calls the assembly routines that store past the caches and write lines back")]
//! Towards memory that keeps what it is told, or that nobody reads soon: stores past the caches, and lines written back.
//!
//! Whole 64-byte lines go by non-temporal stores, as wide as the processor has them; the edges go by plain stores, whose
//! lines the caller writes back. Of vector registers with an upper half that slows older code down, the AVX-512
//! routine uses none (16 and up have no such code), and the AVX routine clears it on every way out.

use std::arch::{asm, global_asm, is_x86_feature_detected};

use pageless_sys::cpu::WriteBack;

use super::Outcome;
use crate::fault::may_fault;

/// The label of a part of a routine.
macro_rules! part {
    ($name:ident $part:literal) => {
        concat!(stringify!($name), "_", $part)
    };
}

/// One streaming routine: System V arguments `(dst, src, len)`, result in rax:rdx. `clear` leaves the vector unit as it was.
macro_rules! streams {
    ($($name:ident [$($wide:literal)*] [$($block:literal)*] $clear:literal)*) => {
        global_asm!(
            ".pushsection .text.pageless_mem_copy,\"ax\",@progbits",
            $(
                ".p2align 6",
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                "    mov r9, rdx",
                "    mov rcx, rdi",
                "    neg rcx",
                "    and ecx, 63",
                "    jz 2f",
                "    cmp rcx, r9",
                "    cmova rcx, r9",
                "    sub r9, rcx",
                concat!(part!($name "head_at"), ":"),
                "    rep movsb",
                concat!(part!($name "head_past"), ":"),
                // Four lines at a time; r9 is what comes after them.
                "2:  mov rcx, r9",
                "    shr rcx, 8",
                "    jz 4f",
                "    and r9d, 255",
                ".p2align 5",
                "3:",
                concat!(part!($name "wide_at"), ":"),
                $($wide,)*
                concat!(part!($name "wide_past"), ":"),
                "    add rsi, 256",
                "    add rdi, 256",
                "    dec rcx",
                "    jnz 3b",
                "4:  mov ecx, r9d",
                "    shr ecx, 6",
                "    jz 6f",
                "    and r9d, 63",
                "5:",
                concat!(part!($name "block_at"), ":"),
                $($block,)*
                concat!(part!($name "block_past"), ":"),
                "    add rsi, 64",
                "    add rdi, 64",
                "    dec ecx",
                "    jnz 5b",
                "6:  mov ecx, r9d",
                "    test ecx, ecx",
                "    jz 7f",
                "    xor r9d, r9d",
                concat!(part!($name "tail_at"), ":"),
                "    rep movsb",
                concat!(part!($name "tail_past"), ":"),
                "7:  xor eax, eax",
                $clear,
                "    ret",
                concat!(part!($name "wide_landing"), ":"),
                "    shl rcx, 2",
                concat!(part!($name "block_landing"), ":"),
                "    shl rcx, 6",
                concat!(part!($name "edge_landing"), ":"),
                "    lea rax, [rcx + r9]",
                "    mov rdx, r8",
                $clear,
                "    ret",
                concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
                may_fault!(part!($name "head_at"), part!($name "head_past"), part!($name "edge_landing")),
                may_fault!(part!($name "wide_at"), part!($name "wide_past"), part!($name "wide_landing")),
                may_fault!(part!($name "block_at"), part!($name "block_past"), part!($name "block_landing")),
                may_fault!(part!($name "tail_at"), part!($name "tail_past"), part!($name "edge_landing")),
            )*
            ".popsection",
        );
        unsafe extern "C" {
            $(fn $name(dst: usize, src: usize, len: usize) -> Outcome;)*
        }
    };
}

streams! {
    pageless_mem_stream_sse [
        "    movdqu xmm0, [rsi]" "    movdqu xmm1, [rsi + 16]" "    movdqu xmm2, [rsi + 32]" "    movdqu xmm3, [rsi + 48]"
        "    movdqu xmm4, [rsi + 64]" "    movdqu xmm5, [rsi + 80]" "    movdqu xmm6, [rsi + 96]" "    movdqu xmm7, [rsi + 112]"
        "    movntdq [rdi], xmm0" "    movntdq [rdi + 16], xmm1" "    movntdq [rdi + 32], xmm2" "    movntdq [rdi + 48], xmm3"
        "    movntdq [rdi + 64], xmm4" "    movntdq [rdi + 80], xmm5" "    movntdq [rdi + 96], xmm6" "    movntdq [rdi + 112], xmm7"
        "    movdqu xmm0, [rsi + 128]" "    movdqu xmm1, [rsi + 144]" "    movdqu xmm2, [rsi + 160]" "    movdqu xmm3, [rsi + 176]"
        "    movdqu xmm4, [rsi + 192]" "    movdqu xmm5, [rsi + 208]" "    movdqu xmm6, [rsi + 224]" "    movdqu xmm7, [rsi + 240]"
        "    movntdq [rdi + 128], xmm0" "    movntdq [rdi + 144], xmm1" "    movntdq [rdi + 160], xmm2" "    movntdq [rdi + 176], xmm3"
        "    movntdq [rdi + 192], xmm4" "    movntdq [rdi + 208], xmm5" "    movntdq [rdi + 224], xmm6" "    movntdq [rdi + 240], xmm7"
    ] [
        "    movdqu xmm0, [rsi]" "    movdqu xmm1, [rsi + 16]" "    movdqu xmm2, [rsi + 32]" "    movdqu xmm3, [rsi + 48]"
        "    movntdq [rdi], xmm0" "    movntdq [rdi + 16], xmm1" "    movntdq [rdi + 32], xmm2" "    movntdq [rdi + 48], xmm3"
    ] ""
    pageless_mem_stream_avx [
        "    vmovdqu ymm0, [rsi]" "    vmovdqu ymm1, [rsi + 32]" "    vmovdqu ymm2, [rsi + 64]" "    vmovdqu ymm3, [rsi + 96]"
        "    vmovdqu ymm4, [rsi + 128]" "    vmovdqu ymm5, [rsi + 160]" "    vmovdqu ymm6, [rsi + 192]" "    vmovdqu ymm7, [rsi + 224]"
        "    vmovntdq [rdi], ymm0" "    vmovntdq [rdi + 32], ymm1" "    vmovntdq [rdi + 64], ymm2" "    vmovntdq [rdi + 96], ymm3"
        "    vmovntdq [rdi + 128], ymm4" "    vmovntdq [rdi + 160], ymm5" "    vmovntdq [rdi + 192], ymm6" "    vmovntdq [rdi + 224], ymm7"
    ] [
        "    vmovdqu ymm0, [rsi]" "    vmovdqu ymm1, [rsi + 32]"
        "    vmovntdq [rdi], ymm0" "    vmovntdq [rdi + 32], ymm1"
    ] "    vzeroupper"
    pageless_mem_stream_avx512 [
        "    vmovdqu64 zmm16, [rsi]" "    vmovdqu64 zmm17, [rsi + 64]" "    vmovdqu64 zmm18, [rsi + 128]" "    vmovdqu64 zmm19, [rsi + 192]"
        "    vmovntdq [rdi], zmm16" "    vmovntdq [rdi + 64], zmm17" "    vmovntdq [rdi + 128], zmm18" "    vmovntdq [rdi + 192], zmm19"
    ] [
        "    vmovdqu64 zmm16, [rsi]" "    vmovntdq [rdi], zmm16"
    ] ""
}

global_asm!(
    ".pushsection .text.pageless_mem_copy,\"ax\",@progbits",
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
    may_fault!("pageless_mem_flush_at", "pageless_mem_flush_past", "pageless_mem_flush_landing"),
);

unsafe extern "C" {
    fn pageless_mem_clwb(first: usize, end: usize) -> Outcome;
    fn pageless_mem_clflushopt(first: usize, end: usize) -> Outcome;
    fn pageless_mem_clflush(first: usize, end: usize) -> Outcome;
}

/// The widest stores that a processor may have.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Width {
    Sse,
    Avx,
    Avx512,
}

impl Width {
    /// Of this processor, as far as the kernel saves such registers. Remembered by the standard library.
    #[inline]
    pub(super) fn best() -> Width {
        match () {
            () if is_x86_feature_detected!("avx512f") => Width::Avx512,
            () if is_x86_feature_detected!("avx") => Width::Avx,
            () => Width::Sse,
        }
    }
}

/// Copies with whole lines stored past the caches; ordered and, towards persistent memory, durable after a fence, but for the
/// edges.
///
/// # Safety
/// Both runs lie in windows (see the module `copy`), and the processor has such stores.
#[inline]
pub(super) unsafe fn stream(width: Width, dst: usize, src: usize, len: usize) -> Outcome {
    match width {
        // SAFETY: by the caller.
        Width::Avx512 => unsafe { pageless_mem_stream_avx512(dst, src, len) },
        // SAFETY: by the caller.
        Width::Avx => unsafe { pageless_mem_stream_avx(dst, src, len) },
        // SAFETY: by the caller.
        Width::Sse => unsafe { pageless_mem_stream_sse(dst, src, len) },
    }
}

/// Writes the cache lines of a run back to memory; durable after the next [`fence`](super::fence). Fails when the run faults.
/// `how` is what the processor was found to have.
pub(crate) fn write_back(addr: usize, len: usize, how: WriteBack) -> Result<(), Outcome> {
    if len == 0 {
        return Ok(());
    }
    #[cfg(feature = "testing")]
    super::record::writing_back(addr, len);
    let (first, end) = (addr & !63, addr + len);
    let outcome = match how {
        // SAFETY: the lines lie in a window, which is made of whole frames (module `copy`), and the CPU has clwb.
        WriteBack::Clwb => unsafe { pageless_mem_clwb(first, end) },
        // SAFETY: as above, for clflushopt.
        WriteBack::ClflushOpt => unsafe { pageless_mem_clflushopt(first, end) },
        // SAFETY: as above; every x86-64 has clflush.
        WriteBack::Clflush => unsafe { pageless_mem_clflush(first, end) },
    };
    if outcome.left == 0 { Ok(()) } else { Err(outcome) }
}

/// The same of a word, which lies in one line. Inlined, since a call takes longer than what it does.
#[inline]
pub(crate) fn write_back_word(addr: usize, len: usize, how: WriteBack) -> Result<(), Outcome> {
    if how != WriteBack::Clwb {
        return write_back(addr, len, how);
    }
    #[cfg(feature = "testing")]
    super::record::writing_back(addr, len);
    let fault;
    // SAFETY: the word lies in a window (module `copy`), and the CPU has clwb.
    unsafe {
        asm!(
            "2: clwb [{addr}]",
            "3:",
            may_fault!("2b", "3b", "3b"),
            addr = in(reg) addr,
            inout("r8") 0_usize => fault,
            options(nostack, preserves_flags),
        );
    }
    if fault == 0 { Ok(()) } else { Err(Outcome { left: len, fault_address: fault }) }
}

/// Writes back what was just stored with plain stores: all of it, or the edges of a streamed run.
#[inline]
pub(super) fn write_back_stored(addr: usize, len: usize, streamed: bool, how: WriteBack) -> Result<(), Outcome> {
    if !streamed {
        return write_back(addr, len, how);
    }
    let end = addr + len;
    if !addr.is_multiple_of(64) {
        write_back(addr, 1, how)?;
    }
    if end.is_multiple_of(64) { Ok(()) } else { write_back(end - 1, 1, how) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, FRAME_SIZE, FileOptions, Memory, Region};

    fn widths() -> impl Iterator<Item = Width> {
        let has = |width: &Width| match width {
            Width::Sse => true,
            Width::Avx => is_x86_feature_detected!("avx"),
            Width::Avx512 => is_x86_feature_detected!("avx512f"),
        };
        [Width::Sse, Width::Avx, Width::Avx512].into_iter().filter(has)
    }

    fn fill(region: &Region, len: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 131 + (i >> 8)) as u8).collect();
        // SAFETY: the region is mapped, this long, and nobody else knows it.
        let outcome = unsafe { stream(Width::Sse, region.inner().addr(), bytes.as_ptr() as usize, len) };
        assert_eq!(outcome.left, 0);
        bytes
    }

    fn load(addr: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: callers name bytes that are mapped; the buffer is as long.
        let outcome = unsafe { stream(Width::Sse, bytes.as_mut_ptr() as usize, addr, len) };
        assert_eq!(outcome.left, 0);
        bytes
    }

    #[test]
    fn every_width_copies_every_length_at_every_alignment() {
        let memory = Memory::new().unwrap();
        let [a, b] = [(); 2].map(|()| memory.register(Backing::anon(1 << 16).unwrap()).unwrap());
        let data = fill(&a, 4096);
        let (from, to) = (a.inner().addr(), b.inner().addr());
        for width in widths() {
            for (at, into) in [(0, 0), (1, 0), (0, 1), (13, 51), (63, 64), (64, 63), (0, 32)] {
                for len in (0..700).chain([1000, 1023, 1024, 1025, 2048, 2500]) {
                    // SAFETY: the run lies in the region, which is mapped.
                    let outcome = unsafe { stream(Width::Sse, to, to + 8192, 4096) };
                    assert_eq!(outcome.left, 0, "zeroes");
                    // SAFETY: both runs lie in regions that are mapped, and the width is one of this processor.
                    let outcome = unsafe { stream(width, to + into, from + at, len) };
                    assert_eq!(outcome.left, 0);
                    let got = load(to, into + len + 64);
                    assert_eq!(got[into..into + len], data[at..at + len], "{width:?} {at}->{into} {len}");
                    assert!(got[..into].iter().chain(&got[into + len..]).all(|byte| *byte == 0), "{width:?} {len}");
                }
            }
        }
    }

    #[test]
    fn every_width_stops_at_the_edge_of_mapped_memory_within_four_lines() {
        let path = std::env::temp_dir().join(format!("pageless-stream-{}", std::process::id()));
        let memory = Memory::new().unwrap();
        let options = FileOptions { size: Some(4 * FRAME_SIZE), create: true, read_only: false };
        let cliff = memory.register(Backing::file(&path, options).unwrap()).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(FRAME_SIZE).unwrap();
        let sound = memory.register(Backing::anon(1 << 16).unwrap()).unwrap();
        fill(&sound, 1 << 15);
        fill(&cliff, 4096);
        let (edge, other) = (cliff.inner().addr() + 4096, sound.inner().addr() + 8192);
        for width in widths() {
            for before in (0..=330).chain([511, 512, 513, 1000, 2048, 4095, 4096]) {
                for past in [1, 63, 64, 65, 256, 600, 4096] {
                    for shift in [0, 1, 63] {
                        let (cliff, sound) = (edge - before, other + shift);
                        for (to, from) in [(sound, cliff), (cliff, sound)] {
                            // SAFETY: both runs lie in regions: mapped, or faulting in a listed range.
                            let outcome = unsafe { stream(width, to, from, before + past) };
                            let moved = before + past - outcome.left;
                            assert!(moved <= before && before - moved < 256, "{width:?} {before}+{past}: {moved}");
                            assert_eq!(outcome.fault_address & !4095, edge, "{width:?} {before}+{past}");
                            assert_eq!(load(to, moved), load(from, moved), "{width:?} {before}+{past}");
                        }
                    }
                }
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}
