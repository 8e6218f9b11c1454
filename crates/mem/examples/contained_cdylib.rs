// SPDX-License-Identifier: MIT OR Apache-2.0
//! `contained` as a shared library, for a host that is not Rust: `crates/mem/tests/link.sh` loads it from Python.
#![allow(unsafe_code, reason = "exports a C symbol")]

#[path = "contained.rs"]
mod contained;

/// 0 when the fault was contained.
// SAFETY: no other library in the process exports this name.
#[unsafe(no_mangle)]
pub extern "C" fn pageless_contained() -> i32 {
    contained::main().map_or(1, |()| 0)
}
