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

pub(crate) mod abreast;
pub(crate) mod ahead;
pub(crate) mod stream;

use std::arch::asm;

use pageless_sys::cpu::WriteBack;
use pageless_sys::fault::POISONED;

use crate::Fault;
use crate::bad::BadSource;
use crate::cursor::{MemReader, MemWriter};
use crate::error::CopyError;
use crate::fault::may_fault;
use crate::persist::Stores;
use stream::{Width, stream, write_back_stored};

pub(crate) use stream::{write_back, write_back_word};

#[cfg(feature = "testing")]
use crate::testing::record;

pub use abreast::{ABREAST, copy_abreast};
pub use ahead::copy_ahead;

/// Below this, bypassing the caches costs more than it saves.
const NONTEMPORAL_MIN: usize = 512;

/// The same where what is stored has to leave the caches anyway: whole lines go past them at once, and edges are worth
/// their own instructions from here on.
const STREAM_BACK_MIN: usize = 256;

/// Bytes not moved, and the address that faulted if there are any.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub(crate) struct Outcome {
    left: usize,
    fault_address: usize,
}

impl Outcome {
    /// The address that faulted.
    pub(crate) fn address(self) -> usize {
        self.fault_address & !POISONED
    }

    /// Whether broken memory reported the fault.
    pub(crate) fn source(self) -> BadSource {
        BadSource::of(self.fault_address)
    }
}

/// A copy that stopped after `moved` bytes; the fault is `None` when it was not the destination's.
struct Stopped {
    moved: usize,
    fault: Option<Fault>,
    source: BadSource,
}

// What follows is inlined where a copy is called for. The handler of `sys::fault` goes on behind the instruction that
// faulted, with the fault address in r8; the instruction keeps count itself.

/// Moves bytes, up to the very one that faults.
///
/// # Safety
/// Both runs lie in windows (module doc).
#[inline(always)]
unsafe fn move_bytes(dst: usize, src: usize, len: usize) -> Outcome {
    let (left, fault_address): (usize, usize);
    // SAFETY: by the caller; nothing but the two runs is touched, and a fault ends the instruction.
    unsafe {
        asm!(
            "2: rep movsb",
            "3:",
            may_fault!("2b", "3b", "3b"),
            inout("rcx") len => left,
            inout("rdi") dst => _,
            inout("rsi") src => _,
            out("r8") fault_address,
            options(nostack, preserves_flags),
        );
    }
    Outcome { left, fault_address }
}

/// Stores zeroes, up to the very byte that faults.
///
/// # Safety
/// The run lies in a window (module doc).
#[inline(always)]
unsafe fn zero_bytes(dst: usize, len: usize) -> Outcome {
    let (left, fault_address): (usize, usize);
    // SAFETY: by the caller; nothing but the run is touched, and a fault ends the instruction.
    unsafe {
        asm!(
            "2: rep stosb",
            "3:",
            may_fault!("2b", "3b", "3b"),
            inout("rcx") len => left,
            inout("rdi") dst => _,
            in("al") 0_u8,
            out("r8") fault_address,
            options(nostack, preserves_flags),
        );
    }
    Outcome { left, fault_address }
}

/// Moves as many bytes as both sides have. The runs should not overlap: where they do, the destination holds some mix.
#[inline(always)]
pub fn copy(from: &mut MemReader<'_>, to: &mut MemWriter<'_>) -> Result<usize, CopyError> {
    let len = from.remaining().min(to.remaining());
    if to.stores != Stores::Cached {
        return past_caches(&from.twin(), &to.twin(), len).account(from, to);
    }
    let outcome = store(from, to, len, false);
    if outcome.left != 0 {
        return finish(&from.twin(), &to.twin(), len, outcome).account(from, to);
    }
    Ended::well(len).account(from, to)
}

/// How a copy ended. Fits two registers, which a [`Result`] of its parts does not; so cursors whose copy goes well need not
/// live in memory.
#[derive(Copy, Clone)]
struct Ended {
    moved: usize,
    fault: Option<Fault>,
}

impl Ended {
    #[inline]
    fn well(moved: usize) -> Ended {
        Ended { moved, fault: None }
    }

    #[inline(always)]
    fn account(self, from: &mut MemReader<'_>, to: &mut MemWriter<'_>) -> Result<usize, CopyError> {
        from.advance(self.moved);
        to.advance(self.moved);
        match self.fault {
            None => Ok(self.moved),
            Some(fault) => Err(CopyError { moved: self.moved, fault }),
        }
    }
}

/// [`copy`] towards memory that nobody reads soon or that keeps what it is told, out of the way of copies to other memory.
#[inline(never)]
fn past_caches(from: &MemReader<'_>, to: &MemWriter<'_>, len: usize) -> Ended {
    if let Stores::WrittenBack(lines) = to.stores {
        return back(from, to, len, lines);
    }
    let outcome = store(from, to, len, len >= NONTEMPORAL_MIN);
    if outcome.left != 0 {
        return finish(from, to, len, outcome);
    }
    Ended::well(len)
}

