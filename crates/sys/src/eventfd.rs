// SPDX-License-Identifier: MIT OR Apache-2.0
//! A counter that wakes a thread waiting in `epoll`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::{FileType, OFlags};

use crate::error::Named;
use crate::{Errno, Error};

/// A non-blocking eventfd(2).
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter at zero.
    pub fn new() -> Result<EventFd, Error> {
        Ok(EventFd(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).named("eventfd2")?))
    }

    /// Somebody else's, made non-blocking. What is no eventfd is refused: writing to a pipe or a socket may raise a signal,
    /// and writing to a file changes it.
    pub fn adopt(fd: OwnedFd) -> Result<EventFd, Error> {
        let stat = rustix::fs::fstat(&fd).named("fstat")?;
        // What is in no file system and has no type: an eventfd, or something that takes no eight bytes.
        if FileType::from_raw_mode(stat.st_mode) != FileType::Unknown {
            return Err(Error::Call { call: "write(eventfd)", errno: Errno::EINVAL });
        }
        let flags = rustix::fs::fcntl_getfl(&fd).named("fcntl(F_GETFL)")?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).named("fcntl(F_SETFL)")?;
        Ok(EventFd(fd))
    }

    /// One more descriptor of the same counter.
    pub fn duplicate(&self) -> Result<EventFd, Error> {
        self.0.try_clone().map(EventFd).named("fcntl(F_DUPFD_CLOEXEC)")
    }

    /// Makes the descriptor readable.
    pub fn signal(&self) {
        // Whoever shares the counter may have made it blocking again, and a full one is waited for then.
        if let Ok(flags) = rustix::fs::fcntl_getfl(&self.0)
            && !flags.contains(OFlags::NONBLOCK)
            && rustix::fs::fcntl_setfl(&self.0, flags | OFlags::NONBLOCK).is_err()
        {
            return;
        }
        // A full counter (EAGAIN) is readable already, which is all that is asked for.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Resets the counter; true when it had been signalled.
    pub fn drain(&self) -> bool {
        rustix::io::read(&self.0, &mut [0u8; 8]).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eventfd_of_somebody_else_is_adopted_and_nothing_that_is_none() {
        let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let adopted = EventFd::adopt(made).unwrap();
        assert!(!adopted.drain(), "it would block otherwise");
        adopted.signal();
        assert!(adopted.drain());
        // Full, and made blocking again by its owner: neither is waited for.
        rustix::io::write(&adopted.0, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let flags = rustix::fs::fcntl_getfl(&adopted.0).unwrap();
        rustix::fs::fcntl_setfl(&adopted.0, flags - OFlags::NONBLOCK).unwrap();
        adopted.signal();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for other in [reader, writer, file.into()] {
            EventFd::adopt(other).unwrap_err();
        }
    }
}
