// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a copy did not come to its end.

use pageless::block::{Op, RefusedWhy, Status};
use pageless::{block, mem, sys};

/// Why a copy did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// Waiting failed.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// No memory to read into.
    #[error("memory for the copy itself: {0}")]
    Memory(#[from] mem::Error),
    /// A side's queue cannot go on.
    #[error("{name}: {source}")]
    Queue {
        /// The side.
        name: String,
        /// What it said.
        source: block::Error,
    },
    /// A side did not take a request.
    #[error("{name}: {op} at byte {offset} refused: {why}")]
    Refused {
        /// The side.
        name: String,
        /// What was asked.
        op: Op,
        /// Where.
        offset: u64,
        /// Why not.
        why: RefusedWhy,
    },
    /// Bytes of a side could not be moved.
    #[error("{name}: cannot {doing} at byte {offset}: {status}")]
    Failed {
        /// "read" or "write".
        doing: &'static str,
        /// The side.
        name: String,
        /// Where.
        offset: u64,
        /// How it ended.
        status: Status,
    },
    /// What was written could not be made durable.
    #[error("{name}: everything is written, but it could not be made durable: {status}")]
    Flush {
        /// The destination.
        name: String,
        /// How it ended.
        status: Status,
    },
    /// The sides are not the same after the copy.
    #[error("{dst} differs from {src}, first at byte {offset}")]
    Differs {
        /// The source.
        src: String,
        /// The destination.
        dst: String,
        /// The first byte that is not the same.
        offset: u64,
    },
}

impl CopyError {
    /// What to do about it, where something can be proposed.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        match self {
            CopyError::Failed { status: Status::NoSpace, .. } => {
                Some("make room on the file system of the destination (`df` shows what is left)")
            }
            CopyError::Failed { status: Status::Media, .. } => Some(
                "the medium, or the memory of either side, is bad there, or the file was cut short meanwhile: `dmesg` may say more",
            ),
            CopyError::Differs { .. } => {
                Some("was one of them written meanwhile? if not, the medium is bad: copy again, to another place")
            }
            _ => None,
        }
    }
}
