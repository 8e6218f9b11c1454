// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process's frame space: where regions are registered and who reads the table.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backing::Backing;
use crate::control::Control;
use crate::pfn::{FRAME_SIZE, FrameRange, PhysRange};
use crate::pin::{self, Inflight};
use crate::region::{Inner, Pinned, Region};
use crate::sync::{self, Published};
use crate::table::{AddrRun, Hints, RegionTable};
use crate::{Access, Caps, Error, Fault, Kmap, bad, fault};

/// How long dropping a region waits for others to leave their sections.
const LET_GO: Duration = Duration::from_millis(2);

/// Publishes tables, one change at a time.
#[derive(Debug)]
pub(crate) struct Publisher {
    published: Arc<Published<RegionTable>>,
    /// The newest table, under the lock that serialises changes.
    newest: Mutex<Arc<RegionTable>>,
    control: Control,
}

impl Publisher {
    fn new() -> Publisher {
        let table = Arc::new(RegionTable::default());
        let published = Arc::new(Published::new(Arc::clone(&table)));
        Publisher { control: Control::new(Arc::clone(&published)), published, newest: Mutex::new(table) }
    }

    pub(crate) fn published(&self) -> &Published<RegionTable> {
        &self.published
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Publishes what there is of a region now, which may be nothing.
    pub(crate) fn refresh(&self, region: &Arc<Inner>) {
        let Ok(()) = self.change(|table| Ok::<_, Infallible>(table.refreshed(region)));
    }

    fn change<E>(&self, next: impl FnOnce(&RegionTable) -> Result<RegionTable, E>) -> Result<(), E> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let table = Arc::new(next(&newest)?);
        *newest = Arc::clone(&table);
        self.published.publish(table);
        drop(newest);
        // What goes with old tables may take long to unmap: others change the table meanwhile.
        self.published.reclaim();
        Ok(())
    }

    pub(crate) fn remove(&self, region: &Arc<Inner>) {
        let Ok(()) = self.change(|table| Ok::<_, Infallible>(table.without(region)));
        // Sections are short, so the mapping and its file's lock are usually gone before this returns. Not always: this
        // thread may be online itself, and then the next change of the table finds the old one free.
        let start = Instant::now();
        while self.published.reclaim() > 0 && start.elapsed() < LET_GO {
            std::thread::yield_now();
        }
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader { reader: self.published.reader(), hints: Hints::default() }
    }
}

/// The frame space of this process: register memory here, read it through a [`Reader`].
#[derive(Debug, Clone)]
pub struct Memory(Arc<Publisher>);

impl Memory {
    /// An empty frame space. Installs fault containment for the process (see the module `fault`).
    pub fn new() -> Result<Memory, Error> {
        fault::install()?;
        Ok(Memory(Arc::new(Publisher::new())))
    }

    /// Gives the memory frames and puts it in the table: a table insert, whatever the size.
    pub fn register(&self, backing: Backing) -> Result<Region, Error> {
        let frames = FrameRange::take(backing.reserved() / FRAME_SIZE)?;
        let inner = Arc::new(Inner::new(frames, backing));
        if inner.backing.medium().is_some() {
            bad::import(&inner);
        }
        self.0.change(|table| table.with(Arc::clone(&inner)))?;
        Ok(Region::new(inner, Arc::clone(&self.0)))
    }

    /// A reader, for one thread.
    pub fn reader(&self) -> Reader {
        self.0.reader()
    }

