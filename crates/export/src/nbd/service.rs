// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Service`]: one worker's loop over its connections and its devices.
//!
//! A round takes what sockets have (one receive each), lets the devices do all of it in one poll, and sends what is
//! owed (many replies a send). Connections that something happened to are *listed*; the others cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pageless_block::Status;
use pageless_mem::io;
use pageless_mem::{Memory, Reader};
use pageless_sys::epoll::{Epoll, Interest, Ready};

use super::connection::{Connection, Ending, Phase};
use super::engine::{Engine, Outcome};
use super::export::Terms;
use super::output::{Broken, Piece};
use super::receive::answer;
use super::socket::Socket;
use crate::Error;
use crate::slab::{Key, Slab};
use crate::worker::{Gather, Inbox, Spin};

mod sockets;

/// The inbox in epoll. Connections have their keys, which are below 2^63.
const INBOX: u64 = u64::MAX;
/// Device queues in epoll: this plus their index.
const QUEUES: u64 = 1 << 63;
/// Devices are polled so often before sockets are looked at again.
const ROUNDS: usize = 8;
/// Bytes of staged reads that are fetched ahead for one connection.
const WINDOW: u32 = 1 << 20;
/// How often deadlines are looked at, and how long a worker is idle before it gives memory back.
const TICK: Duration = Duration::from_secs(1);

/// What a worker shares with the server that started it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) terms: Arc<[Terms]>,
    /// Connections there are, in all workers.
    pub(crate) live: AtomicUsize,
    pub(crate) stopping: AtomicBool,
    pub(crate) handshake_timeout: Duration,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    inbox: Arc<Inbox<Socket>>,
    reader: Reader,
    epoll: Epoll,
    engine: Engine,
    connections: Slab<Connection>,
    /// Connections to look after in this round.
    list: Vec<Key>,
    /// Connections that found no room to receive into.
    paused: Vec<Key>,
    /// Connections that found no slot to fetch into.
    hungry: Vec<Key>,
    /// Connections in their handshake.
    haggling: usize,
    /// Replies owed and requests in work, of all connections.
    owed: usize,
    /// Slots were used since memory was last given back.
    warm: bool,
    spin: Spin,
    gather: Gather,
    /// The connection that was the only one to have something of late.
    hot: Option<Key>,
    tools: Tools,
}

/// Buffers kept from one use to the next.
#[derive(Debug, Default)]
struct Tools {
    ready: Vec<Ready>,
    outcomes: Vec<Outcome>,
    pieces: Vec<Piece>,
    wanted: Vec<(u64, u64, u32)>,
    scratch: io::Scratch,
}

impl Service {
    pub(crate) fn new(
        shared: Arc<Shared>,
        inbox: Arc<Inbox<Socket>>,
        memory: &Memory,
        engine: Engine,
    ) -> Result<Service, Error> {
        let epoll = Epoll::new(256)?;
        epoll.add(&*inbox, INBOX, Interest::Read)?;
        for (token, backend) in (QUEUES..).zip(&engine.backends) {
            if let Some(event) = backend.event() {
                epoll.add(event, token, Interest::Read)?;
            }
        }
        Ok(Service {
            shared,
            inbox,
            reader: memory.reader(),
            epoll,
            engine,
            connections: Slab::new(),
            list: Vec::new(),
            paused: Vec::new(),
            hungry: Vec::new(),
            haggling: 0,
            owed: 0,
            warm: false,
            spin: Spin::new(),
            gather: Gather::new(),
            hot: None,
            tools: Tools::default(),
        })
    }

