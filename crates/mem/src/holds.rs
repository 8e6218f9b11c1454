// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which bytes of a region are in flight, and the claims that wait for them (I4, I5).
//!
//! # Claim contract
//! A hold is entered while its thread is online, and left when the I/O was reaped. A claim (to deallocate a range, to cut
//! the region short) is granted under the same lock, at a moment when nothing in flight overlaps it; what comes later sees
//! the claim: holds of a range that is being deallocated wait for the deallocation, holds past a cut are refused. A claim
//! that is not granted by its deadline has changed nothing.
//!
//! Memory follows what is in flight. The CPU's windows are not here: they end with their online section.

use std::time::Instant;

use crate::Access;
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, lock, wait_until};

/// Bytes in flight.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) access: Access,
    pub(crate) thread: u32,
    /// Not in flight, but being deallocated.
    pub(crate) changes: bool,
}

/// What of one region is in flight.
#[derive(Debug)]
pub(crate) struct Holds {
    /// Bytes of the region that there still are. Changed under the lock.
    end: AtomicU64,
    state: Mutex<State>,
    /// Something was let go.
    freed: Condvar,
}

/// The ranges of one region that one I/O has: entered together and left together, since the lock is what costs.
#[derive(Debug)]
pub(crate) struct Run {
    first: (u64, u64),
    /// The others.
    rest: Vec<(u64, u64)>,
    access: Access,
    thread: u32,
}

impl Run {
    pub(crate) fn new(start: u64, end: u64, access: Access, thread: u32) -> Run {
        Run { first: (start, end), rest: Vec::new(), access, thread }
    }

    /// Adds a range; so many `more` may follow.
    pub(crate) fn push(&mut self, start: u64, end: u64, more: usize) {
        if self.rest.is_empty() {
            self.rest.reserve_exact(1 + more);
        }
        self.rest.push((start, end));
    }

    fn len(&self) -> u64 {
        1 + self.rest.len() as u64
    }

    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        std::iter::once(self.first).chain(self.rest.iter().copied())
    }

    fn held(&self) -> impl Iterator<Item = Held> + '_ {
        let Run { access, thread, .. } = *self;
        self.ranges().map(move |(start, end)| Held { start, end, access, thread, changes: false })
    }
}

#[derive(Debug, Default)]
struct State {
    held: Vec<Option<Run>>,
    free: Vec<u32>,
    /// Ranges in `held`.
    ranges: u64,
    /// Ranges that are being deallocated.
    closed: Vec<Held>,
    /// Those who wait for `freed`.
    waiting: usize,
    /// Nothing comes back.
    condemned: bool,
    /// Where it ended before anything was cut off.
    top: u64,
}

impl State {
    /// What is in flight in `[start, end)`.
    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = Held> + '_ {
        self.held.iter().flatten().flat_map(Run::held).filter(move |held| held.start < end && start < held.end)
    }

    fn closed_to(&self, run: &Run) -> bool {
        !self.closed.is_empty() && run.ranges().any(|(start, end)| self.is_closed(start, end))
    }

    fn is_closed(&self, start: u64, end: u64) -> bool {
        self.closed.iter().any(|closed| closed.start < end && start < closed.end)
    }
}

impl Holds {
    pub(crate) fn new(len: u64) -> Holds {
        let state = State { top: len, ..State::default() };
        Holds { end: AtomicU64::new(len), state: Mutex::new(state), freed: Condvar::new() }
    }

    /// Bytes that there still are.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Ranges in flight.
    pub(crate) fn count(&self) -> u64 {
        lock(&self.state).ranges
    }

    /// Enters holds and returns their number; `None` where one lies past a cut. Waits while one is being deallocated,
    /// which is the kernel's time for that and no I/O's.
    pub(crate) fn enter(&self, run: Run) -> Option<u32> {
        let mut state = lock(&self.state);
        while state.closed_to(&run) {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            state.waiting -= 1;
        }
        let end = self.end();
        if run.ranges().any(|range| range.1 > end) {
            return None;
        }
        let count = run.len();
        let number = match state.free.pop() {
            Some(number) => {
                state.held[number as usize] = Some(run);
                number
            }
            None => {
                let number = u32::try_from(state.held.len()).ok()?;
                state.held.push(Some(run));
                number
            }
        };
        state.ranges += count;
        Some(number)
    }

