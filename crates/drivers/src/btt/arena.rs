// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Arena`]: what the queues of a disk know of one arena.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::check::FoundArena;
use super::flog::{FlogLayout, Which};
use super::lanes::LanePool;
use super::layout::Geometry;
use super::read_table::Block;

/// An arena that is open.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) number: u32,
    /// Its first byte on the medium.
    pub(super) start: u64,
    /// The first external block of the disk that lies in it.
    pub(super) first: u64,
    pub(super) geometry: Geometry,
    pub(super) layout: FlogLayout,
    pub(super) lanes: LanePool,
    /// Nothing in it is changed any more.
    frozen: AtomicBool,
    /// Its map was not read yet, so nothing in it may be changed.
    unread: AtomicBool,
    /// Held by who reads it.
    reading: Mutex<FoundArena>,
}

/// Whether an arena may be changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    Allowed,
    /// Once its map was read.
    Unread,
    Frozen,
}

impl Arena {
    /// The external blocks from `first` on.
    pub(super) fn new(found: &FoundArena, first: u64, layout: FlogLayout, lanes: LanePool, writes: Writes) -> Arena {
        let FoundArena { number, start, info, .. } = *found;
        Arena {
            number,
            start,
            first,
            geometry: info.geometry,
            layout,
            lanes,
            frozen: AtomicBool::new(writes == Writes::Frozen),
            unread: AtomicBool::new(writes == Writes::Unread),
            reading: Mutex::new(*found),
        }
    }

    #[inline]
    pub(super) fn writes(&self) -> Writes {
        // Whoever has read the map has said before whether the arena is frozen.
        match (self.unread.load(Ordering::Acquire), self.frozen()) {
            (_, true) => Writes::Frozen,
            (true, false) => Writes::Unread,
            (false, false) => Writes::Allowed,
        }
    }

    #[inline]
    pub(super) fn frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// One at a time: what its info block says.
    pub(super) fn reading(&self) -> MutexGuard<'_, FoundArena> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its map was read.
    pub(super) fn was_read(&self) {
        self.unread.store(false, Ordering::Release);
    }

    /// Ends all changes. True for who did it first.
    pub(super) fn freeze(&self) -> bool {
        !self.frozen.swap(true, Ordering::Relaxed)
    }

    /// Past its last external block.
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.geometry.external_nlba())
    }

    /// Byte of the medium where an internal block begins.
    #[inline]
    pub(super) fn block_offset(&self, block: u32) -> u64 {
        self.start + self.geometry.block_offset(block)
    }

    /// Byte of the medium where a map entry is.
    #[inline]
    pub(super) fn map_offset(&self, lba: u32) -> u64 {
        self.start + self.geometry.map_offset(lba)
    }

    /// Byte of the medium where one of a lane's flog entries is.
    #[inline]
    pub(super) fn flog_offset(&self, lane: u32, which: Which) -> u64 {
        self.start + self.geometry.flogoff() + self.layout.offset(lane, which)
    }

    /// The name of an internal block among those of all arenas.
    #[inline]
    pub(super) fn block(&self, block: u32) -> Block {
        Block::new(self.number, block)
    }
}
