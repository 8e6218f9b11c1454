// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Output`]: what a connection still owes its client, and how the next send is made of it.
//!
//! [`Output::plan`] says which pieces the next send consists of, looking frames up anew each time, so that a
//! client that does not read holds no memory. [`Output::sent`] then takes the byte count the socket returned and
//! moves on. What a partly sent chunk has promised (its length) is all that is kept between two sends.
//!
//! # Fault contract
//! Bytes that cannot be read become an error reply or an error chunk as long as the head that announces them is
//! unsent, and [`Broken`] after that. Nothing else is ever sent in their place.

mod planner;
mod staging;

use std::collections::VecDeque;

use pageless_block::{Direct, Status};
use pageless_mem::PhysRange;
use pageless_mem::io::Part;

use super::errno::Errno;
use super::pool::SlotId;
use super::reply::{self, Head};
use crate::slab::Key;
use planner::Planner;

/// The most pieces of one send: what one `sendmsg` takes.
const MAX_PIECES: usize = 1024;
/// The most bytes of one send.
const MAX_SEND: u32 = 1 << 20;
/// The longest chunk of a read that may be cut into chunks.
const MAX_CHUNK: u32 = 1 << 20;
/// What holes are sent from where zeroes must be sent.
const ZEROES: &[u8; ZERO_LEN as usize] = &[0; ZERO_LEN as usize];
const ZERO_LEN: u32 = 64 << 10;

/// The rest of a reply cannot be sent: only dropping the connection tells the client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// How the data of a read is announced.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One simple reply.
    Simple,
    /// One content chunk.
    Whole,
    /// As many chunks as there are extents.
    Chunks,
}

/// One thing owed.
#[derive(Debug)]
pub(crate) enum Owed {
    /// A short reply without data.
    Head(Head),
    /// A longer one.
    Bytes(Box<[u8]>),
    /// Data straight from the medium.
    Media(Media),
    /// Data by way of a slot.
    Staged(Staged),
    /// What is left of a reply that failed.
    Nothing,
}

/// A read of a device whose medium is frames.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Media {
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// Bytes no chunk was begun for.
    pub(crate) left: u32,
    pub(crate) shape: Shape,
    /// The last chunk ends the reply; else the error that is owed next does.
    pub(crate) last: bool,
}

/// A read, or a part of one, that a bio fetches into a slot.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) lead: Lead,
    pub(crate) data: Fetched,
}

/// What goes before a staged part.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// A simple reply of this part alone, or (`total` more than its length) of it and the parts that follow.
    Simple { total: u32 },
    /// One content chunk, of this part and those that follow.
    Whole { total: u32 },
    /// A content chunk of its own.
    Chunk { done: bool },
    /// Nothing: the part before announced it.
    Follow,
}

/// Where the data of a staged part is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// On the device; no bio was made for it.
    Wanted,
    /// On its way, by the bio of that name.
    Coming(Key),
    /// Here.
    Here(SlotId, PhysRange),
}

impl Staged {
    /// Is this part all there is to its reply? Then others may overtake it.
    fn alone(&self) -> bool {
        match self.lead {
            Lead::Simple { total } | Lead::Whole { total } => total == self.len,
            Lead::Chunk { .. } | Lead::Follow => false,
        }
    }
}

/// A chunk, or the data of a simple reply, that was begun and must be finished as announced.
#[derive(Copy, Clone, Debug)]
struct Open {
    head: Option<Head>,
    head_sent: u32,
    offset: u64,
    left: u32,
}

/// One part of a planned send.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Piece {
    entry: u32,
    /// The chunk that this piece begins.
    begins: Option<Begins>,
    what: What,
}

impl Piece {
    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.what.len() as usize
    }
}

#[derive(Copy, Clone, Debug)]
struct Begins {
    offset: u64,
    /// Bytes of the export it stands for.
    covers: u32,
    /// Bytes that follow the head; none for a hole.
    data: u32,
}

#[derive(Copy, Clone, Debug)]
enum What {
    Head { head: Head, from: u32 },
    Bytes { from: u32, len: u32 },
    Frames { range: PhysRange, offset: u64 },
    Zeroes(u32),
}

impl What {
    fn len(&self) -> u32 {
        match self {
            What::Head { head, from } => head.len() - from,
            What::Bytes { from, len } => len - from,
            What::Frames { range, .. } => range.len(),
            What::Zeroes(n) => *n,
        }
    }
}

/// What [`Output::sent`] saw go out.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Bytes from frames of the medium.
    pub(crate) media: u64,
    /// Bytes of holes, sent as zeroes or only announced.
    pub(crate) holes: u64,
}