    /// Leaves the holds of that number.
    pub(crate) fn leave(&self, number: u32) {
        let mut state = lock(&self.state);
        let Some(run) = state.held.get_mut(number as usize).and_then(Option::take) else { return };
        state.ranges -= run.len();
        state.free.push(number);
        if state.free.len() == state.held.len() && state.held.len() > KEPT {
            // Memory follows what is in flight: a burst leaves none behind.
            state.held = Vec::new();
            state.free = Vec::new();
        }
        self.wake(&state);
    }

    /// Claims `[start, end)` for a deallocation, or says who has it: nobody, where the region no longer reaches.
    pub(crate) fn close(&self, start: u64, end: u64, deadline: Instant) -> Result<Closed<'_>, Vec<Held>> {
        let mut state = self.claim(start, end, deadline)?;
        if end > self.end() {
            return Err(Vec::new());
        }
        let thread = pageless_sys::cpu::thread_id();
        state.closed.push(Held { start, end, access: Access::Write, thread, changes: true });
        Ok(Closed { holds: self, range: (start, end) })
    }

    /// Cuts the region at `at`, where nothing in flight is beyond, or says who is there. Returns where it ended.
    pub(crate) fn cut(&self, at: u64, deadline: Instant) -> Result<u64, Vec<Held>> {
        let _state = self.claim(at, u64::MAX, deadline)?;
        let end = self.end();
        self.end.store(end.min(at), Ordering::Release);
        Ok(end)
    }

    /// Cuts the region to nothing, whoever is there: from now on nothing can be entered.
    pub(crate) fn condemn(&self) {
        let mut state = lock(&self.state);
        state.condemned = true;
        self.end.store(0, Ordering::Release);
    }

    /// Takes a cut back, unless all was condemned meanwhile.
    pub(crate) fn restore(&self, end: u64) {
        let state = lock(&self.state);
        if !state.condemned {
            self.end.store(end, Ordering::Release);
        }
    }

    /// Whether nothing was cut off.
    pub(crate) fn whole(&self) -> bool {
        self.is_whole(&lock(&self.state))
    }

    fn is_whole(&self, state: &State) -> bool {
        !state.condemned && self.end() == state.top
    }

    /// Moves the end on, unless something was cut off: what was named once is not named again.
    pub(crate) fn extend(&self, end: u64) -> bool {
        let mut state = lock(&self.state);
        let whole = self.is_whole(&state) && end >= state.top;
        if whole {
            state.top = end;
            self.end.store(end, Ordering::Release);
        }
        whole
    }

    /// Waits until nothing is in flight, or says what is.
    pub(crate) fn drained(&self, deadline: Instant) -> Result<(), Vec<Held>> {
        self.claim(0, u64::MAX, deadline).map(drop)
    }

    /// The lock, at a moment when nothing overlapping is in flight or being deallocated.
    fn claim(&self, start: u64, end: u64, deadline: Instant) -> Result<crate::sync::MutexGuard<'_, State>, Vec<Held>> {
        let mut state = lock(&self.state);
        loop {
            if state.overlapping(start, end).next().is_none() && !state.is_closed(start, end) {
                return Ok(state);
            }
            state.waiting += 1;
            let (woken, in_time) = wait_until(&self.freed, state, deadline);
            state = woken;
            state.waiting -= 1;
            if !in_time {
                let closed = state.closed.iter().copied().filter(|closed| closed.start < end && start < closed.end);
                return Err(state.overlapping(start, end).chain(closed).collect());
            }
        }
    }

    fn wake(&self, state: &State) {
        if state.waiting > 0 {
            self.freed.notify_all();
        }
    }
}

/// Holds remembered without giving their memory back.
const KEPT: usize = 256;

