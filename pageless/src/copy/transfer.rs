// SPDX-License-Identifier: MIT OR Apache-2.0
//! The copy itself. Memory on either side is the buffer of the other side's I/O:
//!
//! ```text
//! device → memory   the device reads into the memory's frames
//! memory → device   the device writes from the memory's frames (memory → memory: the device is the memory's disk)
//! device → device   both, through a few frames of our own
//! ```

use indicatif::ProgressBar;
use pageless::block::{Bio, Completion, DirectAccess, Route, Sector, Status};
use pageless::mem::{PhysRange, Region};
use pageless::open::Opened;
use pageless::sys::signal::{SignalFd, Termination};

use super::lane::{Lane, Sleeper};
use super::plan::{Piece, Plan};
use super::{CopyError, Job};
use crate::report::{Buffer, Leg, Tally};

/// How a transfer ended.
#[derive(Debug)]
pub(super) struct Transferred {
    /// Which way the bytes went.
    pub(super) tally: Tally,
    /// Bytes that were holes.
    pub(super) holes: u64,
    /// Bytes done, holes included: all of them unless it was stopped.
    pub(super) done: u64,
    /// The signal that stopped it.
    pub(super) stopped: Option<Termination>,
}

/// Where data goes between the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Into the destination's frames.
    IntoFrames,
    /// Out of the source's frames.
    OutOfFrames,
    /// Through frames of our own.
    Staged,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    piece: Piece,
    route: Route,
}

struct Transfer<'j> {
    job: &'j Job<'j>,
    way: Way,
    source: Option<Lane>,
    sink: Lane,
    /// The memory that I/O is done on: the source's, the destination's, or our own.
    frames: Region,
    /// Told about what the kernel stored into a destination that is memory.
    media: Option<Box<dyn DirectAccess>>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    result: Transferred,
}

/// Moves everything, then makes it durable.
pub(super) fn transfer(job: &Job<'_>, bar: &ProgressBar, signals: &SignalFd) -> Result<Transferred, CopyError> {
    let mut transfer = Transfer::new(job)?;
    let lanes: Vec<&Lane> = transfer.source.iter().chain([&transfer.sink]).collect();
    let mut sleeper = Sleeper::new(signals, &lanes)?;
    transfer.run(&mut sleeper, bar)?;
    if transfer.result.stopped.is_none() && job.dst.device.limits().flush {
        let flushed = transfer.sink.run(Bio::flush(0), &mut sleeper)?;
        if !flushed.status.is_ok() {
            return Err(CopyError::Flush { name: job.dst.name.clone(), status: flushed.status });
        }
    }
    Ok(transfer.result)
}

