// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a large map is as it should be, by its fingerprint: read by a thread for each core.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use super::fingerprint::Fingerprint;
use super::flog::Lanes;
use super::medium::Medium;
use super::walk::{Piece, Walk};
use super::{CheckError, FirstLook, FoundArena, Session};
use crate::btt::map::ENTRY_SIZE;

/// Bytes of a map whose bits stay in a cache: each entry is looked at as fast.
const SMALL: u64 = 32 << 20;
/// Threads, at most.
const THREADS: usize = 8;
/// External blocks that a thread takes at a time.
const TURN: u32 = if cfg!(any(test, fuzzing)) { 1 << 5 } else { 1 << 20 };

/// A look that several threads share.
struct Look<'l> {
    arena: &'l FoundArena,
    fingerprint: Fingerprint,
    /// The external block that nobody has taken yet.
    next: AtomicU32,
    /// Bytes of the map that were read, and not told of.
    read: AtomicU64,
    /// It need not go on.
    ended: AtomicBool,
}

impl Session<'_> {
    /// Whether each block of an arena is one LBA's or one lane's. If not, or where that is not known, each entry is to be looked at.
    pub(super) fn sound(&mut self, arena: &FoundArena, lanes: &Lanes) -> Result<bool, CheckError> {
        let geometry = arena.info.geometry;
        let threads = match self.first_look {
            FirstLook::Auto if geometry.map_len() < SMALL => return Ok(false),
            FirstLook::Auto => thread::available_parallelism().map_or(1, usize::from).min(THREADS),
            FirstLook::Fingerprint { threads } => threads.min(THREADS),
            FirstLook::Entries => return Ok(false),
        };
        let owned = u64::from(geometry.external_nlba()) + lanes.free.len() as u64;
        if !lanes.complete || owned != u64::from(geometry.internal_nlba()) {
            return Ok(false);
        }
        let before = self.done;
        let look = Look {
            arena,
            fingerprint: Fingerprint::new(),
            next: AtomicU32::new(0),
            read: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        };
        let map = self.sum(&look, threads)?;
        let sound =
            map.is_some_and(|map| look.with_lanes(map, lanes) == look.fingerprint.below(geometry.internal_nlba()));
        if !sound {
            // All of it comes again.
            self.total += self.done - before;
        }
        Ok(sound)
    }

    /// The fingerprint of all blocks in the map; nothing where an entry is none, or cannot be read.
    fn sum(&mut self, look: &Look<'_>, threads: usize) -> Result<Option<u64>, CheckError> {
        let (memory, region) = (self.medium.memory().clone(), self.medium.region().clone());
        let all = thread::scope(|scope| {
            let other = || look.take_turns(Medium::new(&memory, region.clone()), &mut || Ok(()));
            // Where there are no threads to be had, it is done without.
            let start = |_| thread::Builder::new().name("btt-scan".into()).spawn_scoped(scope, other).ok();
            let others: Vec<_> = (1..threads).map_while(start).collect();
            let mut all = look.take_turns(self.medium.another(), &mut || self.progressed(look.untold()));
            for other in others {
                // One that panicked does so here.
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                all = match (all, other) {
                    (Ok(all), Ok(other)) => Ok(all.zip(other).map(|(all, other)| all.wrapping_add(other))),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
            }
            all
        })?;
        self.progressed(look.untold())?;
        Ok(all)
    }
}

impl Look<'_> {
    /// Bytes that were read since this was asked last.
    fn untold(&self) -> u64 {
        self.read.swap(0, Ordering::Relaxed)
    }

    /// Sums up turns until there are no more, or somebody ended it.
    fn take_turns(
        &self,
        medium: Medium,
        after_each: &mut dyn FnMut() -> Result<(), CheckError>,
    ) -> Result<Option<u64>, CheckError> {
        let (mut walk, mut sum) = (Walk::new(medium, self.arena), 0_u64);
        let count = self.arena.info.geometry.external_nlba();
        loop {
            let first = self.next.fetch_add(TURN, Ordering::Relaxed);
            if first >= count {
                return Ok(Some(sum));
            }
            if self.ended.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let end = first.saturating_add(TURN).min(count);
            let turn = self.turn(&mut walk, first, end).and_then(|turn| {
                self.read.fetch_add(u64::from(end - first) * ENTRY_SIZE, Ordering::Relaxed);
                after_each().map(|()| turn)
            });
            let Ok(Some(turn)) = turn else {
                self.ended.store(true, Ordering::Relaxed);
                return turn;
            };
            sum = sum.wrapping_add(turn);
        }
    }

    fn turn(&self, walk: &mut Walk<'_>, first: u32, end: u32) -> Result<Option<u64>, CheckError> {
        let (mut lba, mut sum) = (first, 0_u64);
        while lba < end {
            let (count, piece) = match walk.next(lba, end)? {
                Piece::Initial(count) => (count, self.fingerprint.range(lba, count)),
                Piece::Entries(count) => (count, self.fingerprint.entries(lba, walk.words())),
                Piece::Broken(..) => return Ok(None),
            };
            let Some(piece) = piece else { return Ok(None) };
            sum = sum.wrapping_add(piece);
            lba += count;
        }
        Ok(Some(sum))
    }

    /// That of all blocks, from that of those which the map has now.
    fn with_lanes(&self, map: u64, lanes: &Lanes) -> u64 {
        let finished = lanes.pending.iter().fold(map, |sum, (lba, pending)| {
            let (now, then) = (self.fingerprint.of(pending.entry.block(*lba)), self.fingerprint.of(pending.new));
            sum.wrapping_sub(now).wrapping_add(then)
        });
        lanes.free.keys().fold(finished, |sum, block| sum.wrapping_add(self.fingerprint.of(*block)))
    }
}
