// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory with a descriptor and no name: memfd, hugetlb memfd, secret memory, udmabuf.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::MemfdFlags;

use crate::Error;
use crate::error::{Named, check};

/// An unnamed tmpfs file.
pub fn memfd(len: u64) -> Result<OwnedFd, Error> {
    sized(
        rustix::fs::memfd_create("pageless", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).named("memfd_create")?,
        len,
    )
}

/// An unnamed tmpfs file that keeps its size, so that whoever maps it never faults.
pub fn sealed(len: u64) -> Result<OwnedFd, Error> {
    let fd = memfd(len)?;
    let seals = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW | rustix::fs::SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).named("fcntl(F_ADD_SEALS)")?;
    Ok(fd)
}

/// An unnamed hugetlbfs file of 2 MiB pages; `len` is a multiple of that.
pub fn hugetlb(len: u64) -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    sized(rustix::fs::memfd_create("pageless-huge", flags).named("memfd_create(MFD_HUGETLB)")?, len)
}

/// Secret memory (memfd_secret(2)): removed from the kernel's own map, so the kernel refuses to pin it.
pub fn secret(len: u64) -> Result<OwnedFd, Error> {
    // SAFETY: memfd_secret takes flags only and touches no memory of ours.
    let fd = check("memfd_secret", unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })?;
    #[expect(clippy::cast_possible_truncation, reason = "a descriptor is an int")]
    // SAFETY: the call above returned this descriptor and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    sized(fd, len)
}

fn sized(fd: OwnedFd, len: u64) -> Result<OwnedFd, Error> {
    rustix::fs::ftruncate(&fd, len).named("ftruncate")?;
    Ok(fd)
}

#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

/// `_IOW('u', 0x42, struct udmabuf_create)`, linux/udmabuf.h.
const UDMABUF_CREATE: libc::c_ulong = 0x4018_7542;

/// A dma-buf made of the pages of `memfd`, which is sealed against shrinking as udmabuf demands.
pub fn udmabuf(memfd: BorrowedFd<'_>, len: u64) -> Result<OwnedFd, Error> {
    rustix::fs::fcntl_add_seals(memfd, rustix::fs::SealFlags::SHRINK).named("fcntl(F_ADD_SEALS)")?;
    let device = std::fs::File::options().read(true).write(true).open("/dev/udmabuf").named("open(/dev/udmabuf)")?;
    let memfd =
        u32::try_from(memfd.as_raw_fd()).map_err(|_| Error::TooLarge { call: "ioctl(UDMABUF_CREATE)", value: 0 })?;
    let create = UdmabufCreate { memfd, flags: 1, offset: 0, size: len };
    // SAFETY: the argument is a live udmabuf_create of the size encoded in the request number.
    let fd = check(
        "ioctl(UDMABUF_CREATE)",
        unsafe { libc::ioctl(device.as_raw_fd(), UDMABUF_CREATE, &raw const create) }.into(),
    )?;
    #[expect(clippy::cast_possible_truncation, reason = "a descriptor is an int")]
    // SAFETY: the call above returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
