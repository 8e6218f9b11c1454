// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Lease`]: the frames of a range of a mapped file, by name.

use super::segment::Segment;
use super::{Shared, State};
use crate::file::sticky::Seen;
use pageless_block::{Direct, DirectAccess, ScatterList, Status};
use pageless_mem::persist::{self, Durability};
use pageless_mem::{Fault, Pfn};
use pageless_sys::file::{File, Run};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The frames of a range of a file, as they were when it was taken out. Offsets count from the start of the range.
///
/// # Break contract
/// It keeps nobody from anything. What a truncation or a collapse took, what is left when the file was closed or dropped, is
/// [`Status::Gone`] to its holder, for ever: a new lease says what is there now. A range that was only punched is still the
/// same frames. While a change is under way nothing is named, and what was stored to frames that it may take is not told:
/// [`Status::Aborted`].
#[derive(Clone, Debug)]
pub struct Lease {
    file: Weak<Shared>,
    start: u64,
    len: u64,
    pieces: Vec<Piece>,
    seen: Seen,
}

/// Bytes of one part of the file.
#[derive(Copy, Clone, Debug)]
struct Piece {
    /// Past its last, in the file.
    end: u64,
    part: Pfn,
}

impl Lease {
    /// The range lies in the file.
    pub(super) fn new(shared: &Arc<Shared>, state: &State, start: u64, len: u64) -> Lease {
        let end = start + len;
        // Where the next one starts, and not where the region ends: a change that is under way may yet be taken back.
        let ends = state.segments.iter().skip(1).map(Segment::start).chain([state.len]);
        let parts = state.segments.iter().zip(ends).filter(|(part, past)| part.start() < end && *past > start);
        let pieces = parts.map(|(part, past)| Piece { end: past.min(end), part: part.id() }).collect();
        Lease { file: Arc::downgrade(shared), start, len, pieces, seen: shared.errors.opener() }
    }

    /// Bytes leased.
    #[expect(clippy::len_without_is_empty, reason = "a lease is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether any of its frames are gone. What a change that is under way will take is not gone yet.
    pub fn broken(&self) -> bool {
        self.frames(0, self.len) == Err(Status::Gone)
    }

    /// Waits until no change is under way, at most so long. Never call it with frames of the file in flight, or online: the
    /// change may be waiting for them.
    pub fn wait(&self, patience: Duration) -> bool {
        self.file.upgrade().is_none_or(|shared| shared.turn.wait(patience))
    }

    /// The frames of `len` bytes at `offset`, whether or not the file has data there: for who is about to store. Storing to a
    /// hole fills it.
    ///
    /// # Errors
    /// `OutOfRange` when the bytes are not all leased or `len` is 0; `Gone`; `Aborted` while a change is under way.
    pub fn frames(&self, offset: u64, len: u64) -> Result<ScatterList, Status> {
        let end = self.check(offset, len)?;
        self.in_turn(|state| {
            let (mut at, mut list) = (self.start + offset, ScatterList::new());
            while at < end {
                let (segment, until) = self.find(state, at)?;
                let range = segment.frames(at, until.min(end) - at).ok_or(Status::Gone)?;
                list.push(range);
                at += u64::from(range.len());
            }
            Ok(list)
        })
    }

    /// Makes durable what was stored and told of, by whichever lease. A failure is told to every lease once.
    ///
    /// # Errors
    /// What the medium says; `Gone` once the file is closed.
    pub fn flush(&mut self) -> Result<(), Status> {
        let shared = self.file.upgrade().ok_or(Status::Gone)?;
        let flushed = shared.flush(&shared.state(), &mut self.seen);
        flushed.map_err(|unflushed| unflushed.status)
    }

    /// How often somebody took frames away, or tried to.
    pub(super) fn changes(&self) -> u64 {
        self.file.upgrade().map_or(0, |shared| shared.turn.taken())
    }

    /// Looks at the file when nobody takes frames away, so that what is `Gone` is so for good.
    fn in_turn<T>(&self, look: impl FnOnce(&State) -> Result<T, Status>) -> Result<T, Status> {
        let shared = self.file.upgrade().ok_or(Status::Gone)?;
        let turn = shared.turn.users().ok_or(Status::Aborted)?;
        let found = look(&shared.state());
        if shared.turn.users() == Some(turn) { found } else { Err(Status::Aborted) }
    }

