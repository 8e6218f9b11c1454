// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT and SIGTERM as something to read.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::Error;
use crate::error::check;

/// A signal that asks the process to end.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Termination {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    /// The terminal went away.
    HangUp,
}

/// Termination signals, blocked for delivery and readable here instead.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// Blocks SIGINT, SIGTERM and SIGHUP in this thread and every thread it starts later, and makes them readable.
/// Call it before starting threads.
pub fn block_termination() -> Result<SignalFd, Error> {
    let set = termination();
    mask(libc::SIG_BLOCK, &set)?;
    // SAFETY: `set` is live; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check("signalfd4", fd.into())?;
    // SAFETY: the call above returned this descriptor and nobody else has it.
    Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn termination() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data that sigemptyset fills in.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is live.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `set` is live and the signal number valid.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn mask(how: i32, set: &libc::sigset_t) -> Result<(), Error> {
    // SAFETY: `set` is live; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(Error::Call { call: "pthread_sigmask", errno: crate::Errno::from_raw(errno) }),
    }
}

impl SignalFd {
    /// The next signal, if one came.
    pub fn take(&self) -> Option<Termination> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut info).ok()?;
        let number = u32::from_ne_bytes(*info.get(..read)?.first_chunk()?);
        match i32::try_from(number).ok()? {
            libc::SIGINT => Some(Termination::Interrupt),
            libc::SIGHUP => Some(Termination::HangUp),
            _ => Some(Termination::Terminate),
        }
    }

    /// Waits for a signal.
    pub fn wait(&self) -> Termination {
        loop {
            if let Some(signal) = self.take() {
                return signal;
            }
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one live pollfd.
            unsafe { libc::poll(&raw mut poll, 1, -1) };
        }
    }
}

/// From now on the next one ends the process, as it does where nobody cares: for who has nothing left to do but to say so.
pub fn unblock_termination() -> Result<(), Error> {
    mask(libc::SIG_UNBLOCK, &termination())
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
