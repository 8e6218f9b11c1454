// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moving bytes between sockets and addresses, without waiting.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Error;
use crate::error::{Named, check, check_len};

/// One run of addresses, laid out as the kernel's `struct iovec`. A plain pair of numbers: it grants nothing.
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct IoVec {
    /// First address.
    pub addr: usize,
    /// Bytes.
    pub len: usize,
}

const _: () = assert!(size_of::<IoVec>() == size_of::<libc::iovec>());

/// The most runs one call takes (`UIO_MAXIOV`).
pub const MAX_RUNS: usize = 1024;

/// Sends from `runs` without waiting and without SIGPIPE; returns how many bytes the socket took.
///
/// # Safety
/// Every run is mapped for the whole call (its pages may fault: the kernel answers `EFAULT`).
pub unsafe fn send(fd: BorrowedFd<'_>, runs: &[IoVec]) -> Result<usize, Error> {
    let message = header(runs);
    // SAFETY: `message` is a live msghdr over `runs`, whose addresses the caller vouches for; the kernel only reads.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    check_len("sendmsg", sent)
}

/// Receives into `runs` without waiting; 0 is the end of the stream.
///
/// # Safety
/// Every run is mapped for the whole call and its bytes are memory that others may change at any time anyway.
pub unsafe fn receive(fd: BorrowedFd<'_>, runs: &[IoVec]) -> Result<usize, Error> {
    let mut message = header(runs);
    // SAFETY: `message` is a live msghdr over `runs`, whose addresses the caller vouches for.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    check_len("recvmsg", received)
}

fn header(runs: &[IoVec]) -> libc::msghdr {
    // SAFETY: msghdr is plain data for which all zeroes is the empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = runs.as_ptr().cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = runs.len().min(MAX_RUNS);
    message
}

/// How many bytes the socket may hold for a slow reader (`SO_SNDBUF`; the kernel doubles it and caps it).
pub fn set_send_buffer(fd: BorrowedFd<'_>, bytes: usize) -> Result<(), Error> {
    rustix::net::sockopt::set_socket_send_buffer_size(fd, bytes).named("setsockopt(SO_SNDBUF)")
}

/// Sends small replies at once (`TCP_NODELAY`).
pub fn set_nodelay(fd: BorrowedFd<'_>) -> Result<(), Error> {
    rustix::net::sockopt::set_tcp_nodelay(fd, true).named("setsockopt(TCP_NODELAY)")
}

/// Asks for zero-copy sends (`SO_ZEROCOPY`), which pin the pages that are sent.
pub fn set_zerocopy(fd: BorrowedFd<'_>) -> Result<(), Error> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is a live int of the size given.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const on).cast(), 4) };
    check("setsockopt(SO_ZEROCOPY)", result.into()).map(drop)
}

/// Sends from one run by pinning it (`MSG_ZEROCOPY`).
///
/// # Safety
/// As [`send`], and the pages stay pinned until the socket is closed and its queue has drained: the run must stay
/// mapped, but its content may change.
pub unsafe fn send_zerocopy(fd: BorrowedFd<'_>, run: IoVec) -> Result<usize, Error> {
    let message = header(std::slice::from_ref(&run));
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_ZEROCOPY;
    // SAFETY: `message` is a live msghdr over `run`, whose address the caller vouches for; the kernel only reads.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    check_len("sendmsg(MSG_ZEROCOPY)", sent)
}
