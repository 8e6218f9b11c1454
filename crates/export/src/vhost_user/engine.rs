// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Engine`]: one virtqueue and the device's queue behind it, a batch at a time.
//!
//! ```text
//! take     one online section: heads, descriptors, headers; each head marked in the in-flight record
//! submit   bios to the device
//! poll     the device executes or collects
//! retire   one online section: status bytes, dirty pages, used entries, one used index, marks gone; one call at most
//! ```
//! Nothing is allocated once the buffers have grown, but for requests of more than eight pieces.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use pageless_block::{BlockDevice, Checked, Completion, Flags, Limits, Queue, RefusedWhy, Route, Status, open_checked};
use pageless_mem::{Access, Memory, Reader};

use super::backlog::Backlog;
use super::chain::{Chain, Descriptor};
use super::counters::Counters;
use super::notice::Notices;
use super::request::{self, Begun, Context, Features, ID_BYTES, Kind};
use super::ring::Broken;
use super::running::{RingError, RingSetup, Running};

/// Heads taken at once, at most: the driver is told of them together, and makes the next ones meanwhile.
const BATCH: u16 = 16;

/// Bytes after which no more of them are taken: what was taken is executed before the worker looks at anything else.
const ROUND: u64 = 256 << 20;

/// What came of a round.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Something was begun or ended.
    Worked,
    /// There was nothing to do.
    Nothing,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Engine {
    /// `None` once it broke.
    device: Option<Checked>,
    limits: Limits,
    id: [u8; ID_BYTES],
    reader: Reader,
    counters: Arc<Counters>,
    owner: Notices,
    running: Option<Running>,
    /// Nothing is taken: what is in flight is to end first.
    held: bool,
    batch: Batch,
    completions: Vec<Completion>,
}

/// What is on its way through a round.
#[derive(Debug, Default)]
struct Batch {
    heads: Vec<(u16, Descriptor)>,
    chain: Chain,
    /// To be submitted, in order.
    bios: Backlog,
    /// Heads that are done and not yet given back.
    ended: Vec<u16>,
}

impl Engine {
    /// Opens a queue of the device, for this thread.
    pub(crate) fn new(
        device: &dyn BlockDevice,
        id: [u8; ID_BYTES],
        memory: &Memory,
        (counters, owner): (Arc<Counters>, Notices),
    ) -> Result<Engine, pageless_block::Error> {
        Ok(Engine {
            device: Some(open_checked(device)?),
            limits: device.limits().clone(),
            id,
            reader: memory.reader(),
            counters,
            owner,
            running: None,
            held: false,
            batch: Batch::default(),
            completions: Vec::new(),
        })
    }

    /// Begins to serve a ring. What an earlier server left in flight comes first.
    pub(crate) fn start(&mut self, setup: RingSetup) -> Result<(), RingError> {
        self.held = false;
        self.running = None;
        let running = Running::new(setup, &self.reader.online())?;
        self.counters.recovered.add(running.again.len() as u64);
        self.running = Some(running);
        Ok(())
    }

    /// The ring, if one is served.
    pub(crate) fn running(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }

    /// Takes nothing more, or again.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Ends the service of a ring that has nothing in flight: where the next server goes on. Behind what broke it, where it is
    /// broken: nothing that was answered is to be done again.
    pub(crate) fn end(&mut self) -> Option<u16> {
        self.running.take().map(|running| running.ring.next_avail())
    }

    /// Whether requests are begun and not given back.
    pub(crate) fn busy(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.in_work > 0)
    }

    /// Readable when the device has something.
    pub(crate) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref()?.event()
    }

    /// Takes a batch, lets the device work, and gives back what is done.
    pub(crate) fn round(&mut self) -> Round {
        let mut worked = self.take();
        self.submit();
        worked |= self.poll();
        worked |= self.retire();
        if worked { Round::Worked } else { Round::Nothing }
    }

    /// Asks the driver for kicks. Whether there is something to do already.
    pub(crate) fn sleep(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        if !running.takes() || self.held {
            return false;
        }
        match running.sleep(&self.reader.online()) {
            Ok(waiting) => waiting,
            Err(broken) => {
                running.breaks(broken.into(), &self.counters);
                false
            }
        }
    }

    /// Asks for no more kicks.
    pub(crate) fn wake(&mut self) {
        if let Some(running) = &mut self.running
            && running.takes()
            && let Err(broken) = running.wake(&self.reader.online())
        {
            running.breaks(broken.into(), &self.counters);
        }
    }

    #[inline]
    fn take(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        // What waits was accepted before, and a full device takes neither.
        if !running.takes() || self.held || !self.batch.bios.is_empty() {
            return false;
        }
        let before = running.in_work;
        if let Err(broken) = self.batch.take(running, &mut self.reader, (&self.limits, &self.id), &self.counters) {
            running.breaks(broken.into(), &self.counters);
        }
        running.in_work > before
    }

    #[inline]
    fn submit(&mut self) {
        while let Some(bio) = self.batch.bios.pop() {
            let tag = bio.tag;
            let refused = match &mut self.device {
                Some(device) => match device.submit(bio) {
                    Ok(()) => continue,
                    Err(refused) if refused.why == RefusedWhy::Full => return self.batch.bios.put_back(refused.bio),
                    Err(refused) => request::refused(refused.why),
                },
                None => Status::IoErr,
            };
            self.completions.push(Completion { tag, status: refused, done: 0, route: Route::None });
        }
    }

    #[inline]
    fn poll(&mut self) -> bool {
        if let Some(device) = &mut self.device
            && device.in_flight() > 0
            && device.poll(&mut self.completions).is_err()
        {
            self.fail_device();
        }
        if self.completions.is_empty() {
            return false;
        }
        let Some(running) = &mut self.running else {
            self.completions.clear();
            return false;
        };
        self.counters.routes.count_all(&self.completions);
        for completion in self.completions.drain(..) {
            let head = u16::try_from(completion.tag).unwrap_or(u16::MAX);
            let Some(work) = running.work.get_mut(usize::from(head)) else { continue };
            match work.kind {
                Kind::Read => self.counters.bytes_read.add(completion.done),
                Kind::Write => self.counters.bytes_written.add(completion.done),
                _ => {}
            }
            if completion.status == Status::Gone {
                self.owner.gone();
            }
            if work.ends(&completion) {
                self.batch.ended.push(head);
            }
        }
        true
    }

    /// The device's queue failed: nothing in it will complete. Dropping it waits until no I/O touches the guest.
    #[cold]
    fn fail_device(&mut self) {
        self.device = None;
        self.batch.bios.clear();
        let Some(running) = &mut self.running else { return };
        for (head, work) in (0u64..).zip(&running.work) {
            let told = self.completions.iter().filter(|completion| completion.tag == head).count();
            let lost = (work.bios as usize).saturating_sub(told);
            let failed = Completion { tag: head, status: Status::IoErr, done: 0, route: Route::None };
            self.completions.extend(std::iter::repeat_n(failed, lost));
        }
    }

    #[inline]
    fn retire(&mut self) -> bool {
        if self.batch.ended.is_empty() {
            return false;
        }
        let Some(running) = &mut self.running else {
            self.batch.ended.clear();
            return false;
        };
        match running.retire(&self.reader.online(), &self.batch.ended, &self.counters) {
            Ok(true) => running.call(&self.counters),
            Ok(false) => {}
            Err(broken) => running.breaks(broken.into(), &self.counters),
        }
        self.batch.ended.clear();
        true
    }
}

