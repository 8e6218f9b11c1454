// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Error`]: why a test could not do what it set out to do.

use pageless_block::{Completion, RefusedWhy};
use pageless_mem::Fault;

/// Why a test could not do what it set out to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The queue or device cannot go on.
    #[error(transparent)]
    Block(#[from] pageless_block::Error),
    /// Memory could not be had.
    #[error(transparent)]
    Memory(#[from] pageless_mem::Error),
    /// The bio was not accepted.
    #[error("refused: {0}")]
    Refused(RefusedWhy),
    /// The bio ended otherwise than well.
    #[error("{0:?}")]
    Failed(Completion),
    /// The bio did not end.
    #[error("{in_flight} bios are in flight and nothing has come back for {seconds} s")]
    Stuck {
        /// What the queue says.
        in_flight: usize,
        /// How long it was given.
        seconds: u64,
    },
    /// A bio came back that was not submitted, or more than one for one.
    #[error("completions do not match what was submitted: {0:?}")]
    Strange(Vec<Completion>),
    /// A thread of a test panicked.
    #[error("a thread panicked")]
    Panicked,
    /// A device that is explored said something else than yes.
    #[error("{0}")]
    Target(String),
    /// The frames of a test cannot be touched.
    #[error("the frames: {0:?}")]
    Frames(Fault),
}
