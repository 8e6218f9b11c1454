// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Places`]: what each queue tells the others that it is about.
//!
//! A queue stores its words, then their count, and then has a full fence before it looks at the others: so of two that look for
//! each other at least one finds the other. What is read here happened before whatever follows, in the order of the queue that
//! told it.

use super::sync::{AtomicU64, Ordering};

/// Queues that there can be.
pub(super) const PLACES: usize = if cfg!(loom) { 2 } else { 256 };

/// Words that a queue tells at once, at most.
pub(super) const WORDS: usize = 16;

/// The words of one queue, the first `count` of these.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Place {
    count: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Place {
    /// Stores one of the words. Nobody need look at it before it is [told](Self::tell).
    #[inline]
    pub(super) fn set(&self, at: usize, word: u64) {
        self.words[at].store(word, Ordering::Release);
    }

    /// So many words are told from now on.
    #[inline]
    pub(super) fn tell(&self, count: usize) {
        self.count.store(count as u64, Ordering::Release);
    }

    /// Whether it tells anything.
    #[inline]
    pub(super) fn tells(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Whether it tells such a word.
    #[inline]
    pub(super) fn tells_any(&self, such: impl Fn(u64) -> bool) -> bool {
        let count = usize::try_from(self.count.load(Ordering::Acquire)).unwrap_or(WORDS).min(WORDS);
        self.words[..count].iter().any(|word| such(word.load(Ordering::Acquire)))
    }
}

/// Words that are told, until this is dropped.
#[derive(Debug)]
pub(super) struct Told<'p>(pub(super) &'p Place);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.tell(0);
    }
}

/// A place for each queue.
#[derive(Debug)]
pub(super) struct Places {
    places: Box<[Place]>,
    /// Places that ever had a queue: the first so many.
    used: AtomicU64,
}

impl Places {
    pub(super) fn new() -> Places {
        let place = |_| Place { count: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) };
        Places { places: (0..PLACES).map(place).collect(), used: AtomicU64::new(0) }
    }

    /// A queue has this place from now on.
    pub(super) fn take(&self, place: usize) {
        self.used.fetch_max(place as u64 + 1, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn at(&self, place: usize) -> &Place {
        &self.places[place]
    }

    /// All that may tell something.
    #[inline]
    pub(super) fn used(&self) -> &[Place] {
        let used = usize::try_from(self.used.load(Ordering::SeqCst)).unwrap_or(PLACES).min(PLACES);
        &self.places[..used]
    }
}
