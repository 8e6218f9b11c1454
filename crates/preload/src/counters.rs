// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `pageless run --stats` prints: a file that `run` made, shared by every process that its program starts, so that
//! `_exit`, `exec` and `kill -9` lose nothing. Without such a file nothing is counted. The path that never faults
//! counts nothing.

#![allow(unsafe_code, reason = "the counters lie in a mapped file")]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::kernel;

#[path = "counters/names.rs"]
pub(crate) mod names;

pub(crate) use names::Counter;

/// Where the file is mapped; 0 until it is.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Maps the file.
pub(crate) fn attach(path: &core::ffi::CStr) {
    let Ok(file) = kernel::open(path) else { return };
    // A shorter file would end a count with SIGBUS.
    let whole = kernel::stat(file).is_ok_and(|stat| stat.size == names::FILE_BYTES as u64);
    if whole && let Ok(addr) = kernel::map(file, names::FILE_BYTES) {
        MAPPED.store(addr, Ordering::Release);
    }
    kernel::close(file);
}

/// Adds to a counter.
pub(crate) fn add(counter: Counter, n: usize) {
    let addr = MAPPED.load(Ordering::Acquire);
    if addr != 0 {
        let word = (addr + 8 * counter as usize) as *mut u64;
        // SAFETY: the file was mapped at `addr`, is never unmapped, and has a word for each counter.
        unsafe { AtomicU64::from_ptr(word) }.fetch_add(n as u64, Ordering::Relaxed);
    }
}
