// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map as a whole: each internal block is one LBA's or one lane's.
//!
//! A large map is scanned in parts, by a thread each: what takes the time is to set a bit somewhere for each entry, and one core
//! has so many of those under way. Each thread has bits of its own, and what two parts have seen comes out when those are
//! put together; whose it is, by a second look at the part.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use super::flog::{Lanes, Pending, at, unclear_problem};
use super::scan::{Scan, Told};
use super::seen::Seen;
use super::{Change, CheckError, FoundArena, Part, Problem, Session, Why};
use crate::btt::map::MapEntry;

/// Bytes of a map that one thread scans as fast as several begin to.
const SMALL: u64 = 32 << 20;
/// Threads, at most; and bytes that the bits of all of them take.
const THREADS: u64 = 8;
const BITS: u64 = 256 << 20;
/// What a thread may have told before it is heard.
const UNHEARD: usize = 1024;
/// How often progress is told while threads have nothing else to tell.
const PACE: Duration = Duration::from_millis(100);

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
            parts => {
                let all = self.together(arena, &mut owners, parts, &unfinished)?;
                self.merge(arena, &mut owners, all, &unfinished)?
            }
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
            Some(threads) => threads,
            None if geometry.map_len() < SMALL => 1,
            None => {
                let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
                u32::try_from(cores.min(THREADS).min(BITS / bits)).unwrap_or(1)
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

    /// Scans all parts at once. They are heard one after the other, so what is told is in order, and a part that has much to tell
    /// waits.
    fn together<'p>(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        parts: &'p [Range<u32>],
        unfinished: &HashMap<u32, u32>,
    ) -> Result<Vec<(&'p Range<u32>, Seen)>, CheckError> {
        let (checked, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (checked, stop) = (&checked, &stop);
        thread::scope(|scope| {
            let start = |part: &Range<u32>| {
                let (teller, told) = mpsc::sync_channel(UNHEARD);
                let scan = Scan::new(self.medium.another(), arena, part.clone(), unfinished);
                let hear = move |told| match told {
                    _ if stop.load(Ordering::Relaxed) => Err(CheckError::Stopped),
                    Told::Checked(bytes) => {
                        checked.fetch_add(bytes, Ordering::Relaxed);
                        Ok(())
                    }
                    told => teller.send(told).map_err(|_| CheckError::Stopped),
                };
                (scope.spawn(move || scan.run(&mut { hear })), told)
            };
            let (scans, told): (Vec<_>, Vec<_>) = parts.iter().map(start).unzip();
            let mut done = 0;
            let heard = told.iter().try_for_each(|told| self.listen(arena, owners, told, checked, &mut done));
            // Whoever still scans is told so, be it while it waits to be heard.
            stop.store(heard.is_err(), Ordering::Relaxed);
            drop(told);
            let scans: Result<Vec<Seen>, CheckError> = scans.into_iter().map(joined).collect();
            heard?;
            self.progressed(checked.load(Ordering::Relaxed) - done)?;
            Ok(parts.iter().zip(scans?).collect())
        })
    }

    /// Hears one part out, and tells the progress of all.
    fn listen(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        told: &Receiver<Told>,
        checked: &AtomicU64,
        done: &mut u64,
    ) -> Result<(), CheckError> {
        loop {
            match told.recv_timeout(PACE) {
                Ok(told) => self.hear(arena, owners, told)?,
                Err(RecvTimeoutError::Timeout) => {
                    let now = checked.load(Ordering::Relaxed);
                    self.progressed(now - *done)?;
                    *done = now;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Puts together what the parts have seen.
    fn merge(
        &mut self,
        arena: &FoundArena,
        owners: &mut Owners,
        parts: Vec<(&Range<u32>, Seen)>,
        unfinished: &HashMap<u32, u32>,
    ) -> Result<Seen, CheckError> {
        let mut all = Seen::new(arena.info.geometry.internal_nlba());
        for (part, mut seen) in parts {
            if !all.join(&mut seen) {
                continue;
            }
            let scan = Scan::new(self.medium.another(), arena, part.clone(), unfinished);
            // Its first LBA with the block: the scan itself told of the others.
            scan.blocks(&mut |lba, block| match seen.clear(block) {
                true => self.hear(arena, owners, Told::Twice { lba, block }),
                false => Ok(()),
            })?;
        }
        Ok(all)
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

/// What a scan came to. One that panics does so here.
fn joined(scan: ScopedJoinHandle<'_, Result<Seen, CheckError>>) -> Result<Seen, CheckError> {
    scan.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
