// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Writes`]: blocks that are written together.
//!
//! # Write contract
//! ```text
//!            wait until nobody reads the lane's free block
//! data       bytes -> free block
//!            take the map locks; the entry that the map has
//! flog, old  {lba, old entry} -> the lane's other slot, which is not current     fence
//! flog, new  {new entry, sequence number} in one store                           fence
//! map        new entry in one store                                              fence
//!            give the locks back; what the entry named is the lane's free block
//! ```
//! Each fence is shared by up to [`PER_QUEUE`] writes, no two of them of one block. A cut before the second fence leaves
//! the old block, one after it is finished by recovery. Whatever may keep the map from being stored to is found out before
//! the flog is.
//!
//! # Bad blocks
//! A free block that does not take bytes holds nobody's, so its lane is set aside until the disk is opened again, and the
//! write takes another one. A block that was freed because it could not be read is tried first: zeroes are stored to it and
//! read back.

use std::array;

use pageless_block::{Bio, ListCursor, Op, Status};
use pageless_mem::{Access, Fault, copy, persist};

use super::arena::Arena;
use super::check::{Finding, Problem};
use super::device::Shared;
use super::flog::FlogEntry;
use super::io::{Half, Io, Section};
use super::lanes::{Lane, PER_QUEUE};
use super::map::{MapEntry, MapState};
use super::open::Order;
use super::queue::{Job, LaneSet};
use super::read::out_of_bounds;
use super::read_table::ReadTable;
use super::sync::give_way;
use super::trouble::Trouble;

/// Requests, and how far they are.
pub(super) type Batch<'b> = (&'b [Bio], &'b mut [Job]);

/// Blocks to be written.
#[derive(Debug, Default)]
pub(super) struct Writes {
    blocks: Vec<Write>,
}

/// A block to be written, and the lane that does it.
#[derive(Debug)]
struct Write {
    /// Whose.
    job: usize,
    /// Which of its blocks.
    index: u64,
    /// The block of the disk.
    external: u64,
    lane: Lane,
    /// What is stored; zeroes if the request has no frames.
    frames: ListCursor,
    /// The entry that the map had.
    old: MapEntry,
    state: State,
}

/// How far a write is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum State {
    /// All went well.
    Good,
    /// Nothing of it counts; the lane is as it was.
    Failed,
    /// Nothing of it counts, and the lane's block or its place in the flog is bad.
    Retired,
    /// The flog has it and the map has not.
    Committed,
}

