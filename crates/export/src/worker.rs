// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every export's worker threads share: an [`Inbox`] to be handed work by, a [`Spin`] that decides whether
//! waiting is better done awake, and a [`Gather`] that decides whether work is better done in batches.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pageless_sys::eventfd::EventFd;

/// Things handed to a thread that sleeps in `epoll`.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    items: Mutex<Vec<T>>,
    /// Something was handed over, for a thread that is awake.
    filled: AtomicBool,
    event: EventFd,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Result<Inbox<T>, pageless_sys::Error> {
        Ok(Inbox { items: Mutex::new(Vec::new()), filled: AtomicBool::new(false), event: EventFd::new()? })
    }

    /// Hands one over and wakes the thread.
    pub(crate) fn put(&self, item: T) {
        self.items.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        self.filled.store(true, Ordering::Release);
        self.event.signal();
    }

    /// Wakes the thread with nothing.
    pub(crate) fn nudge(&self) {
        self.event.signal();
    }

    /// Whether something was handed over since the last [`take`](Inbox::take): no system call.
    #[inline]
    pub(crate) fn filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Takes what was handed over and resets the event.
    pub(crate) fn take(&self) -> Vec<T> {
        self.event.drain();
        self.filled.store(false, Ordering::Relaxed);
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
    /// Waits for which not to spin, because others want the processor.
    hold: u32,
    limit: Duration,
    /// Gaps shorter than this on average are worth it, in nanoseconds.
    worth: u64,
}

impl Spin {
    /// The longest spin.
    pub(crate) const LIMIT: Duration = Duration::from_micros(150);
    /// Gaps shorter than this on average are worth it.
    const WORTH: Duration = Duration::from_micros(60);
    /// A gap counts for no more than this, so that one pause does not outlast many short gaps.
    const CAP: u64 = 400_000;

    /// Giving the processor away and getting it back takes less than this where nobody else wants it.
    pub(crate) const ALONE: Duration = Duration::from_micros(60);
    /// Waits without a spin after it took longer. Whoever blocks is woken in front of whoever only computes, and
    /// whoever yields is not.
    const HOLD: u32 = 256;

    pub(crate) fn new() -> Spin {
        Spin::at_most(Spin::LIMIT, Spin::WORTH)
    }

    /// One that polls at most `limit` where gaps are shorter than `worth` on average.
    pub(crate) fn at_most(limit: Duration, worth: Duration) -> Spin {
        Spin { gap: Spin::CAP, hold: 0, limit, worth: u64::try_from(worth.as_nanos()).unwrap_or(u64::MAX) }
    }

    /// How long to poll now.
    pub(crate) fn budget(&self) -> Duration {
        if self.gap < self.worth && self.hold == 0 { self.limit } else { Duration::ZERO }
    }

    /// Others want the processor.
    pub(crate) fn crowded(&mut self) {
        self.hold = Spin::HOLD;
    }

    /// Work came after waiting this long.
    pub(crate) fn waited(&mut self, gap: Duration) {
        let gap = u64::try_from(gap.as_nanos()).unwrap_or(Spin::CAP).min(Spin::CAP);
        self.gap = (3 * self.gap + gap) / 4;
        self.hold = self.hold.saturating_sub(1);
    }
}

/// Decides how long to let requests gather before looking for them again.
///
/// A worker that is faster than its client answers each request as it comes, which costs both sides a call, a lock
/// and a buffer for each. Looking a few microseconds later finds several at once, and a client with more requests
/// outstanding does not notice; a client with one does. Which it is cannot be seen, so it is tried: now and then a
/// window is run with a longer or shorter pause, and kept if more was done in it.
#[derive(Debug)]
pub(crate) struct Gather {
    /// Where in [`Gather::PAUSES`] we are.
    level: usize,
    /// What is being tried instead.
    trial: Option<usize>,
    /// What to try next time: up or down.
    up: bool,
    /// Windows to go before the next trial.
    rest: u32,
    /// How many those were last time.
    patience: u32,
    /// Requests per second of the last window without a trial.
    rate: f64,
    began: Instant,
    requests: u32,
}

