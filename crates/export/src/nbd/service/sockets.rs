// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of a round that deals with sockets: what came, what goes out, who comes and who leaves.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pageless_block::{Route, Status};
use pageless_mem::Reader;
use pageless_mem::io::{self, SocketError};

use super::{INBOX, QUEUES, Service, Tools, list};
use crate::nbd::connection::{Connection, Ending, Phase};
use crate::nbd::engine::Engine;
use crate::nbd::handshake::Handshake;
use crate::nbd::output::{Broken, Owed, Piece};
use crate::nbd::receive::{Inlet, Received};
use crate::nbd::socket::Socket;
use crate::slab::Key;

/// Sends to one connection before others get their turn.
const SENDS: usize = 4;
/// Replies owed in all above which receives are kept small.
const CROWDED: usize = 1 << 15;
/// Looks at the hot connection for one at all others.
const GLANCES: usize = 8;

impl Service {
    /// Takes what epoll reported.
    pub(super) fn events(&mut self) {
        let ready = std::mem::take(&mut self.tools.ready);
        if ready.iter().any(|event| event.token == INBOX) {
            for socket in self.inbox.take() {
                self.welcome(socket);
            }
        }
        if !ready.is_empty() {
            self.hot = None;
        }
        for event in ready.iter().filter(|event| event.token < QUEUES) {
            let key = Key::from_tag(event.token);
            let Some(connection) = self.connections.get_mut(key) else { continue };
            list(&mut self.list, key, connection);
            if event.writable {
                connection.blocked = false;
            }
            if connection.reads() {
                if event.readable || event.hung_up {
                    self.receive(key);
                    self.hot = (ready.len() == 1).then_some(key);
                }
            } else if event.hung_up {
                // Nobody is there to read the answers.
                connection.leave();
            }
        }
        self.tools.ready = ready;
    }

    /// Looks whether the only busy client sent something: for it alone that is quicker than to ask epoll and then
    /// look.
    pub(super) fn glance(&mut self) -> bool {
        let Some(key) = self.hot else { return false };
        (0..GLANCES).any(|_| {
            let reads = self.connections.get(key).is_some_and(Connection::reads);
            reads && self.receive(key) != Received::Nothing
        })
    }

    /// Takes what a client sent, once.
    fn receive(&mut self, key: Key) -> Received {
        let Some(connection) = self.connections.get_mut(key) else { return Received::Nothing };
        let online = self.reader.online();
        let mut inlet = Inlet {
            engine: &mut self.engine,
            online: &online,
            scratch: &mut self.tools.scratch,
            outcomes: &mut self.tools.outcomes,
            crowded: self.owed > CROWDED,
            handshake_timeout: self.shared.handshake_timeout,
        };
        let received = inlet.receive(key, connection);
        self.owed = self.owed + connection.outstanding() - connection.counted;
        connection.counted = connection.outstanding();
        if received != Received::Nothing {
            list(&mut self.list, key, connection);
            self.warm = true;
        }
        if received == Received::NoRoom {
            connection.paused = true;
            self.paused.push(key);
        }
        received
    }

    fn welcome(&mut self, socket: Socket) {
        let mut greeting = Vec::new();
        let handshake = Handshake::new(Arc::clone(&self.shared.terms), &mut greeting);
        let deadline = Instant::now() + self.shared.handshake_timeout;
        let mut connection = Connection::new(socket, handshake, deadline);
        connection.output.push(Owed::Bytes(greeting.into()));
        self.engine.counters.connections.add(1);
        self.haggling += 1;
        let key = self.connections.insert(connection);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if self.epoll.add(&connection.socket, key.tag(), connection.interest).is_err() {
            connection.break_off();
        }
        list(&mut self.list, key, connection);
    }

    /// Sends what a listed connection is owed, fetches what it will be, and ends it if that is all.
    pub(super) fn look_after(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.listed = false;
        if send(connection, &mut self.engine, &mut self.tools, &mut self.reader) {
            list(&mut self.list, key, connection);
        }
        if connection.has_input() {
            self.receive(key);
        }
        self.fetch(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.over() {
            return self.remove(key);
        }
        self.owed = self.owed + connection.outstanding() - connection.counted;
        connection.counted = connection.outstanding();
        let wants = connection.wants();
        if wants != connection.interest {
            connection.interest = wants;
            if self.epoll.modify(&connection.socket, key.tag(), wants).is_err() {
                connection.break_off();
                list(&mut self.list, key, connection);
            }
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        self.owed -= connection.counted;
        if connection.ending == Ending::Broken {
            self.engine.counters.dropped.add(1);
        }
        let pool = &mut self.engine.pool;
        connection.output.evict(&mut |slot| pool.release(slot));
        self.engine.abandon(&mut connection);
        self.engine.forget(key);
        self.shared.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends what is owed until the socket takes no more. True: there is more, and others should have a turn first.
fn send(connection: &mut Connection, engine: &mut Engine, tools: &mut Tools, reader: &mut Reader) -> bool {
    for _ in 0..SENDS {
        if connection.blocked || connection.output.is_empty() || !connection.talks() {
            return false;
        }
        if plan(connection, engine, &mut tools.pieces) == Err(Broken) {
            connection.break_off();
            return false;
        }
        if tools.pieces.is_empty() {
            return false;
        }
        let parts: Vec<io::Part<'_>> = connection.output.parts(&tools.pieces).collect();
        let planned: usize = tools.pieces.iter().map(Piece::len).sum();
        let sent = io::send(&reader.online(), connection.socket.as_fd(), &parts, &mut tools.scratch);
        drop(parts);
        let (pool, counters) = (&mut engine.pool, &engine.counters);
        let mut release = |slot| pool.release(slot);
        match sent {
            Ok(n) => {
                let moved = connection.output.sent(n, &tools.pieces, &mut release);
                if moved.media > 0
                    && let Phase::Requests(session) = connection.phase
                {
                    counters.routes[session.export].count(Route::Direct, moved.media);
                }
                counters.bytes_hole.add(moved.holes);
                connection.blocked = n < planned;
            }
            Err(SocketError::WouldBlock) => connection.blocked = true,
            Err(SocketError::Fault { part, fault }) => {
                counters.errors.add(1);
                let status = Status::from(fault);
                if let (Status::Gone, Phase::Requests(session)) = (status, &connection.phase) {
                    engine.notices.gone(session.export);
                }
                let failed = connection.output.failed(&tools.pieces[part], status, &mut release);
                if failed == Err(Broken) {
                    connection.break_off();
                }
            }
            Err(SocketError::Errno(_)) => connection.leave(),
        }
    }
    true
}

/// What the next send to a connection consists of.
fn plan(connection: &mut Connection, engine: &mut Engine, pieces: &mut Vec<Piece>) -> Result<(), Broken> {
    let (dax, export) = match connection.phase {
        Phase::Requests(session) => (engine.backends[session.export].dax.as_deref_mut(), session.export),
        Phase::Handshake(_) => (None, 0),
    };
    let notices = &engine.notices;
    let told = |status: &Status| {
        if *status == Status::Gone {
            notices.gone(export);
        }
    };
    match dax {
        Some(dax) => connection.output.plan(&mut |offset, len| dax.access(offset, len).inspect_err(told), pieces),
        // Nothing in this output lies on a medium of frames.
        None => connection.output.plan(&mut |_, _| Err(Status::Unsupported), pieces),
    }
}
