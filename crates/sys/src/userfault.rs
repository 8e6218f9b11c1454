// SPDX-License-Identifier: MIT OR Apache-2.0
//! Poison without broken memory: `UFFDIO_POISON` (Linux 6.6), by which tests make one page of a mapping fail.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::Error;
use crate::error::check;

/// `struct uffdio_api`, linux/userfaultfd.h.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` and `struct uffdio_poison`: a range, a mode, an answer.
#[repr(C)]
struct Request {
    start: u64,
    len: u64,
    mode: u64,
    answer: i64,
}

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_POISON: u64 = 1 << 14;
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;
const UFFDIO_POISON: libc::c_ulong = 0xc020_aa08;

/// Makes every access to this page fail as broken memory does (`SIGBUS` with `BUS_MCEERR_AR`, `EFAULT` from calls),
/// until it is unmapped. The page must not be in the page table now; what the file behind it holds is left alone.
/// `EINVAL`: the kernel has no poison; `EEXIST`: the page is in the page table.
///
/// # Safety
/// `page` is the address of a page of a mapping whose bytes are reached only by contained accesses and system calls.
pub unsafe fn poison(page: usize) -> Result<(), Error> {
    let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
    // SAFETY: userfaultfd takes flags only and touches no memory of ours.
    let fd = check("userfaultfd", unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    #[expect(clippy::cast_possible_truncation, reason = "a descriptor is an int")]
    // SAFETY: the call above returned this descriptor and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut api = Api { api: UFFD_API, features: UFFD_FEATURE_POISON, ioctls: 0 };
    // SAFETY: the argument is a live uffdio_api of the size encoded in the request number.
    check("ioctl(UFFDIO_API)", unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) }.into())?;
    request(&fd, "ioctl(UFFDIO_REGISTER)", UFFDIO_REGISTER, page, UFFDIO_REGISTER_MODE_MISSING)?;
    let poisoned = request(&fd, "ioctl(UFFDIO_POISON)", UFFDIO_POISON, page, 0);
    // The marker stays; who met the page in between goes on.
    request(&fd, "ioctl(UFFDIO_UNREGISTER)", UFFDIO_UNREGISTER, page, 0).and(poisoned)
}

/// Asks for something to be done to a page that the caller of [`poison`] vouched for.
fn request(fd: &OwnedFd, call: &'static str, request: libc::c_ulong, page: usize, mode: u64) -> Result<(), Error> {
    let mut argument = Request { start: page as u64, len: 4096, mode, answer: 0 };
    // SAFETY: the argument is live and at least of the size encoded in each of the request numbers.
    check(call, unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut argument) }.into()).map(drop)
}
