// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Engine`]: what a worker has in work at its devices, and the memory it lies in.
//!
//! A *job* is a request that will owe a reply when its bios are back; a *bio* here is one I/O in a device's queue and
//! what to do when it completes. The engine knows no sockets: completions name connections by key, and it may be that
//! the connection is gone by then.

use std::collections::VecDeque;
use std::sync::Arc;

use pageless_block::{
    Bio, BlockDevice, Checked, Completion, DirectAccess, ExtentMap, Flags, Op, Queue, RefusedWhy, Route, ScatterList,
    Sector, Status, open_checked,
};
use pageless_mem::{Memory, PhysRange};

use super::connection::{Connection, Expects};
use super::counters::Counters;
use super::notice::Notices;
use super::pool::{Fill, SLOT, SlotId, SlotPool};
use crate::Error;
use crate::slab::{Key, Slab};

/// A device as one worker sees it.
#[derive(Debug)]
pub(crate) struct Backend {
    /// `None` once it broke.
    queue: Option<Checked>,
    pub(crate) dax: Option<Box<dyn DirectAccess>>,
    pub(crate) extents: Option<Box<dyn ExtentMap>>,
    /// Payloads are cut at multiples of this: what the device writes at once, or at least a block.
    pub(crate) grain: u32,
    /// Refused as `Full`, to be tried again before anything else.
    waiting: VecDeque<Bio>,
    /// Bios were submitted since the last poll.
    submitted: bool,
    /// Flushes and durable writes that failed: what they lost may be any client's, and each is told.
    pub(crate) failures: u64,
}

impl Backend {
    fn open(device: &dyn BlockDevice) -> Result<Backend, pageless_block::Error> {
        let limits = device.limits();
        let grain = limits.block_size.max(limits.atomic_write_unit).clamp(1, 64 << 10).next_power_of_two();
        Ok(Backend {
            queue: Some(open_checked(device)?),
            dax: device.dax(),
            extents: device.extents(),
            grain,
            waiting: VecDeque::new(),
            submitted: false,
            failures: 0,
        })
    }

    /// Does it take no more for now?
    pub(crate) fn full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The descriptor that becomes readable when a poll would find something.
    pub(crate) fn event(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.queue.as_ref()?.event()
    }
}

/// A request in work.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) connection: Key,
    pub(crate) cookie: u64,
    /// Bios not yet back.
    bios: u32,
    /// More bios may come.
    open: bool,
    status: Status,
    /// `ENOTSUP` is an answer the client asked for.
    pub(crate) fast: bool,
    /// It is a flush.
    pub(crate) flush: bool,
}

/// What a bio is for.
#[derive(Copy, Clone, Debug)]
enum Purpose {
    /// A part of a job.
    Job(Key),
    /// The data of a staged part of a connection's output.
    Fetch { connection: Key, number: u64, offset: u64, range: PhysRange },
}

#[derive(Debug)]
struct InWork {
    backend: usize,
    slot: Option<SlotId>,
    bytes: u64,
    /// It is to be durable when it completes.
    durable: bool,
    purpose: Purpose,
}

/// A job over a long range, done piece by piece so that others get their turn.
#[derive(Debug)]
struct Long {
    job: Key,
    backend: usize,
    op: Op,
    flags: Flags,
    offset: u64,
    left: u64,
    step: u64,
}

/// What came of something in work.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A job is done: its reply is due.
    Done { job: Job, status: Status },
    /// The data of a staged part is here. The receiver owns the hold on the slot.
    Fetched { connection: Key, number: u64, slot: SlotId, range: PhysRange },
    /// It cannot be had.
    Missing { connection: Key, number: u64, offset: u64, status: Status },
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) backends: Vec<Backend>,
    pub(crate) pool: SlotPool,
    /// Where input is received.
    pub(crate) inlet: Fill,
    /// Where staged reads are put.
    outlet: Fill,
    pub(crate) counters: Arc<Counters>,
    pub(crate) notices: Arc<Notices>,
    /// Requests taken since somebody last asked.
    pub(crate) taken: u32,
    bios: Slab<InWork>,
    jobs: Slab<Job>,
    long: VecDeque<Long>,
    completions: Vec<Completion>,
    /// Bios that ended and were not yet settled.
    ended: VecDeque<Completion>,
}

