// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Writes`]: blocks that are written together.
//!
//! # Write contract
//! ```text
//!            wait until nobody reads the lane's free block
//! data       bytes -> free block
//!            claim the blocks; the entry that the map has
//! flog, old  {lba, old entry} -> the lane's other slot, which is not current     fence
//! flog, new  {new entry, sequence number} in one store                           fence
//! map        new entry in one store                                              fence
//!            give up the claim; what the entry named is the lane's free block
//! ```
//! Each fence is shared by up to [`PER_GROUP`] writes, no two of them of one block. A cut before the second fence leaves
//! the old block, or what recovery finishes, as one after it does. What follows the data is [`commit`]'s.
//!
//! # Bad blocks
//! A free block that does not take bytes holds nobody's, so its lane is set aside until the disk is opened again, and the
//! write takes another one. A block that was freed because it could not be read is tried first: zeroes are stored to it and
//! read back.

use std::array;
use std::collections::VecDeque;

use pageless_block::{Bio, ListCursor, Op, Status};
use pageless_mem::{Access, Fault, Kmap, MemWriter, copy, copy_ahead, persist};

use super::arena::Arena;
use super::claims::Claimant;
use super::commit::commit;
use super::device::Shared;
use super::io::{Io, Section};
use super::lanes::{Lane, LaneSet, PER_GROUP};
use super::map::{MapEntry, MapState};
use super::queue::Job;
use super::trouble::Trouble;

/// Requests, and how far they are.
pub(super) type Batch<'b> = (&'b [Bio], &'b mut [Job]);

/// Blocks to be written.
#[derive(Debug)]
pub(super) struct Writes {
    pub(super) claims: Claimant,
    blocks: Vec<Write>,
    /// A bit for what each block of the disk is modulo 64.
    marks: u64,
    /// They take another lane.
    again: Vec<Write>,
}

/// A block to be written, and the lane that does it.
#[derive(Debug)]
pub(super) struct Write {
    /// Whose.
    job: usize,
    /// Which of its blocks.
    index: u64,
    /// The block of the disk.
    pub(super) external: u64,
    /// The place of its arena.
    arena: usize,
    /// The block of the arena.
    pub(super) lba: u32,
    pub(super) lane: Lane,
    /// What is stored; zeroes if the request has no frames.
    frames: ListCursor,
    /// The entry that the map had.
    pub(super) old: MapEntry,
    /// The second half of its flog entry, which is stored after the first one.
    pub(super) flog: u64,
    pub(super) state: State,
}

/// How far a write is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All went well.
    Good,
    /// Nothing of it counts; the lane is as it was.
    Failed,
    /// The lane's block is bad: it takes another lane.
    BadBlock,
    /// The same, and no other lane of the group is idle.
    Again,
    /// Nothing of it counts, and the lane's block or its place in the flog is bad.
    Retired,
    /// The flog has it and the map has not.
    Committed,
}

impl Writes {
    pub(super) fn new(claims: Claimant) -> Writes {
        Writes { claims, blocks: Vec::new(), marks: 0, again: Vec::new() }
    }

