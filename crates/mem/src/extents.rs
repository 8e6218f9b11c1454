// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a sparse region has data, so that reads of holes need not touch (and so allocate) them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pageless_sys::file::{File, Run};
use pageless_sys::pagemap::Pagemap;

use crate::region::Inner;

/// How to ask where data is.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Sparse {
    /// No way, or no holes: everything is data.
    Dense,
    /// `SEEK_DATA` and `SEEK_HOLE` on the file behind the mapping.
    Seek,
    /// `PAGEMAP_SCAN` on the mapping: only we have it mapped, so what is not mapped is not there.
    Pagemap,
}

/// The longest prefix of a range that is of one sort, in bytes.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Extent {
    /// Holds data.
    Data(u64),
    /// Reads as zeroes; reads must not touch it.
    Hole(u64),
}

impl Extent {
    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "an extent of a non-empty range is never empty")]
    pub fn len(self) -> u64 {
        match self {
            Extent::Data(len) | Extent::Hole(len) => len,
        }
    }
}

/// Bytes of page table looked at per question, aligned to as much, so that the answers of random questions join.
/// Doubled while all of it is data: a few microseconds at first, a hundred at worst.
const SCAN: u64 = 8 << 20;
const MAX_SCAN: u64 = 128 << 20;

/// Data runs remembered per queue, at most.
const REMEMBERED: usize = 1024;

/// One queue's view of a region's data and holes.
///
/// Only data is remembered: a store by anyone can only add data, and deallocation by us moves the region's punch
/// counter, which empties the memory. A stale "data" (another process punched) costs an allocation, never wrong bytes.
#[derive(Debug)]
pub struct Extents {
    region: Arc<Inner>,
    pagemap: Option<Pagemap>,
    scan: u64,
    punches: u64,
    /// Disjoint data runs by start.
    data: Vec<(u64, u64)>,
    last: usize,
}

impl Extents {
    pub(crate) fn new(region: Arc<Inner>) -> Extents {
        let by_pagemap = region.backing.extent_source() == Sparse::Pagemap;
        let pagemap = if by_pagemap { Pagemap::open().ok() } else { None };
        Extents { region, pagemap, scan: SCAN, punches: 0, data: Vec::new(), last: 0 }
    }

    /// The longest prefix of `[offset, offset + len)` of one sort, as far as is worth finding out. `len` is not 0. What
    /// the region no longer has (it was cut, or revoked) counts as data, so that whoever touches it gets `Gone`.
    #[inline]
    pub fn next(&mut self, offset: u64, len: u64) -> Extent {
        if self.region.backing.extent_source() == Sparse::Dense {
            return Extent::Data(len);
        }
        match self.remembered(offset) {
            Some((_, end)) => Extent::Data(len.min(end - offset)),
            None => self.look_up(offset, len),
        }
    }

    /// Whether all of `[offset, offset + len)` is known to be data, without asking anybody.
    #[inline]
    pub fn known_data(&mut self, offset: u64, len: u64) -> bool {
        self.region.backing.extent_source() == Sparse::Dense
            || self.remembered(offset).is_some_and(|(_, end)| len <= end - offset)
    }

    /// The run of data around `offset`, if it is remembered.
    #[inline]
    fn remembered(&mut self, offset: u64) -> Option<(u64, u64)> {
        let punches = self.region.punches.load(Ordering::Acquire);
        if punches != self.punches {
            self.punches = punches;
            self.data.clear();
        }
        let holds = |(start, end): &(u64, u64)| (*start..*end).contains(&offset);
        self.data.get(self.last).copied().filter(holds).or_else(|| self.recall(offset))
    }

    /// Of the other runs that are remembered.
    #[cold]
    fn recall(&mut self, offset: u64) -> Option<(u64, u64)> {
        let at = self.data.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        let run = self.data.get(at).copied().filter(|(_, end)| offset < *end)?;
        self.last = at;
        Some(run)
    }

    #[cold]
    fn look_up(&mut self, offset: u64, len: u64) -> Extent {
        let end = self.region.len();
        let run = match (&self.pagemap, self.region.backing.file_behind()) {
            _ if offset >= end => None,
            (Some(_), _) => self.ask_pagemap(offset, end),
            (None, Some(file)) if self.region.backing.extent_source() == Sparse::Seek => {
                ask_file(file, self.region.backing.in_file(0), offset, end).map(|run| (offset, run))
            }
            _ => None,
        };
        // Memory that was given back meanwhile looks like a hole.
        if offset >= end || self.region.len() < offset.saturating_add(len).min(end) {
            return Extent::Data(len);
        }
        // All data where the kernel cannot say.
        let (start, run) = run.unwrap_or((0, Run::DataUntil(end)));
        match run {
            Run::HoleUntil(end) => Extent::Hole(len.min(end - offset)),
            Run::DataUntil(end) => {
                self.remember(start, end);
                Extent::Data(len.min(end - offset))
            }
        }
    }

    /// The run around `offset` as far as an aligned window of the page table shows it, and where it starts.
    fn ask_pagemap(&mut self, offset: u64, end: u64) -> Option<(u64, Run)> {
        let base = self.region.addr() as u64;
        let window = offset / self.scan * self.scan;
        let end = end.min(window + self.scan);
        let mut start = window;
        loop {
            let run = self.pagemap.as_ref()?.run_at(base + start, base + end).ok()?;
            let (Run::DataUntil(until) | Run::HoleUntil(until)) = run;
            let until = until - base;
            if until <= offset && until > start {
                start = until;
                continue;
            }
            if matches!(run, Run::HoleUntil(_)) {
                self.scan = SCAN;
                return Some((start, Run::HoleUntil(until)));
            }
            if start == window && until == end {
                self.scan = (self.scan * 2).min(MAX_SCAN);
            }
            return Some((start, Run::DataUntil(until)));
        }
    }

    fn remember(&mut self, start: u64, end: u64) {
        if self.data.len() == REMEMBERED {
            self.data.remove(self.last.min(REMEMBERED - 1));
        }
        // Runs that the new one reaches are part of it.
        let first = self.data.partition_point(|run| run.1 < start);
        let past = self.data.partition_point(|run| run.0 <= end);
        let start = self.data.get(first).filter(|_| first < past).map_or(start, |run| run.0.min(start));
        let end = past.checked_sub(1).filter(|at| *at >= first).map_or(end, |at| self.data[at].1.max(end));
        self.data.splice(first..past, [(start, end)]);
        self.last = first;
    }
}

/// The run at `offset` of a region that shows a file from byte `base` on. What lies past the end of a file that was cut
/// short is lost, not a hole: it counts as data, so that whoever touches it finds out (I7).
fn ask_file(file: &File, base: u64, offset: u64, end: u64) -> Option<Run> {
    let run = match file.run_at(base + offset, base + end).ok()? {
        Run::DataUntil(until) => Run::DataUntil(until.saturating_sub(base)),
        Run::HoleUntil(until) => Run::HoleUntil(until.saturating_sub(base)),
    };
    if run != Run::HoleUntil(end) {
        return Some(run);
    }
    match file.size().ok()?.saturating_sub(base) {
        size if size >= end => Some(run),
        size if size > offset => Some(Run::HoleUntil(size)),
        _ => Some(Run::DataUntil(end)),
    }
}