    /// Serves until told to stop, and then until all is answered or `deadline` has passed since.
    pub(crate) fn run(mut self, deadline: impl Fn() -> Option<Instant>) -> Result<(), Error> {
        let mut ticked = Instant::now();
        loop {
            self.wait()?;
            self.events();
            for _ in 0..ROUNDS {
                self.round();
                if !self.engine.pressing() && self.hungry.is_empty() && !self.can_resume() {
                    break;
                }
            }
            if self.haggling > 0 && ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick(ticked);
            }
            if self.shared.stopping.load(Ordering::Acquire) {
                self.drain();
                if self.connections.len() == 0 || deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for something to do: awake for a while if that has been worth it lately.
    fn wait(&mut self) -> Result<(), Error> {
        self.tools.ready.clear();
        if !self.list.is_empty() || self.engine.pressing() || self.can_resume() {
            return Ok(self.epoll.wait(Some(Duration::ZERO), &mut self.tools.ready)?);
        }
        let start = Instant::now();
        let budget = self.spin.budget();
        if !budget.is_zero() {
            self.gather.took(std::mem::take(&mut self.engine.taken), start);
            let pause = self.gather.pause();
            while start.elapsed() < pause {
                std::hint::spin_loop();
            }
            while start.elapsed() < budget {
                if self.glance() {
                    self.spin.waited(start.elapsed());
                    return Ok(());
                }
                self.epoll.wait(Some(Duration::ZERO), &mut self.tools.ready)?;
                if !self.tools.ready.is_empty() {
                    self.spin.waited(start.elapsed());
                    return Ok(());
                }
                let away = Instant::now();
                std::thread::yield_now();
                if away.elapsed() > Spin::ALONE {
                    self.spin.crowded();
                    break;
                }
            }
        }
        let stopping = self.shared.stopping.load(Ordering::Acquire);
        let timeout = (self.warm || self.haggling > 0 || stopping).then_some(if stopping { TICK / 20 } else { TICK });
        self.epoll.wait(timeout, &mut self.tools.ready)?;
        self.gather.interrupted(Instant::now());
        if self.tools.ready.is_empty() {
            self.engine.shrink();
            self.warm = false;
        } else {
            self.spin.waited(start.elapsed());
        }
        Ok(())
    }

    /// Devices work, connections are told.
    fn round(&mut self) {
        self.feed();
        let outcomes = &mut self.tools.outcomes;
        self.engine.advance(outcomes);
        self.engine.poll();
        let mut outcomes = std::mem::take(outcomes);
        for outcome in outcomes.drain(..) {
            self.settle(outcome);
        }
        self.tools.outcomes = outcomes;
        while let Some(outcome) = self.engine.next() {
            self.settle(outcome);
        }
        let listed = std::mem::take(&mut self.list);
        for &key in &listed {
            self.look_after(key);
        }
        if self.list.is_empty() {
            // Keep the allocation.
            self.list = listed;
            self.list.clear();
        }
    }

    /// Is there room now for a connection that found none?
    fn can_resume(&self) -> bool {
        let takes = |key: &Key| match self.connections.get(*key).map(|connection| &connection.phase) {
            Some(Phase::Requests(session)) => !self.engine.backends[session.export].full(),
            _ => true,
        };
        !self.paused.is_empty() && self.engine.has_room() && self.paused.iter().any(takes)
    }

    /// Lets connections that found no room try again, and makes bios for staged reads that are listed.
    fn feed(&mut self) {
        if !self.paused.is_empty() && self.engine.has_room() {
            for key in std::mem::take(&mut self.paused) {
                let Some(connection) = self.connections.get_mut(key) else { continue };
                if matches!(connection.phase, Phase::Requests(s) if self.engine.backends[s.export].full()) {
                    self.paused.push(key);
                } else {
                    connection.paused = false;
                    list(&mut self.list, key, connection);
                }
            }
        }
        if !self.hungry.is_empty() {
            self.evict();
            for key in std::mem::take(&mut self.hungry) {
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.hungry = false;
                    list(&mut self.list, key, connection);
                }
            }
        }
        for at in 0..self.list.len() {
            self.fetch(self.list[at]);
        }
    }

    /// Makes bios for the next reads of a connection, if its device needs any.
    fn fetch(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Requests(session) = connection.phase else { return };
        if self.engine.backends[session.export].dax.is_some() || connection.blocked || connection.hungry {
            return;
        }
        let wanted = &mut self.tools.wanted;
        wanted.clear();
        wanted.extend(connection.output.wanted(WINDOW));
        for at in 0..self.tools.wanted.len() {
            let (number, offset, len) = self.tools.wanted[at];
            let mut bio = self.engine.fetch(key, session.export, number, offset, len);
            if bio.is_none() {
                self.evict();
                bio = self.engine.fetch(key, session.export, number, offset, len);
            }
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(bio) = bio else {
                connection.hungry = true;
                return self.hungry.push(key);
            };
            connection.output.coming(number, bio);
        }
    }

    /// Takes the staged data of connections that cannot use it now: they fetch it again when they can.
    fn evict(&mut self) {
        let keys: Vec<Key> = self.connections.keys().collect();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(key)
                && (connection.blocked || connection.output.stalled())
            {
                let pool = &mut self.engine.pool;
                connection.output.evict(&mut |slot| pool.release(slot));
            }
        }
    }

