// SPDX-License-Identifier: MIT OR Apache-2.0
//! Repairing: what a check found to have one way to be right is stored, and nothing else.
//!
//! # Order
//! A change is durable before the next one begins. The good copy of an info block is never the one that is stored to, and a
//! map entry is one store, so a repair that is cut off can be repeated.

use super::medium::{Medium, MediumError};

/// Bytes to be stored, and what is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where, on the medium.
    pub offset: u64,
    /// What is there.
    pub old: Vec<u8>,
    /// What will be.
    pub new: Vec<u8>,
    /// What it is.
    pub what: &'static str,
}

impl Change {
    pub(super) fn new(offset: u64, old: &[u8], new: &[u8], what: &'static str) -> Change {
        Change { offset, old: old.to_vec(), new: new.to_vec(), what }
    }
}

/// Why a repair was not done, or not to its end.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// Somebody has changed the medium since it was checked. Nothing was stored.
    #[error("byte {offset} is no longer what it was when it was checked; nothing was changed")]
    Changed {
        /// Where.
        offset: u64,
    },
    /// The medium failed, with so many changes done.
    #[error("{source}; {done} changes were made")]
    Medium {
        /// How.
        source: MediumError,
        /// Changes that are durable.
        done: usize,
    },
}

/// Makes the changes.
pub fn apply(medium: &mut Medium, changes: &[Change]) -> Result<(), RepairError> {
    for Change { offset, old, .. } in changes {
        let mut now = vec![0; old.len()];
        medium.read(*offset, &mut now).map_err(|source| RepairError::Medium { source, done: 0 })?;
        if now != *old {
            return Err(RepairError::Changed { offset: *offset });
        }
    }
    for (done, change) in changes.iter().enumerate() {
        medium.put(change.offset, &change.new).map_err(|source| RepairError::Medium { source, done })?;
    }
    Ok(())
}
