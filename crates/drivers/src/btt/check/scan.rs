// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Scan`]: a part of the map, each entry of it against a bit for each internal block.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use pageless_mem::{Extent, Fault};

use super::medium::Medium;
use super::seen::Seen;
use super::{CheckError, FoundArena, Problem};
use crate::btt::layout::PAGE;
use crate::btt::map::{ENTRY_SIZE, MapEntry, MapState};

/// Bytes of the map copied in one go: they stay in the cache while they are looked at.
const STEP: u64 = 128 << 10;
/// Bytes of a hole of the map looked at in one go: as many entries may come out to be wrong before the first is told.
const HOLE_STEP: u64 = 4 << 20;

/// What a scan comes to, on its way.
#[derive(Copy, Clone, Debug)]
pub(super) enum Told {
    /// Something is wrong at a byte of the medium.
    Problem(u64, Problem),
    /// The map cannot be read from a byte of the medium on, so not all of its entries are known.
    Unreadable(u64, Fault),
    /// An LBA has a block that a lower one of this part has.
    Twice { lba: u32, block: u32 },
    /// So many bytes more are checked.
    Checked(u64),
}

/// Hears of it. An error ends the scan.
pub(super) type Hear<'h> = dyn FnMut(Told) -> Result<(), CheckError> + 'h;

/// One scan of a part of an arena's map.
#[derive(Debug)]
pub(super) struct Scan<'s> {
    medium: Medium,
    arena: &'s FoundArena,
    /// The external blocks that it is about.
    part: Range<u32>,
    /// The block that each external one with an unfinished write has once that is finished.
    unfinished: &'s HashMap<u32, u32>,
    /// Those of this part, the next one last.
    ahead: Vec<u32>,
    buf: Vec<u8>,
}

/// What comes next in the map.
enum Piece {
    /// So many entries that were never written.
    Initial(u32),
    /// So many entries, which the buffer has.
    Entries(u32),
    /// So many entries that cannot be read.
    Broken(u32, Fault),
}

