// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "dereferences the published pointer; the proof is the grace-period protocol below")]
//! Reading a published value without counting: quiescent-state based reclamation.
//!
//! # Publication contract
//! A reader is *online* between [`Reader::online`] and the drop of the guard it returns; only then does it hold a
//! reference to the published value. A writer swaps the pointer, runs a barrier on every thread, and then looks who is
//! online: a reader that it sees offline will load the new pointer when it comes back (the barrier stands between its
//! "online" store and its load, or before both), a reader that it sees online may hold the old value until its counter
//! moves. The old value is kept until every such counter moved: the *grace period*.
//!
//! The reader's side costs two stores to its own cache line. The barrier is `membarrier(2)` where the kernel has it; else,
//! and under loom, both sides run a full fence.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, compiler_fence, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// A reader's state. Alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    /// Odd while online.
    count: AtomicU64,
    /// The thread that made the reader, and so reads.
    thread: u32,
    /// How many were made before.
    born: u64,
}

impl Slot {
    /// By the reader, the only one to store here: so this is no atomic read-modify-write, and one instruction. Release, so
    /// that who reads the counter has also seen the section before.
    #[inline]
    fn change(&self, next: impl FnOnce(u64) -> u64) {
        self.count.store(next(self.count.load(Ordering::Relaxed)), Ordering::Release);
    }
}

#[derive(Debug, Default)]
struct Slots {
    /// In the order of birth.
    living: Vec<Arc<Slot>>,
    born: u64,
}

/// A value that one side replaces while others read it.
pub struct Published<T> {
    current: AtomicPtr<T>,
    slots: Mutex<Slots>,
    retired: Mutex<Vec<(Grace, Arc<T>)>>,
    asymmetric: bool,
}

/// The readers that may still hold a value that was replaced.
#[derive(Debug)]
pub struct Grace {
    online: Vec<(Arc<Slot>, u64)>,
    /// The barrier failed, so nothing is known of the others: never passes.
    unknown: bool,
}

impl Grace {
    /// True when nobody holds the old value any more.
    pub fn passed(&mut self) -> bool {
        self.online.retain(|(slot, seen)| slot.count.load(Ordering::Acquire) == *seen);
        self.online.is_empty() && !self.unknown
    }

    /// The threads that may still hold it, where they are known.
    pub(crate) fn threads(&self) -> Vec<u32> {
        self.online.iter().map(|(slot, _)| slot.thread).collect()
    }

    /// Waits until nobody does; false when the deadline came first. Never call it while online yourself.
    pub fn wait(&mut self, deadline: Duration) -> bool {
        let start = Instant::now();
        while !self.passed() {
            if start.elapsed() > deadline {
                return false;
            }
            yield_now();
        }
        true
    }
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: Arc<T>) -> Published<T> {
        Published {
            current: AtomicPtr::new(Arc::into_raw(value).cast_mut()),
            slots: Mutex::new(Slots::default()),
            retired: Mutex::new(Vec::new()),
            asymmetric: !cfg!(loom) && pageless_sys::cpu::register_heavy_barrier().is_ok(),
        }
    }

    /// A new reader.
    pub fn reader(self: &Arc<Self>) -> Reader<T> {
        let mut slots = lock(&self.slots);
        let slot = Slot { count: AtomicU64::new(0), thread: pageless_sys::cpu::thread_id(), born: slots.born };
        let slot = Arc::new(slot);
        slots.born += 1;
        slots.living.push(Arc::clone(&slot));
        drop(slots);
        Reader { asymmetric: self.asymmetric, shared: Arc::clone(self), slot }
    }

    /// Replaces the value. The old one is dropped after its grace period, by a later [`reclaim`](Published::reclaim).
    /// Callers serialise their own read-modify-publish sequences.
    pub fn publish(&self, value: Arc<T>) {
        let old = self.current.swap(Arc::into_raw(value).cast_mut(), Ordering::AcqRel);
        // SAFETY: the pointer came from `Arc::into_raw` here or in `new`, and the swap took it out: this is its one owner.
        let old = unsafe { Arc::from_raw(old.cast_const()) };
        let grace = self.grace();
        lock(&self.retired).push((grace, old));
    }

    /// Who is online now. When it has passed, every reader has seen what was published before this call.
    pub fn grace(&self) -> Grace {
        let unknown = !self.heavy_barrier();
        let slots = lock(&self.slots);
        let online = slots.living.iter().map(|slot| (Arc::clone(slot), slot.count.load(Ordering::Acquire)));
        Grace { online: online.filter(|(_, seen)| seen % 2 == 1).collect(), unknown }
    }

    /// How many readers were made so far.
    pub(crate) fn readers_made(&self) -> u64 {
        lock(&self.slots).born
    }

    /// How many readers were made before the oldest that lives.
    pub(crate) fn oldest_reader(&self) -> u64 {
        let slots = lock(&self.slots);
        slots.living.first().map_or(slots.born, |oldest| oldest.born)
    }

    /// Drops the replaced values that nobody holds any more; returns how many are still held.
    pub fn reclaim(&self) -> usize {
        let mut retired = lock(&self.retired);
        let mut free = Vec::new();
        let mut index = 0;
        while index < retired.len() {
            if retired[index].0.passed() {
                free.push(retired.swap_remove(index));
            } else {
                index += 1;
            }
        }
        let held = retired.len();
        drop(retired); // values are dropped outside the lock: their drop may publish again
        drop(free);
        held
    }

    /// False where readers count on a barrier that the kernel now refuses (a filter was installed since): what is
    /// replaced from then on is kept for ever rather than freed under a reader.
    fn heavy_barrier(&self) -> bool {
        if self.asymmetric {
            return pageless_sys::cpu::heavy_barrier().is_ok();
        }
        fence(Ordering::SeqCst);
        true
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: the pointer came from `Arc::into_raw` and was not swapped out; readers hold an Arc of `self`, so
        // there are none left.
        drop(unsafe { Arc::from_raw(current.cast_const()) });
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("asymmetric", &self.asymmetric).finish_non_exhaustive()
    }
}

