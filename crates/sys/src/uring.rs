// SPDX-License-Identifier: MIT OR Apache-2.0
//! io_uring with operations named by number, not by lifetime: who owns the memory of an operation is decided above.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

use crate::error::Named;
use crate::eventfd::EventFd;
use crate::file::FallocMode;
use crate::socket::IoVec;
use crate::{Errno, Error};

/// A submission and completion ring with an eventfd.
pub struct Ring {
    ring: IoUring,
    event: EventFd,
}

/// The result of one operation.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The number given at submission.
    pub token: u64,
    /// Bytes moved, or why not.
    pub result: Result<u32, Errno>,
}

/// The submission queue has no room; submit first.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Full;

/// What a read or write uses as its memory.
#[derive(Debug, Copy, Clone)]
pub enum Buffer<'a> {
    /// A list of runs, which the kernel copies at submission.
    Runs(&'a [IoVec]),
    /// One run inside the registered buffer of this index.
    Fixed(IoVec, u16),
}

impl Ring {
    /// A ring with room for `entries` submissions.
    pub fn new(entries: u32) -> Result<Ring, Error> {
        let ring = IoUring::builder().setup_clamp().build(entries).named("io_uring_setup")?;
        let event = EventFd::new()?;
        ring.submitter().register_eventfd(event.as_fd().as_raw_fd()).named("io_uring_register(EVENTFD)")?;
        Ok(Ring { ring, event })
    }

    /// Submissions the ring can hold before a submit.
    pub fn capacity(&self) -> u32 {
        self.ring.params().sq_entries()
    }

    /// Readable when completions wait, until [`Ring::drain_event`].
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Registers runs as fixed buffers, which pins their pages for as long as the ring lives.
    ///
    /// # Safety
    /// The runs stay mapped until the ring is dropped.
    pub unsafe fn register(&self, runs: &[IoVec]) -> Result<(), Error> {
        let runs: Vec<libc::iovec> =
            runs.iter().map(|run| libc::iovec { iov_base: run.addr as *mut _, iov_len: run.len }).collect();
        // SAFETY: the caller keeps the runs mapped while the ring lives.
        unsafe { self.ring.submitter().register_buffers(&runs) }.named("io_uring_register(BUFFERS)")
    }

    /// Takes all fixed buffers back.
    pub fn unregister(&self) -> Result<(), Error> {
        self.ring.submitter().unregister_buffers().named("io_uring_register(UNREGISTER_BUFFERS)")
    }

    /// Queues a read.
    ///
    /// # Safety
    /// Descriptor, runs and their list stay as they are until the completion of `token` is reaped.
    pub unsafe fn read(&mut self, fd: BorrowedFd<'_>, at: u64, into: Buffer<'_>, token: u64) -> Result<(), Full> {
        let fd = types::Fd(fd.as_raw_fd());
        let entry = match into {
            Buffer::Runs(runs) => opcode::Readv::new(fd, runs.as_ptr().cast(), count(runs)).offset(at).build(),
            Buffer::Fixed(run, index) => {
                opcode::ReadFixed::new(fd, run.addr as *mut u8, length(run), index).offset(at).build()
            }
        };
        // SAFETY: forwarded from the caller.
        unsafe { self.push(&entry, token) }
    }

    /// Queues a write; `dsync` makes it durable before it completes (`RWF_DSYNC`).
    ///
    /// # Safety
    /// As [`Ring::read`].
    pub unsafe fn write(
        &mut self,
        fd: BorrowedFd<'_>,
        at: u64,
        from: Buffer<'_>,
        dsync: bool,
        token: u64,
    ) -> Result<(), Full> {
        let fd = types::Fd(fd.as_raw_fd());
        let flags = if dsync { libc::RWF_DSYNC } else { 0 };
        let entry = match from {
            Buffer::Runs(runs) => {
                opcode::Writev::new(fd, runs.as_ptr().cast(), count(runs)).offset(at).rw_flags(flags).build()
            }
            Buffer::Fixed(run, index) => opcode::WriteFixed::new(fd, run.addr as *const u8, length(run), index)
                .offset(at)
                .rw_flags(flags)
                .build(),
        };
        // SAFETY: forwarded from the caller.
        unsafe { self.push(&entry, token) }
    }

    /// Queues an `fdatasync`.
    ///
    /// # Safety
    /// The descriptor stays open until the completion of `token` is reaped.
    pub unsafe fn sync_data(&mut self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Full> {
        let entry = opcode::Fsync::new(types::Fd(fd.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: forwarded from the caller; no memory is involved.
        unsafe { self.push(&entry, token) }
    }

    /// Queues a `fallocate`.
    ///
    /// # Safety
    /// The descriptor stays open until the completion of `token` is reaped.
    pub unsafe fn fallocate(
        &mut self,
        fd: BorrowedFd<'_>,
        mode: FallocMode,
        at: u64,
        len: u64,
        token: u64,
    ) -> Result<(), Full> {
        let mode = mode.flags().bits().cast_signed();
        let entry = opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), len).offset(at).mode(mode).build();
        // SAFETY: forwarded from the caller; no memory is involved.
        unsafe { self.push(&entry, token) }
    }

    /// Queues a request to cancel everything in flight.
    pub fn cancel_all(&mut self, token: u64) -> Result<(), Full> {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        // SAFETY: a cancellation names no memory.
        unsafe { self.push(&entry, token) }
    }

    unsafe fn push(&mut self, entry: &squeue::Entry, token: u64) -> Result<(), Full> {
        let entry = entry.clone().user_data(token);
        // SAFETY: the callers of the public functions keep what the entry names alive until its completion.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| Full)
    }

    /// Hands what is queued to the kernel. `EAGAIN`, `EBUSY` and `EINTR` mean: reap, then again.
    pub fn submit(&mut self) -> Result<usize, Error> {
        self.ring.submit().named("io_uring_enter")
    }

    /// Entries that the kernel has not taken yet.
    pub fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Submits and waits for one completion.
    pub fn wait(&mut self) -> Result<(), Error> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            other => other.map(drop).named("io_uring_enter(GETEVENTS)"),
        }
    }

    /// Submits and waits for one completion for at most `timeout`.
    pub fn wait_for(&mut self, timeout: std::time::Duration) -> Result<(), Error> {
        let spec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&spec);
        match self.ring.submitter().submit_with_args(1, &args) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => Ok(()),
            other => other.map(drop).named("io_uring_enter(GETEVENTS)"),
        }
    }

    /// Makes the event unreadable until the next completion. Call it before looking for completions: one that comes
    /// in between leaves the event readable with nothing to find, which the next call clears.
    pub fn drain_event(&self) {
        self.event.drain();
    }

    /// Makes the event readable, as a completion would.
    pub fn signal(&self) {
        self.event.signal();
    }

    /// Appends the completions that are there.
    pub fn completions(&mut self, out: &mut Vec<Completion>) {
        out.extend(self.ring.completion().map(|entry| Completion {
            token: entry.user_data(),
            result: match entry.result() {
                negative @ ..0 => Err(Errno::from_raw(-negative)),
                bytes => Ok(bytes.unsigned_abs()),
            },
        }));
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("entries", &self.capacity()).finish_non_exhaustive()
    }
}

fn count(runs: &[IoVec]) -> u32 {
    u32::try_from(runs.len()).unwrap_or(u32::MAX)
}

fn length(run: IoVec) -> u32 {
    u32::try_from(run.len).unwrap_or(u32::MAX)
}
