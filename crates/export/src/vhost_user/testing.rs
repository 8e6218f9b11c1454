// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver for tests: a guest's memory with one ring in it, and a device that notes what it is asked.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pageless_block::{
    Bio, BlockDevice, Completion, Error, Limits, Op, Queue, Reach, Refused, RefusedWhy, Route, Status, Why,
};
use pageless_mem::{Backing, Memory, Region};
use pageless_sys::epoll::{Epoll, Interest};
use pageless_sys::eventfd::EventFd;
use pageless_testkit::frames::TestFrames;

use super::guest_map::{GuestAddr, GuestMap, Slot};
use super::request::Features;
use super::running::RingSetup;

/// Where the guest has its memory.
pub(crate) const BASE: u64 = 0x4000_0000;
/// Bytes of it.
pub(crate) const LEN: u64 = 2 << 20;
const TABLE: u64 = 0x1000;
const AVAIL: u64 = 0x9000;
const USED: u64 = 0xb000;
/// From here on it is the test's.
pub(crate) const FREE: u64 = 0x20000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A guest with one ring.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) region: Region,
    pub(crate) map: Arc<GuestMap>,
    pub(crate) size: u16,
    pub(crate) features: Features,
    pub(crate) wce: Arc<AtomicBool>,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    pub(crate) err: EventFd,
    frames: TestFrames,
    avail: u16,
    seen: u16,
}

impl Guest {
    pub(crate) fn new(memory: &Memory, size: u16, features: Features) -> Guest {
        let region = memory.register(Backing::memfd(LEN).unwrap()).unwrap();
        let slot = Slot { guest: GuestAddr(BASE), user: 0x7f00_0000_0000, region, offset: 0, len: LEN };
        Guest::on(memory, Arc::new(slot), size, features)
    }

    /// With this memory.
    pub(crate) fn on(memory: &Memory, slot: Arc<Slot>, size: u16, features: Features) -> Guest {
        let region = slot.region.clone();
        Guest {
            map: Arc::new(GuestMap::new(vec![slot]).unwrap()),
            size,
            features,
            wce: Arc::new(AtomicBool::new(true)),
            kick: EventFd::new().unwrap(),
            call: EventFd::new().unwrap(),
            err: EventFd::new().unwrap(),
            frames: TestFrames::of(memory, region.clone()),
            region,
            avail: 0,
            seen: 0,
        }
    }

    pub(crate) fn setup(&self) -> RingSetup {
        let dup = |event: &EventFd| Some(EventFd::adopt(event.as_fd().try_clone_to_owned().unwrap()).unwrap());
        RingSetup {
            size: self.size,
            desc: GuestAddr(BASE + TABLE),
            avail: GuestAddr(BASE + AVAIL),
            used: GuestAddr(BASE + USED),
            base: self.seen,
            kick: dup(&self.kick),
            call: dup(&self.call),
            err: dup(&self.err),
            map: Arc::clone(&self.map),
            features: self.features,
            inflight: None,
            log: None,
            log_used: None,
            enabled: true,
            wce: Arc::clone(&self.wce),
        }
    }

