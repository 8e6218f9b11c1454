// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of devices: windows on it need more than an address.
//!
//! A dma-buf wants to be told when the CPU begins and ends to touch it (`DMA_BUF_IOCTL_SYNC`), or the two sides see each
//! other's old cache lines. A BAR may be pulled out under a copy: where that raises no signal the copy "works" and has
//! moved ones or zeroes, so the function's id is read again before anybody is told (I7).
//!
//! # Window contract
//! The first window of an online section on a dma-buf begins a bracket, the end of the section ends it. Memory handed to
//! the kernel has a bracket of its own, until it comes back. Beginning may wait for a device; the section waits with it.
//!
//! # Confirmation contract
//! Whoever moved bytes of device memory calls [`Reader::confirm`] (or [`Inflight::release`](crate::Inflight::release))
//! after the section and before it publishes the completion. An error means: what was moved since the last call is not to
//! be trusted.
//!
//! # Cost for everything else
//! Device memory is never the table's quick last hit, but found by the search that follows a miss; so other memory is
//! resolved by the same instructions as without. A section ends with one look at a flag.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pageless_sys::dmabuf::{self, CpuAccess};
use pageless_sys::pci::Config;
use pageless_sys::{Errno, Error, vfio};

use crate::memory::{Online, Reader};
use crate::region::Inner;
use crate::{Access, Fault};

/// Attempts at a bracket that is interrupted.
const ATTEMPTS: u32 = 1000;

/// What the memory of a region needs.
#[derive(Debug)]
pub(crate) struct Device {
    kind: Kind,
    /// A bracket could not be ended, and nobody was told yet; or, for good, the function is gone.
    failed: AtomicBool,
}

#[derive(Debug)]
enum Kind {
    DmaBuf,
    Pci {
        config: Config,
        /// Where the BAR is mapped through VFIO and the kernel did not want it back yet.
        vfio: Mutex<Option<vfio::Device>>,
    },
    /// Says what a test wants, and then that all is well.
    #[cfg(feature = "testing")]
    Scripted(Mutex<std::collections::VecDeque<Result<(), Fault>>>),
}

impl Device {
    pub(crate) fn dma_buf() -> Device {
        Device { kind: Kind::DmaBuf, failed: AtomicBool::new(false) }
    }

    pub(crate) fn pci(config: Config, vfio: Option<vfio::Device>) -> Device {
        Device { kind: Kind::Pci { config, vfio: Mutex::new(vfio) }, failed: AtomicBool::new(false) }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn scripted() -> Device {
        Device { kind: Kind::Scripted(Mutex::default()), failed: AtomicBool::new(false) }
    }

    /// What a device of a test says to those who ask, one after the other.
    #[cfg(feature = "testing")]
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = Result<(), Fault>>) {
        if let Kind::Scripted(script) = &self.kind {
            *script.lock().unwrap_or_else(PoisonError::into_inner) = answers.into_iter().collect();
            self.failed.store(false, Ordering::Relaxed);
        }
    }

    /// Gives a function back to the kernel, which waits for its last mapping and descriptor: the mapping is gone.
    pub(crate) fn retire(&self) {
        if let Kind::Pci { vfio, .. } = &self.kind {
            *locked(vfio) = None;
        }
    }

    fn begin(&self, region: &Inner, access: Access) -> Result<(), Fault> {
        match &self.kind {
            Kind::DmaBuf => bracket(region, access, dmabuf::begin_cpu).map_err(|_| Fault::Media),
            Kind::Pci { .. } if self.failed.load(Ordering::Relaxed) => Err(Fault::Gone),
            Kind::Pci { .. } => Ok(()),
            #[cfg(feature = "testing")]
            Kind::Scripted(_) if self.failed.load(Ordering::Relaxed) => Err(Fault::Gone),
            #[cfg(feature = "testing")]
            Kind::Scripted(_) => Ok(()),
        }
    }

    fn end(&self, region: &Inner, access: Access) {
        if matches!(self.kind, Kind::DmaBuf) && bracket(region, access, dmabuf::end_cpu).is_err() {
            self.failed.store(true, Ordering::Release);
        }
    }

