// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "hands addresses of in-flight memory to io_uring; the ring owns them until reaped")]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageless_sys::file::{FallocMode, File};
use pageless_sys::socket::IoVec;
use pageless_sys::uring::{self, Buffer, Completion};
use pageless_sys::{Errno, uring::Ring as Uring};

use crate::holds::Run;
use crate::pin::Pin;
use crate::region::{Inner, Region};
use crate::{Access, Error, Inflight};

/// How long a ring that is dropped waits for the kernel before it leaks itself and the memory in flight.
const DROP_DEADLINE: Duration = Duration::from_secs(10);

/// The operation number of cancellations.
const CANCEL: u64 = u64::MAX;

/// io_uring whose operations own their memory.
///
/// # Completion contract
/// Each accepted operation comes back exactly once from [`Ring::reap`], with its memory. Dropping the ring cancels what is
/// in flight and reaps it; past a deadline it leaks ring, memory and mapping rather than free memory that the kernel may
/// still write.
///
/// # Invariants
/// `slots[i]` holds what the kernel was given under the number `i`, from before the submission until its completion.
#[derive(Debug)]
pub struct Ring {
    ring: ManuallyDrop<Uring>,
    slots: ManuallyDrop<Vec<Option<Operation>>>,
    free: Vec<u64>,
    in_flight: usize,
    /// The region whose frames are registered as fixed buffer 0, and its place among what is in flight.
    fixed: ManuallyDrop<Option<(Arc<Inner>, Pin)>>,
    completions: Vec<Completion>,
}

#[derive(Debug)]
struct Operation {
    token: u64,
    inflight: Option<Inflight>,
    #[expect(dead_code, reason = "keeps the descriptor open")]
    file: Arc<File>,
}

/// A finished operation.
#[derive(Debug)]
pub struct Done {
    /// The number given at submission.
    pub token: u64,
    /// Bytes moved, or why not.
    pub result: Result<u32, Errno>,
    /// The memory, no longer in flight once dropped.
    pub inflight: Option<Inflight>,
}

/// No room for another operation; the memory comes back.
#[derive(Debug)]
pub struct Full {
    /// What was to be handed out.
    pub inflight: Option<Inflight>,
}

impl Ring {
    /// A ring for up to `entries` operations in flight.
    pub fn new(entries: u32) -> Result<Ring, Error> {
        let ring = Uring::new(entries)?;
        let slots: Vec<_> = (0..ring.capacity()).map(|_| None).collect();
        Ok(Ring {
            free: (0..u64::from(ring.capacity())).rev().collect(),
            ring: ManuallyDrop::new(ring),
            slots: ManuallyDrop::new(slots),
            in_flight: 0,
            fixed: ManuallyDrop::new(None),
            completions: Vec::new(),
        })
    }

