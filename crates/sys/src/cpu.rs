// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the processor can do, and the barrier that makes other threads' ordering ours.

use std::arch::x86_64::__cpuid_count;

use crate::Error;
use crate::error::check;

/// The best instruction this processor has to write a cache line back.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum WriteBack {
    /// Writes the line back and may keep it.
    Clwb,
    /// Writes the line back and drops it.
    ClflushOpt,
    /// Writes back, drops, and is ordered against itself.
    Clflush,
}

/// Asks CPUID leaf 7 (Intel SDM vol. 2, CPUID: EBX bits 23 and 24).
pub fn write_back() -> WriteBack {
    let leaf = __cpuid_count(7, 0);
    match (leaf.ebx >> 24 & 1, leaf.ebx >> 23 & 1) {
        (1, _) => WriteBack::Clwb,
        (_, 1) => WriteBack::ClflushOpt,
        _ => WriteBack::Clflush,
    }
}

const MEMBARRIER_PRIVATE_EXPEDITED: i32 = 1 << 3;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

/// Announces that this process will use [`heavy_barrier`]; fails where the kernel or a filter has no membarrier(2).
pub fn register_heavy_barrier() -> Result<(), Error> {
    membarrier(MEMBARRIER_REGISTER_PRIVATE_EXPEDITED)
}

/// Runs a full memory barrier on every running thread of the process.
pub fn heavy_barrier() -> Result<(), Error> {
    membarrier(MEMBARRIER_PRIVATE_EXPEDITED)
}

fn membarrier(command: i32) -> Result<(), Error> {
    // SAFETY: membarrier takes numbers only and touches no memory of ours.
    check("membarrier", unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }).map(drop)
}

/// The kernel's number of the calling thread.
pub fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// The name of a thread of this process, while it lives.
pub fn thread_name(thread: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