/// Looks a part of the medium up.
pub(crate) type Lookup<'a> = dyn FnMut(u64, u64) -> Result<Direct, Status> + 'a;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Output {
    owed: VecDeque<Owed>,
    /// How many entries have left the queue: an entry's number is this plus its place.
    base: u64,
    /// Bytes of the first entry that went out, if it is plain bytes.
    sent: u32,
    /// What the first entry has begun.
    open: Option<Open>,
    /// Bytes in [`Owed::Bytes`] entries.
    heap: usize,
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Bytes of replies kept on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.heap
    }

    pub(crate) fn push(&mut self, owed: Owed) {
        if let Owed::Bytes(bytes) = &owed {
            self.heap += bytes.len();
        }
        self.owed.push_back(owed);
    }

    /// What the next send consists of. Empty: nothing can be sent now.
    pub(crate) fn plan(&mut self, lookup: &mut Lookup<'_>, pieces: &mut Vec<Piece>) -> Result<(), Broken> {
        pieces.clear();
        let mut budget = MAX_SEND;
        let mut place = 0;
        while place < self.owed.len() && pieces.len() + 2 <= MAX_PIECES && budget > 0 {
            let start = pieces.len();
            let open = if place == 0 { self.open } else { None };
            let entry = u32::try_from(place).unwrap_or(u32::MAX);
            let mut planner = Planner { entry, pieces, budget: &mut budget };
            match &self.owed[place] {
                Owed::Nothing => {}
                Owed::Head(head) => {
                    let from = if place == 0 { self.sent } else { 0 };
                    planner.push(None, What::Head { head: *head, from });
                }
                Owed::Bytes(bytes) => {
                    let from = if place == 0 { self.sent } else { 0 };
                    planner.push(None, What::Bytes { from, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) });
                }
                Owed::Media(media) => match planner.media(*media, open, lookup) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err((offset, status)) => {
                        pieces.truncate(start);
                        self.fail_media(place, offset, status)?;
                        continue;
                    }
                },
                Owed::Staged(staged) => {
                    if !planner.staged(*staged, open) {
                        break;
                    }
                }
            }
            place += 1;
        }
        Ok(())
    }

    /// The planned pieces as a socket takes them.
    pub(crate) fn parts<'a>(&'a self, pieces: &'a [Piece]) -> impl Iterator<Item = Part<'a>> {
        pieces.iter().map(|piece| match &piece.what {
            What::Head { head, from } => Part::Bytes(&head.as_bytes()[*from as usize..]),
            What::Bytes { from, .. } => match &self.owed[piece.entry as usize] {
                Owed::Bytes(bytes) => Part::Bytes(&bytes[*from as usize..]),
                _ => Part::Bytes(&[]),
            },
            What::Frames { range, .. } => Part::Frames(*range),
            What::Zeroes(n) => Part::Bytes(&ZEROES[..*n as usize]),
        })
    }

    /// The frames of one planned piece could not be read; nothing of the send went out.
    pub(crate) fn failed(
        &mut self,
        piece: &Piece,
        status: Status,
        release: &mut dyn FnMut(SlotId),
    ) -> Result<(), Broken> {
        let place = piece.entry as usize;
        match (&piece.what, self.owed.get(place)) {
            (What::Frames { offset, .. }, Some(Owed::Media(_))) => self.fail_media(place, *offset, status),
            (What::Frames { offset, .. }, Some(Owed::Staged(_))) => self.fail_staged(place, *offset, status, release),
            _ => Err(Broken),
        }
    }

    /// The socket took `n` bytes of the planned pieces. Slots that are done with go to `release`.
    pub(crate) fn sent(&mut self, mut n: usize, pieces: &[Piece], release: &mut dyn FnMut(SlotId)) -> Moved {
        let mut moved = Moved::default();
        for piece in pieces {
            let len = piece.what.len();
            let took = u32::try_from(n).unwrap_or(u32::MAX).min(len);
            if took == 0 && len > 0 {
                break;
            }
            self.settle(release);
            if let Some(begins) = piece.begins {
                self.begin(begins, &mut moved);
            }
            match (&piece.what, &mut self.open) {
                (What::Head { head, .. }, Some(open)) => {
                    open.head = Some(*head);
                    open.head_sent += took;
                }
                (What::Frames { .. } | What::Zeroes(_), Some(open)) => {
                    open.offset += u64::from(took);
                    open.left -= took;
                }
                _ => self.sent += took,
            }
            match piece.what {
                What::Frames { .. } if matches!(self.owed.front(), Some(Owed::Media(_))) => {
                    moved.media += u64::from(took);
                }
                What::Zeroes(_) => moved.holes += u64::from(took),
                _ => {}
            }
            n -= took as usize;
        }
        self.settle(release);
        moved
    }

    fn begin(&mut self, begins: Begins, moved: &mut Moved) {
        if let Some(Owed::Media(media)) = self.owed.front_mut() {
            media.offset += u64::from(begins.covers);
            media.left -= begins.covers;
        }
        if begins.data == 0 {
            moved.holes += u64::from(begins.covers);
        }
        self.open = Some(Open { head: None, head_sent: 0, offset: begins.offset, left: begins.data });
    }

    /// Takes entries that are done with off the front.
    fn settle(&mut self, release: &mut dyn FnMut(SlotId)) {
        loop {
            if self.open.is_some_and(|o| o.left == 0 && o.head.is_none_or(|head| o.head_sent == head.len())) {
                self.open = None;
                if let Some(Owed::Staged(staged)) = self.owed.front_mut() {
                    if let Fetched::Here(slot, _) = staged.data {
                        release(slot);
                    }
                    self.pop();
                    continue;
                }
            }
            match self.owed.front() {
                Some(Owed::Nothing) => {}
                Some(Owed::Head(head)) if self.sent == head.len() => {}
                Some(Owed::Bytes(bytes)) if self.sent as usize == bytes.len() => self.heap -= bytes.len(),
                Some(Owed::Media(media)) if media.left == 0 && self.open.is_none() => {}
                _ => return,
            }
            self.pop();
        }
    }

    fn pop(&mut self) {
        self.owed.pop_front();
        self.base += 1;
        self.sent = 0;
    }

    fn set(&mut self, place: usize, bytes: Box<[u8]>) {
        self.heap += bytes.len();
        self.owed[place] = Owed::Bytes(bytes);
    }

    fn fail_media(&mut self, place: usize, offset: u64, status: Status) -> Result<(), Broken> {
        let open = if place == 0 { self.open } else { None };
        if open.is_some_and(|open| offset < open.offset + u64::from(open.left)) {
            return Err(Broken);
        }
        let Owed::Media(media) = self.owed[place] else { return Err(Broken) };
        let errno = Errno::of(status).unwrap_or(Errno::Io);
        match media.shape {
            Shape::Simple => self.set(place, reply::error(false, media.cookie, errno, "")),
            Shape::Whole => self.set(place, reply::error_at(media.cookie, errno, offset, true)),
            Shape::Chunks => {
                if !media.last {
                    // It failed once already, further on: that error gives way to this one.
                    if let Some(Owed::Bytes(error)) = self.owed.remove(place + 1) {
                        self.heap -= error.len();
                    }
                }
                let error = reply::error_at(media.cookie, errno, offset, true);
                let before = u32::try_from(offset - media.offset).unwrap_or(0);
                if before == 0 && open.is_none() {
                    self.set(place, error);
                } else {
                    self.owed[place] = Owed::Media(Media { left: before, last: false, ..media });
                    self.heap += error.len();
                    self.owed.insert(place + 1, Owed::Bytes(error));
                }
            }
        }
        Ok(())
    }

    fn fail_staged(
        &mut self,
        place: usize,
        offset: u64,
        status: Status,
        release: &mut dyn FnMut(SlotId),
    ) -> Result<(), Broken> {
        let errno = Errno::of(status).unwrap_or(Errno::Io);
        let follows = |owed: Option<&Owed>| matches!(owed, Some(Owed::Staged(s)) if s.lead == Lead::Follow);
        let mut first = place;
        while follows(self.owed.get(first)) {
            // The part that announced this one may have left already.
            first = first.checked_sub(1).ok_or(Broken)?;
        }
        let Some(Owed::Staged(Staged { cookie, lead, .. })) = self.owed.get(first) else { return Err(Broken) };
        let reply = match *lead {
            _ if first == 0 && self.open.is_some() => return Err(Broken),
            Lead::Simple { .. } => reply::error(false, *cookie, errno, ""),
            Lead::Whole { .. } => reply::error_at(*cookie, errno, offset, true),
            Lead::Chunk { done } => reply::error_at(*cookie, errno, offset, done),
            Lead::Follow => return Err(Broken),
        };
        let mut next = first;
        while next == first || follows(self.owed.get(next)) {
            if let Owed::Staged(Staged { data: Fetched::Here(slot, _), .. }) = self.owed[next] {
                release(slot);
            }
            self.owed[next] = Owed::Nothing;
            next += 1;
        }
        self.set(first, reply);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
