// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BttQueue`]: one thread's requests, executed a batch at a time.
//!
//! Requests of one batch are in flight together, so nothing is said of their order: reads come first, then what modifies
//! in the order of submission, then flushes.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use pageless_block::{Bio, Completion, Error, ListCursor, Op, Queue, Reach, Refused, RefusedWhy, Route, Status, Why};
use pageless_mem::persist::{self, Durability};

use super::BttError;
use super::device::Shared;
use super::io::Io;
use super::lanes::LaneSet;
use super::open::Order;
use super::places::PLACES;
use super::read::Reads;
use super::read_table::Place;
use super::write::Writes;
use super::zero;

/// Requests that wait for one poll, at most.
const DEPTH: usize = 256;

/// Which way bytes go, whatever frames they go to.
const ROUTE: Route = Reach::of_memory(Why::MemoryDisk).best();

/// A queue of a [`BttDisk`](super::BttDisk).
#[derive(Debug)]
pub(super) struct BttQueue {
    pending: Vec<Bio>,
    jobs: Vec<Job>,
    io: Io,
    place: Place,
    reads: Reads,
    writes: Writes,
    shared: Arc<Shared>,
}

/// How far a request is.
#[derive(Copy, Clone, Debug)]
pub(super) struct Job {
    /// Where its frames go on.
    pub(super) frames: ListCursor,
    /// The first of its blocks that could not be done, and why.
    failed: Option<(u64, Status)>,
}

impl Job {
    /// Its block `index` could not be done.
    pub(super) fn fail(&mut self, index: u64, status: Status) {
        if self.failed.is_none_or(|(first, _)| index < first) {
            self.failed = Some((index, status));
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.is_some()
    }

    fn completion(&self, bio: &Bio, block: u64) -> Completion {
        let route = if bio.op.has_data() { ROUTE } else { Route::None };
        let (status, done) = match self.failed {
            None => (Status::Ok, bio.len),
            Some((index, status)) => (status, (index * block).min(bio.len)),
        };
        Completion { tag: bio.tag, status, done, route }
    }
}

impl BttQueue {
    pub(super) fn new(shared: Arc<Shared>) -> Result<BttQueue, BttError> {
        let place = shared.reads.enter().ok_or(BttError::NoQueues { most: PLACES })?;
        Ok(BttQueue {
            pending: Vec::new(),
            jobs: Vec::new(),
            io: Io::new(&shared),
            reads: Reads::default(),
            writes: Writes::new(shared.claims.enter(place.number())),
            place,
            shared,
        })
    }

    fn reads(&mut self) {
        let bios = self.pending.iter().enumerate().filter(|(_, bio)| bio.op == Op::Read);
        for (index, bio) in bios {
            self.reads.add(&self.shared, &mut self.io, &mut self.place, (&self.pending, &mut self.jobs), (index, bio));
        }
        self.reads.run(&self.shared, &mut self.io, &mut self.place, (&self.pending, &mut self.jobs));
    }

    fn modifications(&mut self) {
        let (shared, io, lanes) = (&*self.shared, &mut self.io, &mut LaneSet::new(self.place.number()));
        let mut batch = (self.pending.as_slice(), self.jobs.as_mut_slice());
        for (index, bio) in self.pending.iter().enumerate() {
            match bio.op {
                Op::Read | Op::Flush => {}
                Op::Write => self.writes.add(shared, io, lanes, &mut batch, index),
                Op::WriteZeroes | Op::Discard => {
                    // It may be about blocks that wait to be written.
                    self.writes.run(shared, io, lanes, &mut batch);
                    zero::execute(shared, io, lanes, &mut self.writes, &mut batch, index);
                }
            }
        }
        self.writes.run(shared, io, lanes, &mut batch);
    }

    /// What flushes and FUA add to the steps of a write: something where these are not synced.
    fn flush(&mut self) {
        let msync = self.shared.region.durability() == Durability::Msync;
        let by_flush = msync && self.shared.order != Order::Strict;
        let waits = |(bio, job): (&Bio, &Job)| bio.op == Op::Flush || by_flush && bio.wants_fua() && !job.failed();
        if !self.pending.iter().zip(&self.jobs).any(waits) {
            return;
        }
        if let Err(fault) = self.io.flusher.flush() {
            for (bio, job) in self.pending.iter().zip(&mut self.jobs) {
                if waits((bio, &*job)) {
                    job.fail(0, fault.into());
                }
            }
        }
    }
}

impl Queue for BttQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.pending.len() == DEPTH {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        // As a memory disk does: by its parts where there are few.
        match bio.data.single() {
            Some(range) => self.pending.push(Bio { data: range.into(), ..bio }),
            None => self.pending.push(bio),
        }
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let count = self.pending.len();
        if count == 0 {
            return Ok(0);
        }
        self.jobs.clear();
        self.jobs.resize(count, Job { frames: ListCursor::default(), failed: None });
        self.reads();
        self.modifications();
        persist::fence();
        self.flush();
        let block = u64::from(self.shared.lba_size.block());
        out.extend(self.pending.iter().zip(&self.jobs).map(|(bio, job)| job.completion(bio, block)));
        self.pending.clear();
        Ok(count)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}