    /// Tells a connection what came of its requests.
    fn settle(&mut self, outcome: Outcome) {
        let pool = &mut self.engine.pool;
        match outcome {
            Outcome::Done { job, status } => {
                let Some(connection) = self.connections.get_mut(job.connection) else { return };
                connection.jobs -= 1;
                if let Phase::Requests(session) = connection.phase {
                    // Sticky: what another client's flush found lost may have been this one's.
                    let failures = self.engine.backends[session.export].failures;
                    let untold = job.flush && connection.told != failures;
                    let status = if untold && status.is_ok() { Status::IoErr } else { status };
                    if job.flush {
                        connection.told = failures;
                    }
                    if !status.is_ok() {
                        self.engine.counters.errors.add(1);
                    }
                    connection.output.push(answer(&session, job.cookie, status, job.fast));
                }
                list(&mut self.list, job.connection, connection);
            }
            Outcome::Fetched { connection: key, number, slot, range } => {
                let Some(connection) = self.connections.get_mut(key) else { return pool.release(slot) };
                match connection.output.arrived(number, slot, range) {
                    Ok(Some(moved)) => self.engine.renumber(moved.bio, moved.number),
                    Ok(None) => {}
                    Err(slot) => pool.release(slot),
                }
                list(&mut self.list, key, connection);
            }
            Outcome::Missing { connection: key, number, offset, status } => {
                let Some(connection) = self.connections.get_mut(key) else { return };
                self.engine.counters.errors.add(1);
                let missing = connection.output.missing(number, offset, status, &mut |slot| pool.release(slot));
                if missing == Err(Broken) {
                    connection.break_off();
                }
                list(&mut self.list, key, connection);
            }
        }
    }

    /// Ends handshakes that take too long.
    fn tick(&mut self, now: Instant) {
        self.haggling = 0;
        let keys: Vec<Key> = self.connections.keys().collect();
        for key in keys {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if let Phase::Handshake(_) = connection.phase {
                self.haggling += 1;
                if now >= connection.deadline {
                    connection.break_off();
                    list(&mut self.list, key, connection);
                }
            }
        }
    }

    /// Takes no more input from anyone.
    fn drain(&mut self) {
        for socket in self.inbox.take() {
            drop(socket);
            self.shared.live.fetch_sub(1, Ordering::Relaxed);
        }
        let keys: Vec<Key> = self.connections.keys().collect();
        for key in keys {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if connection.ending == Ending::Open {
                connection.drain();
                self.engine.abandon(connection);
                list(&mut self.list, key, connection);
            }
        }
    }
}

fn list(list: &mut Vec<Key>, key: Key, connection: &mut Connection) {
    if !connection.listed {
        connection.listed = true;
        list.push(key);
    }
}