    fn confirm(&self, region: &Inner) -> Result<(), Fault> {
        match &self.kind {
            Kind::DmaBuf if self.failed.swap(false, Ordering::AcqRel) => Err(Fault::Media),
            Kind::DmaBuf => Ok(()),
            Kind::Pci { config, vfio } => {
                let (held, wanted) = match &*locked(vfio) {
                    Some(device) => (true, device.wanted_back()),
                    None => (false, false),
                };
                if !wanted && !self.failed.load(Ordering::Relaxed) && config.present() {
                    return Ok(());
                }
                // A function that comes back is another one, with nothing of what was stored before.
                self.failed.store(true, Ordering::Relaxed);
                if held {
                    // Memory without pages is never pinned, so only a contained copy can be there, which then faults.
                    // What cannot be sealed stays with the process, and the kernel goes on waiting for it.
                    let _ = region.backing.seal(0);
                }
                Err(Fault::Gone)
            }
            #[cfg(feature = "testing")]
            Kind::Scripted(_) if self.failed.load(Ordering::Relaxed) => Err(Fault::Gone),
            #[cfg(feature = "testing")]
            Kind::Scripted(script) => {
                let answer = script.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(Ok(()));
                self.failed.store(answer == Err(Fault::Gone), Ordering::Relaxed);
                answer
            }
        }
    }
}

fn locked(vfio: &Mutex<Option<vfio::Device>>) -> MutexGuard<'_, Option<vfio::Device>> {
    vfio.lock().unwrap_or_else(PoisonError::into_inner)
}

type Sync = fn(std::os::fd::BorrowedFd<'_>, CpuAccess) -> Result<(), Error>;

/// Asks again where the kernel was interrupted.
fn bracket(region: &Inner, access: Access, sync: Sync) -> Result<(), Error> {
    let Some(buffer) = region.backing.file_behind() else { return Ok(()) };
    let access = match access {
        Access::Read => CpuAccess::Read,
        Access::Write => CpuAccess::ReadWrite,
    };
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = sync(buffer.as_fd(), access);
        match result {
            Err(error) if matches!(error.errno(), Errno::EINTR | Errno::EAGAIN) => {}
            _ => break,
        }
    }
    result
}

/// Before memory is handed out for an I/O.
#[inline]
pub(crate) fn begin(region: &Inner, access: Access) -> Result<(), Fault> {
    region.backing.device().map_or(Ok(()), |device| device.begin(region, access))
}

/// After it came back.
#[inline]
pub(crate) fn end(region: &Inner, access: Access) {
    if let Some(device) = region.backing.device() {
        device.end(region, access);
    }
}

/// Whether what was moved can be trusted.
#[inline]
pub(crate) fn confirm(region: &Inner) -> Result<(), Fault> {
    region.backing.device().map_or(Ok(()), |device| device.confirm(region))
}

/// The device memory that one reader touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// In the current section, by the most that was asked for.
    now: RefCell<Vec<(Arc<Inner>, Access)>>,
    /// Whether there is something in `now`: a section looks at this when it ends.
    any: Cell<bool>,
    /// In sections that ended since the last confirmation. Weak: this must not keep a mapping.
    before: RefCell<Vec<Weak<Inner>>>,
}

impl Touched {
    /// Before a window on the region.
    pub(crate) fn enter(&self, region: &Arc<Inner>, access: Access) -> Result<(), Fault> {
        let mut now = self.now.borrow_mut();
        let covered = |had: Access| had == access || had == Access::Write;
        if now.iter().any(|(known, had)| Arc::ptr_eq(known, region) && covered(*had)) {
            return Ok(());
        }
        begin(region, access)?;
        now.push((Arc::clone(region), access));
        self.any.set(true);
        Ok(())
    }

    /// Whether there is any in the current section.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    #[cold]
    fn leave(&self) {
        self.any.set(false);
        let mut before = self.before.borrow_mut();
        for (region, access) in self.now.borrow_mut().drain(..) {
            end(&region, access);
            if !before.iter().any(|known| known.as_ptr() == Arc::as_ptr(&region)) {
                before.push(Arc::downgrade(&region));
            }
        }
    }

    #[cold]
    fn confirm(&self) -> Result<(), Fault> {
        let regions = std::mem::take(&mut *self.before.borrow_mut());
        let mut told = Ok(());
        // All of them are asked, so that no failure is told to somebody else later.
        for region in regions.iter().filter_map(Weak::upgrade) {
            told = told.and(confirm(&region));
        }
        told
    }
}

impl Drop for Online<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.touched().any() {
            self.touched().leave();
        }
    }
}

impl Reader {
    /// Whether what this reader moved since the last call can be trusted: the function of a BAR is still there, a dma-buf
    /// took what was stored. Costs nothing where no such memory was touched. See the module `device`.
    #[inline]
    pub fn confirm(&mut self) -> Result<(), Fault> {
        let touched = self.touched();
        if touched.before.borrow().is_empty() { Ok(()) } else { touched.confirm() }
    }
}
