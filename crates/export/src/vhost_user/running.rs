// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Running`]: a ring that is served, and its requests in work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pageless_block::{Completion, Limits, Status};
use pageless_mem::{Access, Kmap, Online, PhysRange};
use pageless_sys::Errno;
use pageless_sys::eventfd::EventFd;

use super::chain::{Chain, Piece};
use super::counters::Counters;
use super::dirty::DirtyLog;
use super::guest_map::{GuestAddr, GuestMap};
use super::inflight::{InflightQueue, NoRecord};
use super::request::{Begun, Code, Features, ID_BYTES, Kind};
use super::ring::{self, Broken, MAX_SIZE, Parts, Ring};
use super::words::{Window, Words};

/// What a ring is started with.
#[derive(Debug)]
pub(crate) struct RingSetup {
    /// Entries.
    pub(crate) size: u16,
    /// The descriptor table.
    pub(crate) desc: GuestAddr,
    /// The available ring.
    pub(crate) avail: GuestAddr,
    /// The used ring.
    pub(crate) used: GuestAddr,
    /// The next available entry, unless the in-flight record knows better.
    pub(crate) base: u16,
    /// Readable when the driver has something. Without it the worker never sleeps long.
    pub(crate) kick: Option<EventFd>,
    /// Signalled when the device has something.
    pub(crate) call: Option<EventFd>,
    /// Signalled when the ring is broken.
    pub(crate) err: Option<EventFd>,
    /// The guest's memory.
    pub(crate) map: Arc<GuestMap>,
    /// Negotiated.
    pub(crate) features: Features,
    /// Where requests in flight are recorded.
    pub(crate) inflight: Option<InflightQueue>,
    /// Where written pages are marked.
    pub(crate) log: Option<Arc<DirtyLog>>,
    /// By what address the used ring is marked there.
    pub(crate) log_used: Option<GuestAddr>,
    /// Whether requests are taken.
    pub(crate) enabled: bool,
    /// Whether writes may stay in a cache until they are flushed.
    pub(crate) wce: Arc<AtomicBool>,
}

/// Why a ring cannot be started.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    /// A split ring of this length does not exist.
    #[error("a ring of {0} entries: it takes a power of two up to 32768")]
    Size(u16),
    /// A part of it is nowhere, or where it may not be.
    #[error("the {part} at guest address {at:#x}: {why}")]
    Place {
        /// Which.
        part: &'static str,
        /// Where.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The in-flight record is not of this ring.
    #[error(transparent)]
    Record(#[from] NoRecord),
    /// What it is to be kicked by cannot be waited for.
    #[error("the kick descriptor: {0}")]
    Kick(Errno),
    /// Its memory went away.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The worker is gone.
    #[error("the worker thread ended")]
    Worker,
}

/// Where the parts of a ring are.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Places {
    pub(crate) table: PhysRange,
    pub(crate) avail: PhysRange,
    pub(crate) used: PhysRange,
}

/// The same as the guest says it.
#[derive(Copy, Clone, Debug)]
struct Addresses {
    table: GuestAddr,
    avail: GuestAddr,
    used: GuestAddr,
}

impl Addresses {
    fn find(self, map: &GuestMap, size: u16) -> Result<Places, RingError> {
        let find = |part, at: GuestAddr, len, align| {
            let wrong = |why| RingError::Place { part, at: at.0, why };
            if !at.0.is_multiple_of(align) {
                return Err(wrong("misaligned"));
            }
            map.range(at, len).ok_or(wrong("not in one piece of the guest's memory"))
        };
        Ok(Places {
            table: find("descriptor table", self.table, ring::table_bytes(size), 16)?,
            avail: find("available ring", self.avail, ring::avail_bytes(size), 2)?,
            used: find("used ring", self.used, ring::used_bytes(size), 4)?,
        })
    }
}

impl Places {
    #[inline]
    fn open<'o>(&self, online: &'o Online<'_>) -> Result<Parts<Kmap<'o>, Window<'o>>, Broken> {
        Ok(Parts {
            avail: online.kmap(self.avail, Access::Read)?,
            used: Window::new(online.kmap(self.used, Access::Write)?),
        })
    }
}

/// A head in work.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// It was taken and not given back.
    pub(crate) live: bool,
    /// Bios that the device has.
    pub(crate) bios: u32,
    pub(crate) kind: Kind,
    status: Status,
    status_at: Option<GuestAddr>,
    room: u64,
    written: u64,
    /// What may have been written, where anybody wants to know.
    pieces: Vec<Piece>,
}

impl Work {
    const NONE: Work = Work {
        live: false,
        bios: 0,
        status: Status::Ok,
        kind: Kind::Unknown,
        status_at: None,
        room: 0,
        written: 0,
        pieces: Vec::new(),
    };