impl Batch {
    /// Takes what is available, and makes bios of it.
    #[inline]
    fn take(
        &mut self,
        running: &mut Running,
        reader: &mut Reader,
        (limits, id): (&Limits, &[u8; ID_BYTES]),
        counters: &Counters,
    ) -> Result<(), Broken> {
        let Batch { heads, chain, bios, ended } = self;
        let online = reader.online();
        let again = !running.again.is_empty();
        let avail = online.kmap(running.places.avail, Access::Read)?;
        let count = if again { BATCH } else { running.ring.waiting(&avail)?.min(BATCH) };
        if count == 0 {
            return Ok(());
        }
        let table = online.kmap(running.places.table, Access::Read)?;
        let size = running.ring.size();
        heads.clear();
        // Three passes, so that lines which the driver's processor has come over while others are looked at.
        if again {
            let rest = running.again.len().saturating_sub(count.into());
            for head in running.again.drain(rest..).rev() {
                heads.push((head, Descriptor::default()));
            }
        } else {
            for ahead in 0..count {
                let head = running.ring.peek(&avail, ahead)?;
                // Most drivers put the descriptors of a chain side by side.
                table.prefetch_at(16 * usize::from(head));
                table.prefetch_at(16 * usize::from(head) + 32);
                heads.push((head, Descriptor::default()));
            }
        }
        for (head, first) in heads.iter_mut() {
            *first = Descriptor::read(&table, (*head).into())?;
            if let Some(range) = running.map.range(first.at, 16)
                && let Ok(window) = online.kmap(range, Access::Read)
            {
                window.prefetch_at(0);
            }
        }
        let context = Context {
            online: &online,
            map: &running.map,
            features: running.features,
            durable: if running.durable(limits) { Flags::FUA } else { Flags::empty() },
            id,
        };
        let indirect = running.features.contains(Features::INDIRECT_DESC);
        let mut record = match &mut running.inflight {
            Some(inflight) => Some(inflight.open(&online)?),
            None => None,
        };
        let mut bytes = 0;
        let mut waiting = heads.drain(..);
        while bytes < ROUND
            && let Some((head, first)) = waiting.next()
        {
            let work = &mut running.work[usize::from(head)];
            if work.live {
                return Err(Broken::Twice { head });
            }
            if !again {
                // Marked before anything else is done about it; a head done again is marked already.
                if let Some((book, records)) = &mut record {
                    book.mark(records, head)?;
                }
                running.ring.take(1);
            }
            let open = |at, len| online.kmap(context.map.range(at, len)?, Access::Read).ok();
            chain.read((&table, size), first, indirect, open)?;
            let begun = context.begin(chain, head.into(), |bio| {
                bytes += bio.len;
                bios.push(bio);
            });
            count_begun(counters, &begun);
            work.begin(begun, chain, running.log.is_some());
            running.in_work += 1;
            if work.bios == 0 {
                ended.push(head);
            }
        }
        if again {
            running.again.extend(waiting.rev().map(|(head, _)| head));
        }
        Ok(())
    }
}

fn count_begun(counters: &Counters, begun: &Begun) {
    match begun.kind {
        Kind::Read => counters.reads.add(1),
        Kind::Write => counters.writes.add(1),
        Kind::Flush => counters.flushes.add(1),
        Kind::Discard => counters.discards.add(1),
        Kind::WriteZeroes => counters.zeroes.add(1),
        Kind::Id | Kind::Unknown => {}
    }
}

#[cfg(test)]
mod tests;
