// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Notice`]: what the owner of a running server is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

/// Something that a server's owner should know of while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The medium of an export is gone: it was revoked, or unplugged. Its clients get `EIO` from now on; the other
    /// exports go on. Told once for each export.
    Gone {
        /// The export's name.
        export: String,
    },
}

/// The way from the workers to the owner. Never full: there is one notice for each export at most.
#[derive(Debug)]
pub(crate) struct Notices {
    exports: Box<[(String, AtomicBool)]>,
    owner: Sender<Notice>,
}

impl Notices {
    pub(crate) fn new(exports: impl Iterator<Item = String>) -> (Notices, Receiver<Notice>) {
        let (owner, receiver) = mpsc::channel();
        (Notices { exports: exports.map(|name| (name, AtomicBool::new(false))).collect(), owner }, receiver)
    }

    /// A request to the export of this number ended as `Gone`.
    #[cold]
    pub(crate) fn gone(&self, export: usize) {
        if let Some((name, told)) = self.exports.get(export)
            && !told.swap(true, Ordering::Relaxed)
        {
            // An owner who does not listen need not be told.
            let _ = self.owner.send(Notice::Gone { export: name.clone() });
        }
    }
}
