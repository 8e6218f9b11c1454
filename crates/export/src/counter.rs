// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Counter`]: what a worker counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer: no locked instruction is needed to add to it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
