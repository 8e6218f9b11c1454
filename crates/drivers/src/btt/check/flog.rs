// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flog: which block each lane has free, and which writes the map does not know of yet.

use std::collections::HashMap;

use pageless_mem::Fault;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::{CheckError, FoundArena, Part, Problem, Session, Why};
use crate::btt::flog::{FlogEntry, FlogGroup, LayoutScan, Progress};
use crate::btt::map::MapEntry;

/// What the lanes of an arena have.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// The free blocks, and whose they are.
    pub(super) free: HashMap<u32, u32>,
    /// Writes to be finished, by the external block.
    pub(super) pending: HashMap<u32, Pending>,
    /// Each lane's free block is known, so a block that is nobody's is lost.
    pub(super) complete: bool,
}

/// A write that the map does not know of.
#[derive(Copy, Clone, Debug)]
pub(super) struct Pending {
    pub(super) lane: u32,
    /// The map's entry as it is.
    pub(super) entry: MapEntry,
    pub(super) old: u32,
    pub(super) new: u32,
    /// It cannot be finished without a guess.
    pub(super) unclear: Option<Why>,
}

impl Session<'_> {
    pub(super) fn flog(&mut self, arena: &FoundArena) -> Result<Lanes, CheckError> {
        let mut lanes = Lanes { complete: true, ..Lanes::default() };
        let groups = self.groups(arena)?;
        let mut scan = LayoutScan::default();
        groups.iter().flatten().for_each(|group| scan.add(group));
        let layout = match scan.finish() {
            Ok(layout) => layout,
            Err(error) => {
                lanes.complete = false;
                self.tell(arena.number, arena.start + arena.info.geometry.flogoff(), Problem::FlogPadding(error));
                return Ok(lanes);
            }
        };
        let mut writes = Vec::new();
        for (lane, group) in (0_u32..).zip(&groups) {
            let judged = group.as_ref().map(|group| group.current(layout));
            match judged {
                Some(Ok(current)) => match self.entry(arena, lane, &current.entry)? {
                    Some(progress) => writes.push((lane, current.entry, progress)),
                    None => lanes.complete = false,
                },
                Some(Err(error)) => {
                    lanes.complete = false;
                    self.tell(arena.number, at(arena, lane), Problem::FlogSequence(lane, error));
                }
                None => lanes.complete = false,
            }
        }
        self.writes(arena, &writes, &mut lanes);
        Ok(lanes)
    }

    /// All lanes; nothing where the medium is broken.
    fn groups(&mut self, arena: &FoundArena) -> Result<Vec<Option<FlogGroup>>, CheckError> {
        let geometry = arena.info.geometry;
        let len = usize::try_from(geometry.flog_len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        let start = arena.start + geometry.flogoff();
        if self.medium.read(start, &mut bytes).is_ok() {
            let groups = bytes.chunks_exact(size_of::<FlogGroup>());
            return Ok(groups.map(|group| FlogGroup::read_from_bytes(group).ok()).collect());
        }
        let mut groups = Vec::with_capacity(geometry.nfree() as usize);
        for lane in 0..geometry.nfree() {
            match self.medium.get::<FlogGroup>(at(arena, lane)) {
                Ok(group) => groups.push(Some(group)),
                Err(error) if error.fault == Fault::Gone => return Err(error.into()),
                Err(error) => {
                    self.tell(arena.number, error.offset, Problem::Unreadable(Part::Flog, error.fault));
                    groups.push(None);
                }
            }
        }
        Ok(groups)
    }

    /// Whether an entry's numbers are in bounds, and the map's entry of its external block.
    fn entry(&mut self, arena: &FoundArena, lane: u32, entry: &FlogEntry) -> Result<Option<MapEntry>, CheckError> {
        let geometry = arena.info.geometry;
        let (lba, bound) = (entry.lba.get(), geometry.internal_nlba());
        let mut good = true;
        if lba >= geometry.external_nlba() {
            good = false;
            let problem = Problem::FlogLba { lane, lba, bound: geometry.external_nlba() };
            self.tell(arena.number, at(arena, lane), problem);
        }
        for (field, block) in [("old_map", entry.old_block()), ("new_map", entry.new_block())] {
            if block >= bound {
                good = false;
                self.tell(arena.number, at(arena, lane), Problem::FlogBlock { lane, field, block, bound });
            }
        }
        if !good {
            return Ok(None);
        }
        match self.medium.get::<U32>(arena.start + geometry.map_offset(lba)) {
            Ok(word) => Ok(Some(MapEntry::from_raw(word.get()))),
            Err(error) if error.fault == Fault::Gone => Err(error.into()),
            // The map's own check tells of it.
            Err(_) => Ok(None),
        }
    }

    /// Free blocks and unfinished writes, of entries whose numbers are in bounds.
    fn writes(&mut self, arena: &FoundArena, writes: &[(u32, FlogEntry, MapEntry)], lanes: &mut Lanes) {
        let mut by_lba: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, (_, entry, _)) in writes.iter().enumerate().filter(|(_, (_, entry, _))| !entry.is_initial()) {
            by_lba.entry(entry.lba.get()).or_default().push(index);
        }
        for (index, (lane, entry, map)) in writes.iter().enumerate() {
            let (lane, old, new) = (*lane, entry.old_block(), entry.new_block());
            if let Some(other) = lanes.free.insert(old, lane) {
                lanes.free.insert(old, other);
                self.tell(arena.number, at(arena, lane), Problem::BlockFreeTwice { lane, other, block: old });
            }
            if entry.progress(*map) != Progress::MapPending {
                continue;
            }
            // Another write that began or would begin where this one does, or where it ends, may be older or newer.
            let others = by_lba.get(&entry.lba.get()).into_iter().flatten().filter(|other| **other != index);
            let rival = others
                .map(|other| &writes[*other])
                .find(|(_, other, map)| other.progress(*map) == Progress::MapPending || other.old_block() == new);
            let unclear = match rival {
                Some((other, ..)) => Some(Why::OtherLane(*other)),
                None if !arena.trusted => Some(Why::Arena),
                None => None,
            };
            let pending = Pending { lane, entry: *map, old, new, unclear };
            let lba = entry.lba.get();
            if rival.is_some() {
                self.tell(arena.number, at(arena, lane), unclear_problem(lba, &pending));
            } else {
                lanes.pending.insert(lba, pending);
            }
        }
    }
}

/// Where a lane's group is on the medium.
pub(super) fn at(arena: &FoundArena, lane: u32) -> u64 {
    arena.start + arena.info.geometry.flog_offset(lane)
}

/// What is said of a write that cannot be finished.
pub(super) fn unclear_problem(lba: u32, pending: &Pending) -> Problem {
    Problem::UnfinishedUnclear { lane: pending.lane, lba, why: pending.unclear.unwrap_or(Why::Arena) }
}