/// A range that is being deallocated; holds of it wait until this is dropped.
#[derive(Debug)]
pub(crate) struct Closed<'h> {
    holds: &'h Holds,
    range: (u64, u64),
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.holds.state);
        if let Some(at) = state.closed.iter().position(|closed| (closed.start, closed.end) == self.range) {
            state.closed.swap_remove(at);
        }
        self.holds.wake(&state);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;

    fn held(start: u64, end: u64) -> Held {
        Held { start, end, access: Access::Read, thread: 7, changes: false }
    }

    fn one(start: u64, end: u64) -> Run {
        Run::new(start, end, Access::Read, 7)
    }

    #[test]
    fn the_ranges_of_one_io_are_entered_and_left_together() {
        let holds = Holds::new(100);
        let run = |ranges: &[(u64, u64)]| {
            let mut run = one(ranges[0].0, ranges[0].1);
            ranges[1..].iter().for_each(|(start, end)| run.push(*start, *end, 1));
            run
        };
        assert_eq!(holds.enter(run(&[(0, 10), (20, 30), (90, 101)])), None, "one of them lies outside");
        assert_eq!(holds.count(), 0);
        let number = holds.enter(run(&[(0, 10), (20, 30), (90, 100)])).unwrap();
        assert_eq!(holds.count(), 3);
        assert_eq!(holds.close(25, 95, now()).unwrap_err(), [held(20, 30), held(90, 100)]);
        drop(holds.close(10, 20, now()).unwrap());
        holds.leave(number);
        assert_eq!((holds.count(), holds.drained(now())), (0, Ok(())));
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn claims_are_granted_where_nothing_overlaps_and_name_who_does() {
        let holds = Holds::new(100);
        let (low, high) = (holds.enter(one(10, 20)).unwrap(), holds.enter(one(80, 90)).unwrap());
        assert_eq!(holds.count(), 2);
        for (start, end) in [(0, 11), (19, 30), (12, 13), (0, 100)] {
            assert!(holds.close(start, end, now()).unwrap_err().contains(&held(10, 20)), "{start}..{end}");
        }
        drop(holds.close(20, 80, now()).unwrap());
        assert_eq!(holds.cut(85, now()).unwrap_err(), [held(80, 90)]);
        assert_eq!(holds.end(), 100, "a refused cut changes nothing");
        assert_eq!(holds.cut(90, now()).unwrap(), 100);
        assert_eq!(holds.enter(one(90, 91)), None);
        assert_eq!(holds.enter(one(89, 91)), None);
        holds.leave(high);
        assert_eq!(holds.cut(20, now()).unwrap(), 90);
        holds.restore(90);
        assert_eq!(holds.enter(one(89, 90)), Some(high), "numbers are used again");
        holds.condemn();
        holds.restore(90);
        assert_eq!((holds.end(), holds.enter(one(0, 1))), (0, None), "nothing comes back");
        assert_eq!(holds.drained(now()).unwrap_err().len(), 2);
        assert_eq!(holds.close(30, 40, now()).map(drop), Err(Vec::new()), "it may be somebody else's by now");
        holds.leave(low);
        holds.leave(high);
        holds.leave(high);
        assert_eq!((holds.drained(now()), holds.count()), (Ok(()), 0));
    }

    #[test]
    fn a_claim_waits_for_what_is_let_go_and_a_hold_for_a_deallocation() {
        let holds = Holds::new(100);
        let number = holds.enter(one(0, 10)).unwrap();
        let far = now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            let claim = scope.spawn(|| holds.close(5, 6, far).map(std::mem::forget));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!claim.is_finished());
            holds.leave(number);
            claim.join().unwrap().unwrap();
            let entering = scope.spawn(|| holds.enter(one(0, 100)));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!entering.is_finished(), "the range is being deallocated");
            assert!(holds.enter(one(6, 7)).is_some(), "its neighbour is not");
            drop(Closed { holds: &holds, range: (5, 6) });
            assert!(entering.join().unwrap().is_some());
        });
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let holds = Holds::new(1 << 20);
        let numbers: Vec<u32> = (0..10_000).map(|at| holds.enter(one(at, at + 1)).unwrap()).collect();
        for number in numbers {
            holds.leave(number);
        }
        assert_eq!(holds.count(), 0);
        assert_eq!(lock(&holds.state).held.capacity(), 0);
    }
}