    /// Writes a request, or the most of it: [`Writes::run`] does the rest.
    pub(super) fn add<'s>(
        &mut self,
        shared: &'s Shared,
        io: &mut Io,
        lanes: &mut LaneSet<'s>,
        batch: &mut Batch<'_>,
        job: usize,
    ) {
        let block = u64::from(shared.lba_size.block());
        let bio = &batch.0[job];
        let first = bio.sector.bytes() / block;
        for index in 0..bio.len / block {
            if !self.add_block(shared, io, lanes, batch, (job, index, first + index)) {
                return;
            }
        }
    }

    /// Writes one block of a request, now or with the next ones. False when the request has failed before.
    #[inline(always)]
    pub(super) fn add_block<'s>(
        &mut self,
        shared: &'s Shared,
        io: &mut Io,
        lanes: &mut LaneSet<'s>,
        batch: &mut Batch<'_>,
        (job, index, external): (usize, u64, u64),
    ) -> bool {
        let (place, lba) = shared.find(external);
        let arena = &shared.arenas[place];
        let mark = 1 << (external % 64);
        let same = |write: &Write| write.external == external;
        // Of two writes of a block the second one frees what the first one wrote.
        if self.blocks.len() == PER_GROUP || (self.marks & mark != 0 && self.blocks.iter().any(same)) {
            self.run(shared, io, lanes, batch);
        }
        if batch.1[job].failed() {
            return false;
        }
        if let Err(status) = shared.may_change(arena) {
            batch.1[job].fail(index, status);
            return false;
        }
        let mut lane = lanes.next(&arena.lanes);
        if lane.is_none() {
            self.run(shared, io, lanes, batch);
            lane = lanes.next(&arena.lanes).or_else(|| lanes.wait(&arena.lanes));
        }
        let Some(lane) = lane else {
            batch.1[job].fail(index, no_lane(arena));
            return false;
        };
        let (bio, frames) = (&batch.0[job], batch.1[job].frames);
        let block = u64::from(shared.lba_size.block());
        if bio.op == Op::Write && (index + 1) * block < bio.len {
            batch.1[job].frames.skip(&bio.data, block);
        }
        let (old, flog, state) = (MapEntry::from_raw(0), 0, State::Good);
        self.marks |= mark;
        self.blocks.push(Write { job, index, external, arena: place, lba, lane, frames, old, flog, state });
        true
    }

    /// Writes what waits. All lanes do nothing then.
    pub(super) fn run<'s>(&mut self, shared: &'s Shared, io: &mut Io, lanes: &mut LaneSet<'s>, batch: &mut Batch<'_>) {
        if self.blocks.is_empty() {
            return;
        }
        self.run_once(shared, io, lanes, batch);
        while let Some(write) = self.again.pop() {
            let arena = write.arena(shared);
            match lanes.next(&arena.lanes).or_else(|| lanes.wait(&arena.lanes)) {
                Some(lane) => {
                    self.blocks.push(Write { lane, state: State::Good, ..write });
                    self.run_once(shared, io, lanes, batch);
                }
                None => batch.1[write.job].fail(write.index, no_lane(arena)),
            }
        }
    }

    fn run_once(&mut self, shared: &Shared, io: &mut Io, lanes: &mut LaneSet<'_>, batch: &mut Batch<'_>) {
        self.store_data(shared, io, lanes, batch);
        commit(shared, io, &mut self.claims, &mut self.blocks, batch.1);
        self.marks = 0;
        let mut all_good = true;
        for write in &self.blocks {
            if write.state == State::Good {
                let lane = Lane {
                    number: write.lane.number,
                    free: write.old.block(write.lba),
                    next: write.lane.next.other(),
                    seq: write.lane.seq.next(),
                    suspect: write.old.state() == MapState::Error,
                };
                lanes.give_back(&write.arena(shared).lanes, lane);
            } else {
                all_good = false;
            }
        }
        if all_good {
            self.blocks.clear();
        } else {
            self.end_others(shared, lanes);
        }
    }

    /// What becomes of the lanes of those that did not go well, and of those that take another one.
    #[cold]
    fn end_others(&mut self, shared: &Shared, lanes: &mut LaneSet<'_>) {
        for write in self.blocks.drain(..) {
            let arena = write.arena(shared);
            match write.state {
                State::Failed => lanes.give_back(&arena.lanes, write.lane),
                State::Retired => retire(shared, arena, &write.lane),
                State::Again => {
                    retire(shared, arena, &write.lane);
                    self.again.push(write);
                }
                // It has given its own back, or its arena is frozen.
                State::Good | State::Committed | State::BadBlock => {}
            }
        }
    }

    /// The first step: nothing that is stored here is anybody's yet.
    fn store_data(&mut self, shared: &Shared, io: &mut Io, lanes: &mut LaneSet<'_>, (bios, jobs): &mut Batch<'_>) {
        let watched = shared.reads.look();
        for write in &mut self.blocks {
            if watched || !write.has_block(shared) {
                write.find_block(shared, io, lanes, jobs);
            }
        }
        {
            let section = io.section(shared);
            let mut maps = section.maps(Access::Write);
            for write in &self.blocks {
                maps.prefetch(write.arena(shared), write.lba);
            }
            debug_assert!(self.blocks.len() <= PER_GROUP, "they wait for one group of lanes");
            let source = |write: &Write| write.source(shared, &section, &bios[write.job]);
            let sources: [_; PER_GROUP] = array::from_fn(|at| self.blocks.get(at).and_then(source));
            let ahead = sources[1..].iter().chain([&None]);
            for ((write, from), ahead) in self.blocks.iter_mut().zip(&sources).zip(ahead) {
                if write.state == State::Good
                    && let Err(fault) =
                        write.store_data(shared, &section, &bios[write.job], (from.as_ref(), ahead.as_ref()))
                {
                    write.blame(shared, jobs, fault);
                }
            }
        }
        for write in &mut self.blocks {
            while write.state == State::BadBlock {
                write.find_block(shared, io, lanes, jobs);
                if write.state == State::Good
                    && let Err(fault) = write.store_data(shared, &io.section(shared), &bios[write.job], (None, None))
                {
                    write.blame(shared, jobs, fault);
                }
            }
        }
        if let Err(fault) = io.reader.confirm() {
            for write in &mut self.blocks {
                if io.lost(shared, &bios[write.job], fault) {
                    write.fail(jobs, fault.into(), State::Failed);
                }
            }
        }
    }
}

