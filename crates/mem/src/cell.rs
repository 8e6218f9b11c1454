// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "calls the assembly routines for single words")]
//! Words of shared memory: rings, records, logs and doorbells are written on these in safe code.
//!
//! A store to a word is not written back by itself: [`Cell::store_back`] and [`Kmap::write_back`](crate::Kmap::write_back)
//! do that.
//!
//! Each access is one instruction of the word's width, so it is what a device register wants and atomic towards every
//! other CPU and process. x86-64 orders loads as acquire and stores as release; `fetch_or` is a full barrier.

use std::arch::global_asm;
use std::marker::PhantomData;

use crate::bad::{self, BadSource};
use crate::error::Fault;
use crate::fault::may_fault;
use crate::region::Inner;
use crate::{Access, fault, persist};

/// An aligned word in a window.
///
/// # Invariants
/// The word lies in a window (see the module `copy`) and is aligned to its size.
#[derive(Debug)]
pub struct Cell<'k, T> {
    addr: usize,
    access: Access,
    region: &'k Inner,
    offset: u64,
    word: PhantomData<*const T>,
}

/// A word that is read or written.
#[repr(C)]
#[derive(Copy, Clone)]
struct Outcome {
    value: u64,
    /// 0: nothing faulted; 1: something did; 2: broken memory said so.
    faulted: u64,
}

/// Whether an access stopped at a fault, and what is known of it.
type Faulted = Option<BadSource>;

impl Outcome {
    #[inline]
    fn faulted(self) -> Faulted {
        match self.faulted {
            0 => None,
            1 => Some(BadSource::Fault),
            _ => Some(BadSource::Poison),
        }
    }
}

macro_rules! routines {
    ($($load:literal $store:literal $or:literal : $load_insn:literal, $store_insn:literal, $or_insn:literal;)*) => {
        global_asm!(
            ".pushsection .text.pageless_mem_cell,\"ax\",@progbits",
            $(
                ".p2align 4",
                concat!(".globl ", $load), concat!(".hidden ", $load), concat!($load, ":"),
                "    xor edx, edx",
                concat!($load, "_at:"),
                concat!("    ", $load_insn),
                concat!($load, "_past:"),
                "    ret",
                may_fault!(concat!($load, "_at"), concat!($load, "_past"), "pageless_mem_cell_landing"),
                ".p2align 4",
                concat!(".globl ", $store), concat!(".hidden ", $store), concat!($store, ":"),
                "    xor edx, edx",
                concat!($store, "_at:"),
                concat!("    ", $store_insn),
                concat!($store, "_past:"),
                "    ret",
                may_fault!(concat!($store, "_at"), concat!($store, "_past"), "pageless_mem_cell_landing"),
                ".p2align 4",
                concat!(".globl ", $or), concat!(".hidden ", $or), concat!($or, ":"),
                "    xor edx, edx",
                // x86 has no fetch-or: exchange until nobody came between
                concat!($or, "_at:"),
                concat!("    ", $load_insn),
                "2:  mov rcx, rax",
                "    or rcx, rsi",
                concat!("    ", $or_insn),
                "    jnz 2b",
                concat!($or, "_past:"),
                "    ret",
                may_fault!(concat!($or, "_at"), concat!($or, "_past"), "pageless_mem_cell_landing"),
            )*
            "pageless_mem_cell_landing:",
            "    mov rdx, r8",
            "    shr rdx, 63",
            "    inc edx",
            "    ret",
            ".popsection",
        );
    };
}

routines! {
    "pageless_mem_load8" "pageless_mem_store8" "pageless_mem_or8":
        "movzx eax, byte ptr [rdi]", "mov byte ptr [rdi], sil", "lock cmpxchg byte ptr [rdi], cl";
    "pageless_mem_load16" "pageless_mem_store16" "pageless_mem_or16":
        "movzx eax, word ptr [rdi]", "mov word ptr [rdi], si", "lock cmpxchg word ptr [rdi], cx";
    "pageless_mem_load32" "pageless_mem_store32" "pageless_mem_or32":
        "mov eax, dword ptr [rdi]", "mov dword ptr [rdi], esi", "lock cmpxchg dword ptr [rdi], ecx";
    "pageless_mem_load64" "pageless_mem_store64" "pageless_mem_or64":
        "mov rax, qword ptr [rdi]", "mov qword ptr [rdi], rsi", "lock cmpxchg qword ptr [rdi], rcx";
}

mod sealed {
    /// The routines of one width.
    pub trait Routines: Copy {
        fn load(addr: usize) -> (Self, super::Faulted);
        fn store(addr: usize, value: Self) -> super::Faulted;
        fn fetch_or(addr: usize, value: Self) -> (Self, super::Faulted);
    }
}

