// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of regions: an immutable sorted snapshot, and the only doors from numbers to memory.

mod by_addr;
mod directory;

use std::cell::Cell;
use std::sync::Arc;

use crate::persist::Stores;
use crate::pfn::{FRAME_SIZE, PhysRange};
use crate::region::Inner;
use crate::{Access, Error, Fault};

pub use by_addr::AddrRun;
use by_addr::ByAddr;
use directory::Directory;

/// Bytes of a table that one region takes.
pub(crate) const ENTRY_BYTES: usize =
    size_of::<Entry>() + size_of::<u64>() + size_of::<by_addr::Place>() + 4 * size_of::<u32>();

/// What the data path needs of a region, in one cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(crate) struct Entry {
    /// First byte in the frame space.
    start: u64,
    /// Bytes.
    len: u64,
    /// Bytes that need nothing but their address: all, or none of a device's memory, nor of memory with bad frames that
    /// could not be [shut](crate::bad).
    plain: u64,
    /// First virtual address.
    addr: usize,
    /// What becomes of stores; `None` where none are allowed.
    stores: Option<Stores>,
    region: Arc<Inner>,
}

/// Where a range is in this process, for as long as the table is held.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Resolved<'t> {
    pub(crate) addr: usize,
    pub(crate) len: usize,
    /// Byte offset in the region.
    pub(crate) offset: u64,
    pub(crate) region: &'t Arc<Inner>,
    /// What becomes of stores, where they are allowed.
    pub(crate) stores: Option<Stores>,
}

/// Out of the way of the copies that are allowed.
#[cold]
#[inline(never)]
fn read_only() -> Fault {
    Fault::ReadOnly
}

/// What one reader remembers between lookups.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// The entries of the last read and the last write: a transfer alternates between two regions.
    last: [Cell<u32>; 2],
    /// The place of the last address.
    pub(crate) last_place: Cell<u32>,
    /// Memory of devices that it touched.
    #[cfg(feature = "pmem-io")]
    pub(crate) touched: crate::device::Touched,
}

impl Hints {
    #[inline]
    pub(crate) fn last(&self, access: Access) -> &Cell<u32> {
        &self.last[usize::from(access == Access::Write)]
    }
}

/// An immutable snapshot of all regions, sorted by frame number.
#[derive(Debug, Default)]
pub struct RegionTable {
    /// First byte of each entry: the search touches only these and the directory.
    starts: Vec<u64>,
    directory: Directory,
    entries: Vec<Entry>,
    by_addr: ByAddr,
}

impl RegionTable {
    /// A table with one more region.
    pub(crate) fn with(&self, region: Arc<Inner>) -> Result<RegionTable, Error> {
        let len = region.len();
        let (addr, end) = (region.addr(), region.addr() + usize::try_from(len).unwrap_or(usize::MAX));
        if let Some(other) = end.checked_sub(1).and_then(|last| self.by_addr.at_or_below(last)) {
            let (other, other_end) = other.span();
            if addr < other_end {
                return Err(Error::Overlap { addr, end, other, other_end });
            }
        }
        Ok(RegionTable::of(insert(self.entries.clone(), region, len)))
    }

    /// A table with what there is of this region now.
    pub(crate) fn refreshed(&self, region: &Arc<Inner>) -> RegionTable {
        let (others, len) = (self.others(region), region.len());
        RegionTable::of(if len == 0 { others } else { insert(others, Arc::clone(region), len) })
    }

    /// A table without this region.
    pub(crate) fn without(&self, region: &Arc<Inner>) -> RegionTable {
        RegionTable::of(self.others(region))
    }

    fn others(&self, region: &Arc<Inner>) -> Vec<Entry> {
        self.entries.iter().filter(|entry| !Arc::ptr_eq(&entry.region, region)).cloned().collect()
    }

    fn of(entries: Vec<Entry>) -> RegionTable {
        let starts: Vec<u64> = entries.iter().map(|entry| entry.start).collect();
        RegionTable { directory: Directory::of(&starts), by_addr: ByAddr::of(&entries), starts, entries }
    }

