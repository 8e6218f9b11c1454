// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes of memory that are known to be bad, as they are told.

use std::fmt;

use pageless::mem::{BadRange, BadSource};
use serde::Serialize;

/// Bytes that are known to be bad.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Bad {
    offset: u64,
    bytes: u64,
    known_by: &'static str,
}

impl From<BadRange> for Bad {
    fn from(range: BadRange) -> Bad {
        Bad {
            offset: range.offset,
            bytes: range.len,
            known_by: match range.source {
                BadSource::Fault => "a fault",
                BadSource::Poison => "a memory error",
                BadSource::Kernel => "the kernel's badblocks",
            },
        }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bad { offset, bytes, known_by } = self;
        write!(f, "{bytes} bytes at {offset} ({known_by})")
    }
}
