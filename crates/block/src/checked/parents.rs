// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Parents`]: the bios that are with the driver in pieces.

use crate::split::{Bounds, Position, Splitter};
use crate::{Bio, Completion, Error, Flags, Route, Status};
use std::collections::VecDeque;

/// A tag with this bit is a piece's: below it are the parent's slot and the piece's offset in sectors.
const CHILD: u64 = 1 << 63;
/// Devices end before 2^63 bytes, so 54 bits hold any offset in sectors, and one more value.
const OFFSET_BITS: u32 = 54;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// What the slot bits can name. A queue with so many refuses further bios as `Full`.
const MAX_PARENTS: usize = 1 << (63 - OFFSET_BITS);
/// The offset of a parent's final flush, which lies past every piece.
const FLUSH_OFFSET: u64 = OFFSET_MASK;

/// Whether this is a tag that only pieces have.
#[inline]
pub(super) fn is_child(tag: u64) -> bool {
    tag & CHILD != 0
}

fn child_tag(slot: usize, offset_sectors: u64) -> u64 {
    CHILD | (slot as u64) << OFFSET_BITS | offset_sectors
}

/// A bio of which the driver has, or will get, pieces.
#[derive(Debug)]
struct Parent {
    tag: u64,
    pieces: Splitter,
    /// Pieces with the driver now.
    out: u32,
    /// A flush has still to follow the last piece.
    flush_due: bool,
    /// It stands in [`Parents::waiting`].
    queued: bool,
    failure: Option<Failure>,
    route: Route,
}

/// The earliest piece that failed.
#[derive(Copy, Clone, Debug)]
struct Failure {
    offset: u64,
    done: u64,
    status: Status,
}

impl Parent {
    fn fail(&mut self, failure: Failure) {
        // What comes after a failure cannot count any more.
        self.pieces.stop();
        self.flush_due = false;
        match self.failure {
            Some(earliest) if earliest.offset <= failure.offset => {}
            _ => self.failure = Some(failure),
        }
    }

    /// Whether there is something to give to the driver now.
    fn has_next(&self) -> bool {
        self.pieces.offset() < self.pieces.len() || (self.flush_due && self.out == 0)
    }

    fn ended(&self) -> bool {
        self.out == 0 && !self.has_next()
    }

    fn completion(&self) -> Completion {
        let (status, done) = match self.failure {
            Some(failure) => (failure.status, failure.done),
            None => (Status::Ok, self.pieces.len()),
        };
        Completion { tag: self.tag, status, done, route: self.route }
    }
}

/// What to give to the driver next.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "made, matched and gone: a box would allocate once for each piece")]
pub(super) enum Next {
    /// This piece; `undo` takes it back.
    Submit {
        bio: Bio,
        undo: Undo,
    },
    Nothing,
}

/// Takes back the piece that [`Parents::next`] gave out.
#[derive(Debug)]
pub(super) struct Undo {
    slot: usize,
    /// `None` for a flush.
    piece: Option<Position>,
}

/// The slab of parents, and which of them wait for the driver to have room.
#[derive(Debug, Default)]
pub(super) struct Parents {
    slots: Vec<Option<Parent>>,
    free: Vec<usize>,
    waiting: VecDeque<usize>,
    pieces: usize,
    /// Completions of parents that ended without one of their pieces completing.
    ended: Vec<Completion>,
}