    /// Readable when completions wait.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.ring.event()
    }

    /// Makes the event readable until the next [`Ring::reap`], for an owner that has more to hand out.
    pub fn signal(&self) {
        self.ring.signal();
    }

    /// Operations in flight.
    pub fn pending(&self) -> usize {
        self.in_flight
    }

    /// Operations that can be accepted now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Registers all frames of a region as fixed buffer: they are pinned, and allocated, for the life of the ring. For a
    /// bounded pool only (I1).
    pub fn register_bounce(&mut self, slots: &Region) -> Result<(), Error> {
        let inner = slots.inner();
        let end = inner.len();
        let whole = Run::new(0, end, Access::Write, pageless_sys::cpu::thread_id());
        let outside = || Error::OutOfRange { start: 0, end, len: inner.len(), region: slots.describe() };
        let pin = Pin::new(inner, whole).ok_or_else(outside)?;
        let len = usize::try_from(inner.len()).unwrap_or(usize::MAX);
        // SAFETY: `fixed` keeps the region's mapping until the ring is gone.
        unsafe { self.ring.register(&[IoVec { addr: inner.addr(), len }]) }?;
        *self.fixed = Some((Arc::clone(inner), pin));
        Ok(())
    }

    /// Reads a file into frames.
    ///
    /// # Panics
    /// When the memory was pinned for being read.
    pub fn read(&mut self, file: &Arc<File>, at: u64, into: Inflight, token: u64) -> Result<(), Full> {
        assert!(into.access() == Access::Write, "the memory was pinned for being read");
        self.start(file, Some(into), token, |ring, fd, buffer, slot| {
            // SAFETY: the slot keeps memory, its run list and descriptor until the completion (invariant).
            unsafe { ring.read(fd, at, buffer, slot) }
        })
    }

    /// Writes frames to a file; `dsync`: durable before it completes.
    pub fn write(&mut self, file: &Arc<File>, at: u64, from: Inflight, dsync: bool, token: u64) -> Result<(), Full> {
        self.start(file, Some(from), token, |ring, fd, buffer, slot| {
            // SAFETY: the slot keeps memory, its run list and descriptor until the completion (invariant).
            unsafe { ring.write(fd, at, buffer, dsync, slot) }
        })
    }

    /// Makes what was written and completed durable.
    pub fn fdatasync(&mut self, file: &Arc<File>, token: u64) -> Result<(), Full> {
        self.start(file, None, token, |ring, fd, _, slot| {
            // SAFETY: the slot keeps the descriptor until the completion (invariant).
            unsafe { ring.sync_data(fd, slot) }
        })
    }

    /// Allocates, punches or zeroes a range of a file.
    pub fn fallocate(&mut self, file: &Arc<File>, mode: FallocMode, at: u64, len: u64, token: u64) -> Result<(), Full> {
        self.start(file, None, token, |ring, fd, _, slot| {
            // SAFETY: the slot keeps the descriptor until the completion (invariant).
            unsafe { ring.fallocate(fd, mode, at, len, slot) }
        })
    }

    fn start(
        &mut self,
        file: &Arc<File>,
        inflight: Option<Inflight>,
        token: u64,
        push: impl Fn(&mut Uring, BorrowedFd<'_>, Buffer<'_>, u64) -> Result<(), uring::Full>,
    ) -> Result<(), Full> {
        let Some(slot) = self.free.pop() else { return Err(Full { inflight }) };
        let runs = inflight.as_ref().map_or(&[][..], Inflight::runs);
        let buffer = match (runs, self.fixed.as_ref()) {
            ([run], Some((fixed, _))) if in_region(*run, fixed) => Buffer::Fixed(*run, 0),
            _ => Buffer::Runs(runs),
        };
        if push(&mut self.ring, file.as_fd(), buffer, slot).is_err() {
            self.free.push(slot);
            return Err(Full { inflight });
        }
        // Moving the owner does not move the run list, which is on the heap.
        #[expect(clippy::cast_possible_truncation, reason = "slots are counted in u32")]
        let index = slot as usize;
        self.slots[index] = Some(Operation { token, inflight, file: Arc::clone(file) });
        self.in_flight += 1;
        Ok(())
    }

    /// Hands what was queued to the kernel.
    pub fn submit(&mut self) -> Result<(), Error> {
        if self.ring.queued() == 0 {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(_) => {}
            // Out of room for now: the entries stay queued for the next call.
            Err(error) if matches!(error.errno(), Errno::EAGAIN | Errno::EBUSY | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.ring.queued() > 0 {
            self.ring.signal(); // nothing else may ever wake the owner to try again
        }
        Ok(())
    }

    /// Submits and waits for at least one completion.
    pub fn wait(&mut self) -> Result<(), Error> {
        if self.in_flight > 0 {
            self.ring.wait()?;
        }
        Ok(())
    }

    /// Appends the operations that finished.
    pub fn reap(&mut self, out: &mut Vec<Done>) {
        self.ring.drain_event();
        if self.in_flight == 0 {
            return;
        }
        self.ring.completions(&mut self.completions);
        for completion in self.completions.drain(..) {
            let slot = usize::try_from(completion.token).ok().and_then(|index| self.slots.get_mut(index));
            // A cancellation has no slot.
            if let Some(operation) = slot.and_then(Option::take) {
                self.free.push(completion.token);
                self.in_flight -= 1;
                out.push(Done { token: operation.token, result: completion.result, inflight: operation.inflight });
            }
        }
    }

    /// Cancels and reaps everything; false when the kernel did not give everything back in time.
    fn drain(&mut self, deadline: Duration) -> bool {
        let start = Instant::now();
        let mut done = Vec::new();
        let mut cancelled = false;
        while self.in_flight > 0 {
            if !cancelled {
                // A full submission queue has no room for the cancellation until the kernel took what is there.
                let _ = self.ring.submit();
                cancelled = self.ring.cancel_all(CANCEL).is_ok();
            }
            if start.elapsed() > deadline || self.ring.wait_for(Duration::from_millis(100)).is_err() {
                return false;
            }
            self.reap(&mut done);
            done.clear();
        }
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.drain(DROP_DEADLINE) {
            return; // leaks the ring, the fixed region and the operations in flight (completion contract)
        }
        // SAFETY: dropped once, here; nothing is in flight, so the kernel holds no memory of ours but the fixed one.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: dropped once, here, after the ring.
        unsafe { ManuallyDrop::drop(&mut self.slots) };
        // SAFETY: dropped once, here, after the ring whose registration named it.
        unsafe { ManuallyDrop::drop(&mut self.fixed) };
    }
}

fn in_region(run: IoVec, region: &Inner) -> bool {
    let offset = run.addr.wrapping_sub(region.addr()) as u64;
    offset < region.len() && run.len as u64 <= region.len() - offset
}
