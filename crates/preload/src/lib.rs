// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library that `pageless run` preloads: programs nobody changed do direct I/O on memory that the kernel will not
//! pin.
//!
//! # Words
//! A *call* is one of the program's own: `pread`, `writev`, a libaio request. It is *bounced* when the kernel answered
//! `EFAULT` and the bytes then went through a *slot*, memory of this library that the kernel does pin.
//!
//! # Flow
//! ```text
//!   program ── pread(fd, buf, len, at) ──► edge ── the original ──► kernel: n, or any error but EFAULT ──► program
//!                                           │
//!                                           └ EFAULT ─► bounce: O_DIRECT, on a file or block device?
//!                                                         │ pool:   a slot
//!                                                         │ layout: where each segment lies in it
//!                                                         ├ preadv2(fd, slot)              the device's I/O, O_DIRECT
//!                                                         └ pread(slot's memfd, buf)       the kernel copies: exact count or EFAULT
//! ```
//! A write goes the other way: `pwrite` from the program's memory to the slot, then `pwritev2` from the slot.
//!
//! # Types
//! `bounce::Call` is what was asked, `layout` lays its segments out, `pool::Slot` is the memory, `counters` count for
//! `--stats`.
//!
//! # Promises
//! After the constructor: no allocation, no lock, no thread-local storage, no symbol looked up, no panic (tests look at
//! the library for these). So the functions may be called in signal handlers and vfork children, as those they stand
//! before. The program's memory is never touched by our own instructions, so no signal can come of it; but for the iocbs of
//! libaio, which are read where the kernel is about to read them (`edge/aio/submitted.rs` says when that is a signal).
//!
//! # What it is not
//! It is no libc: programs that enter the kernel by themselves (static ones, Go's, `syscall(2)`, io_uring) go past it.
//! It has no dependency and no std; `pageless/build.rs` compiles it as a shared object of its own.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(dead_code, reason = "the edge is not part of tests: it would stand before the test's own libc")
)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("the preload library speaks to Linux on x86-64");

mod bounce;
mod counters;
#[cfg(not(test))]
mod edge;
mod kernel;
mod layout;
mod pool;

/// There is no way here: a test looks for it in the shared object.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        kernel::yield_now();
    }
}
