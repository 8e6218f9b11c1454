// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes out of the ring: results, their consequences, completions.

use super::job::{Bounce, Progress, Stage};
use super::queue::{FileQueue, Token};
use super::{status, transfer};
use pageless_block::{Completion, Flags, Op, Route, Status, Why};
use pageless_mem::io::Done;
use pageless_mem::{Inflight, PhysRange, Pinned};
use pageless_sys::Errno;

impl FileQueue {
    /// Takes in one result.
    pub(super) fn finish(&mut self, done: Done, out: &mut Vec<Completion>) {
        let Done { token, result, inflight } = done;
        // The frames are free before anybody learns that the bio is done.
        let trusted = inflight.map_or(Ok(()), Inflight::release);
        let token = Token::unpack(token);
        let Some(job) = self.jobs.get(token.job) else { return };
        if let Err(errno) = result
            && status::again(errno)
            && job.may_retry()
        {
            return self.ready.push_back(token);
        }
        let op = job.bio.op;
        match (token.slot, &job.stage) {
            (None, _) if trusted.is_err() && result.is_ok() => {
                let ended = trusted.map_or_else(Status::from, |()| Status::Ok);
                self.complete(token.job, ended, out);
            }
            (Some(slot), _) => self.chunk_done(token, slot, result, out),
            (None, &Stage::Direct { to, suspect }) => self.direct_done(token, to, suspect, result, out),
            (None, Stage::Allocation) => self.allocation_done(token, result, out),
            _ => {
                let ended = result.map_or_else(|errno| status::of(errno, op), |_| self.size_kept());
                let told = self.errors.report(&mut self.seen, ended);
                self.complete(token.job, told, out);
            }
        }
    }

    /// A process that ignores our lock may have cut the file short: what it held there is lost.
    fn size_kept(&self) -> Status {
        match self.disk.holder.size() {
            Ok(size) if size >= self.disk.capacity => Status::Ok,
            _ => Status::IoErr,
        }
    }

    fn direct_done(
        &mut self,
        token: Token,
        to: u64,
        suspect: Option<PhysRange>,
        result: Result<u32, Errno>,
        out: &mut Vec<Completion>,
    ) {
        let unit = self.unit();
        let Some(job) = self.jobs.get(token.job) else { return };
        match result {
            Ok(moved) => match Progress::after(job.done, to, moved, unit) {
                Progress::Complete => {
                    job.done = to;
                    let over = to == job.bio.len;
                    if let Some(range) = suspect {
                        self.reader.online().set_short_pin(range, Pinned::Ok);
                    }
                    match over {
                        true => self.complete(token.job, Status::Ok, out),
                        false => self.ready.push_back(token),
                    }
                }
                Progress::Resume(from) => {
                    job.done = from;
                    self.ready.push_back(token);
                }
                Progress::Stuck(at) => {
                    job.done = at;
                    self.complete(token.job, Status::IoErr, out);
                }
            },
            Err(errno @ Errno::EFAULT) => self.bounce(token.job, Why::Unpinnable(errno), suspect),
            // it asks for more than statx said
            Err(Errno::EINVAL) if self.disk.direct.is_some() => self.bounce(token.job, Why::Misaligned, None),
            Err(errno) => {
                let ended = status::of(errno, job.bio.op);
                self.complete(token.job, ended, out);
            }
        }
    }

    fn allocation_done(&mut self, token: Token, result: Result<u32, Errno>, out: &mut Vec<Completion>) {
        let Some(job) = self.jobs.get(token.job) else { return };
        match result {
            Ok(_) if job.bio.wants_fua() => {
                job.stage = Stage::Sync;
                self.ready.push_back(token);
            }
            Ok(_) => self.complete(token.job, Status::Ok, out),
            Err(errno) if status::unsupported(errno) => match job.bio.op {
                // Advice that could not be taken: nothing is freed, and nothing has changed that could be lost.
                Op::Discard => self.complete(token.job, Status::Ok, out),
                Op::WriteZeroes if !job.bio.flags.contains(Flags::FAST_ONLY) => {
                    self.bounce(token.job, Why::Zeroes, None);
                }
                _ => self.complete(token.job, Status::Unsupported, out),
            },
            Err(errno) => {
                let ended = status::of(errno, job.bio.op);
                self.complete(token.job, ended, out);
            }
        }
    }

