// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "single words are read and written by assembly, as `copy` moves bytes")]
//! Words of shared memory: rings, records, logs and doorbells are written on these in safe code.
//!
//! A store to a word is not written back by itself: [`Cell::store_back`] and [`Kmap::write_back`](crate::Kmap::write_back)
//! do that.
//!
//! Each access is one instruction of the word's width, so it is what a device register wants and atomic towards every
//! other CPU and process. x86-64 orders loads as acquire and stores as release; `fetch_or` is a full barrier.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::Arc;

use pageless_sys::fault::POISONED;

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
    region: &'k Arc<Inner>,
    offset: u64,
    word: PhantomData<*const T>,
}

mod sealed {
    /// The accesses of one width. Each says where it faulted: 0 where it did not.
    pub trait Accesses: Copy {
        fn load(addr: usize) -> (Self, usize);
        fn store(addr: usize, value: Self) -> usize;
        fn fetch_or(addr: usize, value: Self) -> (Self, usize);
    }
}

/// A width that a [`Cell`] can have: `u8`, `u16`, `u32`, `u64`.
pub trait Word: sealed::Accesses {}

// Inlined where a word is used: a call would make the caller put everything it has at hand in memory. The handler of
// `sys::fault` goes on behind the access with the fault's address in r8, which is 0 before.
macro_rules! width {
    ($($word:ident $register:ident: $load:literal $first:literal $store:literal;)*) => {
        $(
            #[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast, trivial_numeric_casts, reason = "a load leaves the rest 0")]
            impl sealed::Accesses for $word {
                #[inline(always)]
                fn load(addr: usize) -> ($word, usize) {
                    let (value, fault): ($register, usize);
                    // SAFETY: by the cell's invariant.
                    unsafe {
                        asm!(
                            concat!("2: ", $load),
                            "3:",
                            may_fault!("2b", "3b", "3b"),
                            addr = in(reg) addr,
                            value = out(reg) value,
                            inout("r8") 0_usize => fault,
                            options(nostack, preserves_flags),
                        );
                    }
                    (value as $word, fault)
                }

                #[inline(always)]
                fn store(addr: usize, value: $word) -> usize {
                    let fault;
                    // SAFETY: by the cell's invariant.
                    unsafe {
                        asm!(
                            concat!("2: mov ", $store),
                            "3:",
                            may_fault!("2b", "3b", "3b"),
                            addr = in(reg) addr,
                            value = in(reg) $register::from(value),
                            inout("r8") 0_usize => fault,
                            options(nostack, preserves_flags),
                        );
                    }
                    fault
                }

                #[inline]
                fn fetch_or(addr: usize, bits: $word) -> ($word, usize) {
                    let (before, fault): (u64, usize);
                    // SAFETY: by the cell's invariant.
                    unsafe {
                        asm!(
                            concat!("2: ", $first),
                            // x86 has no fetch-or: exchange until nobody came between
                            "4: mov {value}, rax",
                            "or {value}, {bits}",
                            concat!("lock cmpxchg ", $store),
                            "jnz 4b",
                            "3:",
                            may_fault!("2b", "3b", "3b"),
                            addr = in(reg) addr,
                            bits = in(reg) u64::from(bits),
                            value = out(reg) _,
                            out("rax") before,
                            inout("r8") 0_usize => fault,
                            options(nostack),
                        );
                    }
                    (before as $word, fault)
                }
            }

            impl Word for $word {}
        )*
    };
}

width! {
    u8 u32: "movzx {value:e}, byte ptr [{addr}]" "movzx eax, byte ptr [{addr}]" "byte ptr [{addr}], {value:l}";
    u16 u32: "movzx {value:e}, word ptr [{addr}]" "movzx eax, word ptr [{addr}]" "word ptr [{addr}], {value:x}";
    u32 u32: "mov {value:e}, dword ptr [{addr}]" "mov eax, dword ptr [{addr}]" "dword ptr [{addr}], {value:e}";
    u64 u64: "mov {value}, qword ptr [{addr}]" "mov rax, qword ptr [{addr}]" "qword ptr [{addr}], {value}";
}

