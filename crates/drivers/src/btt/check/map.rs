// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map as a whole: each internal block is one LBA's or one lane's.
//!
//! A large map is scanned in parts, by a thread each: what takes the time is to set a bit somewhere for each entry, and one core
//! has so many of those under way. Each thread has bits of its own, and what two parts have seen comes out when those are
//! put together; whose it is, by a second look at the part.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use pageless_mem::Fault;

use super::flog::{Lanes, Pending, at, unclear_problem};
use super::medium::Medium;
use super::scan::{Scan, Told};
use super::seen::Seen;
use super::{Change, CheckError, FoundArena, Part, Problem, Session, Why};
use crate::btt::map::MapEntry;

/// Bytes of a map that one thread scans as fast as several begin to.
const SMALL: u64 = 32 << 20;
/// Threads, at most; and bytes that the bits of all of them take.
const THREADS: u32 = 8;
const BITS: u64 = 256 << 20;
/// What a thread may have told before it is heard.
const UNHEARD: usize = 1024;
/// How often progress is told while threads have nothing else to tell.
const PACE: Duration = Duration::from_millis(100);

/// A part that another thread scans, and what it tells.
type Started<'s> = (ScopedJoinHandle<'s, Result<Seen, CheckError>>, Receiver<Told>);

/// What other threads have checked, and how much of that was told, when.
struct Elsewhere<'c> {
    checked: &'c AtomicU64,
    told: u64,
    last: Option<Instant>,
}

/// Who owns blocks besides the map.
struct Owners {
    lanes: Lanes,
    /// The external blocks of both blocks of each unfinished write: if one of these is shared, it is not clear what happened.
    watched: HashMap<u32, Vec<u32>>,
}

impl Owners {
    fn new(lanes: Lanes) -> Owners {
        let mut watched: HashMap<u32, Vec<u32>> = HashMap::new();
        for (lba, pending) in &lanes.pending {
            watched.entry(pending.old).or_default().push(*lba);
            watched.entry(pending.new).or_default().push(*lba);
        }
        Owners { lanes, watched }
    }

    /// A block belongs to two: unfinished writes that have to do with it are not clear.
    fn shared(&mut self, block: u32) {
        for lba in self.watched.get(&block).into_iter().flatten() {
            if let Some(pending) = self.lanes.pending.get_mut(lba) {
                // Whichever comes out first.
                match &mut pending.unclear {
                    Some(Why::Shared(first)) => *first = block.min(*first),
                    unclear => drop(unclear.get_or_insert(Why::Shared(block))),
                }
            }
        }
    }
}

