// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Flusher`]: one user's way to FLUSH, which is told of every failure once.
//!
//! # Sticky errors
//! A failed FLUSH or FUA may have lost data that the kernel will not complain about twice. So every failure of a region
//! is counted, and every [`Flusher`] fails once for failures that it has not been told of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Durability, fence, persist};
use crate::region::Inner;
use crate::{Access, Fault};

/// The failures of a medium, counted.
#[derive(Debug, Default)]
pub(crate) struct FlushErrors {
    count: AtomicU64,
    /// Held from a sync until its failure is counted: the kernel tells one of two syncs, and both must know.
    syncing: Mutex<()>,
}

impl FlushErrors {
    /// Syncs, counts a failure, and says how many there were by then.
    pub(super) fn sync(&self, sync: impl FnOnce() -> Result<(), Fault>) -> (Result<(), Fault>, u64) {
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

/// One user's way to FLUSH: everything stored so far, by whichever queue, is durable when it returns.
#[derive(Debug)]
pub struct Flusher {
    region: Arc<Inner>,
    told: u64,
}

impl Flusher {
    pub(super) fn new(region: Arc<Inner>) -> Flusher {
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
            false => self.region.sync_punches(),
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
}
