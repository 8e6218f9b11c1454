// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PCI function held by `vfio-pci`, through the group and container interface: just enough to map its BARs.
//!
//! Names and numbers are those of linux/vfio.h: requests are `_IO(';', 100 + n)`.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::{Named, check};
use crate::eventfd::EventFd;
use crate::{Errno, Error};

const VFIO_GET_API_VERSION: libc::c_ulong = 0x3b64;
const VFIO_CHECK_EXTENSION: libc::c_ulong = 0x3b65;
const VFIO_SET_IOMMU: libc::c_ulong = 0x3b66;
const VFIO_GROUP_GET_STATUS: libc::c_ulong = 0x3b67;
const VFIO_GROUP_SET_CONTAINER: libc::c_ulong = 0x3b68;
const VFIO_GROUP_GET_DEVICE_FD: libc::c_ulong = 0x3b6a;
const VFIO_DEVICE_GET_REGION_INFO: libc::c_ulong = 0x3b6c;

const VFIO_DEVICE_SET_IRQS: libc::c_ulong = 0x3b6e;

const VFIO_API_VERSION: i64 = 0;
const VFIO_TYPE1_IOMMU: libc::c_ulong = 1;
const VFIO_TYPE1V2_IOMMU: libc::c_ulong = 3;
const VFIO_GROUP_FLAGS_VIABLE: u32 = 1;

/// `struct vfio_group_status`.
#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

/// `struct vfio_irq_set` with one eventfd as its data.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    eventfd: i32,
}

/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const VFIO_IRQ_SET_EVENTFD: u32 = 1 << 2 | 1 << 5;
/// By which the kernel asks for the function back, when it is to be unbound or unplugged.
const VFIO_PCI_REQ_IRQ_INDEX: u32 = 4;

const VFIO_REGION_INFO_FLAG_WRITE: u32 = 1 << 1;
const VFIO_REGION_INFO_FLAG_MMAP: u32 = 1 << 2;

/// A function opened through its group, which nobody else can open meanwhile.
#[derive(Debug)]
pub struct Device {
    // Closed in this order: the device, its group, the container that the group is in.
    device: OwnedFd,
    _group: File,
    _container: File,
    /// Signalled when the kernel wants the function back.
    wanted: EventFd,
}

/// Where a BAR is in the device's descriptor.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Bar {
    /// Offset to map.
    pub offset: u64,
    /// Bytes; 0 when the function has no such BAR.
    pub size: u64,
    /// Whether it may be mapped.
    pub mappable: bool,
    /// Whether it may be stored to.
    pub writable: bool,
}

impl Device {
    /// Opens the function at `address` (`0000:01:00.0`), which is in IOMMU group `group`. `EBUSY`: the group is open
    /// elsewhere; `EPERM`: a function of the group is held by another driver.
    pub fn open(group: u32, address: &str) -> Result<Device, Error> {
        let container = open("/dev/vfio/vfio", "open(/dev/vfio/vfio)")?;
        if ioctl(&container, "ioctl(VFIO_GET_API_VERSION)", VFIO_GET_API_VERSION, 0)? != VFIO_API_VERSION {
            return Err(Error::Call { call: "ioctl(VFIO_GET_API_VERSION)", errno: Errno::EINVAL });
        }
        let group = open(&format!("/dev/vfio/{group}"), "open(/dev/vfio/GROUP)")?;
        if !viable(&group)? {
            return Err(Error::Call { call: "ioctl(VFIO_GROUP_GET_STATUS)", errno: Errno::EPERM });
        }
        set_container(&group, &container)?;
        let call = "ioctl(VFIO_CHECK_EXTENSION)";
        let v2 = ioctl(&container, call, VFIO_CHECK_EXTENSION, VFIO_TYPE1V2_IOMMU)? > 0;
        let iommu = if v2 { VFIO_TYPE1V2_IOMMU } else { VFIO_TYPE1_IOMMU };
        ioctl(&container, "ioctl(VFIO_SET_IOMMU)", VFIO_SET_IOMMU, iommu)?;
        let device = device_fd(&group, address)?;
        let wanted = EventFd::new()?;
        tell_when_wanted(&device, &wanted)?;
        Ok(Device { device, _group: group, _container: container, wanted })
    }