/// One thread's way to the published value.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Published<T>>,
    slot: Arc<Slot>,
    /// What `shared` says, without a way there.
    asymmetric: bool,
}

impl<T> Reader<T> {
    /// Goes online: the value stays until the guard is dropped. Never sleep while online.
    #[inline]
    pub fn online(&mut self) -> Guard<'_, T> {
        // Odd already where a guard was leaked while online, whose borrow has ended: then the two sections count as one.
        self.slot.change(|count| count | 1);
        self.light_barrier();
        let value = self.shared.current.load(Ordering::Acquire);
        Guard { value, slot: &self.slot, not_send: PhantomData }
    }

    #[inline]
    fn light_barrier(&self) {
        #[cfg(not(loom))]
        if self.asymmetric {
            return compiler_fence(Ordering::SeqCst);
        }
        full_barrier();
    }

    /// What it reads.
    pub fn published(&self) -> &Arc<Published<T>> {
        &self.shared
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        // A guard that was leaked left the slot odd; nothing borrows from it any more once the reader itself goes.
        self.slot.change(|seen| seen + 1 + (seen + 1) % 2);
        lock(&self.shared.slots).living.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// The published value, held by being online.
///
/// # Invariants
/// `value` was the current pointer after the slot's store of an odd counter, which still stands.
pub struct Guard<'r, T> {
    value: *const T,
    slot: &'r Slot,
    not_send: PhantomData<*const T>,
}

impl<T> Guard<'_, T> {
    /// The thread that reads.
    pub(crate) fn thread(&self) -> u32 {
        self.slot.thread
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: by the invariant a writer that replaced this value sees our odd counter (publication contract) and
        // keeps it until the counter moves, which happens in our drop.
        unsafe { &*self.value }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.slot.change(|online| online + 1);
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&**self).finish()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// That long from now; for more than can be told, in a very long time.
pub(crate) fn deadline_after(patience: Duration) -> Instant {
    const LONG: Duration = Duration::from_secs(1 << 30);
    let now = Instant::now();
    now.checked_add(patience).unwrap_or(now + LONG)
}

/// Sleeps until somebody signals or the deadline; false when there is no time left.
pub(crate) fn wait_until<'m, T>(
    condition: &Condvar,
    guard: MutexGuard<'m, T>,
    deadline: Instant,
) -> (MutexGuard<'m, T>, bool) {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return (guard, false);
    }
    let (guard, _) = condition.wait_timeout(guard, left).unwrap_or_else(std::sync::PoisonError::into_inner);
    (guard, true)
}

/// Out of the way of those who need none.
#[cold]
fn full_barrier() {
    fence(Ordering::SeqCst);
}

fn yield_now() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::thread::yield_now();
}
