// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes into the ring: operations on frames, chunks in slots, allocations, syncs.

use super::bounce::SLOT;
use super::job::{Bounce, Job, Stage};
use super::plan::Plan;
use super::queue::{FileQueue, Token};
use super::transfer;
use pageless_block::{Completion, Flags, Op, Route, Status};
use pageless_mem::Access;
use pageless_mem::io::Full;
use pageless_sys::file::FallocMode;

/// What became of an attempt to start an operation.
enum Start {
    /// It is in the ring, or waits elsewhere.
    Gone,
    /// The ring has no room.
    Full,
    /// It is over.
    Over(Status),
}

impl From<Result<(), Full>> for Start {
    fn from(pushed: Result<(), Full>) -> Start {
        match pushed {
            Ok(()) => Start::Gone,
            Err(Full { .. }) => Start::Full,
        }
    }
}

impl FileQueue {
    /// Puts into the ring what fits; whether anything did.
    pub(super) fn start(&mut self, out: &mut Vec<Completion>) -> bool {
        let before = self.ring.pending();
        self.start_ready(out);
        self.fill_slots(out);
        self.start_ready(out);
        self.ring.pending() > before
    }

    fn start_ready(&mut self, out: &mut Vec<Completion>) {
        while let Some(token) = self.ready.pop_front() {
            let started = match token.slot {
                Some(slot) => self.start_chunk(token, slot),
                None => self.start_job(token),
            };
            match started {
                Start::Gone => {}
                Start::Full => return self.ready.push_front(token),
                Start::Over(status) => match token.slot {
                    Some(slot) => self.end_chunk(token, slot, Some(status), out),
                    None => self.complete(token.job, status, out),
                },
            }
        }
    }

    fn start_job(&mut self, token: Token) -> Start {
        let Some(job) = self.jobs.get(token.job) else { return Start::Gone };
        let (at, len, flags) = (job.disk(0), job.bio.len, job.bio.flags);
        let mode = match (job.bio.op, &job.stage) {
            (Op::Read | Op::Write, _) => return self.start_transfer(token),
            (Op::Flush, _) | (_, Stage::Sync) => {
                job.stage = Stage::Sync;
                return self.ring.fdatasync(&self.file, token.pack()).into();
            }
            (Op::WriteZeroes, _) if flags.contains(Flags::NO_UNMAP) => FallocMode::ZeroRange,
            (Op::WriteZeroes | Op::Discard, _) => FallocMode::PunchHole,
        };
        job.stage = Stage::Allocation;
        self.ring.fallocate(&self.file, mode, at, len, token.pack()).into()
    }

    /// The rest of a read or write: one operation on the frames, or off to the slots.
    fn start_transfer(&mut self, token: Token) -> Start {
        let Some(job) = self.jobs.get(token.job) else { return Start::Gone };
        let online = self.reader.online();
        let (bio, from) = (&job.bio, job.done);
        let rest = (from > 0).then(|| bio.data.slice(from, bio.len - from));
        let list = rest.as_ref().unwrap_or(&bio.data);
        let access = if bio.op == Op::Read { Access::Write } else { Access::Read };
        let (len, suspect, route) = match Plan::of(list, &self.disk.reach, access, &online) {
            Ok(Plan::Frames { len, suspect, route }) => (len, suspect, route),
            Ok(Plan::Refuse(why)) => {
                job.route = job.route.worst(Route::Refuse(why));
                return Start::Over(why.status());
            }
            Ok(Plan::Bounce(why)) => {
                job.route = job.route.worst(Route::Bounce(why));
                job.stage = Stage::Bounce(Bounce::new(from, None));
                self.bouncing.push_back(token.job);
                return Start::Gone;
            }
            Err(fault) => return Start::Over(fault.into()),
        };
        let first = (len < list.len_bytes()).then(|| list.slice(0, len));
        let frames = first.as_ref().unwrap_or(list).as_slice();
        let inflight = match online.pin(frames, access) {
            Ok(inflight) => inflight,
            Err(fault) => return Start::Over(fault.into()),
        };
        let (at, token) = (job.disk(from), token.pack());
        let pushed = match bio.op {
            Op::Read => self.ring.read(&self.file, at, inflight, token),
            _ => self.ring.write(&self.file, at, inflight, bio.wants_fua(), token),
        };
        if pushed.is_ok() {
            job.route = job.route.worst(route);
            job.stage = Stage::Direct { to: from + len, suspect };
        }
        pushed.into()
    }

    fn start_chunk(&mut self, token: Token, slot: u32) -> Start {
        let Some(job) = self.jobs.get(token.job) else { return Start::Gone };
        let chunk = *self.pool.chunk(slot);
        let Some(range) = self.pool.range(slot, chunk.moved, chunk.len) else { return Start::Over(Status::IoErr) };
        let (access, at) = match job.bio.op {
            Op::Read => (Access::Write, job.disk(chunk.at + u64::from(chunk.moved))),
            _ => (Access::Read, job.disk(chunk.at + u64::from(chunk.moved))),
        };
        let online = self.reader.online();
        let inflight = match online.pin(&[range], access) {
            Ok(inflight) => inflight,
            Err(fault) => return Start::Over(fault.into()),
        };
        match job.bio.op {
            Op::Read => self.ring.read(&self.file, at, inflight, token.pack()),
            _ => self.ring.write(&self.file, at, inflight, job.bio.wants_fua(), token.pack()),
        }
        .into()
    }

    /// Gives free slots to the jobs that wait for them, one burst of copying at a time.
    fn fill_slots(&mut self, out: &mut Vec<Completion>) {
        let mut burst = 0;
        while let Some(&id) = self.bouncing.front() {
            self.pool.register(&mut self.ring);
            if !self.fill_for(id, &mut burst) {
                return;
            }
            self.bouncing.pop_front();
            self.settle(id, out);
        }
    }

    /// Gives slots to one job; false when they, or the burst, ended first.
    fn fill_for(&mut self, id: u32, burst: &mut u64) -> bool {
        let limit = self.burst();
        let Some(Job { bio, stage: Stage::Bounce(bounce), .. }) = self.jobs.get(id) else { return true };
        while bounce.has_more(bio.len) {
            if *burst >= limit {
                return false;
            }
            let at = bounce.next;
            let rest = match bio.op {
                Op::Read => bio.len - at,
                _ => (bio.len - at).min((limit - *burst).max(SLOT.into())),
            };
            let Some((slot, len)) = self.pool.take(at, rest) else { return false };
            let filled = match (bio.op, self.pool.range(slot, 0, len)) {
                (Op::Read, _) | (_, None) => Ok(()),
                (Op::WriteZeroes, Some(range)) => transfer::zero_slot(&mut self.reader, range),
                (_, Some(range)) => transfer::into_slot(&mut self.reader, &bio.data.slice(at, len.into()), range),
            };
            if bio.op != Op::Read {
                *burst += filled.map_or_else(|broken| broken.moved, |()| len.into());
            }
            if let Err(broken) = filled {
                self.pool.give(slot);
                bounce.fail(at, broken.status);
                break;
            }
            bounce.next += u64::from(len);
            bounce.live += 1;
            self.ready.push_back(Token { job: id, slot: Some(slot) });
        }
        true
    }
}
