// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading both sides again and comparing them. Memory is looked at where it is, devices are read into frames of our own,
//! and holes are zeroes that nobody has to touch.

use indicatif::ProgressBar;
use pageless::block::{Bio, Completion, Sector, Status};
use pageless::mem::{Access, PhysRange, Reader, Region};
use pageless::open::Opened;
use pageless::sys::signal::{SignalFd, Termination};

use super::lane::{Lane, Sleeper};
use super::plan::Plan;
use super::{CopyError, Job};

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every byte is the same.
    Same,
    /// The first byte that is not.
    Differs(u64),
    /// Stopped by a signal, this far.
    Stopped(Termination, u64),
}

/// Bytes compared in one go, in a section that must stay short.
const STEP: usize = 64 << 10;

/// One of the two sides.
struct Side<'j> {
    opened: &'j Opened,
    lane: Option<Lane>,
    plan: Plan,
    /// The memory itself, or our own frames for what is read of a device.
    frames: Region,
}

/// A piece whose reads are under way.
#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: u64,
    len: u64,
    holes: [bool; 2],
    reads: u8,
}

struct Verify<'j> {
    job: &'j Job<'j>,
    sides: [Side<'j>; 2],
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    reader: Reader,
    buffers: [Box<[u8]>; 2],
    differs: Option<u64>,
    done: u64,
}

/// Compares the two sides.
pub(super) fn verify(job: &Job<'_>, bar: &ProgressBar, signals: &SignalFd) -> Result<Verdict, CopyError> {
    let depth = usize::from(job.depth);
    let mut verify = Verify {
        job,
        sides: [Side::new(job, job.src)?, Side::new(job, job.dst)?],
        slots: vec![None; depth],
        free: (0..depth).rev().collect(),
        reader: job.memory.reader(),
        buffers: [vec![0; STEP].into(), vec![0; STEP].into()],
        differs: None,
        done: 0,
    };
    let lanes: Vec<&Lane> = verify.sides.iter().filter_map(|side| side.lane.as_ref()).collect();
    let mut sleeper = Sleeper::new(signals, &lanes)?;
    verify.run(&mut sleeper, bar)
}

impl<'j> Side<'j> {
    fn new(job: &Job<'_>, opened: &'j Opened) -> Result<Side<'j>, CopyError> {
        let plan = Plan::new(&*opened.device, job.bytes, job.unit(), true);
        let (lane, frames) = match &opened.region {
            Some(region) => (None, region.clone()),
            None => (Some(Lane::open(&*opened.device, &opened.name)?), job.staging()?),
        };
        Ok(Side { opened, lane, plan, frames })
    }

    /// Where the bytes of a piece are once they are read.
    fn view(&self, job: &Job<'_>, slot: usize, piece: &Slot, skip: u64, len: u64) -> Option<PhysRange> {
        let at = if self.lane.is_some() { slot as u64 * job.block } else { piece.offset };
        self.frames.range(at + skip, len)
    }
}

