// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Walk`]: the entries of a map in pieces, as the medium has them.

use pageless_mem::{Extent, Fault};

use super::medium::Medium;
use super::{CheckError, FoundArena};
use crate::btt::layout::PAGE;
use crate::btt::map::{ENTRY_SIZE, MapEntry, MapState};

/// Bytes of the map copied in one go: they stay in the cache while they are looked at.
const STEP: u64 = 128 << 10;
/// Bytes of a hole of the map looked at in one go: as many entries may come out to be wrong before the first is told.
const HOLE_STEP: u64 = 4 << 20;

/// A way over an arena's map.
#[derive(Debug)]
pub(super) struct Walk<'s> {
    medium: Medium,
    arena: &'s FoundArena,
    buf: Vec<u8>,
}

/// What comes next in the map.
pub(super) enum Piece {
    /// So many entries that were never written.
    Initial(u32),
    /// So many entries: [`words`](Walk::words).
    Entries(u32),
    /// So many entries that cannot be read.
    Broken(u32, Fault),
}

impl<'s> Walk<'s> {
    pub(super) fn new(medium: Medium, arena: &'s FoundArena) -> Walk<'s> {
        Walk { medium, arena, buf: Vec::new() }
    }

    /// Byte of the medium where an entry is.
    pub(super) fn offset(&self, lba: u32) -> u64 {
        self.arena.start + self.arena.info.geometry.map_offset(lba)
    }

    /// The entries that came last.
    pub(super) fn words(&self) -> &[[u8; 4]] {
        self.buf.as_chunks::<4>().0
    }

    /// What comes next, below the external block `end`; at least one entry.
    pub(super) fn next(&mut self, lba: u32, end: u32) -> Result<Piece, CheckError> {
        let (offset, left) = (self.offset(lba), u64::from(end - lba) * ENTRY_SIZE);
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
}

/// The first block, if these entries are 64, each of them of the block behind the one before, or never written.
#[inline]
pub(super) fn run(lba: u32, words: &[[u8; 4]]) -> Option<u32> {
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
