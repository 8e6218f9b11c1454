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

#[derive(Debug, Default)]
struct State {
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    /// Ranges that are being deallocated.
    closed: Vec<(u64, u64)>,
    /// Those who wait for `freed`.
    waiting: usize,
    /// Nothing comes back.
    condemned: bool,
}

impl State {
    /// What is in flight in `[start, end)`.
    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = Held> + '_ {
        self.held.iter().flatten().copied().filter(move |held| held.start < end && start < held.end)
    }

    fn is_closed(&self, start: u64, end: u64) -> bool {
        self.closed.iter().any(|closed| closed.0 < end && start < closed.1)
    }
}

impl Holds {
    pub(crate) fn new(len: u64) -> Holds {
        Holds { end: AtomicU64::new(len), state: Mutex::default(), freed: Condvar::new() }
    }

    /// Bytes that there still are.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// I/Os and registrations in flight.
    pub(crate) fn count(&self) -> u64 {
        let state = lock(&self.state);
        (state.held.len() - state.free.len()) as u64
    }

    /// Enters a hold and returns its number; `None` past a cut. Waits while the range is being deallocated, which is the
    /// kernel's time for that and no I/O's.
    pub(crate) fn enter(&self, held: Held) -> Option<u32> {
        let mut state = lock(&self.state);
        while state.is_closed(held.start, held.end) {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            state.waiting -= 1;
        }
        if held.end > self.end() {
            return None;
        }
        match state.free.pop() {
            Some(number) => {
                state.held[number as usize] = Some(held);
                Some(number)
            }
            None => {
                let number = u32::try_from(state.held.len()).ok()?;
                state.held.push(Some(held));
                Some(number)
            }
        }
    }

    /// Leaves a hold.
    pub(crate) fn leave(&self, number: u32) {
        let mut state = lock(&self.state);
        if state.held.get_mut(number as usize).and_then(Option::take).is_none() {
            return;
        }
        state.free.push(number);
        if state.free.len() == state.held.len() && state.held.len() > KEPT {
            // Memory follows what is in flight: a burst leaves none behind.
            state.held = Vec::new();
            state.free = Vec::new();
        }
        self.wake(&state);
    }

    /// Claims `[start, end)` for a deallocation, or says who has it.
    pub(crate) fn close(&self, start: u64, end: u64, deadline: Instant) -> Result<Closed<'_>, Vec<Held>> {
        let mut state = self.claim(start, end, deadline)?;
        state.closed.push((start, end));
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
                return Err(state.overlapping(start, end).collect());
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
        if let Some(at) = state.closed.iter().position(|closed| *closed == self.range) {
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
        Held { start, end, access: Access::Read, thread: 7 }
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn claims_are_granted_where_nothing_overlaps_and_name_who_does() {
        let holds = Holds::new(100);
        let (low, high) = (holds.enter(held(10, 20)).unwrap(), holds.enter(held(80, 90)).unwrap());
        assert_eq!(holds.count(), 2);
        for (start, end) in [(0, 11), (19, 30), (12, 13), (0, 100)] {
            assert!(holds.close(start, end, now()).unwrap_err().contains(&held(10, 20)), "{start}..{end}");
        }
        drop(holds.close(20, 80, now()).unwrap());
        assert_eq!(holds.cut(85, now()).unwrap_err(), [held(80, 90)]);
        assert_eq!(holds.end(), 100, "a refused cut changes nothing");
        assert_eq!(holds.cut(90, now()).unwrap(), 100);
        assert_eq!(holds.enter(held(90, 91)), None);
        assert_eq!(holds.enter(held(89, 91)), None);
        holds.leave(high);
        assert_eq!(holds.cut(20, now()).unwrap(), 90);
        holds.restore(90);
        assert_eq!(holds.enter(held(89, 90)), Some(high), "numbers are used again");
        holds.condemn();
        holds.restore(90);
        assert_eq!((holds.end(), holds.enter(held(0, 1))), (0, None), "nothing comes back");
        assert_eq!(holds.drained(now()).unwrap_err().len(), 2);
        holds.leave(low);
        holds.leave(high);
        holds.leave(high);
        assert_eq!((holds.drained(now()), holds.count()), (Ok(()), 0));
    }

    #[test]
    fn a_claim_waits_for_what_is_let_go_and_a_hold_for_a_deallocation() {
        let holds = Holds::new(100);
        let number = holds.enter(held(0, 10)).unwrap();
        let far = now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            let claim = scope.spawn(|| holds.close(5, 6, far).map(std::mem::forget));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!claim.is_finished());
            holds.leave(number);
            claim.join().unwrap().unwrap();
            let entering = scope.spawn(|| holds.enter(held(0, 100)));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!entering.is_finished(), "the range is being deallocated");
            assert!(holds.enter(held(6, 7)).is_some(), "its neighbour is not");
            drop(Closed { holds: &holds, range: (5, 6) });
            assert!(entering.join().unwrap().is_some());
        });
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let holds = Holds::new(1 << 20);
        let numbers: Vec<u32> = (0..10_000).map(|at| holds.enter(held(at, at + 1)).unwrap()).collect();
        for number in numbers {
            holds.leave(number);
        }
        assert_eq!(holds.count(), 0);
        assert_eq!(lock(&holds.state).held.capacity(), 0);
    }
}
