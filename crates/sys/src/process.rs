// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process does that runs another in its place: pass signals on, and end as the other ended.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;
use crate::error::check;

/// Whether `SIGPIPE` was ignored when this process began: the runtime of the language ignores it before `main`, and gives
/// children the default.
static IGNORED_PIPE: AtomicBool = AtomicBool::new(false);

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

extern "C" fn at_start() {
    IGNORED_PIPE.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks; `action` is live.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// What a program inherits of the way signals are treated, as this process was given it.
#[derive(Copy, Clone)]
pub struct Inherited {
    mask: libc::sigset_t,
    ignores_pipe: bool,
    ignores_child: bool,
}

impl std::fmt::Debug for Inherited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inherited").field("ignores_pipe", &self.ignores_pipe).finish_non_exhaustive()
    }
}

impl Inherited {
    /// Before anything is changed.
    pub fn now() -> Result<Inherited, Error> {
        // SAFETY: plain data.
        let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: only asks; `mask` is live.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask) };
        if errno != 0 {
            return Err(Error::Call { call: "pthread_sigmask", errno: crate::Errno::from_raw(errno) });
        }
        let ignores_pipe = IGNORED_PIPE.load(Ordering::Relaxed);
        Ok(Inherited { mask, ignores_pipe, ignores_child: is_ignored(libc::SIGCHLD) })
    }

    /// Gives the same to a program that is about to run.
    pub fn pass_on(self, program: &mut Command) {
        let restore = move || {
            for (signal, ignores) in [(libc::SIGPIPE, self.ignores_pipe), (libc::SIGCHLD, self.ignores_child)] {
                if ignores {
                    // SAFETY: touches no memory.
                    unsafe { libc::signal(signal, libc::SIG_IGN) };
                }
            }
            // SAFETY: the set is live; the old mask is not asked for.
            match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut()) } {
                0 => Ok(()),
                errno => Err(std::io::Error::from_raw_os_error(errno)),
            }
        };
        // SAFETY: right before exec; both calls are async-signal-safe, and nothing is allocated.
        unsafe { program.pre_exec(restore) };
    }
}

/// What a waiting parent is woken for.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Woken {
    /// A child changed its state.
    Child,
    /// Somebody sent a signal, to us alone or to our group: that cannot be told.
    Sent {
        /// Its number.
        signal: i32,
        /// The process that did; 0 where it cannot be seen from here.
        by: u32,
    },
    /// A signal of the terminal's, which the child got as well.
    Group,
}

/// Signals that are readable here instead of being delivered.
pub struct Relay {
    fd: OwnedFd,
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
        // A parent that ignores it is not told how its child ended.
        // SAFETY: touches no memory.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        // SAFETY: `set` is live; the old mask is not asked for.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if errno != 0 {
            return Err(Error::Call { call: "pthread_sigmask", errno: crate::Errno::from_raw(errno) });
        }
        // SAFETY: `set` is live; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        check("signalfd4", fd.into())?;
        // SAFETY: the call above returned this descriptor and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Relay { fd })
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
            _ => Woken::Sent { signal, by: info.ssi_pid },
        })
    }
}

/// Whether a process is another, or was started by it or by one that was, as far as they still run.
#[must_use]
pub fn is_or_descends_from(process: u32, ancestor: u32) -> bool {
    /// More generations than that are a loop that nobody promised not to be there.
    const MOST: u32 = 1000;
    let mut at = process;
    for _ in 0..MOST {
        if at == ancestor {
            return true;
        }
        // "PID (NAME) STATE PPID …", and the name may hold anything.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{at}/stat")) else { return false };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        match parent {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
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
