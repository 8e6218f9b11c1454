// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the process may have: locked memory, descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Soft limit of locked memory in bytes; `None` is unlimited.
pub fn memlock() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Raises the soft limit of open descriptors to the hard one and returns what it is now.
pub fn raise_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Whether this thread may lock memory beyond its limit (`CAP_IPC_LOCK`), from /proc/self/status.
pub fn may_lock_beyond_limit() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    caps.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}
