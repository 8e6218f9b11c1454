// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every export's worker threads share: an [`Inbox`] to be handed work by, and a [`Spin`] that decides
//! whether waiting is better done awake.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pageless_sys::eventfd::EventFd;

/// Things handed to a thread that sleeps in `epoll`.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    items: Mutex<Vec<T>>,
    event: EventFd,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Result<Inbox<T>, pageless_sys::Error> {
        Ok(Inbox { items: Mutex::new(Vec::new()), event: EventFd::new()? })
    }

    /// Hands one over and wakes the thread.
    pub(crate) fn put(&self, item: T) {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        self.event.signal();
    }

    /// Wakes the thread with nothing.
    pub(crate) fn nudge(&self) {
        self.event.signal();
    }

    /// Takes what was handed over and resets the event.
    pub(crate) fn take(&self) -> Vec<T> {
        self.event.drain();
        std::mem::take(&mut *self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Decides how long to poll before blocking.
///
/// A client that answers within microseconds is met awake; one that does not costs one short spin and then
/// nothing. What counts is the recent gaps between running out of work and getting some.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Smoothed gap, in nanoseconds.
    gap: u64,
}

impl Spin {
    /// The longest spin.
    pub(crate) const LIMIT: Duration = Duration::from_micros(150);
    /// Gaps shorter than this on average are worth it.
    const WORTH: u64 = 60_000;
    /// A gap counts for no more than this, so that one pause does not outlast many short gaps.
    const CAP: u64 = 400_000;

    pub(crate) fn new() -> Spin {
        Spin { gap: Spin::CAP }
    }

    /// How long to poll now.
    pub(crate) fn budget(&self) -> Duration {
        if self.gap < Spin::WORTH { Spin::LIMIT } else { Duration::ZERO }
    }

    /// Work came after waiting this long.
    pub(crate) fn waited(&mut self, gap: Duration) {
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(Spin::CAP).min(Spin::CAP);
        self.gap = (3 * self.gap + gap) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_gaps_are_spun_and_long_ones_are_not() {
        let mut spin = Spin::new();
        assert_eq!(spin.budget(), Duration::ZERO, "nothing is known yet");
        for _ in 0..16 {
            spin.waited(Duration::from_micros(10));
        }
        assert_eq!(spin.budget(), Spin::LIMIT);
        spin.waited(Duration::from_millis(1));
        assert_eq!(spin.budget(), Duration::ZERO, "one pause is enough to stop");
        for _ in 0..16 {
            spin.waited(Duration::from_micros(10));
        }
        assert_eq!(spin.budget(), Spin::LIMIT);
    }

    #[test]
    fn an_inbox_wakes_and_empties() {
        let inbox = Inbox::new().unwrap();
        inbox.put(1);
        inbox.put(2);
        let mut epoll = pageless_sys::epoll::Epoll::new(1).unwrap();
        epoll.add(&inbox, 7, pageless_sys::epoll::Interest::Read).unwrap();
        let mut ready = Vec::new();
        epoll.wait(Some(Duration::from_secs(5)), &mut ready).unwrap();
        assert_eq!(ready.len(), 1);
        assert_eq!(inbox.take(), [1, 2]);
        ready.clear();
        epoll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready.len(), 0, "taking resets the event");
    }
}
