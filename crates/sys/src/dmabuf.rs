// SPDX-License-Identifier: MIT OR Apache-2.0
//! dma-bufs: allocating them from a heap, and bracketing what the CPU does to them.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::Error;
use crate::error::{Named, check};

/// What the CPU is about to do to a dma-buf, or has done.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum CpuAccess {
    /// Loads.
    Read,
    /// Loads and stores.
    ReadWrite,
}

impl CpuAccess {
    /// `DMA_BUF_SYNC_READ`, `DMA_BUF_SYNC_RW`.
    fn flags(self) -> u64 {
        match self {
            CpuAccess::Read => 1,
            CpuAccess::ReadWrite => 3,
        }
    }
}

/// `struct dma_heap_allocation_data`, linux/dma-heap.h.
#[repr(C)]
struct Allocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// `_IOWR('H', 0, struct dma_heap_allocation_data)`, linux/dma-heap.h.
const DMA_HEAP_IOCTL_ALLOC: libc::c_ulong = 0xc018_4800;

/// A dma-buf of `len` zeroed bytes from the heap that the device node `heap` (`/dev/dma_heap/NAME`) stands for.
pub fn from_heap(heap: &Path, len: u64) -> Result<OwnedFd, Error> {
    let device = std::fs::File::options().read(true).write(true).open(heap).named("open")?;
    let fd_flags = (libc::O_CLOEXEC | libc::O_RDWR).unsigned_abs();
    let mut allocation = Allocation { len, fd: 0, fd_flags, heap_flags: 0 };
    let call = "ioctl(DMA_HEAP_IOCTL_ALLOC)";
    // SAFETY: the argument is a live dma_heap_allocation_data of the size encoded in the request number.
    check(call, unsafe { libc::ioctl(device.as_raw_fd(), DMA_HEAP_IOCTL_ALLOC, &raw mut allocation) }.into())?;
    let fd = i32::try_from(allocation.fd).map_err(|_| Error::TooLarge { call, value: allocation.fd.into() })?;
    // SAFETY: the call above returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct dma_buf_sync`, linux/dma-buf.h.
#[repr(C)]
struct Sync {
    flags: u64,
}

/// `_IOW('b', 0, struct dma_buf_sync)`, linux/dma-buf.h.
const DMA_BUF_IOCTL_SYNC: libc::c_ulong = 0x4008_6200;
const DMA_BUF_SYNC_END: u64 = 4;

/// The CPU is about to touch the dma-buf: what devices wrote becomes visible to it. May wait for them.
pub fn begin_cpu(buffer: BorrowedFd<'_>, access: CpuAccess) -> Result<(), Error> {
    sync(buffer, "ioctl(DMA_BUF_IOCTL_SYNC, START)", access.flags())
}

/// The CPU is done with the dma-buf: what it stored becomes visible to devices.
pub fn end_cpu(buffer: BorrowedFd<'_>, access: CpuAccess) -> Result<(), Error> {
    sync(buffer, "ioctl(DMA_BUF_IOCTL_SYNC, END)", access.flags() | DMA_BUF_SYNC_END)
}

fn sync(buffer: BorrowedFd<'_>, call: &'static str, flags: u64) -> Result<(), Error> {
    let sync = Sync { flags };
    // SAFETY: the argument is a live dma_buf_sync of the size encoded in the request number.
    check(call, unsafe { libc::ioctl(buffer.as_raw_fd(), DMA_BUF_IOCTL_SYNC, &raw const sync) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_no_dma_buf_says_so() {
        let memfd = crate::memfd::memfd(4096).unwrap();
        for access in [CpuAccess::Read, CpuAccess::ReadWrite] {
            assert_eq!(begin_cpu(memfd.as_fd(), access).unwrap_err().errno(), crate::Errno::ENOTTY);
            assert_eq!(end_cpu(memfd.as_fd(), access).unwrap_err().errno(), crate::Errno::ENOTTY);
        }
        assert_eq!(from_heap(Path::new("/dev/null"), 4096).unwrap_err().errno(), crate::Errno::ENOTTY);
    }
}
