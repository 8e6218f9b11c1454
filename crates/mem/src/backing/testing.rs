// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that only tests want.

use std::path::Path;

use pageless_sys::file::File;
use pageless_sys::mmap::Mapping;
use pageless_sys::{Errno, pagemap, perf};

use super::{Backing, Store, frames_of};
use crate::device::Device;
use crate::medium::Medium;
use crate::persist::{Durability, Mapped, Reason};
use crate::region::MemKind;
use crate::{Error, FRAME_SIZE};

impl Backing {
    /// One page of the kernel's that really is `VM_PFNMAP` (Linux 6.14): a perf event's. The kernel itself writes the
    /// first 1088 bytes.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the page is mapped and is not `VM_PFNMAP`; whatever refuses the event (`EACCES` without root).
    pub fn perf_page() -> Result<Backing, Error> {
        let (event, mapping) = perf::user_page()?;
        let flags = pagemap::vm_flags(mapping.addr()).unwrap_or_default();
        if !flags.split(' ').any(|flag| flag == "pf") {
            let call = "mmap(perf event) as VM_PFNMAP";
            return Err(pageless_sys::Error::Call { call, errno: Errno::EOPNOTSUPP }.into());
        }
        let store = Store::File { mapping, file: File::from(event) };
        Ok(Backing::new(MemKind::Foreign, "perf page", FRAME_SIZE, store))
    }

    /// An unnamed tmpfs file that is treated as if this made stores to it durable.
    pub fn memfd_as(len: u64, durability: Durability) -> Result<Backing, Error> {
        Ok(Backing::memfd(len)?.assuming(durability))
    }

    /// Treated as a file (or, with the offsets of the device itself, a devdax mapping) on the device of that number in a sysfs
    /// that is mounted at `sys`.
    #[must_use]
    pub fn on_device(self, sys: &Path, device: u64, mapped: Mapped) -> Backing {
        self.persistent(mapped, Medium::of_block(sys, device))
    }

    /// Treated as the mapped block device of that number in a sysfs that is mounted at `sys`.
    #[must_use]
    pub fn as_block(self, sys: &Path, device: u64) -> Backing {
        let medium = Medium::of_block(sys, device);
        Backing { medium, durability: Durability::Msync, ..self.because(Reason::BlockDevice) }
    }

    /// Treated as memory of a device, which says what [`device_says`](crate::testing::device_says) told it to.
    #[must_use]
    pub fn of_device(self) -> Backing {
        Backing { device: Some(Device::scripted()), ..self }
    }

    /// Private memory that children inherit, which no other backing is.
    pub fn inheritable(len: u64) -> Result<Backing, Error> {
        let mapping = Mapping::anonymous(frames_of("size", len)?)?;
        Ok(Backing::new(MemKind::Anon, "inheritable", len, Store::Anonymous(mapping)))
    }
}
