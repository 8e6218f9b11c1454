// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Notice`]: what the owner of a running server is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Notices told at once, at most, and how often one more after that: a guest can break its rings again and again.
const AT_ONCE: u32 = 16;
const ONE_MORE: Duration = Duration::from_secs(1);

/// Something that a server's owner should know of while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A front-end was left because of what it said.
    Left {
        /// What was wrong.
        why: String,
    },
    /// A guest's ring makes no sense: nothing more is taken from it until the guest sets it up again.
    Broken {
        /// Which.
        queue: usize,
        /// What is wrong.
        why: String,
    },
    /// Memory of the disk or of the guest went away under a request, which got an I/O error. Told once.
    Gone,
    /// Before the one that follows, others were left out: there were too many.
    LeftOut {
        /// So many.
        count: u64,
    },
}

/// The way to the owner, who is told of no more than can be read.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    owner: Sender<Notice>,
    gone: Arc<AtomicBool>,
    pace: Arc<Mutex<Pace>>,
}

impl Notices {
    pub(crate) fn new() -> (Notices, Receiver<Notice>) {
        let (owner, receiver) = mpsc::channel();
        let pace = Pace { room: AT_ONCE, since: Instant::now(), left_out: 0 };
        (Notices { owner, gone: Arc::default(), pace: Arc::new(Mutex::new(pace)) }, receiver)
    }

    /// An owner who does not listen need not be told.
    #[cold]
    pub(crate) fn tell(&self, notice: Notice) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = pace.take(Instant::now()) else { return };
        if left_out > 0 {
            let _ = self.owner.send(Notice::LeftOut { count: left_out });
        }
        let _ = self.owner.send(notice);
    }

    /// A request ended as `Gone`.
    #[cold]
    pub(crate) fn gone(&self) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            let _ = self.owner.send(Notice::Gone);
        }
    }
}

/// How many more may be told.
#[derive(Debug)]
struct Pace {
    room: u32,
    /// When `room` was right.
    since: Instant,
    left_out: u64,
}

impl Pace {
    /// Whether one may be told now: how many were left out before.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let more = now.saturating_duration_since(self.since).as_secs() / ONE_MORE.as_secs();
        if more > 0 {
            self.room = AT_ONCE.min(self.room.saturating_add(u32::try_from(more).unwrap_or(AT_ONCE)));
            self.since = now;
        }
        if self.room == 0 {
            self.left_out += 1;
            return None;
        }
        self.room -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_notices_is_told_at_a_pace_and_counted() {
        let start = Instant::now();
        let mut pace = Pace { room: AT_ONCE, since: start, left_out: 0 };
        let told = (0..1000).filter(|_| pace.take(start) == Some(0)).count();
        assert_eq!((told, pace.left_out), (16, 984));
        assert_eq!(pace.take(start + ONE_MORE * 2), Some(984));
        assert_eq!(pace.take(start + ONE_MORE * 2), Some(0));
        assert_eq!(pace.take(start + ONE_MORE * 2), None);
        let later = start + ONE_MORE * 1000;
        assert_eq!((0..1000).filter(|_| pace.take(later).is_some()).count(), 16);
    }

    #[test]
    fn the_owner_hears_how_many_were_left_out_and_of_memory_once() {
        let (notices, owner) = Notices::new();
        for queue in 0..20 {
            notices.tell(Notice::Broken { queue, why: String::new() });
        }
        notices.gone();
        notices.gone();
        notices.pace.lock().unwrap().room = 1;
        let left = Notice::Left { why: "later".into() };
        notices.tell(left.clone());
        let told: Vec<Notice> = owner.try_iter().collect();
        assert_eq!(told.len(), 19);
        assert_eq!(told[16..], [Notice::Gone, Notice::LeftOut { count: 4 }, left]);
    }
}
