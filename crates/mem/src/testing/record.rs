// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`record`]: what was stored to a region, written back, fenced and synced, in the order in which it happened.
//!
//! # Order contract
//! A store is made while the lock of the log is held, so the log is an order in which the stores became visible: x86-64
//! gives all processors one. A write-back is noted before it is executed and a fence after, so what the log says is
//! covered is covered.
//!
//! Stores are seen where Rust calls the routines that make them. That a streamed run has its whole lines stored past the
//! caches and its edges by plain stores is what the routine is written to do; it is repeated here.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::cell::Cell;
use crate::region::Inner;
use crate::{Access, Region};

/// One thing that was done to a recorded region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Who did it: 0 is the first thread that was seen since events were last taken.
    pub thread: u32,
    /// What was done.
    pub what: What,
}

/// What was done. Offsets are bytes of the region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Bytes were stored.
    Store {
        /// Where.
        offset: u64,
        /// What.
        bytes: Box<[u8]>,
        /// Past the caches.
        streamed: bool,
    },
    /// The lines of these bytes were written back.
    WriteBack {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The thread's fence, if it did anything since the last one.
    Fence,
    /// `msync` or `fdatasync` of these bytes began.
    SyncStart {
        /// Where.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The thread's sync ended well.
    SyncEnd,
    /// These whole frames were given back.
    Punch {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// What the test said here.
    Mark(u64),
}

/// Every region that is recorded now.
struct Recorders {
    count: AtomicUsize,
    /// Not 0: threads give way to others at random, which this is the state of.
    jitter: AtomicU64,
    list: Mutex<Vec<Recorder>>,
}

static RECORDERS: Recorders =
    Recorders { count: AtomicUsize::new(0), jitter: AtomicU64::new(0), list: Mutex::new(Vec::new()) };

#[derive(Debug)]
struct Recorder {
    region: Arc<Inner>,
    start: usize,
    end: usize,
    /// Every thread seen, and whether it did something that a fence is about.
    threads: Vec<(ThreadId, bool)>,
    events: Vec<Event>,
    /// A word that takes so many stores more, and then none.
    refused: Option<(usize, u32)>,
}

impl Recorder {
    fn thread(&mut self) -> usize {
        let id = std::thread::current().id();
        self.threads.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            self.threads.push((id, false));
            self.threads.len() - 1
        })
    }

    fn note(&mut self, what: What) {
        let thread = self.thread();
        if let What::Store { .. } | What::WriteBack { .. } = what {
            self.threads[thread].1 = true;
        }
        self.events.push(Event { thread: u32::try_from(thread).unwrap_or(u32::MAX), what });
    }

    /// Threads that never touched the region fence too.
    fn fence(&mut self) {
        let id = std::thread::current().id();
        let touched = self.threads.iter_mut().find(|(known, _)| *known == id);
        if touched.is_some_and(|(_, touched)| std::mem::take(touched)) {
            self.note(What::Fence);
        }
    }

    fn store(&mut self, addr: usize, len: usize, streamed: bool) {
        if len > 0 {
            let bytes = self.bytes(addr, len);
            self.note(What::Store { offset: (addr - self.start) as u64, bytes, streamed });
        }
    }

    /// What lies there, by word: copies come back to this module.
    fn bytes(&self, addr: usize, len: usize) -> Box<[u8]> {
        let first = addr & !7;
        let words = (first..addr + len).step_by(8).map(|at| {
            let cell = Cell::<u64>::new(at, Access::Read, &self.region, (at - self.start) as u64);
            cell.load().unwrap_or(0).to_le_bytes()
        });
        words.flatten().skip(addr - first).take(len).collect()
    }
}

/// A recording of one region, until it is dropped.
#[derive(Debug)]
pub struct Recording {
    region: Arc<Inner>,
}

/// Records what is done to `region` from now on. A region has one recording at a time.
pub fn record(region: &Region) -> Recording {
    let (region, len) = (Arc::clone(region.inner()), usize::try_from(region.len()).unwrap_or(0));
    let start = region.addr();
    let recorder = Recorder {
        region: Arc::clone(&region),
        start,
        end: start + len,
        threads: Vec::new(),
        events: Vec::new(),
        refused: None,
    };
    lock().push(recorder);
    RECORDERS.count.fetch_add(1, Ordering::Release);
    Recording { region }
}

impl Recording {
    /// What happened since the last call.
    pub fn take(&self) -> Vec<Event> {
        self.with(|recorder| {
            recorder.threads.clear();
            std::mem::take(&mut recorder.events)
        })
    }

