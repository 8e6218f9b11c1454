// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Trouble`]: what is wrong with a medium that is in use.

use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pageless_mem::Fault;

use super::check::Finding;

/// As many are kept.
pub(super) const KEPT: usize = 256;

/// Something is wrong, and what that means for who uses the disk.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The other copy was used, or nothing had to be done.
    Noticed(Finding),
    /// The arena is read-only since.
    Froze(Finding),
    /// Reads and writes of this block fail, until it is repaired.
    Unusable(Finding),
    /// A lane's free block does not take bytes: the lane is not used any more.
    LaneRetired {
        /// Of which arena.
        arena: u32,
        /// Which.
        lane: u32,
        /// Its block.
        block: u32,
    },
    /// A write is in the flog, and the map could not be changed: the arena is read-only, and the write is finished when
    /// the disk is opened next.
    MapNotStored {
        /// Of which arena.
        arena: u32,
        /// Of which block.
        lba: u32,
        /// Why not.
        fault: Fault,
    },
}

impl Trouble {
    /// Whether it made its arena read-only.
    pub fn freezes(&self) -> bool {
        matches!(self, Trouble::Froze(_) | Trouble::MapNotStored { .. })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Noticed(finding) => write!(f, "{finding}"),
            Trouble::Froze(finding) => write!(f, "{finding}: the arena is read-only"),
            Trouble::Unusable(finding) => write!(f, "{finding}: the block cannot be read or written"),
            Trouble::LaneRetired { arena, lane, block } => {
                write!(f, "arena {arena}: block {block} is bad: lane {lane} is not used any more")
            }
            Trouble::MapNotStored { arena, lba, fault } => write!(
                f,
                "arena {arena}: map[{lba}] cannot be stored ({fault:?}): the arena is read-only; to open it again finishes the write"
            ),
        }
    }
}

/// All there were, and who wants to hear of more.
#[derive(Debug)]
pub(super) struct Troubles(Mutex<(Vec<Trouble>, Option<Sender<Trouble>>)>);

impl Troubles {
    pub(super) fn new(troubles: Vec<Trouble>) -> Troubles {
        Troubles(Mutex::new((troubles, None)))
    }

    pub(super) fn tell(&self, trouble: Trouble) {
        let (troubles, listener) = &mut *self.lock();
        // What makes an arena read-only is kept in any case: there is little of it.
        let room = troubles.len() < KEPT || trouble.freezes();
        if room && !troubles.contains(&trouble) {
            troubles.push(trouble);
            // Who does not listen any more need not be told.
            let _ = listener.as_ref().map(|listener| listener.send(trouble));
        }
    }

    pub(super) fn all(&self) -> Vec<Trouble> {
        self.lock().0.clone()
    }

    pub(super) fn listen(&self) -> Receiver<Trouble> {
        let (sender, receiver) = mpsc::channel();
        self.lock().1 = Some(sender);
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<Trouble>, Option<Sender<Trouble>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
