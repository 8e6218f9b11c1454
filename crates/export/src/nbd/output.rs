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

use std::collections::VecDeque;

use pageless_block::{Direct, Status};
use pageless_mem::PhysRange;
use pageless_mem::io::Part;

use super::errno::Errno;
use super::pool::SlotId;
use super::reply::{self, Head};
use crate::slab::Key;

/// The most pieces of one send: what one `sendmsg` takes.
const MAX_PIECES: usize = 1024;
/// The most bytes of one send.
const MAX_SEND: u32 = 512 << 10;
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
    /// The last chunk ends the reply.
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

/// The data of staged parts, coming and going.
impl Output {
    /// The parts that no bio was made for, among the first `window` bytes of staged parts: their numbers, offsets
    /// and lengths.
    pub(crate) fn wanted(&self, window: u32) -> impl Iterator<Item = (u64, u64, u32)> {
        let mut seen = 0u32;
        let staged = self.owed.iter().zip(self.base..).filter_map(|(owed, number)| match owed {
            Owed::Staged(staged) => Some((number, staged)),
            _ => None,
        });
        let near = staged.take_while(move |(_, staged)| {
            let near = seen < window;
            seen = seen.saturating_add(staged.len);
            near
        });
        near.filter(|(_, s)| s.data == Fetched::Wanted).map(|(number, s)| (number, s.offset, s.len))
    }

    /// A bio was made for the part of that number.
    pub(crate) fn coming(&mut self, number: u64, bio: Key) {
        if let Some(staged) = self.staged(number) {
            staged.data = Fetched::Coming(bio);
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.base)?).ok()
    }

    fn staged(&mut self, number: u64) -> Option<&mut Staged> {
        let place = self.place(number)?;
        match self.owed.get_mut(place) {
            Some(Owed::Staged(staged)) => Some(staged),
            _ => None,
        }
    }

    /// The data of a part arrived. Hands back the slot if nobody waits for it any more. Says which bio now fetches
    /// the part of another number, where one changed places with this so that what is here need not wait for it.
    pub(crate) fn arrived(
        &mut self,
        number: u64,
        slot: SlotId,
        range: PhysRange,
    ) -> Result<Option<Renumbered>, SlotId> {
        let Some(staged) = self.staged(number).filter(|s| matches!(s.data, Fetched::Coming(_))) else {
            return Err(slot);
        };
        staged.data = Fetched::Here(slot, range);
        if !staged.alone() {
            return Ok(None);
        }
        let from = self.place(number).unwrap_or(0);
        let waits = |owed: &Owed| matches!(owed, Owed::Staged(s) if !matches!(s.data, Fetched::Here(..)));
        let Some(to) = self.owed.iter().take(from).position(waits) else { return Ok(None) };
        match self.owed[to] {
            // A place whose chunk was begun keeps its tenant.
            Owed::Staged(Staged { data: Fetched::Coming(bio), .. }) if to > 0 || self.open.is_none() => {
                let Owed::Staged(other) = &self.owed[to] else { return Ok(None) };
                if !other.alone() {
                    return Ok(None);
                }
                self.owed.swap(from, to);
                Ok(Some(Renumbered { bio, number }))
            }
            _ => Ok(None),
        }
    }

    /// A part could not be fetched.
    pub(crate) fn missing(
        &mut self,
        number: u64,
        offset: u64,
        status: Status,
        release: &mut dyn FnMut(SlotId),
    ) -> Result<(), Broken> {
        match self.place(number) {
            Some(place) if matches!(self.owed.get(place), Some(Owed::Staged(_))) => {
                self.fail_staged(place, offset, status, release)
            }
            _ => Ok(()),
        }
    }

    /// Is this output stuck for want of data that something else behind it may be holding up?
    pub(crate) fn stalled(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Staged(s)) if s.data == Fetched::Wanted)
    }

    /// Gives up all data that is here: it is fetched again when its turn comes.
    pub(crate) fn evict(&mut self, release: &mut dyn FnMut(SlotId)) {
        for owed in &mut self.owed {
            if let Owed::Staged(Staged { data, .. }) = owed
                && let Fetched::Here(slot, _) = *data
            {
                release(slot);
                *data = Fetched::Wanted;
            }
        }
    }
}

/// The part that `bio` fetches now has this number.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renumbered {
    pub(crate) bio: Key,
    pub(crate) number: u64,
}

/// The pieces of one entry being planned.
struct Planner<'a> {
    entry: u32,
    pieces: &'a mut Vec<Piece>,
    budget: &'a mut u32,
}

