// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Io`] and [`Section`]: how one queue touches the medium.

use pageless_block::Bio;
use pageless_mem::cell::Cell;
use pageless_mem::persist::Flusher;
use pageless_mem::{Access, Extents, Fault, Kmap, Online, PhysRange, Reader};

use super::arena::Arena;
use super::device::Shared;
use super::flog::{self, Which};
use super::lanes::Lane;
use super::map::{self, MapEntry};

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

    /// Whether what was moved for this bio cannot be trusted, given what [`Reader::confirm`] says: the medium or its frames went
    /// away while they were used, or a device failed to take part.
    #[cold]
    pub(super) fn lost(&mut self, shared: &Shared, bio: &Bio, fault: Fault) -> bool {
        let online = self.reader.online();
        let gone = |range| online.kmap(range, Access::Read).is_err();
        let Some(medium) = shared.region.range(0, 1) else { return true };
        fault != Fault::Gone || [medium].into_iter().chain(&bio.data).any(gone)
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

    /// A window on the map around an entry: mostly on all of it. Not where that has bad frames: they are not to be seen.
    #[cold]
    fn map(&self, arena: &Arena, lba: u32, access: Access) -> Result<MapWindow<'_>, Fault> {
        let first = lba / MAP_ENTRIES * MAP_ENTRIES;
        let count = (arena.geometry.external_nlba() - first).min(MAP_ENTRIES);
        let show = |first, count| {
            let window = self.window(arena.map_offset(first), u64::from(count) * map::ENTRY_SIZE, access)?;
            Ok(MapWindow { arena: arena.number, first, count, window })
        };
        show(first, count).or_else(|fault| if fault == Fault::Media { show(lba, 1) } else { Err(fault) })
    }

    /// A window on the flog: on all of it, as long as it has no bad frames, or on a lane's group.
    #[cold]
    fn flog(&self, arena: &Arena, lane: u32) -> Result<FlogWindow<'_>, Fault> {
        let show = |first, lanes| {
            let start = arena.flog_offset(first, Which::First);
            let window = self.window(start, u64::from(lanes) * flog::GROUP_SIZE, Access::Write)?;
            Ok(FlogWindow { arena: arena.number, first, lanes, window })
        };
        let all = show(0, arena.geometry.nfree());
        all.or_else(|fault| if fault == Fault::Media { show(lane, 1) } else { Err(fault) })
    }

    /// The maps of the arenas.
    pub(super) fn maps(&self, access: Access) -> Maps<'_> {
        Maps { section: self, access, window: None }
    }

    /// The flogs of the arenas.
    pub(super) fn flogs(&self) -> Flogs<'_> {
        Flogs { section: self, window: None }
    }
}

/// Entries of a window on a map, at most: as many as one range can name, and a power of two.
const MAP_ENTRIES: u32 = 1 << 29;

/// Windows on maps, one at a time: they are opened when they are needed.
#[derive(Debug)]
pub(super) struct Maps<'s> {
    section: &'s Section<'s>,
    access: Access,
    window: Option<MapWindow<'s>>,
}

impl<'s> Maps<'s> {
    /// The window that shows an entry.
    #[inline]
    pub(super) fn of(&mut self, arena: &Arena, lba: u32) -> Result<&MapWindow<'s>, Fault> {
        if self.window.as_ref().is_none_or(|window| !window.shows(arena, lba)) {
            self.window = Some(self.section.map(arena, lba, self.access)?);
        }
        self.window.as_ref().ok_or(Fault::Gone)
    }

    /// Has an entry fetched.
    #[inline]
    pub(super) fn prefetch(&mut self, arena: &Arena, lba: u32) {
        if let Ok(map) = self.of(arena, lba) {
            map.window.prefetch_at(map.offset(lba));
        }
    }
}

/// A window on a map.
#[derive(Debug)]
pub(super) struct MapWindow<'s> {
    arena: u32,
    first: u32,
    count: u32,
    window: Kmap<'s>,
}

impl MapWindow<'_> {
    #[inline]
    fn shows(&self, arena: &Arena, lba: u32) -> bool {
        self.arena == arena.number && lba.wrapping_sub(self.first) < self.count
    }

    #[inline]
    fn offset(&self, lba: u32) -> usize {
        4 * (lba - self.first) as usize
    }

    #[inline]
    fn cell(&self, lba: u32) -> Result<Cell<'_, u32>, Fault> {
        self.window.cell(self.offset(lba)).ok_or(Fault::Gone)
    }

    /// An entry.
    #[inline]
    pub(super) fn entry(&self, lba: u32) -> Result<MapEntry, Fault> {
        Ok(MapEntry::from_raw(u32::from_le(self.cell(lba)?.load()?)))
    }

    /// An entry that is about to be changed by who claims it: whatever keeps it from being stored to is found out
    /// now.
    #[inline]
    pub(super) fn entry_to_change(&self, lba: u32) -> Result<MapEntry, Fault> {
        let cell = self.cell(lba)?;
        let word = cell.load()?;
        // Nobody else stores to it. A hole is filled.
        cell.store(word)?;
        Ok(MapEntry::from_raw(u32::from_le(word)))
    }

    /// Stores an entry: durable after the next fence.
    #[inline]
    pub(super) fn store(&self, lba: u32, entry: MapEntry) -> Result<(), Fault> {
        self.cell(lba)?.store_back(entry.raw().to_le())
    }
}

/// Windows on flogs, one at a time.
#[derive(Debug)]
pub(super) struct Flogs<'s> {
    section: &'s Section<'s>,
    window: Option<FlogWindow<'s>>,
}

/// A window on the groups of some lanes.
#[derive(Debug)]
struct FlogWindow<'s> {
    arena: u32,
    first: u32,
    lanes: u32,
    window: Kmap<'s>,
}

impl FlogWindow<'_> {
    #[inline]
    fn shows(&self, arena: &Arena, lane: u32) -> bool {
        self.arena == arena.number && lane.wrapping_sub(self.first) < self.lanes
    }
}

impl Flogs<'_> {
    /// Stores half of a lane's next entry: durable after the next fence.
    #[inline(always)]
    pub(super) fn store(&mut self, arena: &Arena, lane: &Lane, half: Half, word: u64) -> Result<(), Fault> {
        if self.window.as_ref().is_none_or(|window| !window.shows(arena, lane.number)) {
            self.window = Some(self.section.flog(arena, lane.number)?);
        }
        let Some(FlogWindow { first, window, .. }) = &self.window else { return Err(Fault::Gone) };
        let entry = usize::try_from(arena.layout.offset(lane.number - first, lane.next)).unwrap_or(usize::MAX);
        let half = if half == Half::Old { 0 } else { 8 };
        window.cell::<u64>(entry.saturating_add(half)).ok_or(Fault::Gone)?.store_back(word.to_le())
    }
}