/// Stores to an aligned word without changing it, and says whether it could. Safe in a signal handler, unlike a cell.
#[cfg(feature = "testing")]
pub(crate) fn touch(addr: usize) -> bool {
    <u64 as sealed::Accesses>::fetch_or(addr, 0).1 == 0
}

impl<'k, T: Word> Cell<'k, T> {
    #[inline]
    pub(crate) fn new(addr: usize, access: Access, region: &'k Arc<Inner>, offset: u64) -> Cell<'k, T> {
        Cell { addr, access, region, offset, word: PhantomData }
    }

    /// Reads the word (acquire).
    #[inline]
    pub fn load(&self) -> Result<T, Fault> {
        match T::load(self.addr) {
            (value, 0) => Ok(value),
            (_, fault) => Err(media(self.region, self.offset, fault)),
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
        match T::store(self.addr, value) {
            0 => Ok(()),
            fault => store_again(self.addr, value, (self.region, self.offset), fault),
        }
    }

    /// Writes the word, and its cache line back where that is what stores need: durable after the next
    /// [`fence`](crate::persist::fence). See [`Kmap::write_back`](crate::Kmap::write_back).
    #[inline(always)]
    pub fn store_back(&self, value: T) -> Result<(), Fault> {
        self.store(value)?;
        persist::write_back_word(self.region, self.addr, self.offset, size_of::<T>())
    }

    /// Sets bits and returns what was there before (full barrier).
    #[inline]
    pub fn fetch_or(&self, bits: T) -> Result<T, Fault> {
        self.writable()?;
        #[cfg(feature = "testing")]
        let _recorded = crate::testing::record::storing(self.addr, size_of::<T>(), false);
        match T::fetch_or(self.addr, bits) {
            (before, 0) => Ok(before),
            (_, fault) => {
                mend::<T>(self.region, self.offset, fault)?;
                match T::fetch_or(self.addr, bits) {
                    (before, 0) => Ok(before),
                    (_, fault) => Err(media(self.region, self.offset, fault)),
                }
            }
        }
    }

    #[inline]
    fn writable(&self) -> Result<(), Fault> {
        if self.access == Access::Write { Ok(()) } else { Err(Fault::ReadOnly) }
    }
}

/// Two words side by side, which lie in a window and need not be aligned.
#[inline]
pub(crate) fn load_pair(addr: usize, region: &Inner, offset: u64) -> Result<[u64; 2], Fault> {
    let (first, second, fault): (u64, u64, usize);
    // SAFETY: both words lie in a window.
    unsafe {
        asm!(
            "2: mov {first}, qword ptr [{addr}]",
            "mov {second}, qword ptr [{addr} + 8]",
            "3:",
            may_fault!("2b", "3b", "3b"),
            addr = in(reg) addr,
            first = out(reg) first,
            second = out(reg) second,
            inout("r8") 0_usize => fault,
            options(nostack, preserves_flags),
        );
    }
    match fault {
        0 => Ok([first, second]),
        fault => Err(media(region, offset + ((fault & !POISONED).saturating_sub(addr)) as u64, fault)),
    }
}

// These are given what they need rather than the cell, which then need not be in memory for them.

#[cold]
#[inline(never)]
fn store_again<T: Word>(addr: usize, value: T, (region, offset): (&Inner, u64), fault: usize) -> Result<(), Fault> {
    mend::<T>(region, offset, fault)?;
    match T::store(addr, value) {
        0 => Ok(()),
        fault => Err(media(region, offset, fault)),
    }
}

#[cold]
#[inline(never)]
fn mend<T: Word>(region: &Inner, offset: u64, fault: usize) -> Result<(), Fault> {
    fault::mend(region, offset, size_of::<T>() as u64, BadSource::of(fault))
}

#[cold]
#[inline(never)]
fn media(region: &Inner, offset: u64, fault: usize) -> Fault {
    bad::note(region, offset, BadSource::of(fault));
    Fault::Media
}