    /// Bytes of the guest, by offset.
    pub(crate) fn get(&mut self, at: u64, len: u32) -> Vec<u8> {
        if len == 0 {
            return Vec::new();
        }
        let range = self.frames.range(at, len);
        self.frames.get(&range.into()).unwrap()
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            let range = self.frames.range(at, bytes.len() as u32);
            self.frames.put(&range.into(), bytes).unwrap();
        }
    }

    pub(crate) fn get16(&mut self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }

    pub(crate) fn get32(&mut self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at, 4).try_into().unwrap())
    }

    /// A descriptor in the ring's own table. Addresses of all of these are the guest's.
    pub(crate) fn describe(&mut self, index: u16, at: u64, len: u32, flags: u16, next: u16) {
        self.describe_at(TABLE + 16 * u64::from(index), at, len, flags, next);
    }

    /// A descriptor anywhere.
    pub(crate) fn describe_at(&mut self, place: u64, at: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(place, &bytes);
    }

    /// A chain of these runs (offset, bytes, whether the device writes) from this descriptor on.
    pub(crate) fn chain(&mut self, first: u16, runs: &[(u64, u32, bool)]) {
        for (index, (at, len, write)) in runs.iter().enumerate() {
            let (index, last) = (first + index as u16, index + 1 == runs.len());
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.describe(index, BASE.wrapping_add(*at), *len, flags, index + 1);
        }
    }

    /// The header of a request.
    pub(crate) fn header(&mut self, at: u64, kind: u32, sector: u64) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.put(at, &bytes);
    }

    /// Makes a head available without showing it.
    pub(crate) fn stage(&mut self, head: u16) {
        self.put(AVAIL + 4 + 2 * u64::from(self.avail % self.size), &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
    }

    /// Shows what was staged.
    pub(crate) fn show(&mut self) {
        self.put(AVAIL + 2, &self.avail.to_le_bytes());
    }

    /// Says that so many more are available as are.
    pub(crate) fn jump(&mut self, by: u16) {
        self.avail = self.avail.wrapping_add(by);
        self.show();
    }

    pub(crate) fn offer(&mut self, head: u16) {
        self.stage(head);
        self.show();
    }

    /// When the driver wants to be called next (`EVENT_IDX`).
    pub(crate) fn call_at(&mut self, index: u16) {
        self.put(AVAIL + 4 + 2 * u64::from(self.size), &index.to_le_bytes());
    }

    /// How many were used, as far as the driver saw.
    pub(crate) fn seen(&self) -> u16 {
        self.seen
    }

    pub(crate) fn used_index(&mut self) -> u16 {
        self.get16(USED + 2)
    }

    /// Sets where both sides are, as after many requests.
    pub(crate) fn wind(&mut self, index: u16) {
        (self.avail, self.seen) = (index, index);
        self.put(AVAIL + 2, &index.to_le_bytes());
        self.put(USED + 2, &index.to_le_bytes());
    }

    /// What was used since the last time: heads and lengths.
    pub(crate) fn used(&mut self) -> Vec<(u32, u32)> {
        let mut used = Vec::new();
        while self.seen != self.used_index() {
            let at = USED + 4 + 8 * u64::from(self.seen % self.size);
            used.push((self.get32(at), self.get32(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }

    /// Waits until so many were used.
    pub(crate) fn wait(&mut self, count: usize) -> Vec<(u32, u32)> {
        let mut epoll = Epoll::new(1).unwrap();
        epoll.add(&self.call, 0, Interest::Read).unwrap();
        let mut used = Vec::new();
        for _ in 0..600 {
            used.extend(self.used());
            if used.len() >= count {
                return used;
            }
            epoll.wait(Some(Duration::from_millis(100)), &mut Vec::new()).unwrap();
            self.call.drain();
        }
        panic!("used {used:?} where {count} were wanted");
    }
}

/// A device that does nothing, and notes it.
#[derive(Debug)]
pub(crate) struct Notes {
    pub(crate) limits: Limits,
    pub(crate) seen: Arc<Mutex<Vec<Bio>>>,
    /// So many complete in one poll, at most.
    pub(crate) pace: Arc<AtomicUsize>,
    /// While set, polling fails.
    pub(crate) broken: Arc<AtomicBool>,
    /// What everything ends with.
    pub(crate) status: Option<Status>,
    /// Takes so many at once.
    pub(crate) depth: Option<usize>,
}

impl Default for Notes {
    fn default() -> Notes {
        Notes {
            limits: Limits::default(),
            seen: Arc::default(),
            pace: Arc::new(AtomicUsize::new(usize::MAX)),
            broken: Arc::default(),
            status: None,
            depth: None,
        }
    }
}

impl Notes {
    pub(crate) fn taking(&self) -> Vec<Bio> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl BlockDevice for Notes {
    fn name(&self) -> &str {
        "notes"
    }

    fn capacity(&self) -> u64 {
        1 << 20
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(NotesQueue {
            seen: Arc::clone(&self.seen),
            pace: Arc::clone(&self.pace),
            broken: Arc::clone(&self.broken),
            status: self.status.unwrap_or(Status::Ok),
            depth: self.depth.unwrap_or(usize::MAX),
            pending: Vec::new(),
            event: EventFd::new().unwrap(),
        }))
    }
}

#[derive(Debug)]
struct NotesQueue {
    seen: Arc<Mutex<Vec<Bio>>>,
    pace: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    status: Status,
    depth: usize,
    pending: Vec<Bio>,
    event: EventFd,
}

impl Queue for NotesQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.pending.len() >= self.depth {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        self.seen.lock().unwrap().push(bio.clone());
        self.pending.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::Limits { what: "device", value: 0 });
        }
        let count = self.pending.len().min(self.pace.load(Ordering::SeqCst));
        // The last first.
        out.extend(self.pending.drain(self.pending.len() - count..).rev().map(|bio| Completion {
            tag: bio.tag,
            status: self.status,
            done: if self.status.is_ok() { bio.len } else { 0 },
            route: match bio.op {
                Op::Read | Op::Write => Reach::of_memory(Why::MemoryDisk).best(),
                _ => Route::None,
            },
        }));
        Ok(count)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

/// Burns down by one with each store to a ring or a record, and then there are no more: as if the server had been killed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fuse(Option<Arc<AtomicU32>>);

impl Fuse {
    pub(crate) fn of(stores: u32) -> Fuse {
        Fuse(Some(Arc::new(AtomicU32::new(stores))))
    }

    /// A store is about to be made.
    pub(crate) fn store(&self) -> Result<(), pageless_mem::Fault> {
        let Some(left) = &self.0 else { return Ok(()) };
        let burnt = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        burnt.map(drop).map_err(|_| pageless_mem::Fault::Gone)
    }

    pub(crate) fn burnt(&self) -> bool {
        self.0.as_ref().is_some_and(|left| left.load(Ordering::Relaxed) == 0)
    }
}
