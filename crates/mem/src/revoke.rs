// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking memory back from whoever uses it (I5, I6).
//!
//! # Revocation contract
//! [`Region::revoke`] works in this order. Nothing can be taken in flight any more; the table is published without the
//! region, and from then on everybody who looks gets [`Fault::Gone`](crate::Fault::Gone), whatever the region's size.
//! Then it waits: for threads that were online with an older table (their windows end with the section), and for I/O in
//! flight. Only then the mapping is replaced by one that traps, on the control thread, which takes as long as there are
//! pages to give back. The addresses stay taken as long as a reader of that time lives, since a worker of the kernel may
//! look one up late; nothing of a later owner is ever there.
//!
//! A deadline that passes leaves the region `Gone` and says who holds it; a later call waits on. [`Region::cut`], on the
//! other hand, happens whole or changes nothing.

use std::time::{Duration, Instant};

use crate::Access;
use crate::control::Released;
use crate::error::{Busy, Error, Holder};
use crate::holds::Held;
use crate::range_lock::RangeGuard;
use crate::region::Region;
use crate::sync::deadline_after;

impl Region {
    /// Takes the memory back from everybody, waiting for windows and I/O in flight at most so long.
    ///
    /// Later users get `Gone`. Pages and file are let go on the control thread; [`Released::wait`] tells when.
    ///
    /// # Errors
    /// [`Error::Busy`] names who holds it still. The region is `Gone` all the same, and mapped until a later call of this
    /// succeeds.
    pub fn revoke(&self, patience: Duration) -> Result<Released, Error> {
        let wait = Wait::new(self, patience);
        let region = self.inner();
        region.holds.condemn();
        self.publisher().refresh(region);
        wait.for_windows()?;
        region.holds.drained(wait.deadline).map_err(|held| wait.in_flight(&held))?;
        Ok(self.publisher().control().release(region))
    }

    /// Takes back what lies from byte `at` on, and does `change` (shortens the file, say) at a moment when nobody can have it.
    /// Frames that were cut off stay dead. `change` must not cut or extend the same region.
    ///
    /// # Errors
    /// [`Error::Busy`] when I/O on that part goes on past the deadline, or what `change` returned: then nothing was cut,
    /// though who looked while `change` was tried got `Gone`.
    pub fn cut<T>(&self, at: u64, patience: Duration, change: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let wait = Wait::new(self, patience);
        let region = self.inner();
        let _one_at_a_time = wait.alone()?;
        if at >= self.len() {
            return change();
        }
        let end = region.holds.cut(at, wait.deadline).map_err(|held| wait.in_flight(&held))?;
        self.publisher().refresh(region);
        match wait.for_windows().and_then(|()| change()) {
            Ok(value) => {
                if at == 0 {
                    self.publisher().control().release(region);
                } else {
                    // Here and now: who cuts a file short may well open it again at once. What the kernel refuses to give
                    // back stays out of everybody's reach.
                    let _ = region.backing.seal(at);
                }
                Ok(value)
            }
            Err(error) => {
                region.holds.restore(end);
                self.publisher().refresh(region);
                Err(error)
            }
        }
    }

    /// Does `change` at a moment when nothing of these bytes is in flight; who takes some in flight meanwhile waits for its
    /// end. Windows of the CPU go on, and see the change as they would see a store. For an owner that deallocates behind
    /// the region's back: extents that queues remember are void afterwards.
    ///
    /// # Errors
    /// [`Error::Busy`] when I/O on them goes on past the deadline, [`Error::OutOfRange`], or what `change` returned.
    pub fn while_idle<T>(
        &self,
        offset: u64,
        len: u64,
        patience: Duration,
        change: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let wait = Wait::new(self, patience);
        let end = offset.checked_add(len).filter(|end| *end <= self.len());
        let end = end.ok_or_else(|| self.outside(offset, len))?;
        let closed = self.inner().holds.close(offset, end, wait.deadline).map_err(|held| wait.in_flight(&held))?;
        let result = self.changing_extents(change);
        drop(closed);
        result
    }

    /// Opens the region up to `len` bytes, into frames that were mapped with it and that nobody could name so far. False,
    /// and nothing changed, where there are none: also when some of it was cut off before, since those stay dead.
    pub fn extend(&self, len: u64) -> bool {
        let region = self.inner();
        let Ok(_one_at_a_time) = region.cutting.lock(0, u64::MAX, Access::Write, Duration::MAX) else { return false };
        let extended = len <= region.backing.reserved() && region.holds.extend(len);
        if extended {
            self.publisher().refresh(region);
        }
        extended
    }

    /// How far [`extend`](Region::extend) reaches; no further than the region does where some of it was cut off.
    pub fn reserved(&self) -> u64 {
        let region = self.inner();
        if region.holds.whole() { region.backing.reserved() } else { self.len() }
    }

    /// Tells when the memory of a region that was revoked, or cut to nothing, was given back.
    pub fn released(&self) -> Released {
        self.inner().released.clone()
    }

    /// Whether the region was revoked, or cut to nothing.
    pub fn revoked(&self) -> bool {
        self.inner().holds.end() == 0
    }
}