impl Verify<'_> {
    fn run(&mut self, sleeper: &mut Sleeper<'_>, bar: &ProgressBar) -> Result<Verdict, CopyError> {
        let mut completions = Vec::new();
        let mut more = true;
        loop {
            let stop = sleeper.stop();
            let go_on = |this: &Self| this.differs.is_none() && stop.is_none();
            while more && go_on(self) && !self.free.is_empty() {
                more = self.begin()?;
            }
            let mut quiet = true;
            for side in 0..self.sides.len() {
                if let Some(lane) = &mut self.sides[side].lane {
                    lane.poll(&mut completions)?;
                }
                quiet &= completions.is_empty();
                for completion in completions.drain(..) {
                    self.has_read(side, completion)?;
                }
            }
            bar.set_position(self.done);
            let idle = self.free.len() == self.slots.len();
            match (idle, self.differs, stop) {
                // Earlier pieces may still be on their way, so the first difference is known at the end only.
                (true, Some(offset), _) => return Ok(Verdict::Differs(offset)),
                (true, None, Some(signal)) => return Ok(Verdict::Stopped(signal, self.done)),
                (true, None, None) if !more => return Ok(Verdict::Same),
                _ => {}
            }
            if quiet && !idle {
                sleeper.wait()?;
            }
        }
    }

    /// Begins the next piece: as long as neither side changes between data and hole. False at the end.
    fn begin(&mut self) -> Result<bool, CopyError> {
        let mut runs = [None; 2];
        for (run, side) in runs.iter_mut().zip(&mut self.sides) {
            let (name, offset) = (&side.opened.name, side.plan.position());
            let unread = |status| CopyError::Failed { doing: "read", name: name.clone(), offset, status };
            *run = side.plan.run().map_err(unread)?;
        }
        let [Some(src), Some(dst)] = runs else { return Ok(false) };
        let offset = self.sides[0].plan.position();
        let mut len = src.until.min(dst.until) - offset;
        let nothing_there = src.hole && dst.hole;
        if !nothing_there {
            len = len.min(self.job.block);
        }
        for side in &mut self.sides {
            side.plan.advance(len);
        }
        if nothing_there {
            self.done += len;
            return Ok(true);
        }
        let Some(slot) = self.free.pop() else { return Ok(true) };
        let mut piece = Slot { offset, len, holes: [src.hole, dst.hole], reads: 0 };
        for (side, hole) in self.sides.iter_mut().zip(piece.holes) {
            if let (false, Some(lane)) = (hole, &mut side.lane) {
                let into = side.frames.range(slot as u64 * self.job.block, len);
                let into = into.ok_or_else(|| self.job.failed(true, offset, Status::OutOfRange))?;
                piece.reads += 1;
                lane.submit(Bio::read(Sector(offset / Sector::SIZE), into, slot as u64))?;
            }
        }
        self.slots[slot] = Some(piece);
        if piece.reads == 0 {
            self.compare(slot, piece)?;
        }
        Ok(true)
    }

    fn has_read(&mut self, side: usize, completion: Completion) -> Result<(), CopyError> {
        let Some(slot) = usize::try_from(completion.tag).ok().filter(|slot| *slot < self.slots.len()) else {
            return Ok(());
        };
        let Some(piece) = &mut self.slots[slot] else { return Ok(()) };
        if !completion.status.is_ok() {
            let name = self.sides[side].opened.name.clone();
            let offset = piece.offset + completion.done;
            return Err(CopyError::Failed { doing: "read", name, offset, status: completion.status });
        }
        piece.reads -= 1;
        let piece = *piece;
        if piece.reads == 0 { self.compare(slot, piece) } else { Ok(()) }
    }

    fn compare(&mut self, slot: usize, piece: Slot) -> Result<(), CopyError> {
        let mut skip = 0;
        while skip < piece.len {
            let len = (piece.len - skip).min(STEP as u64);
            for side in 0..self.sides.len() {
                self.load(side, slot, &piece, skip, len)?;
            }
            let [src, dst] = &self.buffers;
            let len = usize::try_from(len).unwrap_or(STEP);
            if src[..len] != dst[..len] {
                let at = src.iter().zip(dst).position(|(src, dst)| src != dst).unwrap_or(0);
                let offset = piece.offset + skip + at as u64;
                self.differs = Some(self.differs.map_or(offset, |first| first.min(offset)));
                break;
            }
            skip += len as u64;
        }
        self.done += piece.len;
        self.slots[slot] = None;
        self.free.push(slot);
        Ok(())
    }

    /// Brings bytes of one side into private memory.
    fn load(&mut self, side: usize, slot: usize, piece: &Slot, skip: u64, len: u64) -> Result<(), CopyError> {
        let buffer = &mut self.buffers[side][..usize::try_from(len).unwrap_or(STEP)];
        if piece.holes[side] {
            buffer.fill(0);
            return Ok(());
        }
        let from = &self.sides[side];
        let unread = |offset, status| {
            let name = from.opened.name.clone();
            CopyError::Failed { doing: "read", name, offset, status }
        };
        let at = piece.offset + skip;
        let range = from.view(self.job, slot, piece, skip, len).ok_or_else(|| unread(at, Status::OutOfRange))?;
        let online = self.reader.online();
        let kmap = online.kmap(range, Access::Read).map_err(|fault| unread(at, fault.into()))?;
        kmap.reader().read(buffer).map_err(|error| unread(at + error.moved as u64, error.fault.into()))
    }
}