    /// Sends the rest of a job through slots.
    fn bounce(&mut self, id: u32, why: Why, suspect: Option<PhysRange>) {
        let Some(job) = self.jobs.get(id) else { return };
        job.route = job.route.worst(Route::Bounce(why));
        job.stage = Stage::Bounce(Bounce::new(job.done, suspect));
        self.bouncing.push_back(id);
    }

    fn chunk_done(&mut self, token: Token, slot: u32, result: Result<u32, Errno>, out: &mut Vec<Completion>) {
        let unit = self.unit();
        let Some(job) = self.jobs.get(token.job) else { return };
        let chunk = self.pool.chunk(slot);
        let ended = match result {
            Ok(moved) => match Progress::after(chunk.moved.into(), chunk.len.into(), moved, unit) {
                Progress::Resume(from) => {
                    chunk.moved = u32::try_from(from).unwrap_or(chunk.len);
                    return self.ready.push_back(token);
                }
                Progress::Complete => {
                    chunk.moved = chunk.len;
                    None
                }
                Progress::Stuck(at) => {
                    chunk.moved = u32::try_from(at).unwrap_or(chunk.len);
                    Some(Status::IoErr)
                }
            },
            Err(errno) => Some(status::of(errno, job.bio.op)),
        };
        self.end_chunk(token, slot, ended, out);
    }

    /// A chunk will move no further: what a read brought goes to the frames, the slot to whoever waits for one.
    pub(super) fn end_chunk(&mut self, token: Token, slot: u32, ended: Option<Status>, out: &mut Vec<Completion>) {
        let Some(job) = self.jobs.get(token.job) else { return };
        let chunk = *self.pool.chunk(slot);
        let mut failed = ended.map(|status| (chunk.at + u64::from(chunk.moved), status));
        if job.bio.op == Op::Read
            && let Some(range) = self.pool.range(slot, 0, chunk.moved)
        {
            let frames = job.bio.data.slice(chunk.at, u64::from(chunk.moved));
            if let Err(broken) = transfer::out_of_slot(&mut self.reader, range, &frames) {
                failed = Some((chunk.at + broken.moved, broken.status));
            }
            self.stored = true;
            self.copied += u64::from(chunk.moved);
        }
        self.pool.give(slot);
        if let Some(bounce) = job.bounce() {
            bounce.live -= 1;
            if let Some((at, status)) = failed {
                bounce.fail(at, status);
                self.bouncing.retain(|id| *id != token.job);
            }
        }
        self.settle(token.job, out);
    }

    /// Completes a bounced job whose last chunk is back.
    pub(super) fn settle(&mut self, id: u32, out: &mut Vec<Completion>) {
        let Some(job) = self.jobs.get(id) else { return };
        let len = job.bio.len;
        let Some(bounce) = job.bounce() else { return };
        if bounce.live > 0 || bounce.has_more(len) {
            return;
        }
        let (reached, status) = bounce.failed.unwrap_or((len, Status::Ok));
        // The CPU reached what the kernel would not take: the memory is sound, and cannot be pinned.
        if let (Some(range), Status::Ok) = (bounce.suspect, status) {
            let online = self.reader.online();
            if let Ok(Pinned::Unknown) = online.short_pin(range) {
                online.set_short_pin(range, Pinned::Refused(Errno::EFAULT));
            }
        }
        job.done = reached;
        self.complete(id, status, out);
    }

    pub(super) fn complete(&mut self, id: u32, status: Status, out: &mut Vec<Completion>) {
        out.extend(self.jobs.complete(id, status));
    }

    /// What a short operation goes on at a multiple of.
    fn unit(&self) -> u32 {
        self.disk.direct.map_or(self.disk.block(), |align| align.memory.max(align.block))
    }
}
