// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MemoryDisk`]: a region as a disk.
//!
//! Sector to frame is an addition, and the CPU moves the bytes. What a request costs is the first access to its cache
//! lines, so requests are executed in batches, and while one is copied the next one's lines are fetched.

mod queue;

use pageless_block::{BlockDevice, Direct, DirectAccess, Error, Extent, ExtentMap, Limits, Queue, Status};
use pageless_mem::persist::{self, Durability};
use pageless_mem::{Extents, Fault, MemKind, Memory, Region};
use queue::MemoryQueue;

/// A region as a disk, of which [`RamDisk`](crate::RamDisk) and [`PmemDisk`](crate::PmemDisk) say what it promises.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    name: String,
    memory: Memory,
    region: Region,
    /// Bytes that there were at first. What is taken from the region since is not outside the disk, it is gone.
    capacity: u64,
    limits: Limits,
}

impl MemoryDisk {
    /// `region` of `memory` as a disk of that name. It is read-only if the region is.
    pub fn new(memory: &Memory, region: Region, name: impl Into<String>) -> MemoryDisk {
        let writable = region.writable();
        let limits = Limits {
            // Memory has no sectors: all that a power failure cannot tear is one aligned store.
            atomic_write_unit: 8,
            read_only: !writable,
            flush: true,
            fua: true,
            discard: region.punchable(),
            write_zeroes: writable,
            ..Limits::default()
        };
        MemoryDisk { name: name.into(), memory: memory.clone(), capacity: region.len(), region, limits }
    }

    /// The memory that is the disk.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

impl BlockDevice for MemoryDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(MemoryQueue::new(self.memory.reader(), self.region.clone())))
    }

    fn dax(&self) -> Option<Box<dyn DirectAccess>> {
        // The function may go away while a server sends from its BAR, and what was sent cannot be taken back.
        (self.region.kind() != MemKind::Bar).then(|| Box::new(View::new(self)) as Box<dyn DirectAccess>)
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        Some(Box::new(View::new(self)))
    }
}

/// The region seen without a queue.
#[derive(Debug)]
struct View {
    region: Region,
    extents: Extents,
    capacity: u64,
}

impl View {
    fn new(disk: &MemoryDisk) -> View {
        View { region: disk.region.clone(), extents: disk.region.extents(), capacity: disk.capacity }
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Status> {
        match offset.checked_add(len) {
            Some(end) if len > 0 && end <= self.region.len() => Ok(()),
            Some(end) if len > 0 && end <= self.capacity => Err(Status::Gone),
            _ => Err(Status::OutOfRange),
        }
    }

    fn check_stored(&self, offset: u64, len: u64) -> Result<(), Status> {
        self.check(offset, len)?;
        if self.region.writable() { Ok(()) } else { Err(Status::ReadOnly) }
    }
}

impl ExtentMap for View {
    fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status> {
        self.check(offset, len)?;
        Ok(self.extents.next(offset, len))
    }
}

impl DirectAccess for View {
    fn access(&mut self, offset: u64, len: u64) -> Result<Direct, Status> {
        self.check(offset, len)?;
        match self.extents.next(offset, len) {
            Extent::Hole(len) => Ok(Direct::Hole(len)),
            Extent::Data(len) => self.region.range(offset, len).map(Direct::Data).ok_or(Status::Gone),
        }
    }

    fn stored(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        self.check_stored(offset, len)?;
        if self.region.durability() == Durability::Clwb {
            // Whoever stored may have left it in the cache, where a later flush does not look for it.
            self.region.persist(offset, len).map_err(Status::from)
        } else {
            persist::fence();
            Ok(())
        }
    }

    fn persist(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        self.check_stored(offset, len)?;
        self.region.persist(offset, len).map_err(Status::from)
    }
}

/// Where a request stopped.
#[derive(Copy, Clone, Debug)]
struct Stopped {
    done: u64,
    fault: Fault,
}
