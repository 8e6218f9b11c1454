// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recovery: an arena's lanes by its flog, and the writes that a cut left between flog and map.
//!
//! # Recovery contract
//! A write is finished by one store of its map entry, which no cut tears, and which changes nothing that recovery looks
//! at but itself. So recovery may be cut off and begun again, as often as it likes. Where lanes contradict each other, or
//! cannot be read, nothing is stored and the arena is read-only: each block that can be read keeps its content.

use std::collections::HashMap;

use pageless_mem::Fault;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::arena::Writes;
use super::check::medium::{Medium, MediumError};
use super::check::{Finding, FoundArena, Part, Problem, Why};
use super::flog::{Current, FlogEntry, FlogGroup, FlogLayout, LayoutScan, Progress};
use super::lanes::Lane;
use super::map::{MapEntry, MapState};
use super::trouble::Trouble;

/// What the flog of an arena came to.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) layout: FlogLayout,
    /// None of a read-only arena.
    pub(super) lanes: Vec<Lane>,
    pub(super) writes: Writes,
    /// Writes that were finished.
    pub(super) finished: u32,
}

impl Recovered {
    pub(super) fn frozen(layout: FlogLayout) -> Recovered {
        Recovered { layout, lanes: Vec::new(), writes: Writes::Frozen, finished: 0 }
    }
}

/// The flog of an arena as it was read.
#[derive(Debug)]
pub(super) struct Flog {
    layout: FlogLayout,
    lanes: Vec<Read>,
    findings: Vec<Finding>,
}

/// Reads the flog of an arena that may be written.
pub(super) fn read(medium: &mut Medium, arena: &FoundArena) -> Result<Flog, MediumError> {
    let mut session = Session { medium, arena, findings: Vec::new() };
    let (layout, lanes) = session.lanes()?;
    Ok(Flog { layout, lanes, findings: session.findings })
}

impl Flog {
    /// Whether there are writes to be finished.
    pub(super) fn unfinished(&self) -> bool {
        self.findings.is_empty() && self.pending().next().is_some()
    }

    fn pending(&self) -> impl Iterator<Item = &Read> {
        self.lanes.iter().filter(|read| read.progress == Progress::MapPending)
    }

    /// The lanes, where nothing is to be finished. Who owns the blocks is not known yet.
    pub(super) fn unchanged(self, troubles: &mut Vec<Trouble>) -> Recovered {
        if !self.findings.is_empty() {
            troubles.extend(self.findings.iter().map(|finding| Trouble::Froze(*finding)));
            return Recovered::frozen(self.layout);
        }
        let lanes = self.lanes.iter().map(Read::lane).collect();
        Recovered { layout: self.layout, lanes, writes: Writes::Unread, finished: 0 }
    }

    /// Finishes writes of an arena whose map was read.
    pub(super) fn finish(self, medium: &mut Medium, arena: &FoundArena) -> Result<Recovered, MediumError> {
        let mut finished = 0;
        for read in self.pending() {
            let entry = &read.current.entry;
            let offset = arena.start + arena.info.geometry.map_offset(entry.lba.get());
            medium.put(offset, U32::new(MapEntry::normal(entry.new_block()).raw()).as_bytes())?;
            finished += 1;
        }
        let lanes = self.lanes.iter().map(Read::lane).collect();
        Ok(Recovered { layout: self.layout, lanes, writes: Writes::Allowed, finished })
    }
}

struct Session<'s> {
    medium: &'s mut Medium,
    arena: &'s FoundArena,
    findings: Vec<Finding>,
}

/// A lane as the medium has it.
#[derive(Copy, Clone, Debug)]
struct Read {
    number: u32,
    current: Current,
    progress: Progress,
}

impl Read {
    fn lane(&self) -> Lane {
        let entry = &self.current.entry;
        Lane {
            number: self.number,
            free: entry.old_block(),
            next: self.current.which.other(),
            seq: self.current.seq.next(),
            // It was freed because it could not be read.
            suspect: MapEntry::from_raw(entry.old_map.get()).state() == MapState::Error,
        }
    }
}

