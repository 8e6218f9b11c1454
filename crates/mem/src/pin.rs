// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames in flight: who holds memory that the kernel or a device is working on (I4).

use std::sync::Arc;

use pageless_sys::socket::IoVec;

use crate::holds::Run;
use crate::memory::Online;
use crate::pfn::PhysRange;
use crate::region::Inner;
use crate::{Access, Fault};

/// Memory handed out for one I/O. Until this is dropped its regions stay mapped, and nothing deallocates, cuts off or
/// revokes its bytes.
#[derive(Debug)]
pub struct Inflight {
    runs: Vec<IoVec>,
    pins: Vec<Pin>,
    access: Access,
    bytes: u64,
}

/// Ranges of one region in flight.
#[derive(Debug)]
pub(crate) struct Pin {
    region: Arc<Inner>,
    number: u32,
}

impl Pin {
    /// Enters the ranges; `None` where the region no longer reaches.
    pub(crate) fn new(region: &Arc<Inner>, run: Run) -> Option<Pin> {
        let number = region.holds.enter(run)?;
        Some(Pin { region: Arc::clone(region), number })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.region.holds.leave(self.number);
    }
}

/// Resolves ranges and takes hold of them.
pub(crate) fn pin(online: &Online<'_>, ranges: &[PhysRange], access: Access) -> Result<Inflight, Fault> {
    let mut inflight = Inflight { runs: Vec::with_capacity(ranges.len()), pins: Vec::new(), access, bytes: 0 };
    let thread = online.thread();
    let mut same: Option<(&Arc<Inner>, Run)> = None;
    for (index, range) in ranges.iter().enumerate() {
        let found = online.resolve(*range, access)?;
        let (start, end) = (found.offset, found.offset + found.len as u64);
        match &mut same {
            Some((region, run)) if Arc::ptr_eq(region, found.region) => run.push(start, end, ranges.len() - index - 1),
            _ => inflight.enter(same.replace((found.region, Run::new(start, end, access, thread))))?,
        }
        inflight.runs.push(IoVec { addr: found.addr, len: found.len });
        inflight.bytes += found.len as u64;
    }
    inflight.enter(same)?;
    Ok(inflight)
}

impl Inflight {
    fn enter(&mut self, same: Option<(&Arc<Inner>, Run)>) -> Result<(), Fault> {
        if let Some((region, run)) = same {
            let pin = Pin::new(region, run).ok_or(Fault::Gone)?;
            // Before it counts among the pins: each of those is ended.
            #[cfg(feature = "pmem-io")]
            crate::device::begin(region, self.access)?;
            self.pins.push(pin);
        }
        Ok(())
    }

    /// Bytes handed out.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is being done to them.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Takes the memory back, and says whether what was moved can be trusted: as
    /// [`Reader::confirm`](crate::Reader::confirm), for memory that was in flight.
    pub fn release(mut self) -> Result<(), Fault> {
        let pins = self.let_go();
        #[cfg(feature = "pmem-io")]
        pins.iter().try_for_each(|pin| crate::device::confirm(&pin.region))?;
        drop(pins);
        Ok(())
    }

    fn let_go(&mut self) -> Vec<Pin> {
        #[cfg(feature = "pmem-io")]
        for pin in &self.pins {
            crate::device::end(&pin.region, self.access);
        }
        std::mem::take(&mut self.pins)
    }

    pub(crate) fn runs(&self) -> &[IoVec] {
        &self.runs
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.let_go();
    }
}
