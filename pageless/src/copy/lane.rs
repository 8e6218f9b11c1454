// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues that a copy keeps full, and the one place where it sleeps.

use std::collections::VecDeque;

use pageless::block::{Bio, BlockDevice, Checked, Completion, Queue as _, Refused, RefusedWhy, open_checked};
use pageless::sys::epoll::{Epoll, Interest};
use pageless::sys::signal::{SignalFd, Termination};

use super::CopyError;

/// A queue of one side, with what it could not take yet.
#[derive(Debug)]
pub(super) struct Lane {
    name: String,
    queue: Checked,
    waiting: VecDeque<Bio>,
}

impl Lane {
    pub(super) fn open(device: &dyn BlockDevice, name: &str) -> Result<Lane, CopyError> {
        let broken = |source| CopyError::Queue { name: name.into(), source };
        let queue = open_checked(device).map_err(broken)?;
        Ok(Lane { name: name.into(), queue, waiting: VecDeque::new() })
    }

    /// Hands a bio to the queue, now or as soon as it has room.
    pub(super) fn submit(&mut self, bio: Bio) -> Result<(), CopyError> {
        self.waiting.push_back(bio);
        self.push().map(drop)
    }

    /// Submits what waits until the queue is full, and says whether it took anything.
    fn push(&mut self) -> Result<bool, CopyError> {
        let mut pushed = false;
        while let Some(bio) = self.waiting.pop_front() {
            match self.queue.submit(bio) {
                Ok(()) => pushed = true,
                Err(Refused { bio, why: RefusedWhy::Full }) => {
                    self.waiting.push_front(bio);
                    break;
                }
                Err(Refused { bio, why }) => {
                    let (name, offset) = (self.name.clone(), bio.sector.bytes());
                    return Err(CopyError::Refused { name, op: bio.op, offset, why });
                }
            }
        }
        Ok(pushed)
    }

    /// Appends what has completed. Nothing appended means that sleeping is safe.
    pub(super) fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), CopyError> {
        loop {
            self.queue.poll(out).map_err(|source| CopyError::Queue { name: self.name.clone(), source })?;
            // What was submitted just now may only be queued until it is polled.
            if !self.push()? {
                return Ok(());
            }
        }
    }

    /// Runs one bio to its end; nothing else may be in flight.
    pub(super) fn run(&mut self, bio: Bio, sleeper: &mut Sleeper<'_>) -> Result<Completion, CopyError> {
        self.submit(bio)?;
        let mut done = Vec::new();
        loop {
            self.poll(&mut done)?;
            match done.pop() {
                Some(completion) => return Ok(completion),
                None => sleeper.wait()?,
            }
        }
    }
}

/// Waits for queues and for Ctrl-C.
#[derive(Debug)]
pub(super) struct Sleeper<'s> {
    epoll: Epoll,
    signals: &'s SignalFd,
    stop: Option<Termination>,
}

impl<'s> Sleeper<'s> {
    pub(super) fn new(signals: &'s SignalFd, lanes: &[&Lane]) -> Result<Sleeper<'s>, CopyError> {
        let epoll = Epoll::new(4)?;
        epoll.add(signals, 0, Interest::Read)?;
        for lane in lanes {
            if let Some(event) = lane.queue.event() {
                epoll.add(event, 1, Interest::Read)?;
            }
        }
        Ok(Sleeper { epoll, signals, stop: None })
    }

    /// The signal that asked us to stop, if one did.
    pub(super) fn stop(&mut self) -> Option<Termination> {
        if self.stop.is_none() {
            self.stop = self.signals.take();
        }
        self.stop
    }

    /// Sleeps until a queue has something, or a signal comes.
    pub(super) fn wait(&mut self) -> Result<(), CopyError> {
        // A signal that was taken is no longer readable, so draining after it does not spin.
        self.epoll.wait(None, &mut Vec::new())?;
        self.stop();
        Ok(())
    }
}
