// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes a store durable, and doing it.
//!
//! # Ordering contract
//! Non-temporal stores and cache-line write-backs are followed by one [`fence`] by the storing thread before its
//! completions are published. That makes the data visible in order and covers it by a FLUSH from any other queue.
//! FLUSH and FUA then add what the medium still needs: nothing, or `fdatasync`/`msync` for a page cache.
//!
//! # Sticky errors
//! A failed FLUSH or FUA may have lost data that the kernel will not complain about twice. So every failure of a region
//! is counted, and every [`Flusher`] fails once for failures that it has not been told of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::copy;
use crate::region::Inner;
use crate::{Access, Fault};

/// What makes a store to a region durable.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Durability {
    /// Nothing does: ordinary RAM.
    Volatile,
    /// A fence: the power-fail domain includes the CPU caches (eADR).
    Fence,
    /// Cache-line write-back (or a non-temporal store) and a fence.
    Clwb,
    /// `msync`/`fdatasync`: a page cache.
    Msync,
}

impl Durability {
    /// For memory that a `MAP_SYNC` or devdax mapping shows to be persistent: the caches count as volatile unless every
    /// nvdimm region says that they are covered (`persistence_domain` = `cpu_cache`, Documentation/ABI/testing/sysfs-bus-nd).
    pub(crate) fn of_persistent_memory() -> Durability {
        let regions = std::fs::read_dir("/sys/bus/nd/devices").into_iter().flatten().flatten();
        let mut domains = regions
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("persistence_domain")).ok())
            .peekable();
        let covered = domains.peek().is_some() && domains.all(|domain| domain.trim() == "cpu_cache");
        if covered { Durability::Fence } else { Durability::Clwb }
    }

    /// Whether copies towards the memory should bypass the caches.
    pub(crate) fn prefers_nontemporal(self) -> bool {
        matches!(self, Durability::Clwb | Durability::Fence)
    }
}

pub use crate::copy::fence;

/// The failures of a medium, counted.
#[derive(Debug, Default)]
pub(crate) struct FlushErrors {
    count: AtomicU64,
    /// Held from a sync until its failure is counted: the kernel tells one of two syncs, and both must know.
    syncing: Mutex<()>,
}

impl FlushErrors {
    /// Syncs, counts a failure, and says how many there were by then.
    fn sync(&self, sync: impl FnOnce() -> Result<(), Fault>) -> (Result<(), Fault>, u64) {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = sync();
        if result.is_err() {
            self.note();
        }
        (result, self.count.load(Ordering::Acquire))
    }

    pub(crate) fn note(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }
}

/// Writes cache lines of a region back, where its stores need that. They lie in a window; durable after the next [`fence`].
#[inline]
pub(crate) fn write_back(region: &Inner, addr: usize, offset: u64, len: usize) -> Result<(), Fault> {
    if region.backing.durability() != Durability::Clwb {
        return Ok(());
    }
    copy::write_back(addr, len).map_err(|()| {
        region.note_bad(offset);
        Fault::Media
    })
}

/// Makes bytes of a region durable.
pub(crate) fn persist(region: &Inner, offset: u64, len: u64) -> Result<(), Fault> {
    let end = offset.checked_add(len).filter(|end| *end <= region.len()).ok_or(Fault::Gone)?;
    let (Ok(start), Ok(bytes)) = (usize::try_from(offset), usize::try_from(end - offset)) else {
        return Err(Fault::Gone);
    };
    let result = match region.backing.durability() {
        Durability::Volatile | Durability::Fence => {
            fence();
            Ok(())
        }
        Durability::Clwb => {
            let result = copy::write_back(region.addr() + start, bytes);
            fence();
            result.map_err(|_| Fault::Media)
        }
        Durability::Msync => {
            fence();
            region.flush_errors.sync(|| region.backing.sync_range(start, bytes).map_err(Fault::from_medium)).0
        }
    };
    // Revoked meanwhile: what was synced may have been nothing.
    if region.len() < end { Err(Fault::Gone) } else { result }
}

/// One user's way to FLUSH: everything stored so far, by whichever queue, is durable when it returns.
#[derive(Debug)]
pub struct Flusher {
    region: Arc<Inner>,
    told: u64,
}

impl Flusher {
    pub(crate) fn new(region: Arc<Inner>) -> Flusher {
        let told = region.flush_errors.count.load(Ordering::Acquire);
        Flusher { region, told }
    }

    /// Flushes. Fails once more for a failure that somebody else met since the last call.
    pub fn flush(&mut self) -> Result<(), Fault> {
        fence();
        let by_kernel = self.region.backing.durability() == Durability::Msync && self.region.allows(Access::Write);
        let (result, failures) = self.region.flush_errors.sync(|| match by_kernel {
            _ if self.region.len() == 0 => Ok(()),
            true => self.region.backing.sync_all().map_err(Fault::from_medium).and(self.whole()),
            false => Ok(()),
        });
        let result = self.tell(result, failures);
        // Revoked before or meanwhile: what was synced may have been nothing.
        if self.region.len() == 0 { Err(Fault::Gone) } else { result }
    }

    /// As [`Region::persist`](crate::Region::persist), and fails for a failure that this user was not told of: it may
    /// have been about these bytes.
    pub fn persist(&mut self, offset: u64, len: u64) -> Result<(), Fault> {
        let result = persist(&self.region, offset, len);
        let failures = self.region.flush_errors.count.load(Ordering::Acquire);
        self.tell(result, failures)
    }

    fn tell(&mut self, result: Result<(), Fault>, failures: u64) -> Result<(), Fault> {
        let untold = failures != self.told;
        self.told = failures;
        if untold { result.and(Err(Fault::Media)) } else { result }
    }

    /// A file that somebody cut short, our lock ignored, has lost what was stored past its end (I7).
    fn whole(&self) -> Result<(), Fault> {
        let end = self.region.backing.in_file(self.region.len());
        match self.region.backing.file_behind().map(pageless_sys::file::File::size) {
            Some(Ok(size)) if size < end => Err(Fault::Media),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Backing, FRAME_SIZE, Fault, Memory};

    #[test]
    fn a_failure_is_told_once_to_every_user_and_to_nobody_twice() {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
        let (mut first, mut second) = (region.flusher(), region.flusher());
        assert_eq!((first.flush(), second.flush()), (Ok(()), Ok(())));
        region.inner().flush_errors.note();
        let mut late = region.flusher();
        assert_eq!((first.flush(), first.flush()), (Err(Fault::Media), Ok(())));
        assert_eq!((second.flush(), second.flush()), (Err(Fault::Media), Ok(())));
        assert_eq!(late.flush(), Ok(()), "who came later lost nothing");
        region.inner().flush_errors.note();
        assert_eq!(
            (late.persist(0, 1), late.persist(0, 1)),
            (Err(Fault::Media), Ok(())),
            "FUA may be about what was lost"
        );
        assert_eq!((late.flush(), first.flush()), (Ok(()), Err(Fault::Media)));
    }

    #[test]
    fn persisting_outside_the_region_is_refused() {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::memfd(FRAME_SIZE).unwrap()).unwrap();
        assert_eq!(region.persist(0, FRAME_SIZE), Ok(()));
        assert_eq!(region.persist(1, FRAME_SIZE), Err(Fault::Gone));
        assert_eq!(region.persist(u64::MAX, 2), Err(Fault::Gone));
    }
}
