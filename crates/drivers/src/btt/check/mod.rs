// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checking a BTT, and repairing what can be repaired without a guess.
//!
//! # Flow
//! ```text
//! find      which of the three placements the medium has, from what only a BTT's owner can have written there
//! arenas    the info blocks of each arena and their copies; where the next one is
//! flog      of each lane: which entry is current, and whether its write was finished
//! map       each block belongs to exactly one LBA or lane: by a fingerprint of all blocks, and where that is another than it should
//!           be, entry by entry, and a bit for each block
//! ```
//! Everything wrong is a [`Finding`], told to a [`Watch`] as it is found. What can be made right comes back as a list of
//! [`Change`]s, which [`apply`](repair::apply) stores, each one durable before the next.
//!
//! # Memory
//! One bit for each block of one arena at a time, where its entries are looked at one by one; 64 bytes for each lane. Holes of a sparse
//! medium stay holes.

mod arenas;
pub mod find;
mod finding;
mod fingerprint;
mod flog;
mod map;
pub mod medium;
pub mod repair;
mod scan;
mod seen;
mod sound;
mod walk;

use std::ops::ControlFlow;

pub use arenas::FoundArena;
pub use finding::{CopyOf, Finding, Name, Part, Problem, Why, Worth};
pub use repair::Change;

use self::find::{FindError, Found};
use self::medium::{Medium, MediumError};
use super::info::Uuid;
use super::layout::Placement;

/// What is known of the medium from elsewhere.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Where its first arena is; `None`: look.
    pub placement: Option<Placement>,
    /// Who holds it; `None`: the namespace that the medium is, or else anybody. A pool says it itself.
    pub parent_uuid: Option<Uuid>,
    /// What of a map is looked at first.
    pub first_look: FirstLook,
}

/// What of a map is looked at first. It comes to the same.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum FirstLook {
    /// The fingerprint of a map of 32 MiB and more, by a thread for each core, and each entry of a smaller one.
    #[default]
    Auto,
    /// The fingerprint, by so many threads, at most eight.
    Fingerprint {
        /// As many; at least one.
        threads: usize,
    },
    /// Each entry.
    Entries,
}

/// Follows a check.
pub trait Watch {
    /// Something is wrong.
    fn found(&mut self, finding: &Finding);

    /// So many bytes of so many are checked: of more than before where the entries of a map are to be looked at once more, one by one.
    /// To break is to stop the check.
    fn progress(&mut self, done: u64, of: u64) -> ControlFlow<()>;
}

/// What a check came to, besides what it has told its [`Watch`].
#[derive(Clone, Debug)]
pub struct Report {
    /// Where the BTT is.
    pub found: Found,
    /// The arenas that could be checked.
    pub arenas: Vec<FoundArena>,
    /// How many findings there were of each worth.
    pub counts: Counts,
    /// What would repair the repairable ones, in the order in which it must be done.
    pub changes: Vec<Change>,
}

/// Findings by what they are worth.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Worth::Unfinished`].
    pub unfinished: u64,
    /// [`Worth::Repairable`].
    pub repairable: u64,
    /// [`Worth::Damage`].
    pub damage: u64,
}

impl Counts {
    /// Whether nothing is wrong: a write that is not finished is not.
    pub fn consistent(&self) -> bool {
        self.repairable == 0 && self.damage == 0
    }
}

/// Why a check did not come to its end.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// There is no BTT, or more than one.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The medium went away.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// The watch broke it off.
    #[error("stopped")]
    Stopped,
}

/// Checks everything. Nothing is stored.
pub fn check(medium: &mut Medium, options: CheckOptions, watch: &mut dyn Watch) -> Result<Report, CheckError> {
    run(medium, options, Depth::Blocks, watch)
}

/// Checks the info blocks alone, of which there are two for each arena.
pub fn look(medium: &mut Medium, options: CheckOptions, watch: &mut dyn Watch) -> Result<Report, CheckError> {
    run(medium, options, Depth::Arenas, watch)
}

/// Checks the flog and the map of one arena whose info blocks were checked.
pub(in crate::btt) fn blocks(medium: &mut Medium, arena: &FoundArena, watch: &mut dyn Watch) -> Result<(), CheckError> {
    let total = arena.info.geometry.map_len();
    let mut session = Session::new(medium, watch, FirstLook::Auto);
    session.total = total;
    let lanes = session.flog(arena)?;
    session.map(arena, lanes)
}

/// How much is checked.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Depth {
    Arenas,
    Blocks,
}

fn run(medium: &mut Medium, options: CheckOptions, depth: Depth, watch: &mut dyn Watch) -> Result<Report, CheckError> {
    let found = find::find(medium, options)?;
    let mut session = Session::new(medium, watch, options.first_look);
    session.pool(&found);
    let arenas = session.arenas(&found)?;
    session.total = arenas.iter().map(|arena| arena.info.geometry.map_len()).sum();
    for arena in arenas.iter().filter(|_| depth == Depth::Blocks) {
        let lanes = session.flog(arena)?;
        session.map(arena, lanes)?;
    }
    Ok(Report { found, counts: session.counts, changes: session.changes, arenas })
}

/// One check under way.
struct Session<'c> {
    medium: &'c mut Medium,
    watch: &'c mut dyn Watch,
    counts: Counts,
    changes: Vec<Change>,
    first_look: FirstLook,
    done: u64,
    total: u64,
}

impl<'c> Session<'c> {
    fn new(medium: &'c mut Medium, watch: &'c mut dyn Watch, first_look: FirstLook) -> Session<'c> {
        Session { medium, watch, counts: Counts::default(), changes: Vec::new(), first_look, done: 0, total: 0 }
    }
}

impl Session<'_> {
    fn tell(&mut self, arena: u32, offset: u64, problem: Problem) {
        match problem.worth() {
            Worth::Unfinished => self.counts.unfinished += 1,
            Worth::Repairable => self.counts.repairable += 1,
            Worth::Damage => self.counts.damage += 1,
        }
        self.watch.found(&Finding { arena, offset, problem });
    }

    fn progressed(&mut self, bytes: u64) -> Result<(), CheckError> {
        self.done += bytes;
        match self.watch.progress(self.done, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CheckError::Stopped),
        }
    }

    /// A pool's own header states the block size too.
    fn pool(&mut self, found: &Found) {
        if let Some(pool) = &found.pool
            && let Some(lba_size) = found.lba_size
            && pool.block_size != lba_size
        {
            let problem = Problem::PoolBlockSize { pool: pool.block_size, arena: lba_size };
            self.tell(0, find::POOL_BLOCK_SIZE, problem);
        }
    }
}

#[cfg(test)]
mod tests;
