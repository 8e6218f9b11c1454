// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Arena`]: what the queues of a disk know of one arena.

use std::sync::atomic::{AtomicBool, Ordering};

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
}

/// Whether an arena may be changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    Allowed,
    Frozen,
}

impl Arena {
    pub(super) fn new(
        (number, start, first): (u32, u64, u64),
        geometry: Geometry,
        layout: FlogLayout,
        lanes: LanePool,
        writes: Writes,
    ) -> Arena {
        let frozen = AtomicBool::new(writes == Writes::Frozen);
        Arena { number, start, first, geometry, layout, lanes, frozen }
    }

    pub(super) fn frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
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
        let slot = self.layout.slot(which) as u64;
        self.start + self.geometry.flog_offset(lane) + slot * super::flog::ENTRY_SIZE
    }

    /// The name of an internal block among those of all arenas.
    #[inline]
    pub(super) fn block(&self, block: u32) -> Block {
        Block::new(self.number, block)
    }
}