impl Parents {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() + self.ended.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == MAX_PARENTS
    }

    /// Whether pieces wait for the driver to have room.
    #[inline]
    pub(super) fn waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Pieces with the driver.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    pub(super) fn add(&mut self, bio: Bio, flush_after: bool) {
        let mut flags = bio.flags;
        flags.set(Flags::FUA, bio.wants_fua() && !flush_after);
        let parent = Parent {
            tag: bio.tag,
            pieces: Splitter::new(bio, flags),
            out: 0,
            flush_due: flush_after,
            queued: true,
            failure: None,
            route: Route::None,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(parent);
                slot
            }
            None => {
                self.slots.push(Some(parent));
                self.slots.len() - 1
            }
        };
        self.waiting.push_back(slot);
    }

    /// The next piece of the bio that waits longest.
    pub(super) fn next(&mut self, bounds: &Bounds) -> Next {
        while let Some(&slot) = self.waiting.front() {
            if let Some(parent) = &mut self.slots[slot] {
                let position = parent.pieces.position();
                let tag = child_tag(slot, parent.pieces.offset() / crate::Sector::SIZE);
                let (bio, piece) = match parent.pieces.next(bounds, tag) {
                    Some(bio) => (Some(bio), Some(position)),
                    None if parent.flush_due && parent.out == 0 => {
                        parent.flush_due = false;
                        (Some(Bio::flush(child_tag(slot, FLUSH_OFFSET))), None)
                    }
                    None => (None, None),
                };
                if let Some(bio) = bio {
                    parent.out += 1;
                    self.pieces += 1;
                    return Next::Submit { bio, undo: Undo { slot, piece } };
                }
                parent.queued = false;
            }
            self.waiting.pop_front();
        }
        Next::Nothing
    }

    /// The driver did not take what [`next`](Self::next) gave out: it is kept when it may be taken later,
    /// and fails otherwise.
    pub(super) fn refused(&mut self, undo: Undo, status: Status, retry: bool) {
        let Some(parent) = &mut self.slots[undo.slot] else {
            return;
        };
        parent.out -= 1;
        self.pieces -= 1;
        match (retry, undo.piece) {
            (true, Some(position)) => parent.pieces.rewind(position),
            (true, None) => parent.flush_due = true,
            (false, piece) => {
                let offset = piece.map_or(parent.pieces.len(), |position| position.offset());
                let done = if piece.is_some() { offset } else { 0 };
                parent.fail(Failure { offset, done, status });
                if parent.ended() {
                    let completion = parent.completion();
                    self.ended.push(completion);
                    self.remove(undo.slot);
                }
            }
        }
    }

    /// Turns the pieces among `out[from..]` into completions of the parents that they end.
    pub(super) fn gather(&mut self, out: &mut Vec<Completion>, from: usize) -> Result<(), Error> {
        let mut kept = from;
        let mut result = Ok(());
        for at in from..out.len() {
            let completion = out[at];
            let whole = if is_child(completion.tag) {
                self.piece_done(&completion).unwrap_or_else(|error| {
                    result = Err(error);
                    None
                })
            } else {
                Some(completion)
            };
            if let Some(whole) = whole {
                out[kept] = whole;
                kept += 1;
            }
        }
        out.truncate(kept);
        result
    }

    fn piece_done(&mut self, piece: &Completion) -> Result<Option<Completion>, Error> {
        let unknown = Error::UnknownTag(piece.tag);
        let sectors = piece.tag & OFFSET_MASK;
        let slot = usize::try_from((piece.tag & !CHILD) >> OFFSET_BITS).unwrap_or(usize::MAX);
        let parent = match self.slots.get_mut(slot) {
            Some(Some(parent)) if parent.out > 0 => parent,
            _ => return Err(unknown),
        };
        parent.out -= 1;
        self.pieces -= 1;
        parent.route = parent.route.worst(piece.route);
        if !piece.status.is_ok() {
            let offset = sectors * crate::Sector::SIZE;
            let done = match sectors {
                // All was written, none of it is known to be durable.
                FLUSH_OFFSET => 0,
                _ => offset + piece.done,
            };
            parent.fail(Failure { offset, done, status: piece.status });
        }
        if parent.ended() {
            let completion = parent.completion();
            self.remove(slot);
            return Ok(Some(completion));
        }
        if parent.has_next() && !parent.queued {
            parent.queued = true;
            self.waiting.push_back(slot);
        }
        Ok(None)
    }

    /// Moves out the completions that no piece's completion brought.
    pub(super) fn take_ended(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.ended);
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
        self.waiting.retain(|waiting| *waiting != slot);
    }
}
