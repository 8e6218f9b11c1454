// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who owns a block: found out for all blocks of an arena before the first of them is changed.
//!
//! # Ownership
//! Neither kernel nor PMDK looks at the map when it opens a BTT, and nothing else tells whether a lane's free block is in it
//! too, or a block is in it twice: whoever writes there overwrites another block of the disk, or hands its block to a lane.
//! So before an arena is changed its whole map is read, at the pace of a check: by who changes it first, and others who want
//! to wait for that. Reading needs none of it, so opening a disk does not wait for its maps.

use std::ops::ControlFlow;

use pageless_block::Status;

use super::arena::{Arena, Writes};
use super::check::medium::Medium;
use super::check::{self, CheckError, Finding, FoundArena, Part, Problem, Watch};
use super::device::Shared;
use super::trouble::{KEPT, Trouble};

impl Shared {
    /// Whether an arena may be changed. Waits while its map is read: nothing is claimed, and no section held, meanwhile.
    #[inline]
    pub(super) fn may_change(&self, arena: &Arena) -> Result<(), Status> {
        match arena.writes() {
            Writes::Allowed => Ok(()),
            Writes::Frozen => Err(Status::ReadOnly),
            Writes::Unread => self.read_map(arena),
        }
    }

    #[cold]
    fn read_map(&self, arena: &Arena) -> Result<(), Status> {
        let found = arena.reading();
        // Somebody else has, meanwhile.
        match arena.writes() {
            Writes::Unread => {}
            Writes::Allowed => return Ok(()),
            Writes::Frozen => return Err(Status::ReadOnly),
        }
        let mut medium = Medium::new(&self.memory, self.region.clone());
        let owned = owned(&mut medium, &found).map_err(|error| match error {
            CheckError::Medium(error) => Status::from(error.fault),
            CheckError::Find(_) | CheckError::Stopped => Status::IoErr,
        })?;
        for trouble in owned.troubles {
            match trouble {
                Trouble::Froze(_) => self.freeze(arena, trouble),
                _ => self.troubles.tell(trouble),
            }
        }
        arena.was_read();
        if owned.frozen { Err(Status::ReadOnly) } else { Ok(()) }
    }
}

/// Whether each block of an arena is one LBA's or one lane's, or nobody's.
pub(super) fn owned(medium: &mut Medium, found: &FoundArena) -> Result<Owned, CheckError> {
    let mut owned = Owned::default();
    check::blocks(medium, found, &mut owned)?;
    Ok(owned)
}

/// What every block of an arena came to.
#[derive(Debug, Default)]
pub(super) struct Owned {
    /// The first ones: a map may be nothing else.
    pub(super) troubles: Vec<Trouble>,
    pub(super) frozen: bool,
}

impl Watch for Owned {
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
