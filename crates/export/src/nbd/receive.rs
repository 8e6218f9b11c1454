// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the socket to the engine: one receive, and every request in it.
//!
//! Bytes land in a slot and payloads stay where they landed: a write's data is a range of the slot. What cannot be
//! used before more comes (part of a header, less than a block of a payload) is carried over in the connection, so
//! that a client that stops in the middle holds no slot. Headers are placed just in front of a frame, which aligns
//! the payload behind them for devices that like that; the rest of a long payload begins at a frame of its own.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use pageless_block::{Flags, Op, Status};
use pageless_mem::io::{self, SocketError};
use pageless_mem::{Access, CopyError, FRAME_SIZE, Fault, MemReader, Online};

use super::connection::{Connection, Ending, Expects, MOST_OUTSTANDING, Phase};
use super::engine::{Engine, Outcome};
use super::errno::Errno;
use super::handshake::{Session, Step};
use super::output::{Fetched, Lead, Media, Owed, Shape, Staged};
use super::pool::{SLOT, SlotId};
use super::reply::{self, Head};
use super::request::{Command, Refusal, Request};
use super::status;
use super::wire::REQUEST_LEN;
use crate::slab::Key;

/// The least room worth receiving into.
const LEAST_ROOM: u32 = 96 << 10;
/// What one receive is cut down to while many replies are owed in all.
const CROWDED: u32 = 4 << 10;
/// Bytes of handshake answers after which a client must read before we look at more it sent.
const UNREAD_ANSWERS: usize = 16 << 10;
/// The longest part of a read that goes through a slot at once.
const PART: u32 = SLOT;
/// Extents in one block status reply.
const MOST_EXTENTS: usize = 2048;
/// Bytes of replies on the heap above which replies are kept short.
const TERSE: usize = 64 << 10;

/// How a receive went.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// As far as it could.
    Some,
    /// Nothing had come.
    Nothing,
    /// Not at all: there is no room, or the device takes no more.
    NoRoom,
}

/// What receiving needs besides the connection.
pub(crate) struct Inlet<'a, 'o> {
    pub(crate) engine: &'a mut Engine,
    pub(crate) online: &'a Online<'o>,
    pub(crate) scratch: &'a mut io::Scratch,
    pub(crate) outcomes: &'a mut Vec<Outcome>,
    /// Many replies are owed in all: take little at a time.
    pub(crate) crowded: bool,
    pub(crate) handshake_timeout: Duration,
}

impl Inlet<'_, '_> {
    /// Takes what the client sent, once.
    pub(crate) fn receive(&mut self, key: Key, connection: &mut Connection) -> Received {
        match connection.phase {
            Phase::Handshake(_) => self.haggle(key, connection),
            Phase::Requests(session) => self.requests(key, connection, &session),
        }
    }