    #[inline]
    pub(crate) fn begin(&mut self, begun: Begun, chain: &Chain, logged: bool) {
        let Begun { kind, bios, status, status_at, room, written } = begun;
        self.live = true;
        (self.kind, self.bios, self.status) = (kind, bios, status);
        (self.status_at, self.room, self.written) = (status_at, room, written);
        if logged {
            self.pieces.clear();
            // Without a bio nothing is written, but a name.
            if bios > 0 || kind == Kind::Id {
                self.pieces.extend_from_slice(&chain.writable);
            }
        }
    }

    /// One of its bios is back. Whether it was the last.
    #[inline]
    pub(crate) fn ends(&mut self, completion: &Completion) -> bool {
        if self.status.is_ok() {
            self.status = completion.status;
        }
        if self.kind == Kind::Read {
            self.written = completion.done.min(self.room);
        }
        self.bios = self.bios.saturating_sub(1);
        self.bios == 0
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) ring: Ring,
    pub(crate) places: Places,
    addresses: Addresses,
    pub(crate) map: Arc<GuestMap>,
    pub(crate) features: Features,
    pub(crate) inflight: Option<InflightQueue>,
    pub(crate) log: Option<Arc<DirtyLog>>,
    log_used: Option<GuestAddr>,
    pub(crate) call: Option<EventFd>,
    pub(crate) err: Option<EventFd>,
    pub(crate) enabled: bool,
    wce: Arc<AtomicBool>,
    /// The ring is in no memory that there is now. Nothing is taken until it is.
    lost: bool,
    /// Nothing is taken any more.
    pub(crate) broken: Option<RingError>,
    /// The owner was told why.
    told: bool,
    /// By head.
    pub(crate) work: Box<[Work]>,
    pub(crate) in_work: usize,
    /// Heads that an earlier server left, last first.
    pub(crate) again: Vec<u16>,
}

