// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FlushErrors`]: a failed flush is told to every opener, once.

use pageless_block::Status;
use std::sync::{Mutex, PoisonError};

/// The failed flushes of a disk. The kernel reports lost writes once per open file, and a queue has its own; what it
/// tells only the caller of that one `fdatasync` (a cache flush that failed) is passed on here.
#[derive(Debug)]
pub(crate) struct FlushErrors(Mutex<Last>);

#[derive(Copy, Clone, Debug)]
struct Last {
    count: u64,
    status: Status,
}

/// How many of them an opener was told of.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Seen(u64);

impl FlushErrors {
    pub(crate) fn new() -> FlushErrors {
        FlushErrors(Mutex::new(Last { count: 0, status: Status::Ok }))
    }

    /// An opener that starts now: earlier failures were told to whoever met them.
    pub(crate) fn opener(&self) -> Seen {
        Seen(self.with(|last| last.count))
    }

    /// What an opener is told whose own flush ended with `status`.
    ///
    /// A failure of its own that coincides with one it has not heard of is taken for that one, so it is not told twice.
    pub(crate) fn report(&self, seen: &mut Seen, status: Status) -> Status {
        self.with(|last| {
            let unheard = std::mem::replace(&mut seen.0, last.count) != last.count;
            match (status.is_ok(), unheard) {
                (true, true) => last.status,
                (false, false) => {
                    *last = Last { count: last.count + 1, status };
                    seen.0 = last.count;
                    status
                }
                _ => status,
            }
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Last) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opener_hears_of_a_failed_flush_once() {
        let errors = FlushErrors::new();
        let (mut a, mut b) = (errors.opener(), errors.opener());
        assert_eq!(errors.report(&mut a, Status::Ok), Status::Ok);
        assert_eq!(errors.report(&mut a, Status::NoSpace), Status::NoSpace);
        assert_eq!(errors.report(&mut a, Status::Ok), Status::Ok);
        let mut late = errors.opener();
        assert_eq!(errors.report(&mut b, Status::Ok), Status::NoSpace);
        assert_eq!(errors.report(&mut b, Status::Ok), Status::Ok);
        assert_eq!(errors.report(&mut late, Status::Ok), Status::Ok);
    }

    #[test]
    fn the_same_failure_met_twice_is_one() {
        let errors = FlushErrors::new();
        let (mut a, mut b) = (errors.opener(), errors.opener());
        assert_eq!(errors.report(&mut a, Status::IoErr), Status::IoErr);
        assert_eq!(errors.report(&mut b, Status::IoErr), Status::IoErr);
        assert_eq!(errors.report(&mut a, Status::Ok), Status::Ok);
        assert_eq!(errors.report(&mut a, Status::IoErr), Status::IoErr);
        assert_eq!(errors.report(&mut b, Status::Ok), Status::IoErr);
    }
}