impl Gather {
    const PAUSES: [Duration; 5] = [
        Duration::ZERO,
        Duration::from_micros(4),
        Duration::from_micros(8),
        Duration::from_micros(14),
        Duration::from_micros(20),
    ];
    /// What is compared is done in this time.
    const WINDOW: Duration = Duration::from_millis(1);
    /// And is at least so much.
    const LEAST: u32 = 16;
    /// Windows between trials, when nothing comes of them.
    const REST: std::ops::Range<u32> = 4..64;
    /// Gain for which a longer pause is worth it. A shorter one is, unless it costs as much.
    const GAIN: f64 = 1.04;

    pub(crate) fn new() -> Gather {
        Gather {
            level: 0,
            trial: None,
            up: true,
            rest: Gather::REST.start,
            patience: Gather::REST.start,
            rate: 0.0,
            began: Instant::now(),
            requests: 0,
        }
    }

    /// How long to wait now before looking.
    pub(crate) fn pause(&self) -> Duration {
        Gather::PAUSES[self.trial.unwrap_or(self.level)]
    }

    /// The worker slept, or did something else than many small requests: what was counted says nothing.
    pub(crate) fn interrupted(&mut self, now: Instant) {
        self.began = now;
        self.requests = 0;
    }

    /// So many requests were taken in a round that ended now.
    pub(crate) fn took(&mut self, requests: u32, now: Instant) {
        self.requests += requests;
        let time = now - self.began;
        if time < Gather::WINDOW || self.requests < Gather::LEAST {
            return;
        }
        let rate = f64::from(self.requests) / time.as_secs_f64();
        self.judge(rate);
        self.interrupted(now);
    }

    fn judge(&mut self, rate: f64) {
        match self.trial.take() {
            Some(level) => {
                let better = if level > self.level { self.rate * Gather::GAIN } else { self.rate / Gather::GAIN };
                if rate >= better {
                    self.level = level;
                    self.patience = Gather::REST.start;
                } else {
                    self.up = !self.up;
                    self.patience = (self.patience * 2).min(Gather::REST.end);
                }
                self.rest = self.patience;
            }
            None if self.rest > 0 => self.rest -= 1,
            None => {
                self.rate = rate;
                let top = Gather::PAUSES.len() - 1;
                let up = if self.level == 0 { true } else { self.up && self.level < top };
                self.trial = Some(if up { self.level + 1 } else { self.level - 1 });
            }
        }
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
    fn a_crowded_processor_is_not_spun_on_for_a_while() {
        let mut spin = Spin::new();
        let short = |spin: &mut Spin, times| (0..times).for_each(|_| spin.waited(Duration::from_micros(10)));
        short(&mut spin, 16);
        spin.crowded();
        short(&mut spin, Spin::HOLD - 1);
        assert_eq!(spin.budget(), Duration::ZERO);
        short(&mut spin, 1);
        assert_eq!(spin.budget(), Spin::LIMIT);
    }

    /// Runs a client that does `rate(pause)` requests a second for so long.
    fn run(gather: &mut Gather, milliseconds: u32, rate: impl Fn(Duration) -> f64) {
        let mut now = Instant::now();
        gather.interrupted(now);
        for _ in 0..milliseconds * 10 {
            now += Duration::from_micros(100);
            gather.took((rate(gather.pause()) / 10_000.0) as u32, now);
        }
    }

    #[test]
    fn gathering_is_kept_where_it_helps_and_given_up_where_it_does_not() {
        let mut gather = Gather::new();
        // Many outstanding: best at about 14 µs.
        run(&mut gather, 500, |pause| 320_000.0 - 500.0 * (pause.as_micros() as f64 - 14.0).powi(2));
        assert_eq!(gather.level, 3);
        // One outstanding: each pause is lost.
        run(&mut gather, 1000, |pause| 1e6 / (12.0 + pause.as_micros() as f64));
        assert_eq!(gather.level, 0);
        // It makes no difference: then there is none.
        run(&mut gather, 1000, |_| 50_000.0);
        assert_eq!(gather.level, 0);
    }

    #[test]
    fn a_trial_that_brings_nothing_is_rare() {
        let mut gather = Gather::new();
        let tried = std::cell::Cell::new(0);
        run(&mut gather, 2000, |pause| {
            tried.set(tried.get() + u32::from(!pause.is_zero()));
            1e6 / (12.0 + pause.as_micros() as f64)
        });
        assert!(tried.get() * 20 < 20_000, "{} of 20000", tried.get());
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
