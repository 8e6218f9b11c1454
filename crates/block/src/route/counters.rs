// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`RouteCounters`]: how many transfers and bytes went which way, and the reasons seen.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pageless_sys::Errno;

use super::{Route, Why};
use crate::Completion;

/// Reasons remembered, at most.
const MOST_REASONS: usize = 16;

/// Transfers and bytes by route. One thread counts, so that no locked instruction is needed; any thread may read.
#[derive(Debug, Default)]
#[repr(align(128))] // a pair of cache lines: what one worker counts does not slow another one down
pub struct RouteCounters {
    went: [(AtomicU64, AtomicU64); 5],
    /// The routes that had a reason, [packed](pack), in the order they came up; 0 where there are no more.
    reasons: [AtomicU32; MOST_REASONS],
}

/// What went one way.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Went {
    /// How often: requests to a device, or sends from the medium itself.
    pub transfers: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What [`RouteCounters`] counted, at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTotals {
    /// [`Route::Direct`].
    pub direct: Went,
    /// [`Route::DmaBuf`].
    pub dma_buf: Went,
    /// [`Route::Bounce`].
    pub bounce: Went,
    /// [`Route::Copy`].
    pub copy: Went,
    /// [`Route::Refuse`].
    pub refuse: Went,
    /// Routes that had a reason, each once, in the order they came up; no more than sixteen.
    pub reasons: Vec<Route>,
}

impl RouteCounters {
    /// Counts a transfer that went this way. One that moved nothing ([`Route::None`]) is none.
    #[inline]
    pub fn count(&self, route: Route, bytes: u64) {
        self.count_several(route, 1, bytes);
    }

    /// Counts what came back of a device.
    #[inline]
    pub fn count_all(&self, completions: &[Completion]) {
        for same in completions.chunk_by(|one, next| one.route == next.route) {
            self.count_several(same[0].route, same.len() as u64, same.iter().map(|one| one.done).sum());
        }
    }

    #[inline]
    fn count_several(&self, route: Route, count: u64, bytes: u64) {
        let Some(at) = index(route) else { return };
        let (transfers, sum) = &self.went[at];
        add(transfers, count);
        add(sum, bytes);
        if let Some(why) = route.why() {
            self.note(pack(at, why));
        }
    }

    #[inline]
    fn note(&self, reason: u32) {
        for seen in &self.reasons {
            match seen.load(Relaxed) {
                0 => return seen.store(reason, Relaxed),
                known if known == reason => return,
                _ => {}
            }
        }
    }

    /// The counts so far.
    pub fn totals(&self) -> RouteTotals {
        let [direct, dma_buf, bounce, copy, refuse] = self
            .went
            .each_ref()
            .map(|(transfers, bytes)| Went { transfers: transfers.load(Relaxed), bytes: bytes.load(Relaxed) });
        let reasons = self.reasons.iter().filter_map(|reason| unpack(reason.load(Relaxed))).collect();
        RouteTotals { direct, dma_buf, bounce, copy, refuse, reasons }
    }
}

impl RouteTotals {
    /// Adds what another one counted.
    pub fn add(&mut self, other: &RouteTotals) {
        for (to, from) in [
            (&mut self.direct, other.direct),
            (&mut self.dma_buf, other.dma_buf),
            (&mut self.bounce, other.bounce),
            (&mut self.copy, other.copy),
            (&mut self.refuse, other.refuse),
        ] {
            to.transfers += from.transfers;
            to.bytes += from.bytes;
        }
        for reason in &other.reasons {
            if !self.reasons.contains(reason) && self.reasons.len() < MOST_REASONS {
                self.reasons.push(*reason);
            }
        }
    }