    fn haggle(&mut self, key: Key, connection: &mut Connection) -> Received {
        let mut bytes = [0; 4096];
        // What came before is dealt with first: a client cannot make us keep more than it has answers to read.
        let read = if connection.halted { None } else { Some((&connection.socket).read(&mut bytes)) };
        let n = match read {
            None => 0,
            Some(Ok(0)) => {
                connection.drain();
                return Received::Some;
            }
            Some(Ok(n)) => n,
            Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Received::Nothing;
            }
            Some(Err(_)) => {
                connection.leave();
                return Received::Some;
            }
        };
        let Phase::Handshake(handshake) = &mut connection.phase else { return Received::Some };
        handshake.push(&bytes[..n]);
        let mut answers = Vec::new();
        let step = loop {
            match handshake.step(&mut answers) {
                Step::Again if answers.len() < UNREAD_ANSWERS => {
                    connection.deadline = Instant::now() + self.handshake_timeout;
                }
                step => break step,
            }
        };
        connection.halted = matches!(step, Step::Again);
        if !answers.is_empty() {
            connection.output.push(Owed::Bytes(answers.into()));
        }
        match step {
            // `Again`: the rest is looked at when the answers are out.
            Step::Starved | Step::Again => Received::Some,
            Step::Close => {
                connection.drain();
                Received::Some
            }
            Step::Transmission(session) => {
                connection.told = self.engine.backends[session.export].failures;
                let rest = Phase::Requests(session);
                if let Phase::Handshake(handshake) = std::mem::replace(&mut connection.phase, rest) {
                    connection.carry = handshake.into_rest();
                }
                // A client that did not wait for the answer sent requests already.
                if connection.carry.is_empty() { Received::Some } else { self.requests(key, connection, &session) }
            }
        }
    }

    fn requests(&mut self, key: Key, connection: &mut Connection, session: &Session) -> Received {
        let carried = u32::try_from(connection.carry.len()).unwrap_or(u32::MAX);
        if self.engine.backends[session.export].full() {
            return Received::NoRoom;
        }
        let engine = &mut *self.engine;
        let Some((slot, at)) = engine.inlet.room(&mut engine.pool, carried.saturating_add(LEAST_ROOM)) else {
            return Received::NoRoom;
        };
        let layout = Layout::new(&connection.expects, at, carried, self.crowded);
        if carried >= layout.first.1 {
            connection.break_off();
            return Received::Some;
        }
        if self.place_carry(connection, slot, layout.first.0).is_err() {
            connection.break_off();
            return Received::Some;
        }
        let engine = &mut *self.engine;
        let ranges = [
            engine.pool.range(slot, layout.first.0 + carried, layout.first.1 - carried),
            engine.pool.range(slot, layout.second.0, layout.second.1),
        ];
        let mut into = ranges.iter().flatten().copied();
        let (Some(one), two) = (into.next(), into.next()) else {
            connection.break_off();
            return Received::Some;
        };
        let into = [one, two.unwrap_or(one)];
        let into = &into[..1 + usize::from(two.is_some())];
        // Requests that are here already (sent with the end of the handshake, or more than were begun at once) come first.
        let here = carried >= HEADER && matches!(connection.expects, Expects::Request);
        let received =
            if here { None } else { Some(io::recv(self.online, connection.socket.as_fd(), into, self.scratch)) };
        let n = match received {
            None => 0,
            Some(Ok(0)) => {
                // What it asked for is answered, if it still listens.
                connection.drain();
                engine.abandon(connection);
                return Received::Some;
            }
            Some(Ok(n)) => u32::try_from(n).unwrap_or(0),
            Some(Err(SocketError::WouldBlock)) => return Received::Nothing,
            Some(Err(SocketError::Errno(_))) => {
                connection.leave();
                return Received::Some;
            }
            Some(Err(SocketError::Fault { .. })) => {
                connection.break_off();
                return Received::Some;
            }
        };
        connection.carry.clear();
        let first = (carried + n).min(layout.first.1);
        let second = carried + n - first;
        let end = if second > 0 { layout.second.0 + second } else { layout.first.0 + first };
        engine.inlet.advance(end);
        self.parse(key, connection, session, slot, (layout.first.0, first));
        if second > 0 {
            self.parse(key, connection, session, slot, (layout.second.0, second));
        }
        Received::Some
    }

    fn place_carry(&mut self, connection: &Connection, slot: SlotId, at: u32) -> Result<(), CopyError> {
        let carry = &connection.carry;
        let Some(range) = self.engine.pool.range(slot, at, u32::try_from(carry.len()).unwrap_or(0)) else {
            return Ok(());
        };
        let window = self.online.kmap(range, Access::Write).map_err(|fault| CopyError { moved: 0, fault })?;
        window.writer().write(carry)
    }

    /// Deals with the bytes of a part of a slot.
    fn parse(&mut self, key: Key, connection: &mut Connection, session: &Session, slot: SlotId, part: (u32, u32)) {
        let (start, len) = part;
        let Some(range) = self.engine.pool.range(slot, start, len) else { return };
        let Ok(window) = self.online.kmap(range, Access::Read) else { return connection.break_off() };
        let mut reader = window.reader();
        while connection.ending == Ending::Open {
            let left = u32::try_from(reader.remaining()).unwrap_or(0);
            let at = start + len - left;
            // Requests may be many in few bytes: what is not begun stays as it came.
            let enough = connection.outstanding() >= MOST_OUTSTANDING;
            let used = match connection.expects {
                Expects::Request if enough || (left as usize) < REQUEST_LEN => Err(left),
                Expects::Request => match self.request(key, connection, session, &mut reader) {
                    Ok(()) => Ok(0),
                    Err(_) => return connection.break_off(),
                },
                Expects::Payload { .. } | Expects::Unwanted { .. } if left == 0 => Err(0),
                Expects::Payload { .. } => self.payload(connection, session, slot, at, left),
                Expects::Unwanted { .. } => Ok(unwanted(connection, left)),
            };
            match used {
                Ok(n) => reader.skip(n as usize),
                Err(rest) => {
                    connection.carry.resize(rest as usize, 0);
                    if reader.read(&mut connection.carry).is_err() {
                        connection.break_off();
                    }
                    return;
                }
            }
        }
    }

    /// Hands the usable part of a payload to the engine: how many bytes that was, or how many to carry over.
    fn payload(
        &mut self,
        connection: &mut Connection,
        session: &Session,
        slot: SlotId,
        at: u32,
        have: u32,
    ) -> Result<u32, u32> {
        let Expects::Payload { job, offset, left, fua } = connection.expects else { return Ok(0) };
        let take = if have >= left {
            left
        } else {
            let grain = u64::from(self.engine.backends[session.export].grain);
            let end = (offset + u64::from(have)) / grain * grain;
            u32::try_from(end.saturating_sub(offset)).unwrap_or(0)
        };
        if take == 0 {
            return Err(have);
        }
        if let Some(data) = self.engine.pool.range(slot, at, take) {
            self.engine.write(job, session.export, offset, slot, data, fua);
        }
        connection.expects = if take == left {
            self.outcomes.extend(self.engine.close(job));
            Expects::Request
        } else {
            Expects::Payload { job, offset: offset + u64::from(take), left: left - take, fua }
        };
        Ok(take)
    }

    /// Deals with one request, up to its payload.
    fn request(
        &mut self,
        key: Key,
        connection: &mut Connection,
        session: &Session,
        reader: &mut MemReader<'_>,
    ) -> Result<(), Fault> {
        let mut bytes = [0; REQUEST_LEN];
        reader.read(&mut bytes).map_err(|error| error.fault)?;
        let Ok(request) = Request::parse(&bytes) else {
            connection.break_off();
            return Ok(());
        };
        self.engine.taken = self.engine.taken.saturating_add(1);
        match request.check(&session.rules) {
            Ok(command) => self.command(key, connection, session, request.cookie, command),
            Err(refusal) => self.refuse(connection, session, &request, refusal),
        }
        Ok(())
    }

    fn refuse(&mut self, connection: &mut Connection, session: &Session, request: &Request, refusal: Refusal) {
        self.engine.counters.errors.add(1);
        let words = if connection.output.heap() < TERSE { refusal.why.to_string() } else { String::new() };
        let reply = Owed::Bytes(reply::error(session.rules.structured, request.cookie, refusal.errno, &words));
        match request.payload() {
            0 => connection.output.push(reply),
            left => connection.expects = Expects::Unwanted { left, reply: Some(reply) },
        }
    }

    fn command(&mut self, key: Key, connection: &mut Connection, session: &Session, cookie: u64, command: Command) {
        let counters = &self.engine.counters;
        match command {
            Command::Read { offset, length, whole } => {
                counters.reads.add(1);
                self.read(connection, session, cookie, offset, length, whole);
            }
            Command::Write { offset, length, fua } => {
                counters.writes.add(1);
                counters.bytes_written.add(length.into());
                let job = self.job(key, connection, cookie, false);
                connection.expects = Expects::Payload { job, offset, left: length, fua };
            }
            Command::Disconnect => connection.drain(),
            Command::Flush => {
                counters.flushes.add(1);
                let job = self.job(key, connection, cookie, false);
                self.engine.plain(job, session.export, Op::Flush, 0, 0, Flags::empty());
                self.outcomes.extend(self.engine.close(job));
            }
            Command::Trim { offset, length, fua } => {
                counters.trims.add(1);
                let mut flags = Flags::empty();
                flags.set(Flags::FUA, fua);
                let job = self.job(key, connection, cookie, false);
                self.engine.range(job, session.export, Op::Discard, offset, length.into(), flags);
            }
            Command::Cache => connection.output.push(Owed::Head(Head::ok(cookie))),
            Command::WriteZeroes { offset, length, fua, allocate, fast } => {
                counters.zeroes.add(1);
                let mut flags = Flags::empty();
                flags.set(Flags::FUA, fua);
                flags.set(Flags::NO_UNMAP, allocate);
                flags.set(Flags::FAST_ONLY, fast);
                let job = self.job(key, connection, cookie, fast);
                self.engine.range(job, session.export, Op::WriteZeroes, offset, length.into(), flags);
            }
            Command::BlockStatus { offset, length, one } => {
                counters.statuses.add(1);
                let most = if one || connection.output.heap() > TERSE { 1 } else { MOST_EXTENTS };
                let map = self.engine.backends[session.export].extents.as_deref_mut();
                let reply = match status::describe(map, offset, length, most) {
                    Ok(extents) => reply::block_status(cookie, &extents),
                    Err(status) => {
                        counters.errors.add(1);
                        if status == Status::Gone {
                            self.engine.notices.gone(session.export);
                        }
                        reply::error_at(cookie, Errno::of(status).unwrap_or(Errno::Io), offset, true)
                    }
                };
                connection.output.push(Owed::Bytes(reply));
            }
        }
    }

    fn job(&mut self, key: Key, connection: &mut Connection, cookie: u64, fast: bool) -> Key {
        connection.jobs += 1;
        self.engine.begin(key, cookie, fast)
    }

    fn read(&self, connection: &mut Connection, session: &Session, cookie: u64, offset: u64, length: u32, whole: bool) {
        let structured = session.rules.structured;
        self.engine.counters.bytes_read.add(length.into());
        if self.engine.backends[session.export].dax.is_some() {
            let shape = match (structured, whole) {
                (false, _) => Shape::Simple,
                (true, true) => Shape::Whole,
                (true, false) => Shape::Chunks,
            };
            connection.output.push(Owed::Media(Media { cookie, offset, left: length, shape, last: true }));
            return;
        }
        let cut = structured && !whole && length > PART;
        let mut done = 0;
        while done < length {
            let len = (length - done).min(PART);
            let lead = match (structured, done) {
                _ if cut => Lead::Chunk { done: done + len == length },
                (false, 0) => Lead::Simple { total: length },
                (true, 0) => Lead::Whole { total: length },
                _ => Lead::Follow,
            };
            let offset = offset + u64::from(done);
            connection.output.push(Owed::Staged(Staged { cookie, offset, len, lead, data: Fetched::Wanted }));
            done += len;
        }
    }
}