impl Running {
    pub(crate) fn new(setup: RingSetup, online: &Online<'_>) -> Result<Running, RingError> {
        let RingSetup { size, features, map, base, mut inflight, .. } = setup;
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(RingError::Size(size));
        }
        let addresses = Addresses { table: setup.desc, avail: setup.avail, used: setup.used };
        let places = addresses.find(&map, size)?;
        let used = ring::used_index(&places.open(online)?.used)?;
        let (next, mut again) = match &mut inflight {
            None => (base, Vec::new()),
            Some(inflight) => {
                let (book, records) = inflight.open(online).map_err(NoRecord::from)?;
                book.recover(&records, used, base)?
            }
        };
        again.reverse();
        let running = Running {
            ring: Ring::new(size, features.contains(Features::EVENT_IDX), next, used),
            places,
            addresses,
            map,
            features,
            inflight,
            log: setup.log,
            log_used: setup.log_used,
            call: setup.call,
            err: setup.err,
            enabled: setup.enabled,
            wce: setup.wce,
            lost: false,
            broken: None,
            told: false,
            work: vec![Work::NONE; usize::from(size)].into(),
            in_work: 0,
            again,
        };
        // An earlier server may have published, and then not marked or called.
        running.mark_used(online, 0, ring::used_bytes(size).into());
        if let Some(call) = &running.call {
            call.signal();
        }
        Ok(running)
    }

    #[inline]
    fn parts<'o>(&self, online: &'o Online<'_>) -> Result<Parts<Kmap<'o>, Window<'o>>, Broken> {
        let parts = self.places.open(online)?;
        #[cfg(test)]
        let parts = match &self.inflight {
            Some(inflight) => Parts { used: Window { fuse: inflight.fuse.clone(), ..parts.used }, ..parts },
            None => parts,
        };
        Ok(parts)
    }

    /// Whether requests are taken now.
    #[inline]
    pub(crate) fn takes(&self) -> bool {
        self.enabled && self.broken.is_none() && !self.lost
    }

    /// Whether what is written must be durable when the guest is told: it switched the cache off, or cannot flush it.
    pub(crate) fn durable(&self, limits: &Limits) -> bool {
        let flushes = self.features.intersects(Features::FLUSH | Features::CONFIG_WCE);
        let through = !flushes || !self.wce.load(Ordering::Relaxed);
        through && (limits.fua || limits.flush)
    }

    /// The guest's memory is this from now on. Nothing is in flight.
    pub(crate) fn set_map(&mut self, map: Arc<GuestMap>) {
        // A front-end may take memory away and give it again, at another place of its own: the ring waits for it.
        let places = self.addresses.find(&map, self.ring.size());
        self.map = map;
        self.lost = places.is_err();
        self.places = places.unwrap_or(self.places);
    }

    /// Written pages are marked there from now on. Nothing is in flight.
    pub(crate) fn set_log(&mut self, log: Option<Arc<DirtyLog>>, used: Option<GuestAddr>) {
        (self.log, self.log_used) = (log, used);
    }

    /// Nothing more is taken.
    #[cold]
    pub(crate) fn breaks(&mut self, why: RingError, counters: &Counters) {
        if self.broken.replace(why).is_none() {
            counters.broken.add(1);
            if let Some(err) = &self.err {
                err.signal();
            }
        }
    }

    /// Why it is broken, for whoever asks first.
    pub(crate) fn broke(&mut self) -> Option<RingError> {
        let why = self.broken.filter(|_| !self.told);
        self.told |= why.is_some();
        why
    }

    /// Wakes the driver.
    pub(crate) fn call(&self, counters: &Counters) {
        if let Some(call) = &self.call {
            counters.calls.add(1);
            call.signal();
        }
    }

    /// See [`Ring::sleep`].
    pub(crate) fn sleep(&mut self, online: &Online<'_>) -> Result<bool, Broken> {
        let waiting = self.ring.sleep(&self.parts(online)?)?;
        self.mark_used(online, self.ring.request_word(), 2);
        Ok(waiting || !self.again.is_empty())
    }

    /// See [`Ring::wake`].
    pub(crate) fn wake(&mut self, online: &Online<'_>) -> Result<(), Broken> {
        self.ring.wake(&self.parts(online)?.used)?;
        self.mark_used(online, self.ring.request_word(), 2);
        Ok(())
    }

    /// Gives these heads back. Whether the driver is to be called.
    #[inline]
    pub(crate) fn retire(&mut self, online: &Online<'_>, heads: &[u16], counters: &Counters) -> Result<bool, Broken> {
        self.in_work = self.in_work.saturating_sub(heads.len());
        for head in heads {
            self.work[usize::from(*head)].live = false;
        }
        let parts = self.parts(online)?;
        let first = self.ring.used_slot();
        // A copy, kept in registers: stored and loaded again, its index would wait for the entries before it, whose lines the driver's
        // processor has.
        let mut ring = self.ring.clone();
        for head in heads {
            let written = self.answer(online, *head, counters);
            if let Some(inflight) = &mut self.inflight {
                let (book, records) = inflight.open(online)?;
                book.link(&records, *head)?;
            }
            ring.put(&parts.used, *head, written)?;
        }
        self.ring = ring;
        if self.log.is_some() {
            self.mark_entries(online, first, heads.len());
        }
        self.ring.publish(&parts.used)?;
        self.mark_used(online, 0, 4);
        if let Some(inflight) = &mut self.inflight {
            let (book, records) = inflight.open(online)?;
            book.settle(&records, heads.iter().copied(), self.ring.next_used())?;
        }
        counters.batches.add(1);
        self.ring.wants_call(&parts.avail)
    }

    /// Stores the status of a head, and says how many bytes were written from the first that may be.
    #[inline]
    fn answer(&self, online: &Online<'_>, head: u16, counters: &Counters) -> u32 {
        let work = &self.work[usize::from(head)];
        let code = Code::from(work.status);
        counters.errors.add(u64::from(code != Code::Ok));
        if let Some(log) = &self.log {
            // What failed may have written more than it says.
            let most = if work.kind == Kind::Id { ID_BYTES as u64 } else { work.room };
            let mut left = if code == Code::Ok { work.written } else { most };
            for piece in &work.pieces {
                let len = left.min(piece.len.into());
                log.mark(online, piece.at, len);
                left -= len;
            }
        }
        let told = work.status_at.is_some_and(|at| {
            let range = self.map.range(at, 1);
            let stored = range.is_some_and(|range| {
                online.kmap(range, Access::Write).is_ok_and(|window| window.store8(0, code as u8).is_ok())
            });
            if let (true, Some(log)) = (stored, &self.log) {
                log.mark(online, at, 1);
            }
            stored
        });
        let written = work.written + u64::from(told && work.written == work.room);
        u32::try_from(written).unwrap_or(u32::MAX)
    }

    /// These used entries were stored.
    fn mark_entries(&self, online: &Online<'_>, first: u16, count: usize) {
        let to_end = usize::from(self.ring.size() - first).min(count);
        self.mark_used(online, ring::used_entry(first), 8 * to_end as u64);
        self.mark_used(online, ring::used_entry(0), 8 * (count - to_end) as u64);
    }

    /// Bytes of the used ring were stored.
    fn mark_used(&self, online: &Online<'_>, offset: u64, len: u64) {
        if let (Some(log), Some(at)) = (&self.log, self.log_used.and_then(|used| used.plus(offset))) {
            log.mark(online, at, len);
        }
    }
}
