// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Worker`]: the thread of one virtqueue, and the handle by which it is given orders.
//!
//! A worker lives as long as its server and serves whatever ring it is given. It looks for work while that is likely to come
//! soon, and otherwise sleeps until it is kicked; orders reach it either way.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pageless_block::BlockDevice;
use pageless_mem::Memory;
use pageless_sys::Errno;
use pageless_sys::epoll::{Epoll, Interest, Ready};
use pageless_sys::eventfd::EventFd;

use super::counters::Counters;
use super::dirty::DirtyLog;
use super::engine::{Engine, Round};
use super::guest_map::{GuestAddr, GuestMap};
use super::notice::{Notice, Notices};
use super::request::ID_BYTES;
use super::running::{RingError, RingSetup, Running};
use crate::Error;
use crate::worker::{Inbox, Spin};

/// How long a worker that ran out of requests looks for more before it sleeps.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub enum Polling {
    /// As long as has been worth it lately, and never longer than 50 µs.
    #[default]
    Adaptive,
    /// Always so long.
    Busy(Duration),
}

/// The longest that an adaptive worker looks, and how short gaps must be for it to look at all.
const AWAKE: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(40));
/// Looks between two looks at the clock.
const LOOKS: u32 = 32;

/// A change to a ring that is served.
#[derive(Debug)]
pub(crate) enum Change {
    /// The guest's memory. What is in flight ends first.
    Memory(Arc<GuestMap>),
    /// What to be woken by.
    Kick(Option<EventFd>),
    /// What to call the driver by.
    Call(Option<EventFd>),
    /// What to tell of a broken ring by.
    Err(Option<EventFd>),
    /// Where to mark what is written, and by what address the used ring is marked there. What is in flight ends first.
    Log(Option<Arc<DirtyLog>>, Option<GuestAddr>),
    /// Whether to take requests. What is in flight ends first.
    Enabled(bool),
}

#[derive(Debug)]
enum Order {
    Start(Box<RingSetup>, SyncSender<Result<(), RingError>>),
    Change(Change, SyncSender<()>),
    Halt(SyncSender<Option<u16>>),
    Stop,
}

