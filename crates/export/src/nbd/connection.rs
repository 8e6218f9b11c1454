// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Connection`]: everything a worker keeps of one client.

use std::time::Instant;

use pageless_sys::epoll::Interest;

use super::handshake::{Handshake, Session};
use super::output::{Output, Owed};
use super::socket::Socket;
use super::wire::REQUEST_LEN;
use crate::slab::Key;

/// Replies owed and requests in work, together, above which a connection's input waits.
pub(crate) const MOST_OUTSTANDING: usize = 512;

/// One client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Socket,
    pub(crate) phase: Phase,
    /// Came, but cannot be used before more does: the start of a request, or less than a block of a payload.
    pub(crate) carry: Vec<u8>,
    pub(crate) expects: Expects,
    pub(crate) output: Output,
    /// Requests in work that will owe a reply.
    pub(crate) jobs: u32,
    pub(crate) ending: Ending,
    /// The socket took no more at the last send.
    pub(crate) blocked: bool,
    /// No input is taken, because the pool or the device is full.
    pub(crate) paused: bool,
    /// What epoll was told.
    pub(crate) interest: Interest,
    /// It is on the worker's list of connections to look after.
    pub(crate) listed: bool,
    /// It wants to fetch data and found no slot.
    pub(crate) hungry: bool,
    /// Its handshake was stopped in the middle of what came, until the answers are read.
    pub(crate) halted: bool,
    /// The failures of its device, as far as it was told of them.
    pub(crate) told: u64,
    /// Its outstanding requests when the worker last counted.
    pub(crate) counted: usize,
    /// When the handshake must have got further.
    pub(crate) deadline: Instant,
}

/// How far a client has come.
#[derive(Debug)]
pub(crate) enum Phase {
    Handshake(Box<Handshake>),
    Requests(Session),
}

/// What the next bytes are.
#[derive(Debug)]
pub(crate) enum Expects {
    /// A request.
    Request,
    /// The payload of a write, of which `left` bytes were not dealt with.
    Payload { job: Key, offset: u64, left: u32, fua: bool },
    /// A payload nobody wants, and the reply that is due behind it.
    Unwanted { left: u32, reply: Option<Owed> },
}

/// How a connection comes to its end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It does not.
    Open,
    /// Nothing more is read; what is in work and owed is finished.
    Draining,
    /// Now: the client left.
    Gone,
    /// Now: the client broke the protocol, or was promised what we cannot send.
    Broken,
}

impl Connection {
    pub(crate) fn new(socket: Socket, handshake: Handshake, deadline: Instant) -> Connection {
        Connection {
            socket,
            phase: Phase::Handshake(Box::new(handshake)),
            carry: Vec::new(),
            expects: Expects::Request,
            output: Output::default(),
            jobs: 0,
            ending: Ending::Open,
            blocked: false,
            paused: false,
            interest: Interest::Read,
            listed: false,
            hungry: false,
            halted: false,
            told: 0,
            counted: 0,
            deadline,
        }
    }

    /// Takes no more input; what was asked is finished.
    pub(crate) fn drain(&mut self) {
        if self.ending == Ending::Open {
            self.ending = Ending::Draining;
        }
    }

    /// The other end of the socket is gone.
    pub(crate) fn leave(&mut self) {
        if self.ending != Ending::Broken {
            self.ending = Ending::Gone;
        }
    }

    pub(crate) fn break_off(&mut self) {
        self.ending = Ending::Broken;
    }

    /// Is input welcome?
    pub(crate) fn reads(&self) -> bool {
        let room = match &self.phase {
            Phase::Handshake(_) => self.output.is_empty(),
            Phase::Requests(_) => self.outstanding() < MOST_OUTSTANDING,
        };
        room && self.ending == Ending::Open && !self.paused
    }

    /// Is there input here already that waits only for room in the output?
    pub(crate) fn has_input(&self) -> bool {
        let waits = match &self.phase {
            Phase::Handshake(_) => self.halted,
            Phase::Requests(_) => self.carry.len() >= REQUEST_LEN && matches!(self.expects, Expects::Request),
        };
        waits && self.reads()
    }

    /// Replies owed and requests in work.
    pub(crate) fn outstanding(&self) -> usize {
        self.output.len() + self.jobs as usize
    }

    /// Is there anyone to send to?
    pub(crate) fn talks(&self) -> bool {
        matches!(self.ending, Ending::Open | Ending::Draining)
    }

    /// Is there nothing left to do for this client?
    pub(crate) fn over(&self) -> bool {
        match self.ending {
            Ending::Open => false,
            Ending::Draining => self.outstanding() == 0,
            Ending::Gone | Ending::Broken => true,
        }
    }

    /// What epoll should say of it.
    pub(crate) fn wants(&self) -> Interest {
        match (self.reads(), self.blocked) {
            (true, false) => Interest::Read,
            (true, true) => Interest::ReadWrite,
            (false, true) => Interest::Write,
            (false, false) => Interest::HangUp,
        }
    }
}