impl<'j> Transfer<'j> {
    fn new(job: &'j Job<'j>) -> Result<Transfer<'j>, CopyError> {
        let Job { src, dst, .. } = job;
        let (way, frames) = match (&src.region, &dst.region) {
            (Some(region), _) => (Way::OutOfFrames, region.clone()),
            (None, Some(region)) => (Way::IntoFrames, region.clone()),
            (None, None) => (Way::Staged, job.staging()?),
        };
        let source = match way {
            Way::OutOfFrames => None,
            Way::IntoFrames | Way::Staged => Some(Lane::open(&*src.device, &src.name)?),
        };
        let depth = usize::from(job.depth);
        Ok(Transfer {
            job,
            way,
            source,
            sink: Lane::open(&*dst.device, &dst.name)?,
            frames,
            media: if way == Way::IntoFrames { dst.device.dax() } else { None },
            slots: vec![None; depth],
            free: (0..depth).rev().collect(),
            result: Transferred { tally: Tally::default(), holes: 0, done: 0, stopped: None },
        })
    }

    fn run(&mut self, sleeper: &mut Sleeper<'_>, bar: &ProgressBar) -> Result<(), CopyError> {
        let Job { src, dst, bytes, block, .. } = *self.job;
        // A destination that cannot be zeroed is given the zeroes of a hole as data.
        let holes = dst.fresh || dst.device.limits().write_zeroes;
        let mut plan = Plan::new(&*src.device, bytes, self.job.unit(), holes);
        let mut completions = Vec::new();
        let mut more = true;
        loop {
            self.result.stopped = sleeper.stop();
            while more && self.result.stopped.is_none() && !self.free.is_empty() {
                let next = plan.next(block).map_err(|status| self.job.failed(true, plan.position(), status))?;
                match next {
                    Some(piece) => self.begin(piece)?,
                    None => more = false,
                }
            }
            if let Some(source) = &mut self.source {
                source.poll(&mut completions)?;
            }
            let from_source = completions.len();
            // Writes that a completed read gives rise to are submitted before the sink is polled.
            let quiet = from_source == 0;
            for completion in completions.drain(..) {
                self.has_read(completion)?;
            }
            self.sink.poll(&mut completions)?;
            let quiet = quiet && completions.is_empty();
            for completion in completions.drain(..) {
                self.has_written(completion)?;
            }
            bar.set_position(self.result.done);
            let idle = self.free.len() == self.slots.len();
            if idle && (!more || self.result.stopped.is_some()) {
                return Ok(());
            }
            if quiet && !idle {
                sleeper.wait()?;
            }
        }
    }

    fn begin(&mut self, piece: Piece) -> Result<(), CopyError> {
        if piece.hole {
            self.result.holes += piece.len;
            if self.job.dst.fresh {
                self.result.done += piece.len;
                return Ok(());
            }
        }
        let Some(slot) = self.free.pop() else { return Ok(()) };
        self.slots[slot] = Some(Slot { piece, route: Route::None });
        let (sector, tag) = (sector(piece.offset), slot as u64);
        if piece.hole {
            return self.sink.submit(Bio::write_zeroes(sector, piece.len, tag));
        }
        let frames = self.frames_of(slot, piece)?;
        match &mut self.source {
            Some(source) => source.submit(Bio::read(sector, frames, tag)),
            None => self.sink.submit(Bio::write(sector, frames, tag)),
        }
    }

    /// The frames a piece is read into, or written from.
    fn frames_of(&self, slot: usize, piece: Piece) -> Result<PhysRange, CopyError> {
        let at = match self.way {
            Way::IntoFrames | Way::OutOfFrames => piece.offset,
            Way::Staged => slot as u64 * self.job.block,
        };
        // Sizes were compared before anything was begun, so the memory has these bytes unless it shrank meanwhile.
        self.frames.range(at, piece.len).ok_or_else(|| self.job.failed(false, piece.offset, Status::OutOfRange))
    }

    fn has_read(&mut self, completion: Completion) -> Result<(), CopyError> {
        let Some((slot, held)) = self.held(completion.tag) else { return Ok(()) };
        let Piece { offset, len, .. } = held.piece;
        if !completion.status.is_ok() {
            return Err(self.job.failed(true, offset + completion.done, completion.status));
        }
        let Job { src, dst, .. } = self.job;
        let memory = if self.way == Way::IntoFrames { buffer(dst) } else { IN_BETWEEN };
        self.result.tally.explain(Leg::Read, completion.route, &src.name, memory);
        if self.way == Way::Staged {
            self.slots[slot] = Some(Slot { route: completion.route, ..held });
            let frames = self.frames_of(slot, held.piece)?;
            return self.sink.submit(Bio::write(sector(offset), frames, completion.tag));
        }
        if let Some(media) = &mut self.media {
            media.stored(offset, len).map_err(|status| self.job.failed(false, offset, status))?;
        }
        self.finish(slot, held.piece, completion.route);
        Ok(())
    }

    fn has_written(&mut self, completion: Completion) -> Result<(), CopyError> {
        let Some((slot, held)) = self.held(completion.tag) else { return Ok(()) };
        if !completion.status.is_ok() {
            return Err(self.job.failed(false, held.piece.offset + completion.done, completion.status));
        }
        let route = if held.piece.hole { Route::None } else { held.route.worst(completion.route) };
        if !held.piece.hole {
            let memory = if self.way == Way::OutOfFrames { buffer(self.job.src) } else { IN_BETWEEN };
            self.result.tally.explain(Leg::Write, completion.route, &self.job.dst.name, memory);
        }
        self.finish(slot, held.piece, route);
        Ok(())
    }

    fn held(&self, tag: u64) -> Option<(usize, Slot)> {
        let slot = usize::try_from(tag).ok()?;
        let held = (*self.slots.get(slot)?)?;
        Some((slot, held))
    }

    fn finish(&mut self, slot: usize, piece: Piece, route: Route) {
        self.result.tally.count(route, piece.len);
        self.result.done += piece.len;
        self.slots[slot] = None;
        self.free.push(slot);
    }
}

/// Pages of our own, between two devices.
const IN_BETWEEN: Buffer<'_> = Buffer { name: "the memory in between", region: None };

fn buffer(side: &Opened) -> Buffer<'_> {
    Buffer { name: &side.name, region: side.region.as_ref() }
}

/// Pieces start and end at whole frames, or with a device that has whole sectors.
fn sector(offset: u64) -> Sector {
    Sector(offset / Sector::SIZE)
}
