// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a BTT: what its medium says is checked, interrupted writes are finished, and what cannot be trusted is frozen.
//!
//! Maps are not read, unless there is a write to be finished: [`may_change`](Shared::may_change) sees to them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pageless_mem::persist::Durability;
use pageless_mem::{Memory, Region};

use super::BttError;
use super::arena::Arena;
use super::check::medium::Medium;
use super::check::{self, CheckOptions, Finding, FoundArena, Problem, Watch};
use super::claims::Claims;
use super::device::{Promise, Shared};
use super::first_change::owned;
use super::flog::FlogLayout;
use super::info::{ArenaState, Identity, Uuid};
use super::lanes::LanePool;
use super::layout::Placement;
use super::read_table::ReadTable;
use super::recover::{self, Recovered};
use super::trouble::{Trouble, Troubles};

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
    /// What holds it; `None`: the namespace that the medium is, or else anything.
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
    let wanted =
        CheckOptions { placement: options.placement, parent_uuid: options.parent_uuid, ..CheckOptions::default() };
    let report = check::look(&mut medium, wanted, &mut noted)?;
    let mut troubles = noted.troubles()?;
    // Without arenas the first one is lost, which is told.
    let Some(first) = report.arenas.first() else { return Err(BttError::NoArena) };
    let (lba_size, identity) = (first.info.geometry.lba_size(), first.info.identity);
    let mut arenas: Vec<Arena> = Vec::with_capacity(report.arenas.len());
    let mut finished = 0;
    for found in &report.arenas {
        let recovered = match writable && trusted(found) {
            true => recovered(&mut medium, found, &mut troubles)?,
            false => Recovered::frozen(FlogLayout::Packed),
        };
        finished += recovered.finished;
        let lanes = LanePool::new(recovered.lanes);
        let first = arenas.last().map_or(0, Arena::end);
        arenas.push(Arena::new(found, first, recovered.layout, lanes, recovered.writes));
    }
    let strict = options.order == Order::Strict && region.durability() == Durability::Msync;
    let shared = Shared {
        memory: memory.clone(),
        region: region.clone(),
        arenas,
        lba_size,
        in_pool: report.found.placement == Placement::Pmemblk,
        claims: Arc::new(Claims::new()),
        reads: Arc::new(ReadTable::new()),
        troubles: Troubles::new(troubles),
        ailing: AtomicBool::new(!region.bad_ranges().is_empty()),
        order: if strict { Order::Strict } else { Order::Kernel },
        promise: Promise::of(region.flush_domain(), options.order),
    };
    Ok(Opened { shared, placement: report.found.placement, identity, finished })
}

/// Both info blocks say the same, and neither that there was an error.
fn trusted(found: &FoundArena) -> bool {
    found.trusted && found.info.state == ArenaState::Good
}

/// What an arena's flog comes to. To finish a write is to change the arena: so that waits for the map.
fn recovered(medium: &mut Medium, found: &FoundArena, troubles: &mut Vec<Trouble>) -> Result<Recovered, BttError> {
    let flog = recover::read(medium, found)?;
    if !flog.unfinished() {
        return Ok(flog.unchanged(troubles));
    }
    let owned = owned(medium, found)?;
    troubles.extend(owned.troubles);
    match owned.frozen {
        true => Ok(Recovered::frozen(FlogLayout::Packed)),
        false => Ok(flog.finish(medium, found)?),
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
            Problem::ErrorFlag | Problem::FlagsDiffer | Problem::CopiesDiffer { .. } => Ok(Trouble::Froze(*finding)),
            _ => Ok(Trouble::Noticed(*finding)),
        };
        self.0.iter().map(trouble).collect()
    }
}
