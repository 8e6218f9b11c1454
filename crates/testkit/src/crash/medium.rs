// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Medium`]: what of the stores so far a power cut must keep, and what it may keep.

use super::random::mix;
use pageless_mem::Durability;
use pageless_mem::testing::record::{Event, What};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes that power does not leave in the middle of a store.
pub(super) const UNIT: usize = 8;

/// How a store may reach the medium.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Through the cache: after all earlier ones to the granule.
    Plain,
    /// Past the cache: whenever it likes.
    Streamed,
    /// Frames given back by the file system: whenever it likes, until a sync.
    Punched,
}

/// A store to a granule that is not durable yet.
#[derive(Clone, Debug)]
pub(super) struct Write {
    /// Which event it was.
    pub(super) event: usize,
    pub(super) thread: u32,
    pub(super) kind: Kind,
    /// Where in the granule.
    at: usize,
    bytes: Box<[u8]>,
    /// Of the 64 parts of the granule those that no durable store has overwritten.
    pub(super) live: u64,
}

impl Write {
    /// Stores those of the 64 parts of a granule that `mask` names.
    pub(super) fn apply(&self, mask: u64, granule: &mut [u8]) {
        let mask = mask & self.live;
        let part = granule.len() / 64;
        if mask == u64::MAX {
            granule[self.at..self.at + self.bytes.len()].copy_from_slice(&self.bytes);
            return;
        }
        for (index, byte) in self.bytes.iter().enumerate() {
            if mask >> ((self.at + index) / part) & 1 == 1 {
                granule[self.at + index] = *byte;
            }
        }
    }

    /// The parts that power may separate, as masks, in the order of their addresses.
    pub(super) fn units(&self, granule: usize) -> Vec<u64> {
        let part = granule / 64;
        let unit = UNIT.max(part);
        let (first, last) = (self.at / unit, (self.at + self.bytes.len() - 1) / unit);
        let parts = unit / part;
        let ones = u64::MAX >> (64 - parts);
        (first..=last).map(|unit| (ones << (unit * parts)) & self.live).filter(|mask| *mask != 0).collect()
    }
}

/// What is not durable of a granule, in the order in which it was stored.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) writes: Vec<Write>,
    /// What the granule may hold: made when it is asked for.
    pub(super) options: Option<Rc<super::options::Options>>,
}

/// What a thread has begun and its next fence, or the end of its sync, completes: granules, and the events before which
/// stores to them are covered.
#[derive(Debug, Default)]
struct Begun {
    written_back: Vec<(u64, usize)>,
    synced: Vec<(u64, usize)>,
}

/// A medium between what is durable and what may be.
#[derive(Debug)]
pub(super) struct Medium {
    mode: Durability,
    /// Bytes that keep one order: a cache line, or a page of the page cache.
    granule: usize,
    /// What a power cut keeps at least.
    durable: Vec<u8>,
    /// Of the durable bytes; changes with every granule, and back when that does.
    hash: u128,
    pending: BTreeMap<u64, Pending>,
    threads: Vec<Begun>,
    events: usize,
    /// What became durable, with what was there before: oldest first.
    history: Vec<(u64, Box<[u8]>)>,
}

impl Medium {
    pub(super) fn new(mode: Durability, durable: Vec<u8>) -> Medium {
        let granule = if mode == Durability::Msync { 4096 } else { 64 };
        Medium {
            mode,
            granule,
            durable,
            hash: 0,
            pending: BTreeMap::new(),
            threads: Vec::new(),
            events: 0,
            history: Vec::new(),
        }
    }

    pub(super) fn granule(&self) -> usize {
        self.granule
    }

    pub(super) fn durable(&self, offset: u64, len: usize) -> &[u8] {
        let start = to_usize(offset);
        &self.durable[start..(start + len).min(self.durable.len())]
    }