/// Lets a payload pass that nobody wants.
fn unwanted(connection: &mut Connection, have: u32) -> u32 {
    let Expects::Unwanted { left, reply } = &mut connection.expects else { return 0 };
    let take = have.min(*left);
    *left -= take;
    if *left == 0 {
        let reply = reply.take();
        connection.expects = Expects::Request;
        if let Some(reply) = reply {
            connection.output.push(reply);
        }
    }
    take
}

/// Where in a slot a receive goes: two parts, the first with what was carried over in front.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Layout {
    first: (u32, u32),
    second: (u32, u32),
}

impl Layout {
    /// The unused part of the slot begins `at`.
    fn new(expects: &Expects, at: u32, carried: u32, crowded: bool) -> Layout {
        let most = if crowded { CROWDED.max(carried + 1) } else { SLOT };
        match expects {
            Expects::Payload { left, .. } => {
                let start = at.next_multiple_of(FRAME);
                let first = (*left).min(SLOT - start).min(most);
                let next = before_frame(start + first);
                // The next request, if all of the payload fits in front of it.
                let second = if first == *left && next < SLOT { (SLOT - next).min(most) } else { 0 };
                Layout { first: (start, first), second: (next.min(SLOT), second) }
            }
            Expects::Request | Expects::Unwanted { .. } => {
                let start = before_frame(at);
                Layout { first: (start, (SLOT - start).min(most)), second: (0, 0) }
            }
        }
    }
}

