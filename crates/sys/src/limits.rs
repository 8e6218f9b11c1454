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
