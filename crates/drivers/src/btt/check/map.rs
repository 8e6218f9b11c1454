// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map: every entry, against a bit for each internal block.

use std::collections::HashMap;

use pageless_mem::{Extent, Fault};

use super::flog::{Lanes, Pending, at, unclear_problem};
use super::seen::Seen;
use super::{Change, CheckError, FoundArena, Part, Problem, Session, Why};
use crate::btt::layout::PAGE;
use crate::btt::map::{ENTRY_SIZE, MapEntry, MapState};

/// Bytes of the map copied in one go: they stay in the cache while they are looked at.
const STEP: u64 = 128 << 10;
/// Bytes of a hole of the map looked at in one go.
const HOLE_STEP: u64 = 64 << 20;

/// One scan of an arena's map.
struct Scan {
    seen: Seen,
    lanes: Lanes,
    /// The external blocks of both blocks of each unfinished write: if one of these is shared, it is not clear what happened.
    watched: HashMap<u32, Vec<u32>>,
    /// External blocks with unfinished writes, the next one last.
    ahead: Vec<u32>,
}

impl Scan {
    fn new(bound: u32, lanes: Lanes) -> Scan {
        let mut watched: HashMap<u32, Vec<u32>> = HashMap::new();
        for (lba, pending) in &lanes.pending {
            watched.entry(pending.old).or_default().push(*lba);
            watched.entry(pending.new).or_default().push(*lba);
        }
        let mut ahead: Vec<u32> = lanes.pending.keys().copied().collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Scan { seen: Seen::new(bound), lanes, watched, ahead }
    }

    /// The next external block that has an unfinished write.
    fn next_pending(&self) -> u32 {
        self.ahead.last().copied().unwrap_or(u32::MAX)
    }

    /// Whether 64 external blocks from this one on may have as many internal ones from that one on.
    fn may_run(&self, lba: u32, block: u32) -> bool {
        self.next_pending().saturating_sub(lba) >= 64 && self.seen.bound().saturating_sub(block) >= 64
    }

    /// A block belongs to two: unfinished writes that have to do with it are not clear.
    fn shared(&mut self, block: u32) {
        for lba in self.watched.get(&block).into_iter().flatten() {
            if let Some(pending) = self.lanes.pending.get_mut(lba) {
                pending.unclear.get_or_insert(Why::Shared(block));
            }
        }
    }
}

/// The first block, if these entries are 64, each of them of the block behind the one before, or never written.
#[inline]
fn run(lba: u32, words: &[[u8; 4]]) -> Option<u32> {
    let words: &[[u8; 4]; 64] = words.try_into().ok()?;
    let first = u32::from_le_bytes(words[0]);
    let initial = MapEntry::from_raw(first).state() == MapState::Initial;
    // Without a way out, so that many are compared at once.
    let differ = |step: u32| {
        let expected = (0..64).map(|n| first.wrapping_add(n * step));
        words.iter().zip(expected).fold(0, |differ, (word, expected)| differ | (u32::from_le_bytes(*word) ^ expected))
    };
    match (initial, first) {
        (true, 0) => (differ(0) == 0).then_some(lba),
        (true, _) => None,
        // The state is the first one's as long as the blocks are in bounds.
        (false, _) => (differ(1) == 0).then(|| MapEntry::from_raw(first).stripped()),
    }
}

