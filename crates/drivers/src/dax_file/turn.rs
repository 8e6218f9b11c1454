// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Turn`]: whether it is the users' turn to take frames, or that of one who takes frames away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::segment::Deadline;

/// The low half counts those who take frames away, the high half how many ever did.
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
    const ONE: u64 = 1;
    const COUNTED: u64 = 1 << 32;

    /// Users wait until the last of those who took it lets go.
    pub(super) fn take(&self) -> Taking<'_> {
        self.number.fetch_add(Turn::COUNTED + Turn::ONE, Ordering::AcqRel);
        Taking(self)
    }

    /// The number of this turn; `None` when it is not the users'.
    pub(super) fn users(&self) -> Option<u64> {
        Some(self.number.load(Ordering::Acquire)).filter(|number| number % Turn::COUNTED == 0)
    }

    /// How often anybody took it.
    pub(super) fn taken(&self) -> u64 {
        self.number.load(Ordering::Acquire) / Turn::COUNTED
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
        self.0.number.fetch_sub(Turn::ONE, Ordering::AcqRel);
        drop(self.0.sleep.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_users_turn_when_the_last_has_let_go_and_every_turn_has_its_number() {
        let turn = Turn::default();
        let before = turn.users().unwrap();
        let first = turn.take();
        let second = turn.take();
        assert_eq!(turn.users(), None, "two at once are not none");
        drop(first);
        assert_eq!((turn.users(), turn.wait(Duration::from_millis(1))), (None, false));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turn.wait(Duration::MAX));
            drop(second);
            assert!(waiting.join().unwrap());
        });
        assert_ne!(turn.users().unwrap(), before);
    }
}