impl<'s> Scan<'s> {
    pub(super) fn new(
        medium: Medium,
        arena: &'s FoundArena,
        part: Range<u32>,
        unfinished: &'s HashMap<u32, u32>,
    ) -> Scan<'s> {
        let mut ahead: Vec<u32> = unfinished.keys().copied().filter(|lba| part.contains(lba)).collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Scan { medium, arena, part, unfinished, ahead, buf: Vec::new() }
    }

    /// Scans the part. Each block that one of its LBAs has is seen.
    pub(super) fn run(mut self, hear: &mut Hear<'_>) -> Result<Seen, CheckError> {
        let mut seen = Seen::new(self.arena.info.geometry.internal_nlba());
        let mut lba = self.part.start;
        while lba < self.part.end {
            self.pass(lba);
            let count = match self.piece(lba)? {
                Piece::Initial(count) => {
                    self.initial(lba, count, &mut seen, hear)?;
                    count
                }
                Piece::Entries(count) => {
                    let buf = std::mem::take(&mut self.buf);
                    self.entries(lba, &buf, &mut seen, hear)?;
                    self.buf = buf;
                    count
                }
                Piece::Broken(count, fault) => {
                    hear(Told::Unreadable(self.offset(lba), fault))?;
                    count
                }
            };
            twice(&mut seen, hear)?;
            hear(Told::Checked(u64::from(count) * ENTRY_SIZE))?;
            lba += count;
        }
        seen.settle_all();
        twice(&mut seen, hear)?;
        Ok(seen)
    }

    /// Shows each LBA of the part whose entry can be read, and the block that it has or will have, in bounds or not, until it is
    /// told that this is enough.
    pub(super) fn blocks(
        mut self,
        each: &mut dyn FnMut(u32, u32) -> Result<ControlFlow<()>, CheckError>,
    ) -> Result<(), CheckError> {
        let mut lba = self.part.start;
        while lba < self.part.end {
            let (count, initial) = match self.piece(lba)? {
                Piece::Initial(count) => (count, true),
                Piece::Entries(count) => (count, false),
                Piece::Broken(count, _) => {
                    lba += count;
                    continue;
                }
            };
            let words = self.buf.as_chunks::<4>().0;
            for (n, lba) in (0..count as usize).zip(lba..) {
                let raw = if initial { 0 } else { u32::from_le_bytes(words[n]) };
                if each(lba, self.block(lba, MapEntry::from_raw(raw)))?.is_break() {
                    return Ok(());
                }
            }
            lba += count;
        }
        Ok(())
    }

    /// Byte of the medium where an entry is.
    fn offset(&self, lba: u32) -> u64 {
        self.arena.start + self.arena.info.geometry.map_offset(lba)
    }

    /// As it will be once the write is finished.
    fn block(&self, lba: u32, entry: MapEntry) -> u32 {
        self.unfinished.get(&lba).copied().unwrap_or_else(|| entry.block(lba))
    }

    /// What comes next; at least one entry.
    fn piece(&mut self, lba: u32) -> Result<Piece, CheckError> {
        let (offset, left) = (self.offset(lba), u64::from(self.part.end - lba) * ENTRY_SIZE);
        let entries = |bytes: u64| u32::try_from(bytes / ENTRY_SIZE).unwrap_or(u32::MAX);
        let step = match self.medium.extent(offset, left) {
            // Of holes much more is answered in one go than is copied.
            Extent::Hole(hole) => {
                return Ok(Piece::Initial(entries(hole.next_multiple_of(ENTRY_SIZE).min(left).min(HOLE_STEP))));
            }
            Extent::Data(data) => data.next_multiple_of(ENTRY_SIZE).min(left).min(STEP),
        };
        self.buf.resize(usize::try_from(step).unwrap_or(0), 0);
        let Err(error) = self.medium.read(offset, &mut self.buf) else {
            return Ok(Piece::Entries(entries(step)));
        };
        if error.fault == Fault::Gone {
            return Err(error.into());
        }
        // What can be read before the broken page comes first; then it goes on behind it.
        let good = (error.offset.saturating_sub(offset) / ENTRY_SIZE * ENTRY_SIZE).min(step);
        self.buf.truncate(usize::try_from(good).unwrap_or(0));
        let behind = (offset + 1).next_multiple_of(PAGE) - offset;
        Ok(if good > 0 { Piece::Entries(entries(good)) } else { Piece::Broken(entries(behind.min(step)), error.fault) })
    }

    /// The next external block that has an unfinished write.
    fn next_unfinished(&self) -> u32 {
        self.ahead.last().copied().unwrap_or(u32::MAX)
    }

    /// Unfinished writes of blocks below this one are behind.
    fn pass(&mut self, lba: u32) {
        while self.ahead.pop_if(|next| *next < lba).is_some() {}
    }

    /// Whether 64 external blocks from this one on may have as many internal ones from that one on.
    fn may_run(&self, lba: u32, block: u32, seen: &Seen) -> bool {
        self.next_unfinished().saturating_sub(lba) >= 64 && seen.bound().saturating_sub(block) >= 64
    }

    fn entries(&mut self, first: u32, bytes: &[u8], seen: &mut Seen, hear: &mut Hear<'_>) -> Result<(), CheckError> {
        let (words, _) = bytes.as_chunks::<4>();
        let mut lba = first;
        for words in words.chunks(64) {
            match run(lba, words) {
                Some(block) if self.may_run(lba, block, seen) => seen.add_64(lba, block),
                _ => self.each(lba, words, seen, hear)?,
            }
            // There are not more than fit.
            lba = lba.wrapping_add(u32::try_from(words.len()).unwrap_or(0));
        }
        Ok(())
    }

    fn each(&mut self, first: u32, words: &[[u8; 4]], seen: &mut Seen, hear: &mut Hear<'_>) -> Result<(), CheckError> {
        let mut ahead = self.next_unfinished();
        for (lba, word) in (first..).zip(words) {
            let entry = MapEntry::from_raw(u32::from_le_bytes(*word));
            let block = entry.block(lba);
            let plain =
                lba != ahead && block < seen.bound() && (entry.state() != MapState::Initial || entry.raw() == 0);
            if plain {
                seen.add(lba, block);
            } else {
                self.slowly(lba, entry, seen, hear)?;
                ahead = self.next_unfinished();
            }
        }
        Ok(())
    }

    /// An entry that may be wrong.
    #[cold]
    fn slowly(&mut self, lba: u32, entry: MapEntry, seen: &mut Seen, hear: &mut Hear<'_>) -> Result<(), CheckError> {
        self.pass(lba + 1);
        if entry.state() == MapState::Initial && entry.raw() != 0 {
            hear(Told::Problem(self.offset(lba), Problem::MapState { lba, raw: entry.raw() }))?;
        }
        let (block, bound) = (self.block(lba, entry), seen.bound());
        if block >= bound {
            return hear(Told::Problem(self.offset(lba), Problem::MapBlock { lba, block, bound }));
        }
        seen.add(lba, block);
        Ok(())
    }

    /// A hole of the map: entries that are initial, each of them the block of its own number.
    fn initial(&mut self, first: u32, count: u32, seen: &mut Seen, hear: &mut Hear<'_>) -> Result<(), CheckError> {
        let (mut lba, end) = (first, first + count);
        while lba < end {
            if lba.is_multiple_of(64) && end - lba >= 64 && self.may_run(lba, lba, seen) {
                seen.add_64(lba, lba);
                lba += 64;
            } else {
                self.slowly(lba, MapEntry::from_raw(0), seen, hear)?;
                lba += 1;
            }
        }
        Ok(())
    }
}

/// Tells of blocks that came out to belong to two.
fn twice(seen: &mut Seen, hear: &mut Hear<'_>) -> Result<(), CheckError> {
    seen.twice().into_iter().try_for_each(|(lba, block)| hear(Told::Twice { lba, block }))
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
