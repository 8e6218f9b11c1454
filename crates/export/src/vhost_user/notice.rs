// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Notice`]: what the owner of a running server is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

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
}

/// The way to the owner. A front-end can make it hold one notice for each ring that it starts.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    owner: Sender<Notice>,
    gone: Arc<AtomicBool>,
}

impl Notices {
    pub(crate) fn new() -> (Notices, Receiver<Notice>) {
        let (owner, receiver) = mpsc::channel();
        (Notices { owner, gone: Arc::default() }, receiver)
    }

    /// An owner who does not listen need not be told.
    #[cold]
    pub(crate) fn tell(&self, notice: Notice) {
        let _ = self.owner.send(notice);
    }

    /// A request ended as `Gone`.
    #[cold]
    pub(crate) fn gone(&self) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            self.tell(Notice::Gone);
        }
    }
}
