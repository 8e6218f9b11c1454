// SPDX-License-Identifier: MIT OR Apache-2.0
//! A child process that does one small thing, by which tests see what a fork does to memory under I/O.

use crate::Error;
use crate::error::check;

/// A child that was not waited for. Dropping it ends it.
#[derive(Debug)]
pub struct Child(libc::pid_t);

/// Forks. The child runs `work` and exits with what it returns.
///
/// # Safety
/// Other threads may hold any lock at the fork, so `work` does only what is safe in a signal handler: no allocation, no
/// lock, no panic.
pub unsafe fn fork(work: impl FnOnce() -> u8) -> Result<Child, Error> {
    // SAFETY: the caller vouches for what the child does.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = work();
        // SAFETY: _exit runs nothing of ours.
        unsafe { libc::_exit(code.into()) };
    }
    check("fork", pid.into())?;
    Ok(Child(pid))
}

impl Child {
    /// Waits for the child; `None` when it did not exit by itself.
    pub fn wait(self) -> Result<Option<u8>, Error> {
        let status = self.reap()?;
        std::mem::forget(self);
        let exited = libc::WIFEXITED(status);
        Ok(u8::try_from(libc::WEXITSTATUS(status)).ok().filter(|_| exited))
    }

    fn reap(&self) -> Result<libc::c_int, Error> {
        let mut status = 0;
        loop {
            // SAFETY: `status` is live, and the child is ours and not waited for yet.
            let waited = check("waitpid", unsafe { libc::waitpid(self.0, &raw mut status, 0) }.into());
            match waited {
                Err(error) if error.errno() == crate::Errno::EINTR => {}
                waited => return waited.map(|_| status),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not waited for, so its number is nobody else's.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        let _ = self.reap();
    }
}