    pub(super) fn len(&self) -> u64 {
        self.durable.len() as u64
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// The hash if a granule held this instead.
    pub(super) fn hash_with(&self, hash: u128, offset: u64, content: &[u8]) -> u128 {
        hash ^ mix(offset, self.durable(offset, self.granule)) ^ mix(offset, content)
    }

    /// Granules, by their offset, that may hold something else than what is durable.
    pub(super) fn open(&mut self) -> impl Iterator<Item = (u64, &[u8], &mut Pending)> {
        let (granule, durable) = (self.granule, &self.durable);
        self.pending.iter_mut().map(move |(index, pending)| {
            let offset = index * granule as u64;
            (offset, &durable[to_usize(offset)..to_usize(offset) + granule], pending)
        })
    }

    /// Goes on by one event.
    pub(super) fn step(&mut self, event: &Event) {
        let thread = event.thread as usize;
        if self.threads.len() <= thread {
            self.threads.resize_with(thread + 1, Begun::default);
        }
        self.settle();
        match &event.what {
            What::Store { offset, bytes, streamed } => {
                let streamed = *streamed && self.mode != Durability::Msync;
                self.store(event.thread, *offset, bytes, if streamed { Kind::Streamed } else { Kind::Plain });
            }
            What::Punch { offset, len } => {
                self.store(event.thread, *offset, &vec![0; to_usize(*len)], Kind::Punched);
            }
            What::WriteBack { offset, len } if self.mode == Durability::Clwb => {
                let covered = self.covered(*offset, *len);
                self.threads[thread].written_back.extend(covered);
            }
            What::Fence if self.mode != Durability::Msync => {
                for (index, until) in std::mem::take(&mut self.threads[thread].written_back) {
                    self.commit(index, |write| write.kind == Kind::Plain && write.event < until);
                }
                let fenced = |write: &Write| write.kind == Kind::Streamed && write.thread == event.thread;
                self.commit_where(fenced);
            }
            What::SyncStart { offset, len } => self.threads[thread].synced = self.covered(*offset, *len),
            What::SyncEnd => {
                for (index, until) in std::mem::take(&mut self.threads[thread].synced) {
                    self.commit(index, |write| write.event < until);
                }
            }
            What::WriteBack { .. } | What::Fence | What::Mark(_) => {}
        }
        self.events += 1;
    }

    /// Where the caches are in the domain of power, a store is durable when anything happens after it.
    fn settle(&mut self) {
        if self.mode == Durability::Fence {
            self.commit_where(|write| write.kind == Kind::Plain);
        }
    }

    fn store(&mut self, thread: u32, offset: u64, bytes: &[u8], kind: Kind) {
        let mut done = 0;
        while done < bytes.len() {
            let offset = to_usize(offset) + done;
            let at = offset % self.granule;
            let len = (self.granule - at).min(bytes.len() - done);
            let write =
                Write { event: self.events, thread, kind, at, bytes: bytes[done..done + len].into(), live: u64::MAX };
            let pending = self.pending.entry((offset / self.granule) as u64).or_default();
            pending.writes.push(write);
            pending.options = None;
            done += len;
        }
    }

    /// The granules of these bytes that wait, and that what comes from now on is not covered.
    fn covered(&self, offset: u64, len: u64) -> Vec<(u64, usize)> {
        let granule = self.granule as u64;
        let (first, end) = (offset / granule, (offset + len).div_ceil(granule));
        self.pending.range(first..end).map(|(index, _)| (*index, self.events)).collect()
    }

    /// The power stays on until everything is durable.
    pub(super) fn commit_all(&mut self) {
        self.commit_where(|_| true);
    }

    fn commit_where(&mut self, which: impl Fn(&Write) -> bool) {
        let hit = |pending: &Pending| pending.writes.iter().any(&which);
        let indexes: Vec<_> = self.pending.iter().filter(|(_, p)| hit(p)).map(|(index, _)| *index).collect();
        for index in indexes {
            self.commit(index, &which);
        }
    }

    /// Makes stores to a granule durable. What was stored before them to the same bytes is then past.
    fn commit(&mut self, index: u64, which: impl Fn(&Write) -> bool) {
        let Some(pending) = self.pending.get_mut(&index) else { return };
        if !pending.writes.iter().any(&which) {
            return;
        }
        let (offset, granule) = (index * self.granule as u64, self.granule);
        let mut content: Box<[u8]> = self.durable[to_usize(offset)..to_usize(offset) + granule].into();
        let mut left: Vec<Write> = Vec::new();
        for write in std::mem::take(&mut pending.writes) {
            if !which(&write) {
                left.push(write);
                continue;
            }
            write.apply(u64::MAX, &mut content);
            let (first, last) = (write.at * 64 / granule, (write.at + write.bytes.len() - 1) * 64 / granule);
            let over = (u64::MAX >> (63 - (last - first))) << first;
            left.iter_mut().for_each(|earlier| earlier.live &= !(over & write.live));
            left.retain(|earlier| earlier.live != 0);
        }
        pending.writes = left;
        pending.options = None;
        if pending.writes.is_empty() {
            self.pending.remove(&index);
        }
        self.put(offset, &content);
    }

    /// Makes a granule durable as it is here.
    pub(super) fn put(&mut self, offset: u64, content: &[u8]) {
        let old = self.durable(offset, content.len());
        if old != content {
            let old = Box::from(old);
            self.hash = self.hash_with(self.hash, offset, content);
            self.durable[to_usize(offset)..to_usize(offset) + content.len()].copy_from_slice(content);
            self.history.push((offset, old));
        }
    }

    /// How much became durable so far.
    pub(super) fn moment(&self) -> usize {
        self.history.len()
    }

    /// What became durable since a moment, by the offsets of granules.
    pub(super) fn since(&self, moment: usize) -> impl Iterator<Item = u64> {
        self.history[moment..].iter().map(|(offset, _)| *offset)
    }

    /// Begins anew with nothing pending: a power cut, or the start of another recording.
    pub(super) fn forget_pending(&mut self) -> Paused {
        Paused {
            pending: std::mem::take(&mut self.pending),
            threads: std::mem::take(&mut self.threads),
            events: std::mem::replace(&mut self.events, 0),
        }
    }

    /// Back to what it was when `paused` was made at `moment`. Says which granules that changed.
    pub(super) fn rewind(&mut self, moment: usize, paused: Paused) -> Vec<u64> {
        let mut changed = Vec::new();
        while self.history.len() > moment {
            let Some((offset, old)) = self.history.pop() else { break };
            self.hash = self.hash_with(self.hash, offset, &old);
            self.durable[to_usize(offset)..to_usize(offset) + old.len()].copy_from_slice(&old);
            changed.push(offset);
        }
        (self.pending, self.threads, self.events) = (paused.pending, paused.threads, paused.events);
        changed
    }
}

/// What was pending when a power cut was looked into.
#[derive(Debug, Default)]
pub(super) struct Paused {
    pending: BTreeMap<u64, Pending>,
    threads: Vec<Begun>,
    events: usize,
}

/// Offsets of a region that is mapped.
pub(super) fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
