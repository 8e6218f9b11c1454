// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`commit`]: the steps of writes that follow their data, while their blocks are claimed.
//!
//! Whatever may keep the map from being stored to is found out before the flog is: a hole that cannot be filled, a page that
//! cannot be written. What fails after that all the same leaves a write that only recovery can finish, as long as nobody
//! else writes the block: so the arena is frozen.

use pageless_block::Status;
use pageless_mem::{Access, Fault, persist};

use super::check::{Finding, Problem};
use super::claims::Claimant;
use super::device::Shared;
use super::flog::FlogEntry;
use super::io::{Flogs, Half, Io, Maps};
use super::map::{MapEntry, MapState};
use super::open::Order;
use super::queue::Job;
use super::read::out_of_bounds;
use super::trouble::Trouble;
use super::write::{State, Write};

/// Why a step of a write failed, and what it leaves.
type Failed = (Status, State);

/// Makes the data of these writes, no two of them of one block, what their blocks hold.
pub(super) fn commit(shared: &Shared, io: &mut Io, claims: &mut Claimant, writes: &mut [Write], jobs: &mut [Job]) {
    let _claimed = claims.claim(good(writes).map(|write| write.external));
    match shared.order {
        Order::Kernel => by_fences(shared, io, writes, jobs),
        Order::Strict => by_syncs(shared, io, writes, jobs),
    }
}

fn by_fences(shared: &Shared, io: &mut Io, writes: &mut [Write], jobs: &mut [Job]) {
    {
        let section = io.section(shared);
        let (mut maps, mut flogs) = (section.maps(Access::Write), section.flogs());
        step(writes, jobs, |write| write.store_old(shared, &mut maps, &mut flogs));
        persist::fence();
        step(writes, jobs, |write| write.store_new(shared, &mut flogs));
        persist::fence();
        step(writes, jobs, |write| write.store_map(shared, &mut maps));
        persist::fence();
    }
    confirm(shared, io, writes, jobs);
}

/// As [`by_fences`], and each step is durable before the next one.
fn by_syncs(shared: &Shared, io: &mut Io, writes: &mut [Write], jobs: &mut [Job]) {
    {
        let section = io.section(shared);
        let (mut maps, mut flogs) = (section.maps(Access::Write), section.flogs());
        step(writes, jobs, |write| write.store_old(shared, &mut maps, &mut flogs));
    }
    sync(shared, io, writes, jobs, |write| {
        let arena = write.arena(shared);
        [
            (arena.block_offset(write.lane.free), u64::from(shared.lba_size.bytes())),
            (arena.flog_offset(write.lane.number, write.lane.next), 8),
        ]
    });
    {
        let section = io.section(shared);
        let mut flogs = section.flogs();
        step(writes, jobs, |write| write.store_new(shared, &mut flogs));
    }
    sync(shared, io, writes, jobs, |write| {
        [(write.arena(shared).flog_offset(write.lane.number, write.lane.next) + 8, 8)]
    });
    {
        let section = io.section(shared);
        let mut maps = section.maps(Access::Write);
        step(writes, jobs, |write| write.store_map(shared, &mut maps));
    }
    confirm(shared, io, writes, jobs);
    sync(shared, io, writes, jobs, |write| [(write.arena(shared).map_offset(write.lba), 4)]);
}

/// Stores to a device that went away "work".
fn confirm(shared: &Shared, io: &mut Io, writes: &mut [Write], jobs: &mut [Job]) {
    if let Err(fault) = io.reader.confirm() {
        step(writes, jobs, |write| Err(write.stuck(shared, fault)));
    }
}

fn good(writes: &[Write]) -> impl Iterator<Item = &Write> {
    writes.iter().filter(|write| write.state == State::Good)
}

fn step(writes: &mut [Write], jobs: &mut [Job], mut step: impl FnMut(&mut Write) -> Result<(), Failed>) {
    for write in writes.iter_mut().filter(|write| write.state == State::Good) {
        if let Err((status, state)) = step(write) {
            write.fail(jobs, status, state);
        }
    }
}

/// Makes what a step stored durable.
fn sync<const N: usize>(
    shared: &Shared,
    io: &mut Io,
    writes: &mut [Write],
    jobs: &mut [Job],
    stored: impl Fn(&Write) -> [(u64, u64); N],
) {
    persist::fence();
    step(writes, jobs, |write| {
        let mut ranges = stored(write).into_iter();
        // What lies on the medium is not known any more.
        ranges.try_for_each(|(offset, len)| io.flusher.persist(offset, len)).map_err(|fault| write.stuck(shared, fault))
    });
}

// Inlined: what is around a call takes as long as what each of them does.
impl Write {
    fn flog_entry(&self, shared: &Shared) -> FlogEntry {
        // An error is kept, so that whoever recovers the lane tries the block first.
        let old = match self.old.state() {
            MapState::Error => self.old,
            _ => MapEntry::normal(self.old.block(self.lba)),
        };
        let entry = FlogEntry::new(self.lba, old, self.lane.free, self.lane.seq);
        if shared.in_pool { entry } else { entry.plain() }
    }

    #[inline(always)]
    fn store_old(&mut self, shared: &Shared, maps: &mut Maps<'_>, flogs: &mut Flogs<'_>) -> Result<(), Failed> {
        let (arena, lba) = (self.arena(shared), self.lba);
        let failed = |fault: Fault| (Status::from(fault), State::Failed);
        // By another queue that met trouble since.
        if arena.frozen() {
            return Err((Status::ReadOnly, State::Failed));
        }
        self.old = maps.of(arena, lba).and_then(|map| map.entry_to_change(lba)).map_err(failed)?;
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
        let (first, second) = self.flog_entry(shared).halves();
        self.flog = second;
        // Not current yet, so it does not count.
        flogs.store(arena, &self.lane, Half::Old, first).map_err(|fault| {
            let state = if fault == Fault::Media { State::Retired } else { State::Failed };
            (fault.into(), state)
        })
    }

    #[inline(always)]
    fn store_new(&mut self, shared: &Shared, flogs: &mut Flogs<'_>) -> Result<(), Failed> {
        let stored = flogs.store(self.arena(shared), &self.lane, Half::New, self.flog);
        stored.map_err(|fault| self.stuck(shared, fault))
    }

    #[inline(always)]
    fn store_map(&mut self, shared: &Shared, maps: &mut Maps<'_>) -> Result<(), Failed> {
        let entry = MapEntry::normal(self.lane.free);
        let stored = maps.of(self.arena(shared), self.lba).and_then(|map| map.store(self.lba, entry));
        stored.map_err(|fault| self.stuck(shared, fault))
    }

    /// The flog may have the write, and the map has not.
    #[cold]
    fn stuck(&self, shared: &Shared, fault: Fault) -> Failed {
        let arena = self.arena(shared);
        shared.freeze(arena, Trouble::MapNotStored { arena: arena.number, lba: self.lba, fault });
        (fault.into(), State::Committed)
    }
}