/// Bytes in a frame.
const FRAME: u32 = 4096;
const _: () = assert!(FRAME as u64 == FRAME_SIZE);
/// Bytes in a request without its payload.
const HEADER: u32 = 28;
const _: () = assert!(HEADER as usize == REQUEST_LEN);

/// The first place from `at` on where a request leaves its payload at the start of a frame.
fn before_frame(at: u32) -> u32 {
    (at + HEADER).next_multiple_of(FRAME) - HEADER
}

/// The reply to a job that is done.
pub(crate) fn answer(session: &Session, cookie: u64, status: Status, fast: bool) -> Owed {
    let Some(errno) = Errno::of(status) else { return Owed::Head(Head::ok(cookie)) };
    // The protocol knows "not supported" only as the answer to a wish for speed.
    let errno = if errno == Errno::NotSup && !fast { Errno::Inval } else { errno };
    let mut words = String::new();
    if session.rules.structured {
        words = status.to_string();
    }
    Owed::Bytes(reply::error(session.rules.structured, cookie, errno, &words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_behind_a_request_begins_at_a_frame() {
        for at in [0, 1, 4067, 4068, 4069, 4096, 100_000] {
            let start = before_frame(at);
            assert!(start >= at && start < at + FRAME);
            assert_eq!((start + 28) % FRAME, 0);
        }
    }

    #[test]
    fn layouts_stay_inside_the_slot() {
        let job = Key::from_tag(0);
        for at in [0, 28, 5000, SLOT - LEAST_ROOM] {
            for left in [1, 512, 4096, 70_000, 1 << 20] {
                for crowded in [false, true] {
                    let payload = Expects::Payload { job, offset: 0, left, fua: false };
                    for expects in [payload, Expects::Request, Expects::Unwanted { left, reply: None }] {
                        let Layout { first, second } = Layout::new(&expects, at, 0, crowded);
                        assert!(first.1 > 0 && first.0 >= at && first.0 + first.1 <= SLOT);
                        assert!(second.1 == 0 || second.0 >= first.0 + first.1);
                        assert!(second.0 + second.1 <= SLOT);
                    }
                }
            }
        }
    }
}
