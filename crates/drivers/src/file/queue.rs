// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FileQueue`]: accepted bios on their way into the ring. What comes out of it is handled in [`finish`](super::finish).

use super::bounce::{Chunk, Pool, SLOT};
use super::job::{Bounce, Job, Jobs, Stage};
use super::open::Opened;
use super::plan::Plan;
use super::sticky::{FlushErrors, Seen};
use super::{FileDiskOptions, transfer};
use pageless_block::{Bio, Completion, Error, Flags, Op, Queue, Refused, RefusedWhy, Route, Status, Why};
use pageless_mem::io::{Done, Full, Ring};
use pageless_mem::{Access, Memory, Reader, persist};
use pageless_sys::file::{FallocMode, File};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes copied by the CPU before what they set free, or filled, is handed to the kernel.
const BURST: u64 = 256 << 10;

/// The queue of a file: one ring, one pool, one thread.
///
/// Everything happens in `poll`; after it returns, whatever is accepted is in the ring or waits for something that is.
#[derive(Debug)]
pub(super) struct FileQueue {
    // First, so that it is dropped first: that waits for what still moves into the slots.
    pub(super) ring: Ring,
    pub(super) pool: Pool,
    pub(super) reader: Reader,
    pub(super) file: Arc<File>,
    pub(super) disk: Arc<Opened>,
    pub(super) errors: Arc<FlushErrors>,
    pub(super) seen: Seen,
    pub(super) jobs: Jobs,
    /// What goes into the ring next.
    pub(super) ready: VecDeque<Token>,
    /// Jobs with chunks to start, in order of arrival: the first one takes the slots that become free.
    pub(super) bouncing: VecDeque<u32>,
    /// Bytes copied from slots since the last submission.
    pub(super) copied: u64,
    /// The CPU stored into frames since the last fence.
    pub(super) stored: bool,
    /// What came out of the ring and was not looked at yet.
    backlog: VecDeque<Done>,
    reaped: Vec<Done>,
    depth: usize,
}

/// The name of one operation in the ring: a job, and the slot of one of its chunks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) job: u32,
    pub(super) slot: Option<u32>,
}

impl Token {
    pub(super) fn job(job: u32) -> Token {
        Token { job, slot: None }
    }

    fn pack(self) -> u64 {
        u64::from(self.job) << 32 | self.slot.map_or(0, |slot| u64::from(slot) + 1)
    }

    pub(super) fn unpack(token: u64) -> Token {
        let [job, slot] =
            [token >> 32, token & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        Token { job, slot: slot.checked_sub(1) }
    }
}

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
    pub(super) fn open(
        memory: &Memory,
        disk: &Arc<Opened>,
        errors: &Arc<FlushErrors>,
        options: &FileDiskOptions,
    ) -> Result<FileQueue, Error> {
        let depth = options.queue_depth.clamp(1, 4096);
        Ok(FileQueue {
            ring: Ring::new(depth)?,
            pool: Pool::new(memory, options.bounce_bytes)?,
            reader: memory.reader(),
            file: Arc::new(disk.for_queue()?),
            disk: Arc::clone(disk),
            errors: Arc::clone(errors),
            seen: errors.opener(),
            jobs: Jobs::default(),
            ready: VecDeque::new(),
            bouncing: VecDeque::new(),
            copied: 0,
            stored: false,
            backlog: VecDeque::new(),
            reaped: Vec::new(),
            depth: depth as usize,
        })
    }

    /// Puts into the ring what fits; whether anything did.
    fn start(&mut self, out: &mut Vec<Completion>) -> bool {
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
        let (plan, route) = match self.disk.direct {
            Some(align) => (Plan::of(list, align, &online), Route::Direct),
            None => (Ok(Plan::Direct { len: list.len_bytes(), suspect: None }), Route::Copy(Why::NoDirectIo)),
        };
        let (len, suspect) = match plan {
            Ok(Plan::Direct { len, suspect }) => (len, suspect),
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
        let pinned = match bio.op {
            Op::Read => online.pin(frames, Access::Write),
            _ => online.pin(frames, Access::Read),
        };
        let inflight = match pinned {
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
        let Some(Job { bio, stage: Stage::Bounce(bounce), .. }) = self.jobs.get(id) else { return true };
        let online = self.reader.online();
        while bounce.has_more(bio.len) {
            if *burst >= BURST {
                return false;
            }
            let at = bounce.next;
            let len = u32::try_from(bio.len - at).map_or(SLOT, |rest| rest.min(SLOT));
            let Some(slot) = self.pool.take(Chunk { at, len, moved: 0 }) else { return false };
            let filled = match (bio.op, self.pool.range(slot, 0, len)) {
                (Op::Read, _) | (_, None) => Ok(()),
                (Op::WriteZeroes, Some(range)) => transfer::zero_slot(&online, range),
                (_, Some(range)) => transfer::into_slot(&online, &bio.data.slice(at, len.into()), range),
            };
            if bio.op != Op::Read {
                *burst += u64::from(len);
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

impl Queue for FileQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.jobs.len() >= self.depth {
            return Err(Refused { bio, why: RefusedWhy::Full });
        }
        let id = self.jobs.insert(bio);
        self.ready.push_back(Token::job(id));
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let before = out.len();
        let result = loop {
            self.ring.reap(&mut self.reaped);
            self.backlog.extend(self.reaped.drain(..));
            self.copied = 0;
            while self.copied < BURST
                && let Some(done) = self.backlog.pop_front()
            {
                self.finish(done, out);
            }
            let started = self.start(out);
            if let Err(error) = self.ring.submit() {
                break Err(error.into());
            }
            let more = !self.backlog.is_empty() || (started && !self.bouncing.is_empty());
            if !more && !started {
                break Ok(());
            }
        };
        if std::mem::take(&mut self.stored) {
            persist::fence();
        }
        result.map(|()| out.len() - before)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.event())
    }

    fn in_flight(&self) -> usize {
        self.jobs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_job_and_slot() {
        for token in [Token::job(0), Token::job(u32::MAX), Token { job: 7, slot: Some(0) }] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
