// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Turn`]: whether it is the users' turn to take frames, or that of one who takes frames away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::segment::Deadline;

/// Odd while somebody takes frames away, and another number each time.
#[derive(Debug, Default)]
pub(super) struct Turn {
    number: AtomicU64,
    /// Guards nothing but the sleep of those who wait.
    sleep: Mutex<()>,
    changed: Condvar,
}

/// It is the turn of one who takes frames away, until this is dropped.
#[derive(Debug)]
pub(super) struct Taking<'t>(&'t Turn);

impl Turn {
    /// The caller is the only one: it holds the range that reaches the end of every file.
    pub(super) fn take(&self) -> Taking<'_> {
        self.number.fetch_add(1, Ordering::AcqRel);
        Taking(self)
    }

    /// The number of this turn; `None` when it is not the users'.
    pub(super) fn users(&self) -> Option<u64> {
        Some(self.number.load(Ordering::Acquire)).filter(|number| number % 2 == 0)
    }

    /// Waits until it is the users' turn; false when that takes longer.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let deadline = Deadline::after(patience);
        let mut sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while self.users().is_none() {
            let left = deadline.left();
            if left.is_zero() {
                return false;
            }
            sleep = self.changed.wait_timeout(sleep, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.number.fetch_add(1, Ordering::AcqRel);
        drop(self.0.sleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.notify_all();
    }
}