/// Waiting for the users of a region.
pub(crate) struct Wait<'r> {
    region: &'r Region,
    patience: Duration,
    pub(crate) deadline: Instant,
}

impl Wait<'_> {
    pub(crate) fn new(region: &Region, patience: Duration) -> Wait<'_> {
        Wait { region, patience, deadline: deadline_after(patience) }
    }

    /// Waits for others who cut the region, or open it further.
    fn alone(&self) -> Result<RangeGuard, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.region.inner().cutting.lock(0, u64::MAX, Access::Write, left).map_err(|taken| {
            let holder = Holder::window(taken.thread);
            self.busy(vec![Holder { in_flight: Some((0, self.region.len(), Access::Write)), changes: true, ..holder }])
        })
    }

    /// Waits for the sections that began before the table changed.
    fn for_windows(&self) -> Result<(), Error> {
        let mut grace = self.region.publisher().published().grace();
        if grace.wait(self.deadline.saturating_duration_since(Instant::now())) {
            return Ok(());
        }
        Err(self.busy(grace.threads().into_iter().map(Holder::window).collect()))
    }

    pub(crate) fn in_flight(&self, held: &[Held]) -> Error {
        self.busy(held.iter().map(Holder::in_flight).collect())
    }

    fn busy(&self, holders: Vec<Holder>) -> Error {
        Error::Busy(Box::new(Busy { what: self.region.describe(), patience: self.patience, holders }))
    }
}

/// Every interleaving of taking memory in flight and taking it back, on the code that ships:
/// `RUSTFLAGS="--cfg loom" cargo test -p pageless-mem --release --lib loom`
#[cfg(all(test, loom))]
mod loom {
    use std::sync::Arc;
    use std::time::Duration;

    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use loom::thread;

    use crate::{Access, Backing, FRAME_SIZE, Fault, Memory};

    const LONG: Duration = Duration::from_secs(3600);

    /// I/O is in flight, or a window is open, only before the revocation says that the memory is free.
    #[test]
    fn pin_against_revoke() {
        loom::model(|| {
            let memory = Memory::new().unwrap();
            let region = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
            let range = region.range(0, 4096).unwrap();
            let mut reader = memory.reader();
            let free = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&free);
            let user = thread::spawn(move || {
                let pinned = {
                    let online = reader.online();
                    let pinned = online.pin(&[range], Access::Write);
                    if online.kmap(range, Access::Read).is_ok() {
                        assert!(!seen.load(SeqCst), "a window on memory that was given back");
                    }
                    pinned
                };
                match pinned {
                    Ok(pinned) => {
                        thread::yield_now();
                        assert!(!seen.load(SeqCst), "in flight on memory that was given back");
                        drop(pinned);
                    }
                    Err(fault) => assert_eq!(fault, Fault::Gone),
                }
            });
            region.revoke(LONG).unwrap();
            free.store(true, SeqCst);
            user.join().unwrap();
            let mut late = memory.reader();
            assert_eq!(late.online().pin(&[range], Access::Read).unwrap_err(), Fault::Gone);
        });
    }

    /// What is deallocated is never in flight at that moment, and nobody waits for ever.
    #[test]
    fn pin_against_punch() {
        loom::model(|| {
            let memory = Memory::new().unwrap();
            let region = memory.register(Backing::anon(2 * FRAME_SIZE).unwrap()).unwrap();
            let range = region.range(0, 4096).unwrap();
            let mut reader = memory.reader();
            let in_flight = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&in_flight);
            let user = thread::spawn(move || {
                let pinned = reader.online().pin(&[range], Access::Write).unwrap();
                count.fetch_add(1, SeqCst);
                thread::yield_now();
                count.fetch_sub(1, SeqCst);
                drop(pinned);
            });
            let holds = &region.inner().holds;
            let deadline = std::time::Instant::now() + LONG;
            let closed = holds.close(0, 4096, deadline).unwrap();
            assert_eq!(in_flight.load(SeqCst), 0, "deallocated under I/O");
            thread::yield_now();
            assert_eq!(in_flight.load(SeqCst), 0, "taken in flight while it is deallocated");
            drop(closed);
            user.join().unwrap();
        });
    }

    /// A region that was cut short takes nothing beyond, and a cut that fails leaves it whole.
    #[test]
    fn pin_against_cut() {
        loom::model(|| {
            let memory = Memory::new().unwrap();
            let region = memory.register(Backing::anon(2 * FRAME_SIZE).unwrap()).unwrap();
            let range = region.range(FRAME_SIZE, 4096).unwrap();
            let mut reader = memory.reader();
            let cut = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&cut);
            let user = thread::spawn(move || {
                let online = reader.online();
                let pinned = online.pin(&[range], Access::Write);
                if online.kmap(range, Access::Read).is_ok() {
                    assert!(!seen.load(SeqCst), "a window beyond the cut");
                }
                drop(online);
                if let Ok(pinned) = pinned {
                    assert!(!seen.load(SeqCst), "beyond the cut");
                    drop(pinned);
                }
            });
            let change = || {
                cut.store(true, SeqCst);
                Ok(())
            };
            region.cut(FRAME_SIZE, LONG, change).unwrap();
            user.join().unwrap();
            assert_eq!(region.len(), FRAME_SIZE);
        });
    }
}