impl Planner<'_> {
    fn push(&mut self, begins: Option<Begins>, what: What) {
        *self.budget = self.budget.saturating_sub(what.len());
        self.pieces.push(Piece { entry: self.entry, begins, what });
    }

    fn full(&self) -> bool {
        *self.budget == 0 || self.pieces.len() + 2 > MAX_PIECES
    }

    /// True when all of the entry is planned; an error says which byte could not be looked up.
    fn media(&mut self, media: Media, open: Option<Open>, lookup: &mut Lookup<'_>) -> Result<bool, (u64, Status)> {
        let Media { cookie, mut offset, mut left, shape, last } = media;
        if let Some(open) = open {
            if let Some(head) = open.head.filter(|head| open.head_sent < head.len()) {
                self.push(None, What::Head { head, from: open.head_sent });
            }
            if !self.data(open.offset, open.left, None, lookup)? {
                return Ok(false);
            }
        }
        while left > 0 {
            if self.full() {
                return Ok(false);
            }
            let first = lookup(offset, left.into()).map_err(|status| (offset, status))?;
            let (covers, data, head) = match (shape, first) {
                (Shape::Simple, _) => (left, left, Head::ok(cookie)),
                (Shape::Whole, Direct::Hole(n)) if n >= left.into() => {
                    (left, 0, Head::hole(cookie, offset, left, last))
                }
                (Shape::Whole, _) => (left, left, Head::data(cookie, offset, left, last)),
                (Shape::Chunks, Direct::Hole(n)) => {
                    let n = u32::try_from(n).unwrap_or(left).min(left);
                    (n, 0, Head::hole(cookie, offset, n, last && n == left))
                }
                (Shape::Chunks, Direct::Data(range)) => {
                    let n = run(offset, left, range.len(), lookup);
                    (n, n, Head::data(cookie, offset, n, last && n == left))
                }
            };
            self.push(Some(Begins { offset, covers, data }), What::Head { head, from: 0 });
            if data > 0 && !self.data(offset, data, Some(first), lookup)? {
                return Ok(false);
            }
            offset += u64::from(covers);
            left -= covers;
        }
        Ok(true)
    }

    /// Plans `left` bytes at `offset`, whose first extent may be known already.
    fn data(
        &mut self,
        mut offset: u64,
        mut left: u32,
        mut known: Option<Direct>,
        lookup: &mut Lookup<'_>,
    ) -> Result<bool, (u64, Status)> {
        while left > 0 {
            if *self.budget == 0 || self.pieces.len() >= MAX_PIECES {
                return Ok(false);
            }
            let want = left.min(*self.budget);
            let found = match known.take() {
                Some(found) => found,
                None => lookup(offset, want.into()).map_err(|status| (offset, status))?,
            };
            let what = match found {
                Direct::Data(range) => {
                    let range = range.split_at(want).map_or(range, |(head, _)| head);
                    What::Frames { range, offset }
                }
                Direct::Hole(n) => {
                    let n = u32::try_from(n).unwrap_or(want).min(want).min(ZERO_LEN);
                    What::Zeroes(n)
                }
            };
            let n = what.len();
            self.push(None, what);
            offset += u64::from(n);
            left -= n;
        }
        Ok(true)
    }

    /// True when all of the entry is planned.
    fn staged(&mut self, staged: Staged, open: Option<Open>) -> bool {
        let Fetched::Here(_, range) = staged.data else { return false };
        let Staged { cookie, offset, len, lead, .. } = staged;
        let mut begins = None;
        let mut rest = range;
        let head = match open {
            Some(open) => {
                if let Some((_, tail)) = range.split_at(len - open.left) {
                    rest = tail;
                }
                open.head.filter(|head| open.head_sent < head.len()).map(|head| (head, open.head_sent))
            }
            None => {
                begins = Some(Begins { offset, covers: len, data: len });
                match lead {
                    Lead::Simple { .. } => Some((Head::ok(cookie), 0)),
                    Lead::Whole { total } => Some((Head::data(cookie, offset, total, true), 0)),
                    Lead::Chunk { done } => Some((Head::data(cookie, offset, len, done), 0)),
                    Lead::Follow => None,
                }
            }
        };
        if let Some((head, from)) = head {
            self.push(begins.take(), What::Head { head, from });
        }
        if open.is_none_or(|open| open.left > 0) {
            self.push(begins.take(), What::Frames { range: rest, offset });
        }
        true
    }
}

/// How far data reaches from `offset`, `have` bytes of which are known to be data.
fn run(offset: u64, left: u32, have: u32, lookup: &mut Lookup<'_>) -> u32 {
    let most = left.min(MAX_CHUNK);
    let mut n = have.min(most);
    while n < most {
        match lookup(offset + u64::from(n), (most - n).into()) {
            Ok(Direct::Data(range)) => n += range.len().min(most - n),
            _ => break,
        }
    }
    n
}

#[cfg(test)]
mod tests;