impl Session<'_> {
    pub(super) fn map(&mut self, arena: &FoundArena, lanes: Lanes) -> Result<(), CheckError> {
        let geometry = arena.info.geometry;
        let mut scan = Scan::new(geometry.internal_nlba(), lanes);
        let (mut lba, mut buf) = (0_u32, Vec::new());
        while lba < geometry.external_nlba() {
            let left = u64::from(geometry.external_nlba() - lba) * ENTRY_SIZE;
            let bytes = match self.medium.extent(arena.start + geometry.map_offset(lba), left) {
                Extent::Hole(hole) => {
                    // Of holes much more is answered in one go than is copied.
                    let bytes = hole.next_multiple_of(ENTRY_SIZE).min(left).min(HOLE_STEP);
                    self.initial(arena, lba, bytes, &mut scan);
                    bytes
                }
                Extent::Data(data) => {
                    let step = data.next_multiple_of(ENTRY_SIZE).min(left).min(STEP);
                    buf.resize(usize::try_from(step).unwrap_or(0), 0);
                    self.piece(arena, lba, &mut buf, &mut scan)?
                }
            };
            lba += u32::try_from(bytes / ENTRY_SIZE).unwrap_or(u32::MAX);
            self.progressed(bytes)?;
        }
        scan.seen.settle_all();
        self.twice(arena, &mut scan);
        self.free(arena, &mut scan);
        if scan.lanes.complete {
            for (first, count) in scan.seen.missing() {
                let offset = arena.start + geometry.block_offset(first);
                self.tell(arena.number, offset, Problem::BlocksLost { first, count });
            }
        }
        self.pending(arena, &scan.lanes);
        Ok(())
    }

    /// Checks a piece of the map; as many bytes as were checked.
    fn piece(&mut self, arena: &FoundArena, lba: u32, buf: &mut [u8], scan: &mut Scan) -> Result<u64, CheckError> {
        let (offset, step) = (arena.start + arena.info.geometry.map_offset(lba), buf.len() as u64);
        let Err(error) = self.medium.read(offset, buf) else {
            self.entries(arena, lba, buf, scan);
            return Ok(step);
        };
        if error.fault == Fault::Gone {
            return Err(error.into());
        }
        // What can be read before the broken page is checked; then it goes on behind it.
        scan.lanes.complete = false;
        let good = (error.offset.saturating_sub(offset) / ENTRY_SIZE * ENTRY_SIZE).min(step);
        self.entries(arena, lba, &buf[..usize::try_from(good).unwrap_or(0)], scan);
        self.tell(arena.number, offset + good, Problem::Unreadable(Part::Map, error.fault));
        let behind = (offset + good + 1).next_multiple_of(PAGE) - offset;
        Ok(behind.min(step))
    }

    fn entries(&mut self, arena: &FoundArena, first: u32, bytes: &[u8], scan: &mut Scan) {
        let (words, _) = bytes.as_chunks::<4>();
        let mut lba = first;
        for words in words.chunks(64) {
            match run(lba, words) {
                Some(block) if scan.may_run(lba, block) => scan.seen.add_64(lba, block),
                _ => self.each(arena, lba, words, scan),
            }
            // There are not more than fit.
            lba = lba.wrapping_add(u32::try_from(words.len()).unwrap_or(0));
        }
        self.twice(arena, scan);
    }

    fn each(&mut self, arena: &FoundArena, first: u32, words: &[[u8; 4]], scan: &mut Scan) {
        let mut ahead = scan.next_pending();
        for (lba, word) in (first..).zip(words) {
            let entry = MapEntry::from_raw(u32::from_le_bytes(*word));
            let block = entry.block(lba);
            let plain =
                lba != ahead && block < scan.seen.bound() && (entry.state() != MapState::Initial || entry.raw() == 0);
            if plain {
                scan.seen.add(lba, block);
            } else {
                self.slowly(arena, lba, entry, scan);
                ahead = scan.next_pending();
            }
        }
    }

    /// An entry that may be wrong.
    #[cold]
    fn slowly(&mut self, arena: &FoundArena, lba: u32, entry: MapEntry, scan: &mut Scan) {
        while scan.next_pending() <= lba && scan.ahead.pop().is_some() {}
        let (number, offset) = (arena.number, arena.start + arena.info.geometry.map_offset(lba));
        if entry.state() == MapState::Initial && entry.raw() != 0 {
            self.tell(number, offset, Problem::MapState { lba, raw: entry.raw() });
        }
        // As it will be once the write is finished.
        let block = scan.lanes.pending.get(&lba).map_or(entry.block(lba), |pending| pending.new);
        if block >= scan.seen.bound() {
            self.tell(number, offset, Problem::MapBlock { lba, block, bound: scan.seen.bound() });
        } else {
            scan.seen.add(lba, block);
        }
    }

    /// Tells of blocks that came out to belong to two.
    fn twice(&mut self, arena: &FoundArena, scan: &mut Scan) {
        for (lba, block) in scan.seen.twice() {
            let offset = arena.start + arena.info.geometry.map_offset(lba);
            self.tell(arena.number, offset, Problem::BlockTwice { lba, block });
            scan.shared(block);
        }
    }

    /// A hole of the map: entries that are initial, each of them the block of its own number.
    fn initial(&mut self, arena: &FoundArena, first: u32, bytes: u64, scan: &mut Scan) {
        let end = first + u32::try_from(bytes / ENTRY_SIZE).unwrap_or(0);
        let mut lba = first;
        while lba < end {
            if lba.is_multiple_of(64) && end - lba >= 64 && scan.may_run(lba, lba) {
                scan.seen.add_64(lba, lba);
                lba += 64;
            } else {
                self.slowly(arena, lba, MapEntry::from_raw(0), scan);
                lba += 1;
            }
        }
        self.twice(arena, scan);
    }

    /// The free blocks of all lanes.
    fn free(&mut self, arena: &FoundArena, scan: &mut Scan) {
        let mut free: Vec<(u32, u32)> = scan.lanes.free.iter().map(|(block, lane)| (*lane, *block)).collect();
        free.sort_unstable();
        for (lane, block) in free {
            if !scan.seen.take(block) {
                self.tell(arena.number, at(arena, lane), Problem::BlockFreeAndMapped { lane, block });
                scan.shared(block);
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