    /// Past the last byte, in the file.
    fn check(&self, offset: u64, len: u64) -> Result<u64, Status> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len && len > 0);
        end.map(|end| self.start + end).ok_or(Status::OutOfRange)
    }

    /// The part that has byte `at` of the file, and where that or the lease ends, if it still is the one that was leased.
    fn find<'s>(&self, state: &'s State, at: u64) -> Result<(&'s Segment, u64), Status> {
        let piece = self.pieces.get(self.pieces.partition_point(|piece| piece.end <= at)).ok_or(Status::OutOfRange)?;
        let segment = state.segment_at(at).filter(|segment| segment.id() == piece.part).ok_or(Status::Gone)?;
        // Asked once more, since a change may be cutting it.
        let until = piece.end.min(segment.end());
        if at < until { Ok((segment, until)) } else { Err(Status::Gone) }
    }

    /// Does `sync` to each part of a range that was stored to. What is `Gone` while somebody takes frames away may be there
    /// again when that failed: it is `Aborted`, and asked again.
    fn each(
        &self,
        shared: &Shared,
        (offset, len): (u64, u64),
        sync: impl Fn(&Segment, u64, u64) -> Result<(), Fault>,
    ) -> Result<(), Status> {
        let end = self.check(offset, len)?;
        if shared.read_only {
            return Err(Status::ReadOnly);
        }
        let turn = shared.turn.users();
        let all = || {
            let state = shared.state();
            let mut at = self.start + offset;
            while at < end {
                let (segment, until) = self.find(&state, at)?;
                let until = until.min(end);
                sync(segment, segment.offset(at), until - at)?;
                at = until;
            }
            Ok(())
        };
        match all() {
            Err(Status::Gone) if turn.is_none() || shared.turn.users() != turn => Err(Status::Aborted),
            result => result,
        }
    }
}

impl DirectAccess for Lease {
    fn access(&mut self, offset: u64, len: u64) -> Result<Direct, Status> {
        let end = self.check(offset, len)?;
        self.in_turn(|state| {
            let at = self.start + offset;
            let (segment, until) = self.find(state, at)?;
            let until = until.min(end);
            let file = state.file.as_ref().ok_or(Status::Gone)?;
            match run(file, at, until)? {
                Run::HoleUntil(until) => Ok(Direct::Hole(until - at)),
                Run::DataUntil(until) => segment.frames(at, until - at).map(Direct::Data).ok_or(Status::Gone),
            }
        })
    }

    fn stored(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        let shared = self.file.upgrade().ok_or(Status::Gone)?;
        self.each(&shared, (offset, len), |segment, from, len| match shared.durability {
            // Whoever stored may have left it in the cache, where a later flush does not look for it.
            Durability::Clwb => segment.region().persist(from, len),
            _ => {
                persist::fence();
                Ok(())
            }
        })
    }

    fn persist(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        let shared = self.file.upgrade().ok_or(Status::Gone)?;
        let result = self.each(&shared, (offset, len), |segment, from, len| segment.region().persist(from, len));
        let result = result.and_then(|()| shared.commit());
        match result {
            // No failure of the medium, which nobody else need hear of.
            Err(status @ (Status::Gone | Status::OutOfRange | Status::ReadOnly | Status::Aborted)) => Err(status),
            result => match shared.errors.report(&mut self.seen, result.err().unwrap_or(Status::Ok)) {
                Status::Ok => Ok(()),
                status => Err(status),
            },
        }
    }
}

/// The data or hole at `at`. What lies past the end of a file that somebody else cut short is lost, not a hole: it counts as
/// data, so that whoever touches it finds out.
fn run(file: &File, at: u64, until: u64) -> Result<Run, Status> {
    let run = file.run_at(at, until).map_err(|_| Status::IoErr)?;
    if run != Run::HoleUntil(until) {
        return Ok(run);
    }
    match file.size().map_err(|_| Status::IoErr)? {
        size if size >= until => Ok(run),
        size if size > at => Ok(Run::HoleUntil(size)),
        _ => Ok(Run::DataUntil(until)),
    }
}