impl Write {
    /// Where its block lies.
    #[inline]
    pub(super) fn arena<'s>(&self, shared: &'s Shared) -> &'s Arena {
        &shared.arenas[self.arena]
    }

    #[cold]
    pub(super) fn fail(&mut self, jobs: &mut [Job], status: Status, state: State) {
        jobs[self.job].fail(self.index, status);
        self.state = state;
    }

    /// Whether the lane's block can be stored to as it is, if nobody reads any block.
    #[inline]
    fn has_block(&self, shared: &Shared) -> bool {
        self.state == State::Good && !self.lane.suspect && !shared.bad(self.arena(shared), self.lane.free)
    }

    /// Sees to it that the lane's block can be stored to, or takes a lane of which it can.
    fn find_block(&mut self, shared: &Shared, io: &mut Io, lanes: &mut LaneSet<'_>, jobs: &mut [Job]) {
        let arena = self.arena(shared);
        let mut none = VecDeque::new();
        let idle = lanes.of(&arena.lanes).unwrap_or(&mut none);
        loop {
            if self.state == State::BadBlock {
                let Some(other) = idle.pop_front() else {
                    self.state = State::Again;
                    return;
                };
                retire(shared, arena, &std::mem::replace(&mut self.lane, other));
                self.state = State::Good;
            }
            let read = |block| shared.reads.reads(arena.block(block));
            self.lane.find_unread(idle, read);
            if !self.lane.suspect && !shared.bad(arena, self.lane.free) {
                return;
            }
            match try_block(shared, io, arena, self.lane.free) {
                Ok(()) => {
                    self.lane.suspect = false;
                    return;
                }
                Err(Fault::Media) => self.state = State::BadBlock,
                Err(fault) => return self.fail(jobs, fault.into(), State::Failed),
            }
        }
    }

    /// The bytes could not be moved: because of the medium, or of the frames they come from.
    #[cold]
    fn blame(&mut self, shared: &Shared, jobs: &mut [Job], fault: Fault) {
        if fault == Fault::Media {
            shared.ails();
        }
        let arena = self.arena(shared);
        match fault {
            Fault::Media if shared.bad(arena, self.lane.free) => self.state = State::BadBlock,
            _ => self.fail(jobs, fault.into(), State::Failed),
        }
    }

    /// What is going to be stored.
    #[inline(always)]
    fn source<'s>(&self, shared: &Shared, section: &'s Section<'_>, bio: &Bio) -> Option<Kmap<'s>> {
        let mut frames = self.frames;
        let range = frames.take(&bio.data, u64::from(shared.lba_size.block()))?;
        section.frames(range, Access::Read).ok()
    }

    /// Stores the bytes to the free block, from its [source](Self::source) where that is known and all of them, and has those of
    /// the next one fetched meanwhile.
    #[inline(always)]
    fn store_data(
        &self,
        shared: &Shared,
        section: &Section<'_>,
        bio: &Bio,
        (from, ahead): (Option<&Kmap<'_>>, Option<&Kmap<'_>>),
    ) -> Result<(), Fault> {
        let window = section.block(self.arena(shared), self.lane.free, Access::Write)?;
        let mut to = window.writer().streaming();
        let (block, metadata) = (shared.lba_size.block() as usize, shared.lba_size.metadata() as usize);
        if bio.op != Op::Write {
            return to.zero(block + metadata).map_err(|error| error.fault);
        }
        if let Some(from) = from.filter(|from| from.len() == block) {
            let copied = match ahead {
                Some(next) => copy_ahead(&mut from.reader(), &mut to, next),
                None => copy(&mut from.reader(), &mut to),
            };
            copied.map_err(|error| error.fault)?;
        } else {
            self.store_parts(section, bio, &mut to, block as u64)?;
        }
        if metadata > 0 { to.zero(metadata).map_err(|error| error.fault) } else { Ok(()) }
    }

    /// The same of bytes that lie in more than one place, or of which it is not known where they lie.
    #[inline(never)]
    fn store_parts(&self, section: &Section<'_>, bio: &Bio, to: &mut MemWriter<'_>, block: u64) -> Result<(), Fault> {
        let mut frames = self.frames;
        for range in frames.up_to(&bio.data, block) {
            let from = section.frames(range, Access::Read)?;
            copy(&mut from.reader(), to).map_err(|error| error.fault)?;
        }
        Ok(())
    }
}

/// Stores zeroes to a block and reads them back.
#[cold]
fn try_block(shared: &Shared, io: &mut Io, arena: &Arena, block: u32) -> Result<(), Fault> {
    let section = io.section(shared);
    let window = section.block(arena, block, Access::Write)?;
    window.writer().streaming().zero(window.len()).map_err(|error| error.fault)?;
    persist::fence();
    let mut from = window.reader();
    let mut bytes = [0; 512];
    while from.remaining() > 0 {
        let len = from.remaining().min(bytes.len());
        from.read(&mut bytes[..len]).map_err(|error| error.fault)?;
    }
    Ok(())
}

/// All lanes were lost to bad blocks, or their arena was frozen meanwhile.
#[cold]
fn no_lane(arena: &Arena) -> Status {
    if arena.frozen() { Status::ReadOnly } else { Status::Media }
}

#[cold]
fn retire(shared: &Shared, arena: &Arena, lane: &Lane) {
    shared.troubles.tell(Trouble::LaneRetired { arena: arena.number, lane: lane.number, block: lane.free });
}
