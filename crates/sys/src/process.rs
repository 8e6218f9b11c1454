// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process does that runs another in its place: pass signals on, and end as the other ended.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::error::check;

/// What a waiting parent is woken for.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Woken {
    /// A child changed its state.
    Child,
    /// Somebody sent this signal to us alone: the terminal sends its own to the whole foreground group.
    Sent(i32),
    /// A signal of the terminal's, which the child got as well.
    Group,
}

/// Signals that are readable here instead of being delivered.
pub struct Relay {
    fd: OwnedFd,
    /// The mask as it was.
    before: libc::sigset_t,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Relay {
    /// Takes the signals that users send to programs, and `SIGCHLD`. Before the child is started, so that none ends us
    /// while it runs.
    pub fn new() -> Result<Relay, Error> {
        // SAFETY: sigset_t is plain data that sigemptyset fills in.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is live.
        unsafe { libc::sigemptyset(&raw mut set) };
        let sent = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
        for signal in sent.into_iter().chain([libc::SIGCHLD]) {
            // SAFETY: `set` is live and the signal number valid.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: plain data.
        let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are live.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
        if errno != 0 {
            return Err(Error::Call { call: "pthread_sigmask", errno: crate::Errno::from_raw(errno) });
        }
        // SAFETY: `set` is live; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        check("signalfd4", fd.into())?;
        // SAFETY: the call above returned this descriptor and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Relay { fd, before })
    }

    /// Gives a child the mask that we had: a blocked signal would stay blocked in it.
    pub fn spare(&self, child: &mut Command) {
        let before = self.before;
        let restore = move || {
            // SAFETY: the set is live; the old mask is not asked for.
            match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) } {
                0 => Ok(()),
                errno => Err(std::io::Error::from_raw_os_error(errno)),
            }
        };
        // SAFETY: between fork and exec; pthread_sigmask is async-signal-safe, and nothing is allocated.
        unsafe { child.pre_exec(restore) };
    }

    /// Waits for a signal.
    pub fn wait(&self) -> Result<Woken, Error> {
        // SAFETY: plain data.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let len = size_of::<libc::signalfd_siginfo>();
        loop {
            // SAFETY: the buffer is live and `len` bytes long.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), len) };
            match check("read(signalfd)", read as i64) {
                Ok(_) => break,
                Err(error) if error.errno() == crate::Errno::EINTR => {}
                Err(error) => return Err(error),
            }
        }
        let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
        Ok(match (signal, info.ssi_code) {
            (libc::SIGCHLD, _) => Woken::Child,
            (_, libc::SI_KERNEL) => Woken::Group,
            _ => Woken::Sent(signal),
        })
    }
}

/// Sends a signal to a child that was not waited for yet.
pub fn send(child: u32, signal: i32) -> Result<(), Error> {
    let pid = i32::try_from(child).map_err(|_| Error::TooLarge { call: "kill", value: child.into() })?;
    // SAFETY: touches no memory.
    check("kill", unsafe { libc::kill(pid, signal) }.into()).map(|_| ())
}

/// Ends this process by a signal, without a core file of its own; returns where the signal does not end it.
pub fn end_by(signal: i32) {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: one live rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    // SAFETY: puts the default action back; no handler of ours is needed any more.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: sigset_t is plain data that sigemptyset fills in.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is live.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` is live; sigaddset refuses numbers that are no signal.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: touches no memory; the signal waits until it is unblocked.
    unsafe { libc::raise(signal) };
    // SAFETY: `set` is live; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Whether a file has capabilities of its own, which make the dynamic linker careful as set-user-ID does.
pub fn has_capabilities(path: &Path) -> bool {
    let mut value = [0u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok_and(|len| len > 0)
}
