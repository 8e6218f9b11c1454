// SPDX-License-Identifier: MIT OR Apache-2.0
//! A counter that wakes a thread waiting in `epoll`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;

use crate::Error;
use crate::error::Named;

/// A non-blocking eventfd(2).
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A counter at zero.
    pub fn new() -> Result<EventFd, Error> {
        Ok(EventFd(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).named("eventfd2")?))
    }

    /// Makes the descriptor readable.
    pub fn signal(&self) {
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
