// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Faulty`]: a device that fails when told to.

use pageless_block::{
    Bio, BlockDevice, Completion, Error, ExtentMap, Limits, Op, Queue, Refused, RefusedWhy, Route, Status,
};
use pageless_sys::eventfd::EventFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// What goes wrong.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It ends with this status after the whole blocks in the first `done` bytes were done.
    Fail {
        /// The status.
        status: Status,
        /// Bytes, rounded down to blocks.
        done: u64,
    },
    /// It is done, and comes back that many polls later.
    Delay(u32),
    /// The queue says that it is full.
    Full,
}

/// Which requests go wrong: those of a sort, counted from 0 over all queues of the device since the fault was injected.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The sort; `None`: any.
    pub op: Option<Op>,
    /// The first that goes wrong.
    pub first: u64,
    /// How many do.
    pub count: u64,
    /// How.
    pub what: What,
}

impl Fault {
    /// The `n`th request of a sort, from 0.
    pub fn nth(op: Op, n: u64, what: What) -> Fault {
        Fault { op: Some(op), first: n, count: 1, what }
    }

    /// Every request of a sort.
    pub fn every(op: Op, what: What) -> Fault {
        Fault { op: Some(op), first: 0, count: u64::MAX, what }
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// With how many requests of its sort each has seen.
    faults: Vec<(Fault, u64)>,
}

impl Plan {
    /// Counts the request, and says what happens to it: the first fault that means it.
    fn next(&mut self, op: Op) -> Option<What> {
        let mut what = None;
        for (fault, seen) in &mut self.faults {
            if fault.op.is_none_or(|sort| sort == op) {
                let index = *seen;
                *seen += 1;
                if index >= fault.first && index - fault.first < fault.count {
                    what = what.or(Some(fault.what));
                }
            }
        }
        what
    }
}

/// A device whose requests go wrong as injected. It has no direct access, so that nothing gets past it; and its queues'
/// events are readable whenever anything is in flight, so that what is delayed is polled for.
#[derive(Debug)]
pub struct Faulty<D> {
    inner: D,
    plan: Arc<Mutex<Plan>>,
}

impl<D: BlockDevice> Faulty<D> {
    /// Passes everything on until something is injected.
    pub fn new(inner: D) -> Faulty<D> {
        Faulty { inner, plan: Arc::default() }
    }

    /// From now on.
    pub fn inject(&self, fault: Fault) {
        self.with_plan(|plan| plan.faults.push((fault, 0)));
    }

    /// Forgets every fault.
    pub fn heal(&self) {
        self.with_plan(|plan| plan.faults.clear());
    }

    fn with_plan(&self, f: impl FnOnce(&mut Plan)) {
        f(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<D: BlockDevice> BlockDevice for Faulty<D> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(FaultyQueue {
            inner: self.inner.open_queue()?,
            plan: Arc::clone(&self.plan),
            block: u64::from(self.inner.limits().block_size),
            event: EventFd::new().map_err(|error| Error::device("faults", error))?,
            spoilt: Vec::new(),
            held: Vec::new(),
        }))
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        self.inner.extents()
    }
}

/// A request that is with the inner device and will not come back as that says.
#[derive(Debug)]
struct Spoilt {
    tag: u64,
    /// What it comes back as, if not as it is.
    status: Option<Status>,
    polls: u32,
}

#[derive(Debug)]
struct FaultyQueue {
    inner: Box<dyn Queue>,
    plan: Arc<Mutex<Plan>>,
    block: u64,
    event: EventFd,
    spoilt: Vec<Spoilt>,
    /// Completions, and in how many polls they come back.
    held: Vec<(u32, Completion)>,
}

impl FaultyQueue {
    #[allow(clippy::result_large_err, reason = "a refused bio goes back to its owner by value")]
    fn fail(&mut self, bio: Bio, status: Status, done: u64) -> Result<(), Refused> {
        let done = done.min(bio.len) / self.block * self.block;
        if done == 0 {
            self.held.push((0, Completion { tag: bio.tag, status, done: 0, route: Route::None }));
            return Ok(());
        }
        let mut part = bio.clone();
        part.len = done;
        part.data = bio.data.slice(0, done);
        match self.inner.submit(part) {
            Ok(()) => self.spoilt.push(Spoilt { tag: bio.tag, status: Some(status), polls: 0 }),
            Err(refused) => return Err(Refused { bio, ..refused }),
        }
        Ok(())
    }
}

impl Queue for FaultyQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        let what = self.plan.lock().unwrap_or_else(PoisonError::into_inner).next(bio.op);
        let result = match what {
            None => self.inner.submit(bio),
            Some(What::Full) => Err(Refused::new(bio, RefusedWhy::Full)),
            Some(What::Fail { status, done }) => self.fail(bio, status, done),
            Some(What::Delay(polls)) => {
                let tag = bio.tag;
                self.inner.submit(bio).inspect(|()| self.spoilt.push(Spoilt { tag, status: None, polls }))
            }
        };
        self.event.signal();
        result
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let start = out.len();
        self.held.retain_mut(|(polls, completion)| match polls.checked_sub(1) {
            None => {
                out.push(*completion);
                false
            }
            Some(left) => {
                *polls = left;
                true
            }
        });
        let mut new = Vec::new();
        self.inner.poll(&mut new)?;
        for mut completion in new {
            let spoilt = self.spoilt.iter().position(|spoilt| spoilt.tag == completion.tag);
            match spoilt.map(|index| self.spoilt.swap_remove(index)) {
                None => out.push(completion),
                Some(Spoilt { status, polls, .. }) => {
                    completion.status = status.unwrap_or(completion.status);
                    match polls.checked_sub(1) {
                        None => out.push(completion),
                        Some(left) => self.held.push((left, completion)),
                    }
                }
            }
        }
        if self.in_flight() == 0 {
            self.event.drain();
        }
        Ok(out.len() - start)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }
}
