// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Server`]: exports, listeners and workers put together, and taken apart again in order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pageless_block::BlockDevice;
use pageless_mem::Memory;
use pageless_sys::Errno;

use super::counters::{Counters, Totals};
use super::engine::Engine;
use super::export::Export;
use super::listener::{Acceptor, Listen, Listener};
use super::notice::{Notice, Notices};
use super::service::{Service, Shared};
use super::socket::Socket;
use super::wire::MAX_STRING;
use crate::Error;
use crate::flush::flush;
use crate::worker::Inbox;

/// What to serve, where, and how much of the machine to use for it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The disks. The first is what clients get that ask for no name.
    pub exports: Vec<Export>,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Threads.
    pub workers: usize,
    /// Connections at once; more are closed as they come.
    pub max_connections: usize,
    /// Memory for payloads of one worker, in slots of 256 KiB. It is touched only as far as it is used.
    pub slots: u16,
    /// How long a client may take over one step of the handshake.
    pub handshake_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            exports: Vec::new(),
            listen: Vec::new(),
            workers: 2,
            max_connections: 4096,
            slots: 64,
            handshake_timeout: Duration::from_secs(30),
        }
    }
}

impl ServerConfig {
    fn check(&self) -> Result<(), Error> {
        if self.exports.is_empty() {
            return Err(Error::NoExports);
        }
        let number = |what, value, most| match value {
            1.. if value <= most => Ok(()),
            _ => Err(Error::Number { what, most, value }),
        };
        number("the number of workers", self.workers, 1024)?;
        number("the number of connections", self.max_connections, 1 << 20)?;
        number("the number of slots less 7", usize::from(self.slots).saturating_sub(7), 1 << 14)?;
        for (index, export) in self.exports.iter().enumerate() {
            if self.exports[..index].iter().any(|other| other.name == export.name) {
                return Err(Error::DuplicateName(export.name.clone()));
            }
            for (what, text) in [("an export name", &export.name), ("a description", &export.description)] {
                if text.len() > MAX_STRING {
                    return Err(Error::TooLong { what, length: text.len(), most: MAX_STRING });
                }
            }
            let block = export.device.limits().block_size;
            if block > 1 << 16 {
                return Err(Error::BlockSize { name: export.name.clone(), block });
            }
        }
        Ok(())
    }
}

/// A running NBD server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    devices: Vec<Arc<dyn BlockDevice>>,
    addresses: Vec<Listen>,
    shared: Arc<Shared>,
    /// When those who still wait for something give up, once stopping.
    deadline: Arc<Mutex<Option<Instant>>>,
    inboxes: Vec<Arc<Inbox<Socket>>>,
    counters: Vec<Arc<Counters>>,
    notices: (Arc<Notices>, Mutex<Option<mpsc::Receiver<Notice>>>),
    stop: Arc<Inbox<()>>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
}

impl Server {
    /// Listens and serves. When this returns, clients can connect.
    pub fn start(config: ServerConfig, memory: &Memory) -> Result<Server, Error> {
        config.check()?;
        let listeners = config.listen.iter().map(Listener::open).collect::<Result<Vec<_>, _>>()?;
        let (notices, owner) = Notices::new(config.exports.iter().map(|export| export.name.clone()));
        let mut server = Server {
            devices: config.exports.iter().map(|export| Arc::clone(&export.device)).collect(),
            addresses: listeners.iter().map(Listener::address).collect(),
            shared: Arc::new(Shared {
                terms: config.exports.iter().map(Export::terms).collect(),
                live: AtomicUsize::new(0),
                stopping: AtomicBool::new(false),
                handshake_timeout: config.handshake_timeout,
            }),
            deadline: Arc::new(Mutex::new(None)),
            inboxes: Vec::new(),
            counters: Vec::new(),
            notices: (Arc::new(notices), Mutex::new(Some(owner))),
            stop: Arc::new(Inbox::new()?),
            threads: Vec::new(),
        };
        for index in 0..config.workers {
            server.start_worker(index, config.slots, memory)?;
        }
        let acceptor = Acceptor {
            listeners,
            workers: server.inboxes.clone(),
            shared: Arc::clone(&server.shared),
            most: config.max_connections,
            stop: Arc::clone(&server.stop),
        };
        server.spawn("nbd-accept".into(), || acceptor.run())?;
        Ok(server)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name).spawn(run);
        self.threads.push(thread.map_err(|error| Error::Thread(Errno::from_io(&error)))?);
        Ok(())
    }

    /// A queue belongs to the thread that opens it, so the worker opens its own and says how that went.
    fn start_worker(&mut self, index: usize, slots: u16, memory: &Memory) -> Result<(), Error> {
        let inbox = Arc::new(Inbox::new()?);
        let counters = Arc::new(Counters::new(self.devices.len()));
        self.inboxes.push(Arc::clone(&inbox));
        self.counters.push(Arc::clone(&counters));
        let (devices, notices) = (self.devices.clone(), Arc::clone(&self.notices.0));
        let (memory, shared, deadline) = (memory.clone(), Arc::clone(&self.shared), Arc::clone(&self.deadline));
        let (tell, told) = mpsc::channel();
        self.spawn(format!("nbd-worker-{index}"), move || {
            let open = || {
                let engine = Engine::new(&devices, &memory, slots, counters, notices)?;
                Service::new(shared, inbox, &memory, engine)
            };
            match open() {
                Ok(service) => {
                    let _ = tell.send(Ok(()));
                    service.run(|| *deadline.lock().unwrap_or_else(PoisonError::into_inner))
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                    Ok(())
                }
            }
        })?;
        told.recv().map_err(|_| Error::Panicked)?
    }

    /// Where it listens, in the order of the configuration, with the ports that were taken.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// Connections there are now.
    pub fn connections(&self) -> usize {
        self.shared.live.load(Ordering::Relaxed)
    }

    /// What its owner should know, as it happens, until the server is gone. There is one receiver: `None` for whoever
    /// asks second.
    pub fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.notices.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was done so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for counters in &self.counters {
            totals.add(counters);
        }
        totals
    }

    /// Stops accepting, finishes what clients asked for, flushes the devices and removes the sockets. Clients that
    /// have not taken their answers by `patience` from now are cut off.
    pub fn stop(mut self, patience: Duration) -> Result<Totals, Error> {
        let mut ended = self.end(patience);
        for device in &self.devices {
            // One that fails does not keep the others from being flushed.
            ended = ended.and(flush(&**device));
        }
        ended.map(|()| self.totals())
    }

    fn end(&mut self, patience: Duration) -> Result<(), Error> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + patience);
        self.shared.stopping.store(true, Ordering::Release);
        self.stop.nudge();
        self.inboxes.iter().for_each(|inbox| inbox.nudge());
        let mut ended = Ok(());
        for thread in self.threads.drain(..) {
            let result = thread.join().unwrap_or(Err(Error::Panicked));
            ended = ended.and(result);
        }
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end(Duration::ZERO);
    }
}
