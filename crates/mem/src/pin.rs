// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames in flight: who holds memory that the kernel or a device is working on (I4).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pageless_sys::socket::IoVec;

use crate::memory::Online;
use crate::pfn::PhysRange;
use crate::region::Inner;
use crate::{Access, Fault};

/// Memory handed out for one I/O. Its regions stay mapped, and counted as in flight, until this is dropped.
#[derive(Debug)]
pub struct Inflight {
    runs: Vec<IoVec>,
    holds: Vec<Arc<Inner>>,
    access: Access,
    bytes: u64,
}

/// Resolves ranges and takes hold of their regions.
pub(crate) fn pin(online: &Online<'_>, ranges: &[PhysRange], access: Access) -> Result<Inflight, Fault> {
    let mut pinned = Inflight { runs: Vec::with_capacity(ranges.len()), holds: Vec::new(), access, bytes: 0 };
    for range in ranges {
        let found = online.resolve(*range, access)?;
        pinned.runs.push(IoVec { addr: found.addr, len: found.len });
        pinned.bytes += found.len as u64;
        if pinned.holds.last().is_none_or(|held| !Arc::ptr_eq(held, found.region)) {
            #[cfg(feature = "pmem-io")]
            crate::device::begin(found.region, access)?;
            found.region.in_flight.fetch_add(1, Ordering::AcqRel);
            pinned.holds.push(Arc::clone(found.region));
        }
    }
    Ok(pinned)
}

impl Inflight {
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
        let held = self.let_go();
        #[cfg(feature = "pmem-io")]
        return held.iter().try_for_each(|region| crate::device::confirm(region));
        #[cfg(not(feature = "pmem-io"))]
        return Ok(drop(held));
    }

    fn let_go(&mut self) -> Vec<Arc<Inner>> {
        for region in &self.holds {
            #[cfg(feature = "pmem-io")]
            crate::device::end(region, self.access);
            region.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        std::mem::take(&mut self.holds)
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
