// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map as a whole: each internal block is one LBA's or one lane's.
//!
//! A large map is first looked at by its [fingerprint](super::fingerprint), which takes as long as to read it. Only one that is not as
//! it should be is looked at entry by entry, which takes several times as long: that says what is wrong.

use std::collections::HashMap;

use super::flog::{Lanes, Pending, at, unclear_problem};
use super::scan::{Scan, Told};
use super::seen::Seen;
use super::walk::Walk;
use super::{Change, CheckError, FoundArena, Part, Problem, Session, Why};
use crate::btt::map::MapEntry;

/// Who owns blocks besides the map.
struct Owners {
    lanes: Lanes,
    /// The external blocks of both blocks of each unfinished write: if one of these is shared, it is not clear what happened.
    watched: HashMap<u32, Vec<u32>>,
}

impl Owners {
    fn new(lanes: Lanes) -> Owners {
        let mut watched: HashMap<u32, Vec<u32>> = HashMap::new();
        for (lba, pending) in &lanes.pending {
            watched.entry(pending.old).or_default().push(*lba);
            watched.entry(pending.new).or_default().push(*lba);
        }
        Owners { lanes, watched }
    }

    /// A block belongs to two: unfinished writes that have to do with it are not clear.
    fn shared(&mut self, block: u32) {
        for lba in self.watched.get(&block).into_iter().flatten() {
            if let Some(pending) = self.lanes.pending.get_mut(lba) {
                // Whichever comes out first.
                match &mut pending.unclear {
                    Some(Why::Shared(first)) => *first = block.min(*first),
                    unclear => drop(unclear.get_or_insert(Why::Shared(block))),
                }
            }
        }
    }
}

impl Session<'_> {
    pub(super) fn map(&mut self, arena: &FoundArena, lanes: Lanes) -> Result<(), CheckError> {
        if self.sound(arena, &lanes)? {
            self.pending(arena, &lanes);
            return Ok(());
        }
        let unfinished = lanes.pending.iter().map(|(lba, pending)| (*lba, pending.new)).collect();
        let mut owners = Owners::new(lanes);
        let mut walk = Walk::new(self.medium.another(), arena);
        let mut seen = Scan::new(arena, &unfinished).run(&mut walk, &mut |told| self.hear(arena, &mut owners, told))?;
        self.free(arena, &mut seen, &mut owners);
        if owners.lanes.complete {
            for (first, count) in seen.missing() {
                let offset = arena.start + arena.info.geometry.block_offset(first);
                self.tell(arena.number, offset, Problem::BlocksLost { first, count });
            }
        }
        self.pending(arena, &owners.lanes);
        Ok(())
    }

    fn hear(&mut self, arena: &FoundArena, owners: &mut Owners, told: Told) -> Result<(), CheckError> {
        match told {
            Told::Problem(offset, problem) => self.tell(arena.number, offset, problem),
            Told::Unreadable(offset, fault) => {
                owners.lanes.complete = false;
                self.tell(arena.number, offset, Problem::Unreadable(Part::Map, fault));
            }
            Told::Twice { lba, block } => {
                let offset = arena.start + arena.info.geometry.map_offset(lba);
                self.tell(arena.number, offset, Problem::BlockTwice { lba, block });
                owners.shared(block);
            }
            Told::Checked(bytes) => self.progressed(bytes)?,
        }
        Ok(())
    }

    /// The free blocks of all lanes.
    fn free(&mut self, arena: &FoundArena, seen: &mut Seen, owners: &mut Owners) {
        let mut free: Vec<(u32, u32)> = owners.lanes.free.iter().map(|(block, lane)| (*lane, *block)).collect();
        free.sort_unstable();
        for (lane, block) in free {
            if !seen.take(block) {
                self.tell(arena.number, at(arena, lane), Problem::BlockFreeAndMapped { lane, block });
                owners.shared(block);
            }
        }
    }

    /// What becomes of the writes that are not finished.
    fn pending(&mut self, arena: &FoundArena, lanes: &Lanes) {
        let mut pending: Vec<(&u32, &Pending)> = lanes.pending.iter().collect();
        pending.sort_unstable_by_key(|(_, pending)| pending.lane);
        for (lba, pending) in pending {
            let Pending { lane, entry, old, new, unclear } = *pending;
            if unclear.is_some() {
                self.tell(arena.number, at(arena, lane), unclear_problem(*lba, pending));
                continue;
            }
            self.tell(arena.number, at(arena, lane), Problem::Unfinished { lane, lba: *lba, old, new });
            let offset = arena.start + arena.info.geometry.map_offset(*lba);
            let (before, after) = (entry.raw().to_le_bytes(), MapEntry::normal(new).raw().to_le_bytes());
            self.changes.push(Change::new(offset, &before, &after, "map entry from the flog"));
        }
    }
}
