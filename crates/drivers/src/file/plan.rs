// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Plan`]: whether frames can be the buffer of direct I/O.

use super::open::Align;
use pageless_block::{ScatterList, Why};
use pageless_mem::{Fault, Online, PhysRange, Pinned};

/// What can be done with a list of frames.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The first `len` bytes can go in one operation.
    Direct {
        /// At most the length of the list.
        len: u64,
        /// The one range among them whose region has no verdict yet.
        suspect: Option<PhysRange>,
    },
    /// The list needs slots.
    Bounce(Why),
}

impl Plan {
    /// Looks at the ranges in order, up to the second whose verdict is unknown: one unknown in an operation is enough
    /// to learn from, and two could not be told apart.
    pub(super) fn of(list: &ScatterList, align: Align, online: &Online<'_>) -> Result<Plan, Fault> {
        let mut len = 0;
        let mut suspect = None;
        let mut open = true;
        for range in list {
            if !fits(range, align) {
                return Ok(Plan::Bounce(Why::Misaligned));
            }
            match online.short_pin(range)? {
                Pinned::Refused(errno) => return Ok(Plan::Bounce(Why::Unpinnable(errno))),
                Pinned::Unknown if suspect.is_some() => open = false,
                Pinned::Unknown => suspect = Some(range),
                Pinned::Ok => {}
            }
            if open {
                len += u64::from(range.len());
            }
        }
        Ok(Plan::Direct { len, suspect })
    }
}

/// A part of a vector must start where memory may, and hold whole blocks.
fn fits(range: PhysRange, align: Align) -> bool {
    range.byte_address().is_multiple_of(u64::from(align.memory)) && range.len().is_multiple_of(align.block)
}