    /// Whether the kernel asked for the function back since the last call: an unbind or unplug waits until this, and every
    /// mapping of it, is dropped. It asks again every few seconds.
    pub fn wanted_back(&self) -> bool {
        self.wanted.drain()
    }

    /// Where BAR `index` is.
    pub fn bar(&self, index: u32) -> Result<Bar, Error> {
        let argsz = u32::try_from(size_of::<RegionInfo>()).unwrap_or_default();
        let mut info = RegionInfo { argsz, flags: 0, index, cap_offset: 0, size: 0, offset: 0 };
        let call = "ioctl(VFIO_DEVICE_GET_REGION_INFO)";
        // SAFETY: the argument is a live vfio_region_info that says its own size.
        let asked = unsafe { libc::ioctl(self.device.as_raw_fd(), VFIO_DEVICE_GET_REGION_INFO, &raw mut info) };
        check(call, asked.into())?;
        Ok(Bar {
            offset: info.offset,
            size: info.size,
            mappable: info.flags & VFIO_REGION_INFO_FLAG_MMAP != 0,
            writable: info.flags & VFIO_REGION_INFO_FLAG_WRITE != 0,
        })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn tell_when_wanted(device: &OwnedFd, eventfd: &EventFd) -> Result<(), Error> {
    let irq = IrqSet {
        argsz: u32::try_from(size_of::<IrqSet>()).unwrap_or_default(),
        flags: VFIO_IRQ_SET_EVENTFD,
        index: VFIO_PCI_REQ_IRQ_INDEX,
        start: 0,
        count: 1,
        eventfd: eventfd.as_fd().as_raw_fd(),
    };
    // SAFETY: the argument is a live vfio_irq_set that says its own size, with the one descriptor it counts.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), VFIO_DEVICE_SET_IRQS, &raw const irq) };
    check("ioctl(VFIO_DEVICE_SET_IRQS)", set.into()).map(drop)
}

fn open(path: &str, call: &'static str) -> Result<File, Error> {
    File::options().read(true).write(true).open(path).named(call)
}

/// A request whose argument is a number.
fn ioctl(file: &File, call: &'static str, request: libc::c_ulong, number: libc::c_ulong) -> Result<i64, Error> {
    // SAFETY: these requests take a number and touch no memory of ours.
    check(call, unsafe { libc::ioctl(file.as_raw_fd(), request, number) }.into())
}

fn viable(group: &File) -> Result<bool, Error> {
    let argsz = u32::try_from(size_of::<GroupStatus>()).unwrap_or_default();
    let mut status = GroupStatus { argsz, flags: 0 };
    // SAFETY: the argument is a live vfio_group_status that says its own size.
    let asked = unsafe { libc::ioctl(group.as_raw_fd(), VFIO_GROUP_GET_STATUS, &raw mut status) };
    check("ioctl(VFIO_GROUP_GET_STATUS)", asked.into())?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

fn set_container(group: &File, container: &File) -> Result<(), Error> {
    let container: libc::c_int = container.as_raw_fd();
    // SAFETY: the argument is a live int that holds a descriptor.
    let set = unsafe { libc::ioctl(group.as_raw_fd(), VFIO_GROUP_SET_CONTAINER, &raw const container) };
    check("ioctl(VFIO_GROUP_SET_CONTAINER)", set.into()).map(drop)
}

fn device_fd(group: &File, address: &str) -> Result<OwnedFd, Error> {
    let call = "ioctl(VFIO_GROUP_GET_DEVICE_FD)";
    let name = CString::new(address).map_err(|_| Error::Call { call, errno: Errno::EINVAL })?;
    // SAFETY: the argument is a live string that ends in zero.
    let fd = unsafe { libc::ioctl(group.as_raw_fd(), VFIO_GROUP_GET_DEVICE_FD, name.as_ptr()) };
    check(call, fd.into())?;
    // SAFETY: the call above returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