/// Slots that staged reads leave for input.
const INPUT_RESERVE: usize = 4;
/// Long jobs that get a turn in one round.
const LONG_TURNS: usize = 4;

impl Engine {
    pub(crate) fn new(
        devices: &[Arc<dyn BlockDevice>],
        memory: &Memory,
        slots: u16,
        counters: Arc<Counters>,
        notices: Arc<Notices>,
    ) -> Result<Engine, Error> {
        let backends = devices.iter().map(|device| Backend::open(&**device)).collect::<Result<_, _>>()?;
        Ok(Engine {
            backends,
            pool: SlotPool::new(memory, slots)?,
            inlet: Fill::default(),
            outlet: Fill::default(),
            counters,
            notices,
            taken: 0,
            bios: Slab::new(),
            jobs: Slab::new(),
            long: VecDeque::new(),
            completions: Vec::new(),
            ended: VecDeque::new(),
        })
    }

    /// Begins a request that will owe a reply. It stays open until [`close`](Engine::close).
    pub(crate) fn begin(&mut self, connection: Key, cookie: u64, fast: bool) -> Key {
        self.jobs.insert(Job { connection, cookie, bios: 0, open: true, status: Status::Ok, fast, flush: false })
    }

    /// No more bios come for this job. An outcome if there were none.
    pub(crate) fn close(&mut self, job: Key) -> Option<Outcome> {
        self.jobs.get_mut(job)?.open = false;
        self.finish(job)
    }

    /// The rest of a payload will never come. What came is stored, and nobody is told.
    pub(crate) fn abandon(&mut self, connection: &mut Connection) {
        if let Expects::Payload { job, .. } = std::mem::replace(&mut connection.expects, Expects::Request) {
            connection.jobs -= 1;
            self.jobs.remove(job);
        }
    }

    fn finish(&mut self, key: Key) -> Option<Outcome> {
        let job = self.jobs.get_mut(key)?;
        if job.open || job.bios > 0 {
            return None;
        }
        let status = job.status;
        self.jobs.remove(key).map(|job| Outcome::Done { job, status })
    }

    /// Stores a part of a payload, which lies in `slot`.
    pub(crate) fn write(&mut self, job: Key, backend: usize, offset: u64, slot: SlotId, data: PhysRange, fua: bool) {
        self.pool.hold(slot);
        let flags = if fua { Flags::FUA } else { Flags::empty() };
        let len = data.len().into();
        self.submit_for(job, backend, Op::Write, offset, len, data.into(), flags, Some(slot));
    }

