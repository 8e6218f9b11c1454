// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BttError`]: why there is no disk on a medium.

use super::check::medium::MediumError;
use super::check::{CheckError, Finding};
use super::info::Uuid;
use super::layout::LayoutError;

/// Why a BTT could not be made, or not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BttError {
    /// There is none, or more than one, or the medium went away.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// None fits.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The medium failed or went away.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// Arenas that cannot be one disk.
    #[error("{0}; see `pageless btt check`")]
    Damaged(Finding),
    /// The first one is not what it was a moment ago.
    #[error("the first arena has no info block any more: somebody else changes the medium")]
    NoArena,
    /// The medium may not be written.
    #[error("the medium is read-only: no BTT can be made on it")]
    ReadOnlyMedium,
    /// The medium holds something that a new BTT would have to share it with.
    #[error("byte 0 has a PMEMBLK pool header: only the BTT of the pool can be made here")]
    InPool,
    /// A BTT for a pool, and there is no pool.
    #[error("byte 0 has no PMEMBLK pool header: there is no pool to make a BTT for")]
    NoPool,
    /// A parent that is not the namespace: whoever opens the namespace would not take the BTT for its own.
    #[error(
        "parent_uuid {asked}: the namespace {}, and has no BTT of another parent; leave the parent out", namespace.said()
    )]
    OtherParent {
        /// What was asked.
        asked: Uuid,
        /// Where it would be.
        namespace: Uuid,
    },
    /// As many queues as can be.
    #[error("all {most} queues that a BTT has room for are open")]
    NoQueues {
        /// How many there can be.
        most: usize,
    },
}
