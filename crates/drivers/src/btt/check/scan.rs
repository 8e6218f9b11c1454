// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Scan`]: a map, each entry of it against a bit for each internal block.

use std::collections::HashMap;

use pageless_mem::Fault;

use super::seen::Seen;
use super::walk::{Piece, Walk, run};
use super::{CheckError, FoundArena, Problem};
use crate::btt::map::{ENTRY_SIZE, MapEntry, MapState};

/// What a scan comes to, on its way.
#[derive(Copy, Clone, Debug)]
pub(super) enum Told {
    /// Something is wrong at a byte of the medium.
    Problem(u64, Problem),
    /// The map cannot be read from a byte of the medium on, so not all of its entries are known.
    Unreadable(u64, Fault),
    /// An LBA has a block that a lower one has.
    Twice { lba: u32, block: u32 },
    /// So many bytes more are checked.
    Checked(u64),
}

/// Hears of it. An error ends the scan.
pub(super) type Hear<'h> = dyn FnMut(Told) -> Result<(), CheckError> + 'h;

/// One scan of an arena's map.
#[derive(Debug)]
pub(super) struct Scan<'s> {
    arena: &'s FoundArena,
    /// The block that each external one with an unfinished write has once that is finished.
    unfinished: &'s HashMap<u32, u32>,
    /// Those external blocks, the next one last.
    ahead: Vec<u32>,
    seen: Seen,
}

impl<'s> Scan<'s> {
    pub(super) fn new(arena: &'s FoundArena, unfinished: &'s HashMap<u32, u32>) -> Scan<'s> {
        let mut ahead: Vec<u32> = unfinished.keys().copied().collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Scan { arena, unfinished, ahead, seen: Seen::new(arena.info.geometry.internal_nlba()) }
    }

    /// Scans the map. Each block that an LBA has is seen.
    pub(super) fn run(mut self, walk: &mut Walk<'_>, hear: &mut Hear<'_>) -> Result<Seen, CheckError> {
        let (mut lba, end) = (0, self.arena.info.geometry.external_nlba());
        while lba < end {
            self.pass(lba);
            let count = match walk.next(lba, end)? {
                Piece::Initial(count) => {
                    self.initial(lba, count, hear)?;
                    count
                }
                Piece::Entries(count) => {
                    self.entries(lba, walk.words(), hear)?;
                    count
                }
                Piece::Broken(count, fault) => {
                    hear(Told::Unreadable(self.offset(lba), fault))?;
                    count
                }
            };
            hear(Told::Checked(u64::from(count) * ENTRY_SIZE))?;
            lba += count;
        }
        Ok(self.seen)
    }

    /// Byte of the medium where an entry is.
    fn offset(&self, lba: u32) -> u64 {
        self.arena.start + self.arena.info.geometry.map_offset(lba)
    }

    /// As it will be once the write is finished.
    fn block(&self, lba: u32, entry: MapEntry) -> u32 {
        self.unfinished.get(&lba).copied().unwrap_or_else(|| entry.block(lba))
    }

    /// The next external block that has an unfinished write.
    fn next_unfinished(&self) -> u32 {
        self.ahead.last().copied().unwrap_or(u32::MAX)
    }

    /// Unfinished writes of blocks below this one are behind.
    fn pass(&mut self, lba: u32) {
        while self.ahead.pop_if(|next| *next < lba).is_some() {}
    }

    /// Sees 64 LBAs from this one on with as many blocks from that one on; not where one of those is worth a look.
    fn run_of_64(&mut self, lba: u32, block: u32) -> bool {
        self.next_unfinished().saturating_sub(lba) >= 64
            && self.seen.bound().saturating_sub(block) >= 64
            && self.seen.take_64(block)
    }

    fn entries(&mut self, first: u32, words: &[[u8; 4]], hear: &mut Hear<'_>) -> Result<(), CheckError> {
        let mut lba = first;
        for words in words.chunks(64) {
            if !run(lba, words).is_some_and(|block| self.run_of_64(lba, block)) {
                self.each(lba, words, hear)?;
            }
            // There are not more than fit.
            lba = lba.wrapping_add(u32::try_from(words.len()).unwrap_or(0));
        }
        Ok(())
    }

    fn each(&mut self, first: u32, words: &[[u8; 4]], hear: &mut Hear<'_>) -> Result<(), CheckError> {
        self.seen.fetch(words.iter().map(|word| MapEntry::from_raw(u32::from_le_bytes(*word)).stripped()));
        let mut ahead = self.next_unfinished();
        for (lba, word) in (first..).zip(words) {
            let entry = MapEntry::from_raw(u32::from_le_bytes(*word));
            let block = entry.block(lba);
            let plain =
                lba != ahead && block < self.seen.bound() && (entry.state() != MapState::Initial || entry.raw() == 0);
            if !plain {
                self.slowly(lba, entry, hear)?;
                ahead = self.next_unfinished();
            } else if !self.seen.take(block) {
                hear(Told::Twice { lba, block })?;
            }
        }
        Ok(())
    }

    /// An entry that may be wrong.
    #[cold]
    fn slowly(&mut self, lba: u32, entry: MapEntry, hear: &mut Hear<'_>) -> Result<(), CheckError> {
        self.pass(lba + 1);
        if entry.state() == MapState::Initial && entry.raw() != 0 {
            hear(Told::Problem(self.offset(lba), Problem::MapState { lba, raw: entry.raw() }))?;
        }
        let (block, bound) = (self.block(lba, entry), self.seen.bound());
        if block >= bound {
            return hear(Told::Problem(self.offset(lba), Problem::MapBlock { lba, block, bound }));
        }
        if self.seen.take(block) { Ok(()) } else { hear(Told::Twice { lba, block }) }
    }

    /// A hole of the map: entries that are initial, each of them the block of its own number.
    fn initial(&mut self, first: u32, count: u32, hear: &mut Hear<'_>) -> Result<(), CheckError> {
        let (mut lba, end) = (first, first + count);
        while lba < end {
            if lba.is_multiple_of(64) && end - lba >= 64 && self.run_of_64(lba, lba) {
                lba += 64;
            } else {
                self.slowly(lba, MapEntry::from_raw(0), hear)?;
                lba += 1;
            }
        }
        Ok(())
    }
}
