// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`RangeLock`]: overlapping writers one after the other, readers together.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Access;
use crate::holds::Held;
use crate::sync::{Condvar, Mutex, deadline_after, lock, wait_until};

/// Serialises those who ask for it; an I/O that does not ask is not held up.
///
/// # Order contract
/// Ranges are granted in the order of asking: who waits is not overtaken by what overlaps it, so a writer is not starved by
/// readers. Ranges that do not overlap never wait for each other. Memory follows who holds or waits.
#[derive(Clone, Default)]
pub struct RangeLock(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Granted and waiting, in the order of asking.
    asked: VecDeque<Asked>,
    next: u64,
}

struct Asked {
    number: u64,
    range: Held,
    granted: bool,
}

impl Asked {
    fn conflicts(&self, other: &Held) -> bool {
        let both_read = self.range.access == Access::Read && other.access == Access::Read;
        let some = self.range.start < self.range.end && other.start < other.end;
        some && !both_read && self.range.start < other.end && other.start < self.range.end
    }
}

impl State {
    /// Who must let go before this number can be granted.
    fn before(&self, number: u64) -> Option<&Asked> {
        let mine = self.asked.iter().find(|asked| asked.number == number)?;
        self.asked.iter().take_while(|asked| asked.number != number).find(|asked| asked.conflicts(&mine.range))
    }

    fn forget(&mut self, number: u64) {
        self.asked.retain(|asked| asked.number != number);
    }
}

/// The range is taken.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
#[error("thread {thread} {} bytes {}..{}", doing(*granted, *access), range.0, range.1)]
pub struct Taken {
    /// The thread that holds it, or asked for it earlier.
    pub thread: u32,
    /// Its bytes, `[start, end)`.
    pub range: (u64, u64),
    /// What it does with them.
    pub access: Access,
    /// Whether it holds them or waits as well.
    pub granted: bool,
}

fn doing(granted: bool, access: Access) -> &'static str {
    match (granted, access) {
        (true, Access::Read) => "reads",
        (true, Access::Write) => "writes",
        (false, Access::Read) => "asked earlier to read",
        (false, Access::Write) => "asked earlier to write",
    }
}

impl RangeLock {
    /// A lock that nobody holds.
    pub fn new() -> RangeLock {
        RangeLock::default()
    }

    /// Takes `len` bytes at `offset`, waiting at most so long.
    ///
    /// # Errors
    /// [`Taken`] says who has it.
    pub fn lock(&self, offset: u64, len: u64, access: Access, patience: Duration) -> Result<RangeGuard, Taken> {
        let deadline = deadline_after(patience);
        let range =
            Held { start: offset, end: offset.saturating_add(len), access, thread: this_thread(), changes: false };
        let mut state = lock(&self.0.state);
        let number = state.next;
        state.next += 1;
        state.asked.push_back(Asked { number, range, granted: false });
        let mut in_time = true;
        loop {
            let Some(other) = state.before(number) else {
                if let Some(mine) = state.asked.iter_mut().find(|asked| asked.number == number) {
                    mine.granted = true;
                }
                return Ok(RangeGuard { lock: self.clone(), number });
            };
            if !in_time {
                let (range, granted) = (other.range, other.granted);
                state.forget(number);
                self.0.changed.notify_all();
                let Held { start, end, access, thread, .. } = range;
                return Err(Taken { thread, range: (start, end), access, granted });
            }
            (state, in_time) = wait_until(&self.0.changed, state, deadline);
        }
    }

    /// Ranges held or waited for.
    pub fn pending(&self) -> usize {
        lock(&self.0.state).asked.len()
    }
}

impl fmt::Debug for RangeLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeLock").field("pending", &self.pending()).finish()
    }
}

/// A range taken, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct RangeGuard {
    lock: RangeLock,
    number: u64,
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        lock(&self.lock.0.state).forget(self.number);
        self.lock.0.changed.notify_all();
    }
}

fn this_thread() -> u32 {
    pageless_sys::cpu::thread_id()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn readers_share_and_writers_do_not() {
        let ranges = RangeLock::new();
        let first = ranges.lock(0, 100, Access::Read, NOW).unwrap();
        let second = ranges.lock(50, 100, Access::Read, NOW).unwrap();
        let taken = ranges.lock(99, 1, Access::Write, NOW).unwrap_err();
        assert_eq!((taken.range, taken.access, taken.granted), ((0, 100), Access::Read, true));
        assert_eq!(taken.thread, this_thread());
        assert_eq!(taken.to_string(), format!("thread {} reads bytes 0..100", this_thread()));
        drop(first);
        assert!(ranges.lock(99, 1, Access::Write, NOW).is_err());
        drop(second);
        let writer = ranges.lock(99, 1, Access::Write, NOW).unwrap();
        assert!(ranges.lock(0, u64::MAX, Access::Read, NOW).is_err());
        drop(ranges.lock(0, 99, Access::Write, NOW).unwrap());
        drop(ranges.lock(99, 0, Access::Write, Duration::MAX).unwrap());
        drop(writer);
        assert_eq!(ranges.pending(), 0, "who gave up or let go leaves nothing");
    }

    #[test]
    fn a_waiting_writer_is_not_overtaken_by_readers() {
        let ranges = RangeLock::new();
        let reader = ranges.lock(0, 10, Access::Read, NOW).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| ranges.lock(5, 10, Access::Write, LONG));
            while ranges.pending() < 2 {
                std::thread::yield_now();
            }
            let taken = ranges.lock(9, 1, Access::Read, NOW).unwrap_err();
            assert!(!taken.granted, "the writer asked first: {taken:?}");
            assert!(taken.to_string().ends_with(" asked earlier to write bytes 5..15"), "{taken}");
            drop(ranges.lock(0, 5, Access::Read, NOW).unwrap());
            drop(reader);
            drop(writer.join().unwrap().unwrap());
        });
    }

    proptest! {
        /// Many threads, random ranges: writers are alone on each byte, and everybody is served.
        #[test]
        fn no_byte_has_a_writer_and_another(plan in prop::collection::vec(prop::collection::vec((0..16u64, 1..6u64, any::<bool>()), 1..20), 2..5)) {
            use std::sync::atomic::{AtomicI32, Ordering};
            let ranges = RangeLock::new();
            let bytes: Vec<AtomicI32> = (0..32).map(|_| AtomicI32::new(0)).collect();
            let (shared, bytes) = (&ranges, &bytes);
            std::thread::scope(|scope| {
                for thread in &plan {
                    scope.spawn(move || for (start, len, write) in thread {
                        let access = if *write { Access::Write } else { Access::Read };
                        let guard = shared.lock(*start, *len, access, LONG).unwrap();
                        let mine = &bytes[*start as usize..(start + len) as usize];
                        for byte in mine {
                            let before = byte.fetch_add(if *write { -100 } else { 1 }, Ordering::SeqCst);
                            assert!(if *write { before == 0 } else { before >= 0 }, "{before}");
                        }
                        for byte in mine {
                            byte.fetch_add(if *write { 100 } else { -1 }, Ordering::SeqCst);
                        }
                        drop(guard);
                    });
                }
            });
            prop_assert_eq!(ranges.pending(), 0);
        }
    }
}