    /// All ways, by [name](Route::name), from direct to refused.
    pub fn ways(&self) -> [(&'static str, Went); 5] {
        [
            ("direct", self.direct),
            ("dma-buf", self.dma_buf),
            ("bounce", self.bounce),
            ("copy", self.copy),
            ("refuse", self.refuse),
        ]
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

const fn index(route: Route) -> Option<usize> {
    match route {
        Route::None => None,
        Route::Direct => Some(0),
        Route::DmaBuf => Some(1),
        Route::Bounce(_) => Some(2),
        Route::Copy(_) => Some(3),
        Route::Refuse(_) => Some(4),
    }
}

/// Route and reason in a word that is not 0: way, reason, and its errno.
fn pack(way: usize, why: Why) -> u32 {
    let (code, errno) = match why {
        Why::MemoryDisk => (1, 0),
        Why::Zeroes => (2, 0),
        Why::Unpinnable(errno) => (3, errno.raw().unsigned_abs()),
        Why::Misaligned => (4, 0),
        Why::NoDirectIo => (5, 0),
        Why::Requested => (6, 0),
        Why::ReadOnly => (7, 0),
        Why::OutOfReach => (8, 0),
    };
    let way = u32::try_from(way).unwrap_or(0);
    way << 28 | code << 20 | errno & 0xf_ffff
}

fn unpack(reason: u32) -> Option<Route> {
    let errno = i32::try_from(reason & 0xf_ffff).unwrap_or(0);
    let why = match reason >> 20 & 0xff {
        1 => Why::MemoryDisk,
        2 => Why::Zeroes,
        3 => Why::Unpinnable(Errno::from_raw(errno)),
        4 => Why::Misaligned,
        5 => Why::NoDirectIo,
        6 => Why::Requested,
        7 => Why::ReadOnly,
        8 => Why::OutOfReach,
        _ => return None,
    };
    match reason >> 28 {
        2 => Some(Route::Bounce(why)),
        3 => Some(Route::Copy(why)),
        4 => Some(Route::Refuse(why)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASONS: [Why; 8] = [
        Why::MemoryDisk,
        Why::Zeroes,
        Why::Unpinnable(Errno::EFAULT),
        Why::Misaligned,
        Why::NoDirectIo,
        Why::Requested,
        Why::ReadOnly,
        Why::OutOfReach,
    ];

    #[test]
    fn every_way_is_counted_by_itself() {
        let counters = RouteCounters::default();
        let copy = Route::Copy(Why::MemoryDisk);
        let bounce = Route::Bounce(Why::Unpinnable(Errno::EFAULT));
        for (route, bytes) in [
            (Route::None, 1),
            (Route::Direct, 10),
            (copy, 100),
            (Route::DmaBuf, 7),
            (bounce, 1000),
            (bounce, 1001),
            (Route::Refuse(Why::ReadOnly), 0),
        ] {
            counters.count(route, bytes);
        }
        let went = |transfers, bytes| Went { transfers, bytes };
        let totals = RouteTotals {
            direct: went(1, 10),
            dma_buf: went(1, 7),
            bounce: went(2, 2001),
            copy: went(1, 100),
            refuse: went(1, 0),
            reasons: vec![copy, bounce, Route::Refuse(Why::ReadOnly)],
        };
        assert_eq!(counters.totals(), totals);
        let mut twice = totals.clone();
        twice.add(&totals);
        assert_eq!((twice.bounce, &twice.reasons), (went(4, 4002), &totals.reasons));
        assert_eq!(totals.ways().map(|(_, went)| went.bytes), [10, 7, 2001, 100, 0]);
    }

    #[test]
    fn reasons_survive_packing_and_no_more_than_sixteen_are_kept() {
        let all: Vec<Route> =
            [Route::Bounce, Route::Copy, Route::Refuse].iter().flat_map(|way| REASONS.map(way)).collect();
        for route in &all {
            let counters = RouteCounters::default();
            counters.count(*route, 1);
            assert_eq!(counters.totals().reasons, [*route]);
        }
        let counters = RouteCounters::default();
        all.iter().chain(&all).for_each(|route| counters.count(*route, 1));
        assert_eq!(counters.totals().reasons, all[..MOST_REASONS]);
        assert_eq!(counters.totals().refuse.transfers, 16);
    }
}
