// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words of the counters' file, in order. `pageless run` compiles this file too.

/// The variable that names the file.
pub(crate) const VARIABLE: &core::ffi::CStr = c"PAGELESS_RUN_COUNTERS";

/// The size of the file.
pub(crate) const FILE_BYTES: usize = 4096;

/// One 64-bit word each, in this order, in the byte order of the machine.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Programs that the library was loaded into: the program and what it executed; forks are not counted.
    Programs,
    /// Calls that read into memory through a slot, and their bytes.
    Reads,
    ReadBytes,
    /// Calls that wrote from memory through a slot, and their bytes.
    Writes,
    WriteBytes,
    /// Of these calls, libaio's.
    Events,
    /// `EFAULT`s that the program got: not O_DIRECT, not a file or block device, or a pointer that is no memory.
    PassedOn,
    /// Slots made for one call because the pool was taken, or too small for a call that must not be cut.
    Temporary,
    /// Times that no slot could be had at once.
    Waits,
}