    /// The word at this byte takes so many stores of cells more, and then fails as a broken page would.
    pub fn refuse(&self, offset: u64, after: u32) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.with(|recorder| recorder.refused = Some((recorder.start.saturating_add(offset), after)));
    }

    /// Notes that the test is here.
    pub fn mark(&self, mark: u64) {
        self.with(|recorder| recorder.note(What::Mark(mark)));
    }

    /// Has all threads that store to recorded regions give way to each other at random; 0 ends it.
    pub fn interleave(&self, seed: u64) {
        RECORDERS.jitter.store(seed, Ordering::Relaxed);
    }

    fn with<T: Default>(&self, then: impl FnOnce(&mut Recorder) -> T) -> T {
        lock().iter_mut().find(|other| Arc::ptr_eq(&other.region, &self.region)).map(then).unwrap_or_default()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut list = lock();
        if let Some(at) = list.iter().position(|other| Arc::ptr_eq(&other.region, &self.region)) {
            let recorder = list.swap_remove(at);
            RECORDERS.count.fetch_sub(1, Ordering::Release);
            drop(list);
            drop(recorder);
        }
    }
}

fn lock() -> MutexGuard<'static, Vec<Recorder>> {
    RECORDERS.list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline]
fn recording() -> bool {
    RECORDERS.count.load(Ordering::Relaxed) > 0
}

/// The list, and which of its regions has this address.
fn recorder_of(addr: usize) -> Option<(MutexGuard<'static, Vec<Recorder>>, usize)> {
    let list = lock();
    let at = list.iter().position(|recorder| (recorder.start..recorder.end).contains(&addr))?;
    Some((list, at))
}

/// A store that is being made: noted when this is dropped, and nobody else stores until then.
pub(crate) struct Storing {
    list: MutexGuard<'static, Vec<Recorder>>,
    at: usize,
    addr: usize,
    len: usize,
    streamed: bool,
}

/// To be called before bytes are stored, and dropped after.
#[inline]
pub(crate) fn storing(addr: usize, len: usize, streamed: bool) -> Option<Storing> {
    if recording() { begin(addr, len, streamed) } else { None }
}

#[cold]
fn begin(addr: usize, len: usize, streamed: bool) -> Option<Storing> {
    give_way();
    let (list, at) = recorder_of(addr)?;
    Some(Storing { list, at, addr, len, streamed })
}

impl Drop for Storing {
    fn drop(&mut self) {
        let Storing { addr, len, .. } = *self;
        let recorder = &mut self.list[self.at];
        if !self.streamed {
            return recorder.store(addr, len, false);
        }
        let head = (addr.wrapping_neg() & 63).min(len);
        let lines = (len - head) & !63;
        recorder.store(addr, head, false);
        recorder.store(addr + head, lines, true);
        recorder.store(addr + head + lines, len - head - lines, false);
    }
}

/// Whether a word is not to be stored to.
#[inline]
pub(crate) fn refused(addr: usize) -> bool {
    recording() && is_refused(addr)
}

#[cold]
fn is_refused(addr: usize) -> bool {
    let Some((mut list, at)) = recorder_of(addr) else { return false };
    match &mut list[at].refused {
        Some((word, after)) if *word == addr => {
            let refused = *after == 0;
            *after = after.saturating_sub(1);
            refused
        }
        _ => false,
    }
}

/// To be called before lines are written back.
#[inline]
pub(crate) fn writing_back(addr: usize, len: usize) {
    if recording() {
        note(addr, |offset| What::WriteBack { offset, len: len as u64 });
    }
}

/// To be called after a fence.
#[inline]
pub(crate) fn fenced() {
    if recording() {
        lock().iter_mut().for_each(Recorder::fence);
    }
}

/// To be called before the bytes at these addresses are synced.
pub(crate) fn sync_begins(addr: usize, len: usize) {
    if recording() {
        note(addr, |offset| What::SyncStart { offset, len: len as u64 });
    }
}

/// To be called when a sync was done, well or not.
pub(crate) fn sync_ends(addr: usize, well: bool) {
    if recording() && well {
        note(addr, |_| What::SyncEnd);
    }
}

/// To be called when frames of the region that starts at this address were given back, or were not.
pub(crate) fn punched(start: usize, offset: u64, len: u64, well: bool) {
    if recording() && well {
        note(start, |_| What::Punch { offset, len });
    }
}

#[cold]
fn note(addr: usize, what: impl FnOnce(u64) -> What) {
    if let Some((mut list, at)) = recorder_of(addr) {
        let offset = (addr - list[at].start) as u64;
        list[at].note(what(offset));
    }
}

/// One time in four, lets another thread go first.
fn give_way() {
    let seed = RECORDERS.jitter.load(Ordering::Relaxed);
    if seed != 0 {
        let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        RECORDERS.jitter.store(next.max(1), Ordering::Relaxed);
        if next >> 62 == 0 {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests;
