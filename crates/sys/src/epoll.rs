// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for many descriptors at once.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::fs::Timespec;

use crate::error::Named;
use crate::{Errno, Error};

/// What to be told about a descriptor.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Interest {
    /// Readable, or the peer hung up.
    Read,
    /// Writable, or the peer hung up.
    Write,
    /// Both.
    ReadWrite,
    /// Only that the peer hung up.
    HangUp,
    /// That it became readable, told once each time: nothing need be read.
    Edge,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Interest::Read => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
            Interest::Write => epoll::EventFlags::OUT,
            Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP,
            Interest::HangUp => epoll::EventFlags::empty(),
            Interest::Edge => epoll::EventFlags::IN | epoll::EventFlags::ET,
        }
    }
}

/// One thing that happened.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The number given when the descriptor was added.
    pub token: u64,
    /// There is something to read, or the end of the stream.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other side is gone or the descriptor failed.
    pub hung_up: bool,
}

/// A level-triggered epoll(7) set.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    /// An empty set that reports up to `batch` events a wait.
    pub fn new(batch: usize) -> Result<Epoll, Error> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC).named("epoll_create1")?;
        Ok(Epoll { fd, events: Vec::with_capacity(batch.max(1)) })
    }

    /// Starts watching.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Error> {
        epoll::add(&self.fd, fd, epoll::EventData::new_u64(token), interest.flags()).named("epoll_ctl(ADD)")
    }

    /// Changes what to be told.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Error> {
        epoll::modify(&self.fd, fd, epoll::EventData::new_u64(token), interest.flags()).named("epoll_ctl(MOD)")
    }

    /// Stops watching.
    pub fn remove(&self, fd: impl AsFd) -> Result<(), Error> {
        epoll::delete(&self.fd, fd).named("epoll_ctl(DEL)")
    }

    /// Waits up to `timeout` (`None`: for ever) and appends what happened to `out`. A signal ends the wait early
    /// with nothing.
    pub fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Ready>) -> Result<(), Error> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(Error::Call { call: "epoll_wait", errno: Errno::from(errno) }),
        }
        out.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                token: event.data.u64(),
                readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                writable: flags.contains(epoll::EventFlags::OUT),
                hung_up: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
            }
        }));
        Ok(())
    }
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll").field("fd", &self.fd).finish_non_exhaustive()
    }
}