/// A width that a [`Cell`] can have: `u8`, `u16`, `u32`, `u64`.
pub trait Word: sealed::Routines {}

macro_rules! width {
    ($($word:ident $load:ident $store:ident $or:ident)*) => {
        unsafe extern "C" {
            $(
                fn $load(addr: usize) -> Outcome;
                fn $store(addr: usize, value: u64) -> Outcome;
                fn $or(addr: usize, value: u64) -> Outcome;
            )*
        }

        $(
            impl sealed::Routines for $word {
                #[inline]
                fn load(addr: usize) -> ($word, Faulted) {
                    // SAFETY: by the cell's invariant.
                    let outcome = unsafe { $load(addr) };
                    (narrow(outcome.value), outcome.faulted())
                }

                #[inline]
                fn store(addr: usize, value: $word) -> Faulted {
                    // SAFETY: by the cell's invariant.
                    unsafe { $store(addr, u64::from(value)) }.faulted()
                }

                #[inline]
                fn fetch_or(addr: usize, value: $word) -> ($word, Faulted) {
                    // SAFETY: by the cell's invariant.
                    let outcome = unsafe { $or(addr, u64::from(value)) };
                    (narrow(outcome.value), outcome.faulted())
                }
            }

            impl Word for $word {}
        )*
    };
}

/// The routines leave the word zero-extended.
#[inline]
fn narrow<T: TryFrom<u64> + Default>(value: u64) -> T {
    T::try_from(value).unwrap_or_default()
}

width! {
    u8 pageless_mem_load8 pageless_mem_store8 pageless_mem_or8
    u16 pageless_mem_load16 pageless_mem_store16 pageless_mem_or16
    u32 pageless_mem_load32 pageless_mem_store32 pageless_mem_or32
    u64 pageless_mem_load64 pageless_mem_store64 pageless_mem_or64
}

/// Stores to an aligned word without changing it, and says whether it could. Safe in a signal handler, unlike a cell.
#[cfg(feature = "testing")]
pub(crate) fn touch(addr: usize) -> bool {
    <u64 as sealed::Routines>::fetch_or(addr, 0).1.is_none()
}

impl<'k, T: Word> Cell<'k, T> {
    #[inline]
    pub(crate) fn new(addr: usize, access: Access, region: &'k Inner, offset: u64) -> Cell<'k, T> {
        Cell { addr, access, region, offset, word: PhantomData }
    }

    /// Reads the word (acquire).
    #[inline]
    pub fn load(&self) -> Result<T, Fault> {
        match T::load(self.addr) {
            (value, None) => Ok(value),
            (_, Some(source)) => Err(self.media(source)),
        }
    }

    /// Writes the word (release).
    #[inline]
    pub fn store(&self, value: T) -> Result<(), Fault> {
        self.writable()?;
        #[cfg(feature = "testing")]
        if crate::testing::record::refused(self.addr) {
            return Err(Fault::Media);
        }
        #[cfg(feature = "testing")]
        let _recorded = crate::testing::record::storing(self.addr, size_of::<T>(), false);
        if let Some(source) = T::store(self.addr, value) {
            self.mend(source)?;
            if let Some(source) = T::store(self.addr, value) {
                return Err(self.media(source));
            }
        }
        Ok(())
    }

    /// Writes the word, and its cache line back where that is what stores need: durable after the next
    /// [`fence`](crate::persist::fence). See [`Kmap::write_back`](crate::Kmap::write_back).
    #[inline]
    pub fn store_back(&self, value: T) -> Result<(), Fault> {
        self.store(value)?;
        persist::write_back(self.region, self.addr, self.offset, size_of::<T>())
    }

    /// Sets bits and returns what was there before (full barrier).
    #[inline]
    pub fn fetch_or(&self, bits: T) -> Result<T, Fault> {
        self.writable()?;
        #[cfg(feature = "testing")]
        let _recorded = crate::testing::record::storing(self.addr, size_of::<T>(), false);
        let (mut before, mut faulted) = T::fetch_or(self.addr, bits);
        if let Some(source) = faulted {
            self.mend(source)?;
            (before, faulted) = T::fetch_or(self.addr, bits);
        }
        faulted.map_or(Ok(before), |source| Err(self.media(source)))
    }

    fn writable(&self) -> Result<(), Fault> {
        if self.access == Access::Write { Ok(()) } else { Err(Fault::ReadOnly) }
    }

    #[cold]
    fn mend(&self, source: BadSource) -> Result<(), Fault> {
        fault::mend(self.region, self.offset, size_of::<T>() as u64, source)
    }

    #[cold]
    fn media(&self, source: BadSource) -> Fault {
        bad::note(self.region, self.offset, source);
        Fault::Media
    }
}