impl Session<'_> {
    pub(super) fn map(&mut self, arena: &FoundArena, lanes: Lanes) -> Result<(), CheckError> {
        let unfinished = lanes.pending.iter().map(|(lba, pending)| (*lba, pending.new)).collect();
        let mut owners = Owners::new(lanes);
        let mut seen = match &self.parts(arena)[..] {
            [part] => {
                let scan = Scan::new(self.medium.another(), arena, part.clone(), &unfinished);
                scan.run(&mut |told| self.hear(arena, &mut owners, told))?
            }
            parts => self.together(arena, &mut owners, parts, &unfinished)?,
        };
        self.free(arena, &mut seen, &mut owners);
        if owners.lanes.complete {
            for (first, count) in seen.missing() {
                let offset = arena.start + arena.info.geometry.block_offset(first);
                self.tell(arena.number, offset, Problem::BlocksLost { first, count });
            }
        }
        self.pending(arena, &owners.lanes);
        Ok(())
    }

    /// What each thread scans.
    fn parts(&self, arena: &FoundArena) -> Vec<Range<u32>> {
        let geometry = arena.info.geometry;
        let (count, bits) = (geometry.external_nlba(), u64::from(geometry.internal_nlba()) / 8 + 1);
        let threads = match self.threads {
            Some(threads) => threads.min(THREADS),
            None if geometry.map_len() < SMALL => 1,
            None => {
                let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
                u32::try_from(cores.min(u64::from(THREADS)).min(BITS / bits)).unwrap_or(1)
            }
        };
        let len = count.div_ceil(threads.max(1)).next_multiple_of(64).max(64);
        (0..count).step_by(len as usize).map(|first| first..first.saturating_add(len).min(count)).collect()
    }

    fn hear(&mut self, arena: &FoundArena, owners: &mut Owners, told: Told) -> Result<(), CheckError> {
        match told {
            Told::Problem(offset, problem) => self.tell(arena.number, offset, problem),
            Told::Unreadable(offset, fault) => {
                owners.lanes.complete = false;
                self.tell(arena.number, offset, Problem::Unreadable(Part::Map, fault));
            }
            Told::Twice { lba, block } => {
                let offset = arena.start + arena.info.geometry.map_offset(lba);
                self.tell(arena.number, offset, Problem::BlockTwice { lba, block });
                owners.shared(block);
            }
            Told::Checked(bytes) => self.progressed(bytes)?,
        }
        Ok(())
    }

    /// Scans all parts at once, the first one here, and puts together what they have seen. They are heard one after the other, so
    /// what is told is in order, and a part that has much to tell waits.
    fn together(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        parts: &[Range<u32>],
        unfinished: &HashMap<u32, u32>,
    ) -> Result<Seen, CheckError> {
        let (checked, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (checked, stop) = (&checked, &stop);
        let mut elsewhere = Elsewhere { checked, told: 0, last: None };
        thread::scope(|scope| {
            let start = |part: &Range<u32>| {
                let (teller, told) = mpsc::sync_channel(UNHEARD);
                let (memory, region, part) = (self.medium.memory().clone(), self.medium.region().clone(), part.clone());
                let mut hear = move |told| match told {
                    _ if stop.load(Ordering::Relaxed) => Err(CheckError::Stopped),
                    Told::Checked(bytes) => {
                        checked.fetch_add(bytes, Ordering::Relaxed);
                        Ok(())
                    }
                    told => teller.send(told).map_err(|_| CheckError::Stopped),
                };
                let scan = move || Scan::new(Medium::new(&memory, region), arena, part, unfinished).run(&mut hear);
                // Where there are no threads to be had, their parts are scanned here.
                thread::Builder::new().name("btt-scan".into()).spawn_scoped(scope, scan).ok().map(|scan| (scan, told))
            };
            let started: Vec<_> =
                parts.iter().enumerate().map(|(n, part)| if n == 0 { None } else { start(part) }).collect();
            let all = self.hear_all(arena, owners, parts.iter().zip(started), &mut elsewhere, unfinished);
            // Nobody is listened to any more: whoever waited for that knows by now, and who still scans is told.
            stop.store(all.is_err(), Ordering::Relaxed);
            all
        })
    }

    fn hear_all<'p>(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        parts: impl Iterator<Item = (&'p Range<u32>, Option<Started<'p>>)>,
        elsewhere: &mut Elsewhere<'_>,
        unfinished: &HashMap<u32, u32>,
    ) -> Result<Seen, CheckError> {
        let mut all: Option<Seen> = None;
        for (part, started) in parts {
            let seen = match started {
                None => {
                    let scan = Scan::new(self.medium.another(), arena, part.clone(), unfinished);
                    scan.run(&mut |told| self.hear(arena, owners, told).and_then(|()| self.elsewhere(elsewhere)))?
                }
                Some((scan, told)) => {
                    self.listen(arena, owners, &told, elsewhere)?;
                    // One that panicked does so here.
                    scan.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
                }
            };
            match &mut all {
                None => all = Some(seen),
                Some(all) => self.merge(arena, owners, all, (part, seen), unfinished)?,
            }
        }
        elsewhere.last = None;
        self.elsewhere(elsewhere)?;
        Ok(all.unwrap_or_else(|| Seen::new(arena.info.geometry.internal_nlba())))
    }

    /// Hears one part out, and tells the progress of all.
    fn listen(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        told: &Receiver<Told>,
        elsewhere: &mut Elsewhere<'_>,
    ) -> Result<(), CheckError> {
        loop {
            match told.recv_timeout(PACE) {
                Ok(told) => self.hear(arena, owners, told)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.elsewhere(elsewhere)?;
        }
    }

    /// Tells what others have checked, now and then.
    fn elsewhere(&mut self, elsewhere: &mut Elsewhere<'_>) -> Result<(), CheckError> {
        if elsewhere.last.is_some_and(|last| last.elapsed() < PACE) {
            return Ok(());
        }
        let checked = elsewhere.checked.load(Ordering::Relaxed);
        let more = checked - std::mem::replace(&mut elsewhere.told, checked);
        elsewhere.last = Some(Instant::now());
        self.progressed(more)
    }

    /// Puts together what the parts before and this one have seen.
    fn merge(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        all: &mut Seen,
        (part, mut seen): (&Range<u32>, Seen),
        unfinished: &HashMap<u32, u32>,
    ) -> Result<(), CheckError> {
        let mut shared = all.join(&mut seen);
        if shared == 0 {
            return Ok(());
        }
        let scan = Scan::new(self.medium.another(), arena, part.clone(), unfinished);
        // The first LBA with each block: the scan itself told of the others.
        scan.blocks(&mut |lba, block| {
            if lba.is_multiple_of(1 << 16) {
                self.progressed(0)?;
            }
            if !seen.clear(block) {
                return Ok(ControlFlow::Continue(()));
            }
            shared -= 1;
            self.hear(arena, owners, Told::Twice { lba, block })?;
            Ok(if shared == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if shared > 0 {
            // It could be read before: whose they are is not known any more.
            let offset = arena.start + arena.info.geometry.map_offset(part.start);
            self.hear(arena, owners, Told::Unreadable(offset, Fault::Media))?;
        }
        Ok(())
    }

    /// The free blocks of all lanes.
    fn free(&mut self, arena: &FoundArena, seen: &mut Seen, owners: &mut Owners) {
        let mut free: Vec<(u32, u32)> = owners.lanes.free.iter().map(|(block, lane)| (*lane, *block)).collect();
        free.sort_unstable();
        for (lane, block) in free {
            if !seen.take(block) {
                self.tell(arena.number, at(arena, lane), Problem::BlockFreeAndMapped { lane, block });
                owners.shared(block);
            }
        }
    }

    /// What becomes of the writes that are not finished.
    fn pending(&mut self, arena: &FoundArena, lanes: &Lanes) {
        let mut pending: Vec<(&u32, &Pending)> = lanes.pending.iter().collect();
        pending.sort_unstable_by_key(|(_, pending)| pending.lane);
        for (lba, pending) in pending {
            let Pending { lane, entry, old, new, unclear } = *pending;
            if unclear.is_some() {
                self.tell(arena.number, at(arena, lane), unclear_problem(*lba, pending));
                continue;
            }
            self.tell(arena.number, at(arena, lane), Problem::Unfinished { lane, lba: *lba, old, new });
            let offset = arena.start + arena.info.geometry.map_offset(*lba);
            let (before, after) = (entry.raw().to_le_bytes(), MapEntry::normal(new).raw().to_le_bytes());
            self.changes.push(Change::new(offset, &before, &after, "map entry from the flog"));
        }
    }
}