    /// Regions in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The memory behind a range of frames.
    #[inline]
    pub(crate) fn resolve(&self, range: PhysRange, access: Access, hints: &Hints) -> Result<Resolved<'_>, Fault> {
        let (byte, len) = (range.byte_address(), range.len());
        let entry = match self.entries.get(hints.last(access).get() as usize) {
            Some(entry) if entry.holds(byte, len) => entry,
            _ => self.search(range, access, hints)?,
        };
        entry.resolved(byte, len, access)
    }

    /// The memory behind a range of frames, where that is memory that needs nothing but its address.
    #[inline]
    pub(crate) fn resolve_plain(&self, range: PhysRange, access: Access, hints: &Hints) -> Option<Resolved<'_>> {
        let (byte, len, last) = (range.byte_address(), range.len(), hints.last(access));
        let entry = match self.entries.get(last.get() as usize) {
            Some(entry) if entry.holds(byte, len) => entry,
            _ => {
                let index = self.find(byte)?;
                let found = self.entries.get(index as usize).filter(|entry| entry.holds(byte, len))?;
                last.set(index);
                found
            }
        };
        entry.resolved(byte, len, access).ok()
    }

    /// The entry that holds these bytes. Out of line, so that the last hit stays short; memory of devices and
    /// memory with bad frames, which are never a last hit, are seen to here.
    #[cold]
    #[inline(never)]
    fn search(&self, range: PhysRange, access: Access, hints: &Hints) -> Result<&Entry, Fault> {
        let index = self.find(range.byte_address()).ok_or(Fault::Gone)?;
        hints.last(access).set(index);
        let entry = self.entries.get(index as usize).ok_or(Fault::Gone)?;
        if !entry.has(range) {
            return Err(Fault::Gone);
        }
        #[cfg(feature = "pmem-io")]
        if entry.plain == 0 && (access == Access::Read || entry.stores.is_some()) {
            if entry.region.backing.device().is_some() {
                hints.touched.enter(&entry.region, access)?;
            } else if entry.region.bad.refuses(range.byte_address() - entry.start, u64::from(range.len())) {
                return Err(Fault::Media);
            }
        }
        Ok(entry)
    }

    /// The last entry that starts at this byte or before it.
    fn find(&self, byte: u64) -> Option<u32> {
        self.directory.find(byte, &self.starts, |start| *start)
    }

    /// The region of a range whose bytes are not going to be touched.
    pub(crate) fn region_of(&self, range: PhysRange) -> Result<&Inner, Fault> {
        let entry = self.find(range.byte_address()).and_then(|index| self.entries.get(index as usize));
        entry.filter(|entry| entry.has(range)).map(|entry| &*entry.region).ok_or(Fault::Gone)
    }
}

fn insert(mut entries: Vec<Entry>, region: Arc<Inner>, len: u64) -> Vec<Entry> {
    let entry = Entry {
        start: region.frames.start().number() * FRAME_SIZE,
        len,
        #[cfg(feature = "pmem-io")]
        plain: if region.backing.device().is_some() || region.bad.gate() { 0 } else { len },
        #[cfg(not(feature = "pmem-io"))]
        plain: len,
        addr: region.addr(),
        stores: region.backing.writable().then(|| region.backing.stores()),
        region,
    };
    let at = entries.partition_point(|other| other.start < entry.start);
    entries.insert(at, entry);
    entries
}

impl Entry {
    fn has(&self, range: PhysRange) -> bool {
        let offset = range.byte_address().wrapping_sub(self.start);
        offset < self.len && u64::from(range.len()) <= self.len - offset
    }

    /// Where bytes that it [holds](Entry::holds) are.
    #[inline]
    fn resolved(&self, byte: u64, len: u32, access: Access) -> Result<Resolved<'_>, Fault> {
        if access == Access::Write && self.stores.is_none() {
            return Err(read_only());
        }
        let offset = byte - self.start;
        #[expect(clippy::cast_possible_truncation, reason = "an offset in a mapping fits the address it is added to")]
        let addr = self.addr + offset as usize;
        Ok(Resolved { addr, len: len as usize, offset, region: &self.region, stores: self.stores })
    }

    /// As [`Entry::has`], and nothing else is to be done.
    #[inline]
    fn holds(&self, byte: u64, len: u32) -> bool {
        let offset = byte.wrapping_sub(self.start);
        offset < self.plain && u64::from(len) <= self.plain - offset
    }
}
