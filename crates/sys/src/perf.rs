// SPDX-License-Identifier: MIT OR Apache-2.0
//! The user page of a perf event: one page of kernel memory that any process can map, and since Linux 6.14 a real
//! `VM_PFNMAP` mapping. Tests use it for want of a device.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use crate::Error;
use crate::error::check;
use crate::mmap::{Mapping, Protection};

/// `struct perf_event_attr` as far as its first version goes (`PERF_ATTR_SIZE_VER0`), linux/perf_event.h.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_DUMMY: u64 = 9;
const DISABLED: u64 = 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// An event that never happens, and its user page, 4 KiB that can be loaded and stored. The kernel keeps
/// `struct perf_event_mmap_page` in the first 1088 bytes and leaves the rest alone.
pub fn user_page() -> Result<(OwnedFd, Mapping), Error> {
    let size = u32::try_from(size_of::<Attr>()).unwrap_or_default();
    let attr = Attr {
        kind: PERF_TYPE_SOFTWARE,
        size,
        config: PERF_COUNT_SW_DUMMY,
        flags: DISABLED | EXCLUDE_KERNEL,
        ..Attr::default()
    };
    let (this_process, any_cpu, no_group) = (0, -1, -1);
    // SAFETY: the first argument is a live perf_event_attr that says its own size; the kernel only reads it.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, this_process, any_cpu, no_group, PERF_FLAG_FD_CLOEXEC)
    };
    let fd = check("perf_event_open", fd)?;
    #[expect(clippy::cast_possible_truncation, reason = "a descriptor is an int")]
    // SAFETY: the call above returned this descriptor and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mapping = Mapping::shared(fd.as_fd(), 0, 4096, Protection::ReadWrite)?;
    Ok((fd, mapping))
}