/// [`copy`] towards memory whose cache lines must be written back, which is done on the way.
#[inline]
pub(crate) fn copy_back(
    from: &mut MemReader<'_>,
    to: &mut MemWriter<'_>,
    lines: WriteBack,
) -> Result<usize, CopyError> {
    let len = from.remaining().min(to.remaining());
    back(from, to, len, lines).account(from, to)
}

#[inline]
fn back(from: &MemReader<'_>, to: &MemWriter<'_>, len: usize, lines: WriteBack) -> Ended {
    let streaming = len >= STREAM_BACK_MIN || len >= 64 && to.addr.is_multiple_of(64);
    let outcome = store(from, to, len, streaming);
    if outcome.left != 0 {
        return finish(&from.twin(), &to.twin(), len, outcome);
    }
    match write_back_stored(to.addr, len, streaming, lines) {
        Ok(()) => Ended::well(len),
        Err(fault) => not_written_back(&to.twin(), fault),
    }
}

/// Stores `len` bytes by the one routine or the other.
#[inline]
fn store(from: &MemReader<'_>, to: &MemWriter<'_>, len: usize, streaming: bool) -> Outcome {
    #[cfg(feature = "testing")]
    let _recorded = record::storing(to.addr, len, streaming);
    if streaming {
        // SAFETY: both runs lie in windows (module doc); the width is this processor's.
        unsafe { stream(Width::best(), to.addr, from.addr, len) }
    } else {
        // SAFETY: both runs lie in windows (module doc).
        unsafe { move_bytes(to.addr, from.addr, len) }
    }
}

/// What is left to do after a fault.
#[cold]
#[inline(never)]
fn finish(from: &MemReader<'_>, to: &MemWriter<'_>, len: usize, outcome: Outcome) -> Ended {
    let result = after_fault(to, len - outcome.left, len, |to_addr, done, left| {
        // SAFETY: both runs lie in windows (module doc); the bytes before `done` are moved.
        unsafe { move_bytes(to_addr, from.addr + done, left) }
    });
    let ended = match result {
        Ok(moved) => Ended::well(moved),
        Err(Stopped { moved, fault, source }) => {
            Ended { moved, fault: Some(fault.unwrap_or_else(|| from.load_fault(moved, source))) }
        }
    };
    written_back(to, ended)
}

/// What the plain routines stored is in the caches.
fn written_back(to: &MemWriter<'_>, ended: Ended) -> Ended {
    let Stores::WrittenBack(lines) = to.stores else { return ended };
    write_back(to.addr, ended.moved, lines).map_or_else(|fault| not_written_back(to, fault), |()| ended)
}

/// Stores `len` zeroes.
pub(crate) fn zero(to: &mut MemWriter<'_>, len: usize) -> Result<usize, CopyError> {
    let len = len.min(to.remaining());
    #[cfg(feature = "testing")]
    let recorded = record::storing(to.addr, len, false);
    // SAFETY: the run lies in a window (module doc).
    let outcome = unsafe { zero_bytes(to.addr, len) };
    #[cfg(feature = "testing")]
    drop(recorded);
    let ended = match outcome.left {
        0 => Ended::well(len),
        left => after_fault(to, len - left, len, |to_addr, _, left| {
            // SAFETY: the run lies in a window (module doc).
            unsafe { zero_bytes(to_addr, left) }
        })
        .map_or_else(|Stopped { moved, fault, .. }| Ended { moved, fault: fault.or(Some(Fault::Media)) }, Ended::well),
    };
    let ended = written_back(to, ended);
    to.advance(ended.moved);
    ended.fault.map_or(Ok(ended.moved), |fault| Err(CopyError { moved: ended.moved, fault }))
}

/// Goes on after a fault with the routine that stops at the very byte: mends each page where that can be done, and ends
/// with the exact count.
#[cold]
fn after_fault(
    to: &MemWriter<'_>,
    start: usize,
    len: usize,
    run: impl Fn(usize, usize, usize) -> Outcome,
) -> Result<usize, Stopped> {
    let (mut moved, mut mended) = (start, None);
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
        let source = outcome.source();
        let stopped = |fault| Stopped { moved, fault, source };
        if outcome.address() & !4095 != page {
            return Err(stopped(None));
        }
        // Once for a hole, and once more when that shows the memory to be bad and it may be overwritten.
        let before = mended.take().filter(|(at, _)| *at == page).map_or(0, |(_, times)| times);
        if before > 0 {
            let media = to.media_fault(moved, source);
            if before > 1 {
                return Err(stopped(Some(media)));
            }
        }
        to.mend(moved, len - moved, source).map_err(|fault| stopped(Some(fault)))?;
        mended = Some((page, before + 1));
    }
}

/// What was stored does not reach the medium.
#[cold]
fn not_written_back(to: &MemWriter<'_>, fault: Outcome) -> Ended {
    let fault = to.media_fault((fault.address() & !63).saturating_sub(to.addr), fault.source());
    Ended { moved: 0, fault: Some(fault) }
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