/// The handle on a worker. Dropping it halts the ring and ends the thread.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: Sender<Order>,
    bell: Arc<Inbox<()>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Worker {
    /// Starts the thread of queue `index`, which opens its own queue of the device.
    ///
    /// # Errors
    /// When there is no thread, or it could not open what it needs.
    pub(crate) fn spawn(
        index: usize,
        device: Arc<dyn BlockDevice>,
        id: [u8; ID_BYTES],
        memory: &Memory,
        polling: Polling,
        (counters, owner): (Arc<Counters>, Notices),
    ) -> Result<Worker, Error> {
        let (orders, received) = mpsc::channel();
        let bell = Arc::new(Inbox::new()?);
        let (memory, inbox) = (memory.clone(), Orders { bell: Arc::clone(&bell), received });
        let (tell, told) = sync_channel(1);
        let run = move || {
            let opened = Engine::new(&*device, id, &memory, (Arc::clone(&counters), owner.clone()));
            let tell_owner = (index, owner);
            match opened
                .map_err(Error::from)
                .and_then(|engine| Service::new(engine, inbox, polling, counters, tell_owner))
            {
                Ok(service) => {
                    let _ = tell.send(Ok(()));
                    service.run()
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                    Ok(())
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("vhost-{index}")).spawn(run);
        let thread = thread.map_err(|error| Error::Thread(Errno::from_io(&error)))?;
        let worker = Worker { orders, bell, thread: Some(thread) };
        told.recv().map_err(|_| Error::Panicked)??;
        Ok(worker)
    }

    /// Serves a ring, which must have been halted before. What an earlier server left in flight is begun again first.
    ///
    /// # Errors
    /// [`RingError`] when it cannot be served.
    pub(crate) fn start(&self, ring: RingSetup) -> Result<(), RingError> {
        self.ask(|reply| Order::Start(Box::new(ring), reply)).unwrap_or(Err(RingError::Worker))
    }

    /// Changes the ring. After this the worker uses nothing old.
    pub(crate) fn change(&self, change: Change) {
        // A worker that ended uses nothing at all.
        self.ask(|reply| Order::Change(change, reply)).unwrap_or(());
    }

    /// Finishes what is in flight, and says at which available entry the next server goes on; `None` where no ring was
    /// served, or a broken one.
    pub(crate) fn halt(&self) -> Option<u16> {
        self.ask(Order::Halt).flatten()
    }

    /// Ends the thread and says how it went.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn ask<T>(&self, order: impl FnOnce(SyncSender<T>) -> Order) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.give(order(reply));
        answer.recv().ok()
    }

    fn give(&self, order: Order) {
        // A thread that ended has dropped its end, and with that whatever it was asked.
        let _ = self.orders.send(order);
        self.bell.put(());
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.give(Order::Stop);
        thread.join().unwrap_or(Err(Error::Panicked))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Tokens in epoll.
const INBOX: u64 = 0;
const KICK: u64 = 1;
const DEVICE: u64 = 2;

/// The worker's end.
#[derive(Debug)]
struct Orders {
    bell: Arc<Inbox<()>>,
    received: Receiver<Order>,
}

/// The loop.
#[derive(Debug)]
struct Service {
    engine: Engine,
    inbox: Orders,
    epoll: Epoll,
    /// Only the device, to wait for what is in flight.
    device: Epoll,
    kick: Option<EventFd>,
    polling: Polling,
    spin: Spin,
    counters: Arc<Counters>,
    /// Who is told of a broken ring, and by what number.
    owner: (usize, Notices),
    ready: Vec<Ready>,
}

impl Service {
    fn new(
        engine: Engine,
        inbox: Orders,
        polling: Polling,
        counters: Arc<Counters>,
        owner: (usize, Notices),
    ) -> Result<Service, Error> {
        let (epoll, device) = (Epoll::new(4)?, Epoll::new(1)?);
        epoll.add(&*inbox.bell, INBOX, Interest::Read)?;
        if let Some(event) = engine.event() {
            epoll.add(event, DEVICE, Interest::Read)?;
            device.add(event, DEVICE, Interest::Read)?;
        }
        let spin = Spin::at_most(AWAKE.0, AWAKE.1);
        Ok(Service {
            engine,
            inbox,
            epoll,
            device,
            kick: None,
            polling,
            spin,
            counters,
            owner,
            ready: Vec::with_capacity(4),
        })
    }

    fn run(mut self) -> Result<(), Error> {
        loop {
            if self.inbox.bell.filled() {
                self.inbox.bell.take();
                while let Ok(order) = self.inbox.received.try_recv() {
                    if matches!(order, Order::Stop) {
                        return self.finish();
                    }
                    self.obey(order)?;
                }
            }
            if self.engine.round() == Round::Nothing {
                self.wait()?;
            }
        }
    }

    /// Waits for something to do: awake for a while, then asleep.
    fn wait(&mut self) -> Result<(), Error> {
        if let Some(why) = self.engine.running().and_then(Running::broke) {
            let (queue, owner) = &self.owner;
            owner.tell(Notice::Broken { queue: *queue, why: why.to_string() });
        }
        let start = Instant::now();
        let budget = match self.polling {
            Polling::Adaptive => self.spin.budget(),
            Polling::Busy(awake) => awake,
        };
        let serving = self.engine.running().is_some_and(|running| running.takes());
        while serving && start.elapsed() < budget {
            for _ in 0..LOOKS {
                if self.engine.round() == Round::Worked {
                    self.spin.waited(start.elapsed());
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            if self.inbox.bell.filled() {
                return Ok(());
            }
            if self.polling == Polling::Adaptive {
                let away = Instant::now();
                std::thread::yield_now();
                if away.elapsed() > Spin::ALONE {
                    self.spin.crowded();
                    break;
                }
            }
        }
        if self.engine.sleep() {
            self.engine.wake();
            return Ok(());
        }
        self.ready.clear();
        // Without a kick there is nothing to be woken by.
        let timeout = (serving && self.kick.is_none()).then_some(KICKLESS);
        self.epoll.wait(timeout, &mut self.ready)?;
        self.engine.wake();
        if self.ready.iter().any(|ready| ready.token != INBOX) {
            self.counters.kicks.add(1);
            self.spin.waited(start.elapsed());
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<(), Error> {
        // Who asked may have given up.
        match order {
            Order::Start(mut setup, reply) => {
                self.drain()?;
                let started = match self.set_kick(setup.kick.take())? {
                    Ok(()) => self.engine.start(*setup),
                    Err(errno) => Err(RingError::Kick(errno)),
                };
                let _ = reply.send(started);
            }
            Order::Change(change, reply) => {
                self.change(change)?;
                let _ = reply.send(());
            }
            Order::Halt(reply) => {
                self.drain()?;
                let _ = self.set_kick(None)?;
                let _ = reply.send(self.engine.end());
            }
            Order::Stop => {}
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), Error> {
        let during = matches!(change, Change::Kick(_) | Change::Call(_) | Change::Err(_));
        if !during {
            self.drain()?;
        }
        let change = match change {
            Change::Kick(kick) => match self.set_kick(kick)? {
                Ok(()) => return Ok(()),
                Err(errno) => Err(RingError::Kick(errno)),
            },
            other => Ok(other),
        };
        let counters = &self.counters;
        let Some(running) = self.engine.running() else { return Ok(()) };
        let change = match change {
            Ok(change) => change,
            Err(error) => {
                running.breaks(error, counters);
                return Ok(());
            }
        };
        match change {
            Change::Memory(map) => running.set_map(map),
            Change::Call(call) => {
                running.call = call;
                // What was published may have been called by a descriptor that nobody listens to.
                running.call(counters);
            }
            Change::Err(err) => running.err = err,
            Change::Log(log, used) => running.set_log(log, used),
            Change::Enabled(enabled) => running.enabled = enabled,
            Change::Kick(_) => {}
        }
        Ok(())
    }

    /// Lets everything in flight end, and takes nothing meanwhile.
    fn drain(&mut self) -> Result<(), Error> {
        self.engine.hold(true);
        while self.engine.busy() {
            if self.engine.round() == Round::Nothing {
                self.ready.clear();
                self.device.wait(Some(Duration::from_millis(100)), &mut self.ready)?;
            }
        }
        self.engine.hold(false);
        Ok(())
    }

    /// The inner error is the front-end's fault: not everything can be waited for.
    fn set_kick(&mut self, kick: Option<EventFd>) -> Result<Result<(), Errno>, Error> {
        if let Some(old) = self.kick.take() {
            self.epoll.remove(&old)?;
        }
        if let Some(kick) = kick {
            if let Err(error) = self.epoll.add(&kick, KICK, Interest::Edge) {
                return Ok(Err(error.errno()));
            }
            self.kick = Some(kick);
        }
        Ok(Ok(()))
    }

    fn finish(mut self) -> Result<(), Error> {
        self.drain()?;
        self.engine.end();
        Ok(())
    }
}

/// How often a ring without a kick is looked at.
const KICKLESS: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests;