    /// Regions registered now.
    pub fn regions(&self) -> usize {
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One thread's way to the table.
#[derive(Debug)]
pub struct Reader {
    reader: sync::Reader<RegionTable>,
    hints: Hints,
}

impl Reader {
    /// Goes online: windows on regions can be opened until the section is dropped. Never sleep inside; a revocation
    /// waits for it.
    #[inline]
    pub fn online(&mut self) -> Online<'_> {
        Online { table: self.reader.online(), hints: &self.hints }
    }

    /// With `pmem-io` off there is nothing that could have gone away.
    #[cfg(not(feature = "pmem-io"))]
    #[inline]
    pub fn confirm(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    #[cfg(feature = "pmem-io")]
    pub(crate) fn touched(&self) -> &crate::device::Touched {
        &self.hints.touched
    }
}

/// A section in which the table stands still.
#[derive(Debug)]
pub struct Online<'r> {
    table: sync::Guard<'r, RegionTable>,
    hints: &'r Hints,
}

impl Online<'_> {
    /// A CPU window on the bytes.
    #[inline]
    pub fn kmap(&self, range: PhysRange, access: Access) -> Result<Kmap<'_>, Fault> {
        Ok(Kmap::new(self.resolve(range, access)?, access))
    }

    /// A window for looking ahead: `None` where there is none, and on memory that has to be [told](Reader::confirm) of whoever
    /// touches it.
    #[inline]
    pub fn peek(&self, range: PhysRange, access: Access) -> Option<Kmap<'_>> {
        self.table.resolve_plain(range, access, self.hints).map(|at| Kmap::new(at, access))
    }

    /// Takes the bytes out for the kernel or a device: they are in flight until the returned owner is dropped.
    pub fn pin(&self, ranges: &[PhysRange], access: Access) -> Result<Inflight, Fault> {
        pin::pin(self, ranges, access)
    }

    /// Where these addresses of the process lie in the frame space, if in one region.
    pub fn resolve_addr(&self, addr: usize, len: usize) -> Option<PhysRange> {
        self.table.resolve_addr(addr, len)
    }

    /// What lies at an address of the process, looking at most `len` bytes ahead. Checks no access.
    #[inline]
    pub fn run_at(&self, addr: usize, len: usize) -> AddrRun {
        self.table.run_at(addr, len, &self.hints.last_place)
    }

    /// What may be done with the memory of this range, as far as anybody found out. Does not touch it.
    ///
    /// # Errors
    /// [`Fault::Gone`] where it is in no region.
    #[inline]
    pub fn caps(&self, range: PhysRange) -> Result<Caps, Fault> {
        Ok(self.table.region_of(range)?.caps.load())
    }

    /// What is known of short pins of the region of this range.
    pub fn short_pin(&self, range: PhysRange) -> Result<Pinned, Fault> {
        Ok(self.table.region_of(range)?.short_pin())
    }

    /// Remembers for the region of this range what an I/O found out about short pins.
    pub fn set_short_pin(&self, range: PhysRange, verdict: Pinned) {
        if let Ok(region) = self.table.region_of(range) {
            region.set_short_pin(verdict);
        }
    }

    /// Whether memory of a device was touched: then end the section, and [`Reader::confirm`] what it moved.
    #[inline]
    pub fn touched_device(&self) -> bool {
        #[cfg(feature = "pmem-io")]
        return self.hints.touched.any();
        #[cfg(not(feature = "pmem-io"))]
        false
    }

    /// The thread whose section it is.
    pub(crate) fn thread(&self) -> u32 {
        self.table.thread()
    }

    #[inline]
    pub(crate) fn resolve(&self, range: PhysRange, access: Access) -> Result<crate::table::Resolved<'_>, Fault> {
        self.table.resolve(range, access, self.hints)
    }

    #[cfg(feature = "pmem-io")]
    pub(crate) fn touched(&self) -> &crate::device::Touched {
        &self.hints.touched
    }
}

#[cfg(all(test, feature = "pmem-io"))]
#[expect(unsafe_code, reason = "registers addresses, which the tests keep mapped")]
mod tests {
    use super::*;

    fn foreign(addr: usize, len: u64) -> Result<Backing, Error> {
        // SAFETY: the tests register addresses of regions that outlive them, or none that is ever touched.
        unsafe { Backing::foreign(addr, len, true) }
    }

    #[test]
    fn addresses_are_registered_once_and_found_by_address() {
        let memory = Memory::new().unwrap();
        // A frame on either side is mapped too, and as children do not see it.
        let around = pageless_sys::mmap::Mapping::anonymous(6 * FRAME_SIZE).unwrap();
        let addr = around.addr() + 4096;
        let inheritable = foreign(addr, FRAME_SIZE);
        assert!(matches!(inheritable, Err(Error::Inheritable { at, .. }) if at == addr), "{inheritable:?}");
        around.dont_fork().unwrap();
        let region = memory.register(foreign(addr, 4 * FRAME_SIZE).unwrap()).unwrap();
        for (start, frames) in [(addr, 1), (addr + 3 * 4096, 1), (addr - 4096, 2), (addr - 4096, 6)] {
            let overlapping = memory.register(foreign(start, frames * FRAME_SIZE).unwrap());
            assert!(matches!(overlapping, Err(Error::Overlap { other, .. }) if other == addr), "{overlapping:?}");
        }
        assert!(matches!(foreign(addr + 1, FRAME_SIZE), Err(Error::Misaligned { what: "address", .. })));
        assert!(matches!(foreign(addr, 0), Err(Error::Empty)));
        assert!(foreign(usize::MAX - 4095, 2 * FRAME_SIZE).is_err(), "wraps");
        let mut reader = memory.reader();
        let online = reader.online();
        let found = online.resolve_addr(addr + 5000, 3000).unwrap();
        assert_eq!(Some(found), region.range(5000, 3000));
        assert_eq!(online.resolve_addr(addr - 1, 2), None);
        assert_eq!(online.resolve_addr(addr + 4 * 4096 - 1, 2), None);
        assert_eq!(online.resolve_addr(addr, 0), None);
        assert_eq!(online.resolve_addr(usize::MAX, usize::MAX), None);
    }
}
