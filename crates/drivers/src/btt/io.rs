// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Io`] and [`Section`]: how one queue touches the medium.

use pageless_block::Bio;
use pageless_mem::persist::Flusher;
use pageless_mem::{Access, Extents, Fault, Kmap, Online, PhysRange, Reader};
use zerocopy::IntoBytes;

use super::arena::Arena;
use super::device::Shared;
use super::flog::{FlogEntry, Which};
use super::map::MapEntry;

/// What a queue touches memory with.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) reader: Reader,
    pub(super) extents: Extents,
    pub(super) flusher: Flusher,
}

impl Io {
    pub(super) fn new(shared: &Shared) -> Io {
        let region = &shared.region;
        Io { reader: shared.memory.reader(), extents: region.extents(), flusher: region.flusher() }
    }

    pub(super) fn section<'s>(&'s mut self, shared: &'s Shared) -> Section<'s> {
        Section { online: self.reader.online(), shared }
    }

    /// Whether the medium, or frames of this bio, went away while they were used.
    #[cold]
    pub(super) fn lost(&mut self, shared: &Shared, bio: &Bio) -> bool {
        let online = self.reader.online();
        let gone = |range| online.kmap(range, Access::Read).is_err();
        let Some(medium) = shared.region.range(0, 1) else { return true };
        [medium].into_iter().chain(&bio.data).any(gone)
    }
}

/// The medium while the table of regions stands still: never wait for anybody here.
#[derive(Debug)]
pub(super) struct Section<'s> {
    online: Online<'s>,
    shared: &'s Shared,
}

/// The half of a flog entry that is stored by one store.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// The block, and where it was.
    Old,
    /// Where it is now, and the sequence number that makes the entry current.
    New,
}

impl Section<'_> {
    #[inline]
    pub(super) fn window(&self, offset: u64, len: u64, access: Access) -> Result<Kmap<'_>, Fault> {
        self.frames(self.shared.region.range(offset, len).ok_or(Fault::Gone)?, access)
    }

    #[inline]
    pub(super) fn frames(&self, range: PhysRange, access: Access) -> Result<Kmap<'_>, Fault> {
        self.online.kmap(range, access)
    }

    /// An internal block with its metadata.
    #[inline]
    pub(super) fn block(&self, arena: &Arena, block: u32, access: Access) -> Result<Kmap<'_>, Fault> {
        self.window(arena.block_offset(block), u64::from(self.shared.lba_size.bytes()), access)
    }

    /// A map entry.
    #[inline]
    pub(super) fn entry(&self, arena: &Arena, lba: u32) -> Result<MapEntry, Fault> {
        let window = self.window(arena.map_offset(lba), 4, Access::Read)?;
        let word = window.cell::<u32>(0).ok_or(Fault::Gone)?.load()?;
        Ok(MapEntry::from_raw(u32::from_le(word)))
    }

    /// A map entry that is about to be changed: whatever keeps it from being stored to is found out now.
    #[inline]
    pub(super) fn entry_to_change(&self, arena: &Arena, lba: u32) -> Result<MapEntry, Fault> {
        let window = self.window(arena.map_offset(lba), 4, Access::Write)?;
        let word = window.cell::<u32>(0).ok_or(Fault::Gone)?.fetch_or(0)?;
        Ok(MapEntry::from_raw(u32::from_le(word)))
    }

    /// Stores a map entry: durable after the next fence.
    #[inline]
    pub(super) fn store_entry(&self, arena: &Arena, lba: u32, entry: MapEntry) -> Result<(), Fault> {
        let window = self.window(arena.map_offset(lba), 4, Access::Write)?;
        window.cell::<u32>(0).ok_or(Fault::Gone)?.store_back(entry.raw().to_le())
    }

    /// Stores half of a flog entry: durable after the next fence.
    #[inline]
    pub(super) fn store_half(
        &self,
        arena: &Arena,
        (lane, which): (u32, Which),
        entry: &FlogEntry,
        half: Half,
    ) -> Result<(), Fault> {
        let window = self.window(arena.flog_offset(lane, which), 16, Access::Write)?;
        let (words, _) = entry.as_bytes().as_chunks::<8>();
        let (offset, word) = match (half, words) {
            (Half::Old, [old, _]) => (0, old),
            (_, [.., new]) => (8, new),
            _ => return Err(Fault::Gone),
        };
        window.cell::<u64>(offset).ok_or(Fault::Gone)?.store_back(u64::from_ne_bytes(*word))
    }
}
