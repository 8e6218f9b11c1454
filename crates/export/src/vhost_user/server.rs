// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Server`]: a socket for front-ends, a thread that talks to one at a time, and a worker for each ring.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use pageless_block::BlockDevice;
use pageless_mem::Memory;
use pageless_sys::Errno;
use pageless_sys::epoll::{Epoll, Interest};

use super::config::Offer;
use super::counters::{Counters, Totals};
use super::front_end::{FrontEnd, Left};
use super::notice::{Notice, Notices};
use super::read_only::ReadOnly;
use super::request::ID_BYTES;
use super::session::Session;
use super::worker::{Polling, Worker};
use crate::Error;
use crate::flush::flush;
use crate::unix_socket::UnixSocket;
use crate::worker::Inbox;

/// Rings of one device, at most: what a kick message can name.
pub const MAX_QUEUES: u16 = 256;

/// What to serve, where, and how.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The disk.
    pub device: Arc<dyn BlockDevice>,
    /// The socket that front-ends connect to, one at a time.
    pub path: PathBuf,
    /// Rings, each with a thread of its own.
    pub queues: u16,
    /// How long threads look for requests before they sleep.
    pub polling: Polling,
    /// Refuse writes even if the device would take them.
    pub read_only: bool,
}

/// A running vhost-user-blk back-end. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    device: Arc<dyn BlockDevice>,
    path: PathBuf,
    counters: Vec<Arc<Counters>>,
    front_ends: Arc<AtomicU64>,
    stop: Arc<Inbox<()>>,
    notices: Mutex<Option<mpsc::Receiver<Notice>>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Server {
    /// Listens and serves. When this returns, front-ends can connect.
    ///
    /// # Errors
    /// When the socket is in use or cannot be made, or a worker cannot open what it needs.
    pub fn start(config: ServerConfig, memory: &Memory) -> Result<Server, Error> {
        let ServerConfig { device, path, queues, polling, read_only } = config;
        if !(1..=MAX_QUEUES).contains(&queues) {
            let what = "the number of queues";
            return Err(Error::Number { what, value: queues.into(), most: MAX_QUEUES.into() });
        }
        let device = if read_only { ReadOnly::of(device) } else { device };
        let socket = UnixSocket::open(&path)?;
        let counters: Vec<Arc<Counters>> = (0..queues).map(|_| Arc::default()).collect();
        let id = id_of(device.name());
        let (owner, notices) = Notices::new();
        let spawn = |(index, counters)| {
            Worker::spawn(index, Arc::clone(&device), id, memory, polling, (Arc::clone(counters), owner.clone()))
        };
        let workers = counters.iter().enumerate().map(spawn).collect::<Result<Vec<_>, _>>()?;
        let stop = Arc::new(Inbox::new()?);
        let control = Control {
            offer: Offer::of(&*device, queues),
            socket,
            workers,
            memory: memory.clone(),
            stop: Arc::clone(&stop),
            front_ends: Arc::default(),
            owner,
        };
        let front_ends = Arc::clone(&control.front_ends);
        let thread = std::thread::Builder::new().name("vhost-control".into()).spawn(move || control.run());
        let thread = Some(thread.map_err(|error| Error::Thread(Errno::from_io(&error)))?);
        Ok(Server { device, path, counters, front_ends, stop, notices: Mutex::new(Some(notices)), thread })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its owner should know, as it happens, until the server is gone. There is one receiver: `None` for whoever asks
    /// second.
    pub fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Front-ends that connected so far.
    pub fn front_ends(&self) -> u64 {
        self.front_ends.load(Ordering::Relaxed)
    }

    /// What was done so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.counters.iter().for_each(|counters| totals.add(counters));
        totals
    }

    /// Leaves the front-end once what its rings have in flight has ended, flushes the device and removes the socket.
    ///
    /// # Errors
    /// When a thread failed, or the flush did.
    pub fn stop(mut self) -> Result<Totals, Error> {
        // A thread that failed does not keep the device from being flushed.
        let ended = self.end();
        ended.and(flush(&*self.device)).map(|()| self.totals())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stop.put(());
        thread.join().unwrap_or(Err(Error::Panicked))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// What drivers are told the device is called: as much of its name as fits.
fn id_of(name: &str) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    // The end of a path says more than its start.
    let bytes = name.as_bytes();
    let tail = &bytes[bytes.len().saturating_sub(ID_BYTES)..];
    id[..tail.len()].copy_from_slice(tail);
    id
}

/// The thread that talks to front-ends.
#[derive(Debug)]
struct Control {
    offer: Offer,
    socket: UnixSocket,
    workers: Vec<Worker>,
    memory: Memory,
    stop: Arc<Inbox<()>>,
    front_ends: Arc<AtomicU64>,
    owner: Notices,
}

/// How long to wait when the system has no descriptors or memory for a connection.
const BACK_OFF: Duration = Duration::from_millis(100);

impl Control {
    fn run(self) -> Result<(), Error> {
        let (mut both, mut stop) = (Epoll::new(2)?, Epoll::new(1)?);
        both.add(&self.socket, 0, Interest::Read)?;
        both.add(&*self.stop, 1, Interest::Read)?;
        stop.add(&*self.stop, 1, Interest::Read)?;
        let mut ready = Vec::new();
        loop {
            ready.clear();
            both.wait(None, &mut ready)?;
            if ready.iter().any(|ready| ready.token == 1) {
                break;
            }
            match self.socket.accept() {
                Ok(socket) => {
                    self.front_ends.fetch_add(1, Ordering::Relaxed);
                    let left = self.serve(socket);
                    if !matches!(left, Left::HungUp) {
                        self.owner.tell(Notice::Left { why: left.to_string() });
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // That connection is gone already, or the system is short of something.
                Err(_) => stop.wait(Some(BACK_OFF), &mut Vec::new())?,
            }
        }
        self.workers.into_iter().map(Worker::stop).fold(Ok(()), Result::and)
    }

    fn serve(&self, socket: std::os::unix::net::UnixStream) -> Left {
        let mut session = Session::new(&self.workers, &self.offer, &self.memory);
        match FrontEnd::new(socket, self.stop.as_fd()) {
            Ok(front_end) => front_end.serve(&mut session),
            Err(error) => error.into(),
        }
    }
}
