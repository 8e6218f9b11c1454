// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a BTT: what its medium says is checked, interrupted writes are finished, and what cannot be trusted is frozen.
//!
//! # Who owns a block
//! Neither kernel nor PMDK looks at the map when it opens a BTT, and nothing else tells whether a lane's free block is in it
//! too, or a block is in it twice: whoever writes there overwrites another block of the disk, or hands its block to a lane.
//! So before an arena is written its whole map is read, at the pace of a check. A disk that is only read is spared that.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pageless_mem::persist::Durability;
use pageless_mem::{Memory, Region};

use super::BttError;
use super::arena::{Arena, Writes};
use super::check::medium::Medium;
use super::check::{self, CheckOptions, Finding, FoundArena, Part, Problem, Watch};
use super::device::{Promise, Shared};
use super::flog::FlogLayout;
use super::info::{ArenaState, Identity, Uuid};
use super::lanes::LanePool;
use super::layout::Placement;
use super::map_locks::MapLocks;
use super::read_table::ReadTable;
use super::recover::{Recovered, recover};
use super::trouble::{KEPT, Trouble, Troubles};

/// What may be done with the medium.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// Everything that it allows.
    #[default]
    ReadWrite,
    /// Nothing is stored, and interrupted writes are left as they are: their blocks read as before.
    ReadOnly,
}

/// How the steps of a write are ordered on memory that is a page cache.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// As the kernel writes pages back: in any order. Sectors are atomic towards the death of the process only.
    #[default]
    Kernel,
    /// Each step is synced before the next one begins: sectors are atomic towards power cuts too.
    Strict,
}

/// How to open a BTT.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Where its first arena is; `None`: look.
    pub placement: Option<Placement>,
    /// What holds it, such as the namespace; `None`: anything.
    pub parent_uuid: Option<Uuid>,
    /// What may be done.
    pub access: AccessMode,
    /// What is done to keep the order of stores.
    pub order: Order,
}

/// A BTT that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) shared: Shared,
    pub(super) placement: Placement,
    pub(super) identity: Identity,
    /// Interrupted writes that were finished.
    pub(super) finished: u32,
}

pub(super) fn open(memory: &Memory, region: &Region, options: &OpenOptions) -> Result<Opened, BttError> {
    let writable = region.writable() && options.access == AccessMode::ReadWrite;
    let mut medium = Medium::new(memory, region.clone());
    let mut noted = Noted::default();
    let wanted = CheckOptions { placement: options.placement, parent_uuid: options.parent_uuid };
    let report = check::look(&mut medium, wanted, &mut noted)?;
    let mut troubles = noted.troubles()?;
    // Without arenas the first one is lost, which is told.
    let Some(first) = report.arenas.first() else { return Err(BttError::NoArena) };
    let (lba_size, identity) = (first.info.geometry.lba_size(), first.info.identity);
    let mut arenas: Vec<Arena> = Vec::with_capacity(report.arenas.len());
    let mut finished = 0;
    for found in &report.arenas {
        let recovered = match writable && trusted(found) && owned(&mut medium, found, &mut troubles)? {
            true => recover(&mut medium, found, &mut troubles)?,
            false => Recovered { layout: FlogLayout::Packed, lanes: Vec::new(), writes: Writes::Frozen, finished: 0 },
        };
        finished += recovered.finished;
        let lanes = LanePool::new(recovered.lanes);
        let at = (found.number, found.start, arenas.last().map_or(0, Arena::end));
        arenas.push(Arena::new(at, found.info.geometry, recovered.layout, lanes, recovered.writes));
    }
    let lanes = arenas.iter().map(|arena| arena.geometry.nfree()).max().unwrap_or(0);
    let strict = options.order == Order::Strict && region.durability() == Durability::Msync;
    let shared = Shared {
        memory: memory.clone(),
        region: region.clone(),
        arenas,
        lba_size,
        in_pool: report.found.placement == Placement::Pmemblk,
        locks: MapLocks::new(lanes as usize),
        reads: Arc::new(ReadTable::new()),
        troubles: Troubles::new(troubles),
        ailing: AtomicBool::new(!region.bad_ranges().is_empty()),
        order: if strict { Order::Strict } else { Order::Kernel },
        promise: Promise::of(region.durability(), options.order),
    };
    Ok(Opened { shared, placement: report.found.placement, identity, finished })
}

/// Both info blocks say the same, and neither that there was an error.
fn trusted(found: &FoundArena) -> bool {
    found.trusted && found.info.state == ArenaState::Good
}

/// Whether each block of an arena is one LBA's or one lane's, or nobody's.
fn owned(medium: &mut Medium, found: &FoundArena, troubles: &mut Vec<Trouble>) -> Result<bool, BttError> {
    let mut blocks = Blocks::default();
    check::blocks(medium, found, &mut blocks)?;
    troubles.append(&mut blocks.troubles);
    Ok(!blocks.frozen)
}

/// What every block of an arena came to.
#[derive(Debug, Default)]
struct Blocks {
    /// The first ones: a map may be nothing else.
    troubles: Vec<Trouble>,
    frozen: bool,
}

impl Watch for Blocks {
    fn found(&mut self, finding: &Finding) {
        let trouble = match finding.problem {
            // By recovery.
            Problem::Unfinished { .. } => return,
            // Nobody gets a block that is another's.
            Problem::MapState { .. } | Problem::BlocksLost { .. } => Trouble::Noticed(*finding),
            // Its entries fail, and as long as all others are good the blocks in them are nobody else's.
            Problem::Unreadable(Part::Map, _) => Trouble::Noticed(*finding),
            Problem::MapBlock { .. } => Trouble::Unusable(*finding),
            _ => Trouble::Froze(*finding),
        };
        let first = matches!(trouble, Trouble::Froze(_)) && !self.frozen;
        self.frozen |= first;
        if first || self.troubles.len() < KEPT {
            self.troubles.push(trouble);
        }
    }

    fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What was found, until it is known what it means.
#[derive(Debug, Default)]
struct Noted(Vec<Finding>);

impl Watch for Noted {
    fn found(&mut self, finding: &Finding) {
        self.0.push(*finding);
    }

    fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Noted {
    /// What it means for who uses the disk.
    ///
    /// # Errors
    /// What cannot be used at all: an arena that is missing, or one that belongs to another BTT. Blocks would be elsewhere
    /// than their users left them.
    fn troubles(&self) -> Result<Vec<Trouble>, BttError> {
        let trouble = |finding: &Finding| match finding.problem {
            Problem::ArenaLost(..) | Problem::Name(_) | Problem::Unreached => Err(BttError::Damaged(*finding)),
            Problem::ErrorFlag | Problem::FlagsDiffer | Problem::CopiesDiffer => Ok(Trouble::Froze(*finding)),
            _ => Ok(Trouble::Noticed(*finding)),
        };
        self.0.iter().map(trouble).collect()
    }
}