impl Session<'_> {
    fn tell(&mut self, offset: u64, problem: Problem) {
        self.findings.push(Finding { arena: self.arena.number, offset, problem });
    }

    fn at(&self, lane: u32) -> u64 {
        self.arena.start + self.arena.info.geometry.flog_offset(lane)
    }

    fn lanes(&mut self) -> Result<(FlogLayout, Vec<Read>), MediumError> {
        let groups = self.groups()?;
        let mut scan = LayoutScan::default();
        groups.iter().flatten().for_each(|group| scan.add(group));
        let layout = match scan.finish() {
            Ok(layout) => layout,
            Err(error) => {
                self.tell(self.at(0), Problem::FlogPadding(error));
                return Ok((FlogLayout::Packed, Vec::new()));
            }
        };
        let mut lanes = Vec::with_capacity(groups.len());
        for (number, group) in (0_u32..).zip(&groups) {
            // What cannot be read is told already.
            let Some(group) = group else { continue };
            match group.current(layout) {
                Ok(current) => lanes.extend(self.lane(number, current)?),
                Err(error) => self.tell(self.at(number), Problem::FlogSequence(number, error)),
            }
        }
        self.contradictions(&lanes);
        Ok((layout, lanes))
    }

    fn groups(&mut self) -> Result<Vec<Option<FlogGroup>>, MediumError> {
        let geometry = self.arena.info.geometry;
        let mut bytes = vec![0; usize::try_from(geometry.flog_len()).unwrap_or(0)];
        if self.medium.read(self.at(0), &mut bytes).is_ok() {
            let groups = bytes.chunks_exact(size_of::<FlogGroup>());
            return Ok(groups.map(|group| FlogGroup::read_from_bytes(group).ok()).collect());
        }
        let mut groups = Vec::new();
        for lane in 0..geometry.nfree() {
            groups.push(self.readable(Part::Flog, self.at(lane))?);
        }
        Ok(groups)
    }

    /// A part of the medium, unless it is bad.
    fn readable<T: FromBytes + IntoBytes>(&mut self, part: Part, offset: u64) -> Result<Option<T>, MediumError> {
        match self.medium.get::<T>(offset) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.fault == Fault::Gone => Err(error),
            Err(error) => {
                self.tell(error.offset, Problem::Unreadable(part, error.fault));
                Ok(None)
            }
        }
    }

    /// A lane whose numbers are in bounds.
    fn lane(&mut self, number: u32, current: Current) -> Result<Option<Read>, MediumError> {
        let geometry = self.arena.info.geometry;
        let (entry, lba) = (current.entry, current.entry.lba.get());
        let before = self.findings.len();
        if lba >= geometry.external_nlba() {
            self.tell(self.at(number), Problem::FlogLba { lane: number, lba, bound: geometry.external_nlba() });
        }
        let bound = geometry.internal_nlba();
        for (field, block) in [("old_map", entry.old_block()), ("new_map", entry.new_block())] {
            if block >= bound {
                self.tell(self.at(number), Problem::FlogBlock { lane: number, field, block, bound });
            }
        }
        if self.findings.len() > before {
            return Ok(None);
        }
        let progress = self.progress(&entry)?;
        Ok(progress.map(|progress| Read { number, current, progress }))
    }

    fn progress(&mut self, entry: &FlogEntry) -> Result<Option<Progress>, MediumError> {
        if entry.is_initial() {
            return Ok(Some(Progress::Complete));
        }
        let offset = self.arena.start + self.arena.info.geometry.map_offset(entry.lba.get());
        let word: Option<U32> = self.readable(Part::Map, offset)?;
        Ok(word.map(|word| entry.progress(MapEntry::from_raw(word.get()))))
    }

    /// Lanes that have the same block free, and lanes that were about to change the same block of the map: which of them
    /// was first is not known.
    fn contradictions(&mut self, lanes: &[Read]) {
        let mut free: HashMap<u32, u32> = HashMap::new();
        let mut by_lba: HashMap<u32, Vec<&Read>> = HashMap::new();
        for lane in lanes {
            let block = lane.current.entry.old_block();
            if let Some(other) = free.insert(block, lane.number) {
                self.tell(self.at(lane.number), Problem::BlockFreeTwice { lane: lane.number, other, block });
            }
            if !lane.current.entry.is_initial() {
                by_lba.entry(lane.current.entry.lba.get()).or_default().push(lane);
            }
        }
        for lane in lanes.iter().filter(|lane| lane.progress == Progress::MapPending) {
            let (lba, new) = (lane.current.entry.lba.get(), lane.current.entry.new_block());
            let rival = by_lba.get(&lba).into_iter().flatten().find(|other| {
                other.number != lane.number
                    && (other.progress == Progress::MapPending || other.current.entry.old_block() == new)
            });
            if let Some(rival) = rival {
                let why = Why::OtherLane(rival.number);
                self.tell(self.at(lane.number), Problem::UnfinishedUnclear { lane: lane.number, lba, why });
            } else if let Some(other) = free.get(&new) {
                // It would be mapped and free.
                self.tell(
                    self.at(lane.number),
                    Problem::BlockFreeTwice { lane: lane.number, other: *other, block: new },
                );
            }
        }
    }
}