impl Writes {
    /// Writes a request, or the most of it: [`Writes::run`] does the rest.
    pub(super) fn add(&mut self, shared: &Shared, io: &mut Io, lanes: &mut LaneSet, batch: &mut Batch<'_>, job: usize) {
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
    pub(super) fn add_block(
        &mut self,
        shared: &Shared,
        io: &mut Io,
        lanes: &mut LaneSet,
        batch: &mut Batch<'_>,
        (job, index, external): (usize, u64, u64),
    ) -> bool {
        let (arena, _) = shared.locate(external);
        let same = |write: &Write| write.external == external;
        // Of two writes of a block the second one frees what the first one wrote.
        if self.blocks.len() == PER_QUEUE || self.blocks.iter().any(same) {
            self.run(shared, io, lanes, batch);
        }
        if batch.1[job].failed() {
            return false;
        }
        if arena.frozen() {
            batch.1[job].fail(index, Status::ReadOnly);
            return false;
        }
        if lanes.of(arena.number).is_empty() {
            self.run(shared, io, lanes, batch);
        }
        let Some(lane) = lanes.of(arena.number).pop_front() else {
            // Frozen meanwhile, or all of them lost to bad blocks.
            let status = if arena.frozen() { Status::ReadOnly } else { Status::Media };
            batch.1[job].fail(index, status);
            return false;
        };
        let frames = batch.1[job].frames;
        if batch.0[job].op == Op::Write {
            batch.1[job].frames.skip(&batch.0[job].data, u64::from(shared.lba_size.block()));
        }
        let old = MapEntry::from_raw(0);
        self.blocks.push(Write { job, index, external, lane, frames, old, state: State::Good });
        true
    }

    /// Writes what waits.
    pub(super) fn run(&mut self, shared: &Shared, io: &mut Io, lanes: &mut LaneSet, batch: &mut Batch<'_>) {
        if self.blocks.is_empty() {
            return;
        }
        self.store_data(shared, io, lanes, batch);
        self.change_map(shared, io, batch.1);
        for write in self.blocks.drain(..) {
            let (arena, lba) = shared.locate(write.external);
            let mut lane = write.lane;
            match write.state {
                State::Good => {
                    lane.suspect = write.old.state() == MapState::Error;
                    lane.free = write.old.block(lba);
                    lane.next = lane.next.other();
                    lane.seq = lane.seq.next();
                    lanes.of(arena.number).push_back(lane);
                }
                State::Failed => lanes.of(arena.number).push_back(lane),
                State::Retired => retire(shared, arena, &lane),
                // Its arena is frozen.
                State::Committed => {}
            }
        }
    }

    /// The first step: nothing that is stored here is anybody's yet.
    fn store_data(&mut self, shared: &Shared, io: &mut Io, lanes: &mut LaneSet, (bios, jobs): &mut Batch<'_>) {
        ReadTable::look();
        for at in 0..self.blocks.len() {
            let (now, later) = self.blocks.split_at_mut(at + 1);
            let Some(write) = now.last_mut() else { continue };
            let (arena, _) = shared.locate(write.external);
            let next = later.first().map(|next| (&bios[next.job], next.frames));
            loop {
                find_unread(shared, arena, &mut write.lane, lanes);
                let Err(status) = write.store_data(shared, io, &bios[write.job], next) else { break };
                if status != Status::Media || !shared.bad(arena, write.lane.free) {
                    // The frames could not be read, or all went away.
                    write.fail(jobs, status, State::Failed);
                    break;
                }
                match lanes.of(arena.number).pop_front() {
                    Some(other) => retire(shared, arena, &std::mem::replace(&mut write.lane, other)),
                    None => {
                        write.fail(jobs, status, State::Retired);
                        break;
                    }
                }
            }
        }
        if io.reader.confirm().is_err() {
            for write in &mut self.blocks {
                if io.lost(shared, &bios[write.job]) {
                    write.fail(jobs, Status::Gone, State::Failed);
                }
            }
        }
    }

    /// The other steps, under the locks of the blocks.
    fn change_map(&mut self, shared: &Shared, io: &mut Io, jobs: &mut [Job]) {
        let held = shared.locks.hold(self.good().map(|write| write.external));
        self.step(shared, io, jobs, Write::store_old);
        self.settle(shared, io, jobs, |shared, write| {
            let (arena, _) = shared.locate(write.external);
            [
                (arena.block_offset(write.lane.free), u64::from(shared.lba_size.bytes())),
                (arena.flog_offset(write.lane.number, write.lane.next), 8),
            ]
        });
        self.step(shared, io, jobs, Write::store_new);
        self.settle(shared, io, jobs, |shared, write| {
            let (arena, _) = shared.locate(write.external);
            [(arena.flog_offset(write.lane.number, write.lane.next) + 8, 8)]
        });
        self.step(shared, io, jobs, Write::store_map);
        self.settle(shared, io, jobs, |shared, write| {
            let (arena, lba) = shared.locate(write.external);
            [(arena.map_offset(lba), 4)]
        });
        drop(held);
    }

    fn good(&self) -> impl Iterator<Item = &Write> {
        self.blocks.iter().filter(|write| write.state == State::Good)
    }

    fn step(
        &mut self,
        shared: &Shared,
        io: &mut Io,
        jobs: &mut [Job],
        step: impl Fn(&mut Write, &Shared, &Section<'_>) -> Result<(), (Status, State)>,
    ) {
        let section = io.section(shared);
        for write in self.blocks.iter_mut().filter(|write| write.state == State::Good) {
            if let Err((status, state)) = step(write, shared, &section) {
                write.fail(jobs, status, state);
            }
        }
    }

    /// Makes a step durable before the next one.
    fn settle<const N: usize>(
        &mut self,
        shared: &Shared,
        io: &mut Io,
        jobs: &mut [Job],
        stored: impl Fn(&Shared, &Write) -> [(u64, u64); N],
    ) {
        persist::fence();
        if shared.order != Order::Strict {
            return;
        }
        for write in self.blocks.iter_mut().filter(|write| write.state == State::Good) {
            for (offset, len) in stored(shared, write) {
                if let Err(fault) = io.flusher.persist(offset, len) {
                    // What lies on the medium is not known any more.
                    let (arena, lba) = shared.locate(write.external);
                    shared.freeze(arena, Trouble::MapNotStored { arena: arena.number, lba, fault });
                    write.fail(jobs, fault.into(), State::Committed);
                    break;
                }
            }
        }
    }
}

impl Write {
    #[cold]
    fn fail(&mut self, jobs: &mut [Job], status: Status, state: State) {
        jobs[self.job].fail(self.index, status);
        self.state = state;
    }

    /// Stores the bytes to the free block, and has the first lines of the next one's fetched meanwhile.
    fn store_data(
        &mut self,
        shared: &Shared,
        io: &mut Io,
        bio: &Bio,
        next: Option<(&Bio, ListCursor)>,
    ) -> Result<(), Status> {
        let (arena, _) = shared.locate(self.external);
        if self.lane.suspect || shared.bad(arena, self.lane.free) {
            try_block(shared, io, arena, self.lane.free)?;
            self.lane.suspect = false;
        }
        let section = io.section(shared);
        if let Some((next, mut frames)) = next
            && let Some(range) = frames.take(&next.data, u64::from(shared.lba_size.block()))
            && let Ok(window) = section.frames(range, Access::Read)
        {
            window.prefetch();
        }
        let window = section.block(arena, self.lane.free, Access::Write)?;
        let mut to = window.writer().streaming();
        let (block, metadata) = (shared.lba_size.block() as usize, shared.lba_size.metadata() as usize);
        let failed = |fault| {
            if fault == Fault::Media {
                shared.ails();
            }
            Status::from(fault)
        };
        if bio.op != Op::Write {
            return to.zero(block + metadata).map_err(|error| failed(error.fault));
        }
        let (mut frames, mut left) = (self.frames, block as u64);
        while let Some(range) = frames.take(&bio.data, left) {
            let window = section.frames(range, Access::Read)?;
            copy(&mut window.reader(), &mut to).map_err(|error| failed(error.fault))?;
            left -= u64::from(range.len());
        }
        if metadata > 0 { to.zero(metadata).map_err(|error| failed(error.fault)) } else { Ok(()) }
    }

    fn flog_entry(&self, shared: &Shared, lba: u32) -> FlogEntry {
        // An error is kept, so that whoever recovers the lane tries the block first.
        let old = match self.old.state() {
            MapState::Error => self.old,
            _ => MapEntry::normal(self.old.block(lba)),
        };
        let entry = FlogEntry::new(lba, old, self.lane.free, self.lane.seq);
        if shared.in_pool { entry } else { entry.plain() }
    }

    fn store_old(&mut self, shared: &Shared, section: &Section<'_>) -> Result<(), (Status, State)> {
        let (arena, lba) = shared.locate(self.external);
        let failed = |fault: Fault| (Status::from(fault), State::Failed);
        // Of another queue that met the trouble since.
        if arena.frozen() {
            return Err((Status::ReadOnly, State::Failed));
        }
        self.old = section.entry_to_change(arena, lba).map_err(failed)?;
        let block = self.old.block(lba);
        if block >= arena.geometry.internal_nlba() {
            return Err((out_of_bounds(shared, arena, lba, self.old), State::Failed));
        }
        if block == self.lane.free {
            let problem = Problem::BlockFreeAndMapped { lane: self.lane.number, block };
            let finding = Finding { arena: arena.number, offset: arena.map_offset(lba), problem };
            shared.freeze(arena, Trouble::Froze(finding));
            return Err((Status::ReadOnly, State::Failed));
        }
        let at = (self.lane.number, self.lane.next);
        section.store_half(arena, at, &self.flog_entry(shared, lba), Half::Old).map_err(|fault| {
            let state = if fault == Fault::Media { State::Retired } else { State::Failed };
            (fault.into(), state)
        })
    }

    fn store_new(&mut self, shared: &Shared, section: &Section<'_>) -> Result<(), (Status, State)> {
        let (arena, lba) = shared.locate(self.external);
        let at = (self.lane.number, self.lane.next);
        section
            .store_half(arena, at, &self.flog_entry(shared, lba), Half::New)
            .map_err(|fault| self.stuck(shared, fault))
    }

    fn store_map(&mut self, shared: &Shared, section: &Section<'_>) -> Result<(), (Status, State)> {
        let (arena, lba) = shared.locate(self.external);
        let entry = MapEntry::normal(self.lane.free);
        section.store_entry(arena, lba, entry).map_err(|fault| self.stuck(shared, fault))
    }

    /// The flog may have the write, and the map has not: recovery finishes it, as long as nobody writes the block before.
    #[cold]
    fn stuck(&self, shared: &Shared, fault: Fault) -> (Status, State) {
        let (arena, lba) = shared.locate(self.external);
        shared.freeze(arena, Trouble::MapNotStored { arena: arena.number, lba, fault });
        (fault.into(), State::Committed)
    }
}

/// Exchanges the lane for one whose free block nobody reads, and waits where there is none: as long as a copy takes.
fn find_unread(shared: &Shared, arena: &Arena, lane: &mut Lane, lanes: &mut LaneSet) {
    let mut tried = 0;
    while shared.reads.reads(arena.block(lane.free)) {
        let others = lanes.of(arena.number);
        if let Some(other) = others.pop_front() {
            others.push_back(std::mem::replace(lane, other));
        }
        tried += 1;
        if tried > others.len() {
            give_way();
            tried = 0;
        }
    }
}

/// Stores zeroes to a block and reads them back.
#[cold]
fn try_block(shared: &Shared, io: &mut Io, arena: &Arena, block: u32) -> Result<(), Status> {
    let section = io.section(shared);
    let tried = (|| {
        let window = section.block(arena, block, Access::Write)?;
        window.writer().streaming().zero(window.len()).map_err(|error| error.fault)?;
        persist::fence();
        let mut from = window.reader();
        let mut bytes: [u8; 512] = array::from_fn(|_| 0);
        while from.remaining() > 0 {
            let len = from.remaining().min(bytes.len());
            from.read(&mut bytes[..len]).map_err(|error| error.fault)?;
        }
        Ok(())
    })();
    tried.map_err(|fault: Fault| {
        if fault == Fault::Media {
            shared.ails();
        }
        Status::from(fault)
    })
}

#[cold]
fn retire(shared: &Shared, arena: &Arena, lane: &Lane) {
    shared.troubles.tell(Trouble::LaneRetired { arena: arena.number, lane: lane.number, block: lane.free });
}