    /// A flush, or a range operation short enough to be one bio.
    pub(crate) fn plain(&mut self, job: Key, backend: usize, op: Op, offset: u64, len: u64, flags: Flags) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.flush = op == Op::Flush;
        }
        self.submit_for(job, backend, op, offset, len, ScatterList::new(), flags, None);
    }

    /// A range operation, done in pieces if it is long. Closes the job.
    pub(crate) fn range(&mut self, job: Key, backend: usize, op: Op, offset: u64, len: u64, flags: Flags) {
        // Storing zeroes takes time for each byte, letting go of memory does not.
        let stores = op == Op::WriteZeroes && flags.contains(Flags::NO_UNMAP);
        let step = if stores { 4 << 20 } else { 64 << 20 };
        self.long.push_back(Long { job, backend, op, flags, offset, left: len, step });
    }

    /// Gives long jobs their turn. Jobs that ended for want of work to do are appended to `out`.
    pub(crate) fn advance(&mut self, out: &mut Vec<Outcome>) {
        for _ in 0..self.long.len().min(LONG_TURNS) {
            let Some(mut long) = self.long.pop_front() else { return };
            let Some(job) = self.jobs.get_mut(long.job) else { continue };
            if job.status != Status::Ok {
                out.extend(self.close(long.job));
                continue;
            }
            if job.bios > 0 {
                self.long.push_back(long);
                continue;
            }
            // Pieces end at multiples of the step, which huge pages and discard granularity like.
            let piece = (long.step - long.offset % long.step).min(long.left);
            self.plain(long.job, long.backend, long.op, long.offset, piece, long.flags);
            long.offset += piece;
            long.left -= piece;
            if long.left == 0 {
                out.extend(self.close(long.job));
            } else {
                self.long.push_back(long);
            }
        }
    }

    /// Fetches a staged part. `None`: there is no slot for it now.
    pub(crate) fn fetch(&mut self, connection: Key, backend: usize, number: u64, offset: u64, len: u32) -> Option<Key> {
        // Parts begin at frames, which is how devices like their memory.
        let room = len.next_multiple_of(4096).min(SLOT);
        if self.pool.free() <= INPUT_RESERVE {
            // Only what is being filled already may be used.
            self.outlet.has_room(&self.pool, room).then_some(())?;
        }
        let (slot, at) = self.outlet.room(&mut self.pool, room)?;
        let range = self.pool.range(slot, at, len)?;
        self.outlet.advance(at + room);
        self.pool.hold(slot);
        let purpose = Purpose::Fetch { connection, number, offset, range };
        let key = self.bios.insert(InWork { backend, slot: Some(slot), bytes: len.into(), durable: false, purpose });
        self.submit(backend, Op::Read, offset, len.into(), range.into(), Flags::empty(), key);
        Some(key)
    }

    /// A fetched part changed its number.
    pub(crate) fn renumber(&mut self, bio: Key, new: u64) {
        if let Some(InWork { purpose: Purpose::Fetch { number, .. }, .. }) = self.bios.get_mut(bio) {
            *number = new;
        }
    }

    /// A connection is gone: what it asked for and was not begun is not done.
    pub(crate) fn forget(&mut self, connection: Key) {
        let jobs = &self.jobs;
        let gone = |long: &Long| jobs.get(long.job).is_none_or(|job| job.connection == connection);
        let gone: Vec<Key> = self.long.iter().filter(|long| gone(long)).map(|long| long.job).collect();
        if !gone.is_empty() {
            self.long.retain(|long| !gone.contains(&long.job));
            for job in gone {
                self.close(job);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "these are the fields of a bio")]
    fn submit_for(
        &mut self,
        job: Key,
        backend: usize,
        op: Op,
        offset: u64,
        len: u64,
        data: ScatterList,
        flags: Flags,
        slot: Option<SlotId>,
    ) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.bios += 1;
        }
        let durable = op == Op::Flush || flags.contains(Flags::FUA);
        let key = self.bios.insert(InWork { backend, slot, bytes: len, durable, purpose: Purpose::Job(job) });
        self.submit(backend, op, offset, len, data, flags, key);
    }

    #[expect(clippy::too_many_arguments, reason = "these are the fields of a bio")]
    fn submit(&mut self, backend: usize, op: Op, offset: u64, len: u64, data: ScatterList, flags: Flags, key: Key) {
        let backend = &mut self.backends[backend];
        let Some(sector) = Sector::from_bytes(offset) else {
            // Requests were judged by the announced block size, which is no smaller than a sector.
            return self.completions.push(failed(key, Status::OutOfRange));
        };
        let bio = Bio { op, flags, sector, len, data, tag: key.tag() };
        let Some(queue) = &mut backend.queue else {
            return self.completions.push(failed(key, Status::IoErr));
        };
        if !backend.waiting.is_empty() {
            return backend.waiting.push_back(bio);
        }
        match queue.submit(bio) {
            Ok(()) => backend.submitted = true,
            Err(refused) if refused.why == RefusedWhy::Full => backend.waiting.push_back(refused.bio),
            Err(refused) => self.completions.push(failed(key, refused.why.status())),
        }
    }

    /// Is there something that a poll would begin or end?
    pub(crate) fn pressing(&self) -> bool {
        let turn = |long: &Long| self.jobs.get(long.job).is_none_or(|job| job.bios == 0);
        !self.completions.is_empty() || self.backends.iter().any(|b| b.submitted) || self.long.iter().any(turn)
    }

    /// Polls every device that has something; [`next`](Engine::next) says what came of it.
    pub(crate) fn poll(&mut self) {
        for index in 0..self.backends.len() {
            let backend = &mut self.backends[index];
            let Some(queue) = &mut backend.queue else { continue };
            if !backend.submitted && queue.in_flight() == 0 && backend.waiting.is_empty() {
                continue;
            }
            let polled = loop {
                backend.submitted = false;
                let polled = queue.poll(&mut self.completions);
                if polled.is_err() {
                    break polled;
                }
                while let Some(bio) = backend.waiting.pop_front() {
                    let tag = bio.tag;
                    match queue.submit(bio) {
                        Ok(()) => backend.submitted = true,
                        Err(refused) if refused.why == RefusedWhy::Full => {
                            backend.waiting.push_front(refused.bio);
                            break;
                        }
                        Err(refused) => self.completions.push(failed(Key::from_tag(tag), refused.why.status())),
                    }
                }
                if !backend.submitted {
                    break polled;
                }
            };
            if polled.is_err() {
                self.broken(index);
            }
        }
        self.ended.extend(self.completions.drain(..));
    }

    /// What came of the next bio that ended. One at a time: settling one may [`renumber`](Engine::renumber) another
    /// that ended in the same poll.
    pub(crate) fn next(&mut self) -> Option<Outcome> {
        while let Some(completion) = self.ended.pop_front() {
            if let Some(outcome) = self.complete(completion) {
                return Some(outcome);
            }
        }
        None
    }

    fn complete(&mut self, completion: Completion) -> Option<Outcome> {
        let bio = self.bios.remove(Key::from_tag(completion.tag))?;
        let status = completion.status;
        if bio.durable && matches!(status, Status::IoErr | Status::Media | Status::NoSpace) {
            self.backends[bio.backend].failures += 1;
        }
        if status == Status::Gone {
            self.notices.gone(bio.backend);
        }
        self.counters.routes[bio.backend].count(completion.route, completion.done.min(bio.bytes));
        match bio.purpose {
            Purpose::Job(key) => {
                if let Some(slot) = bio.slot {
                    self.pool.release(slot);
                }
                let job = self.jobs.get_mut(key)?;
                job.bios -= 1;
                if job.status == Status::Ok {
                    job.status = status;
                }
                self.finish(key)
            }
            Purpose::Fetch { connection, number, offset, range } => {
                let slot = bio.slot?;
                if status == Status::Ok {
                    return Some(Outcome::Fetched { connection, number, slot, range });
                }
                self.pool.release(slot);
                let offset = offset + completion.done.min(bio.bytes.saturating_sub(1));
                Some(Outcome::Missing { connection, number, offset, status })
            }
        }
    }

    /// A device's queue failed: nothing in it will complete. Dropping it waits until no I/O touches our slots.
    fn broken(&mut self, index: usize) {
        let backend = &mut self.backends[index];
        backend.queue = None;
        backend.submitted = false;
        backend.waiting.clear();
        let keys: Vec<Key> = self.bios.keys().collect();
        for key in keys {
            let lost = self.bios.get_mut(key).is_some_and(|bio| bio.backend == index);
            if lost && !self.completions.iter().any(|c| c.tag == key.tag()) {
                self.completions.push(failed(key, Status::IoErr));
            }
        }
    }

    /// Is there room to receive into?
    pub(crate) fn has_room(&self) -> bool {
        self.pool.free() > 0 || self.inlet.has_room(&self.pool, SLOT / 2)
    }

    /// Lets go of slots that are kept for the next use only, and gives unused ones back to the system.
    pub(crate) fn shrink(&mut self) {
        self.inlet.close(&mut self.pool);
        self.outlet.close(&mut self.pool);
        self.pool.shrink();
    }
}

fn failed(key: Key, status: Status) -> Completion {
    Completion { tag: key.tag(), status, done: 0, route: Route::None }
}
