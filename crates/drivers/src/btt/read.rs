// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Reads`]: blocks that are read together.
//!
//! Up to [`AT_ONCE`] blocks, of whichever requests, are looked up in the map, published, looked up again and copied. So
//! their loads of the map overlap, they share a fence, and while one is copied the next one's lines are fetched.

use pageless_block::{Bio, Status};
use pageless_mem::{ABREAST, Access, CopyError, Extent, Fault, Kmap, copy, copy_abreast, copy_ahead};

use super::arena::Arena;
use super::check::{Finding, Problem};
use super::device::Shared;
use super::io::{Io, Maps, Section};
use super::map::{MapEntry, MapState};
use super::queue::Job;
use super::read_table::{AT_ONCE, Block, Place};
use super::trouble::Trouble;

/// Blocks to be read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    blocks: Vec<Wanted>,
}

/// A block to be read.
#[derive(Copy, Clone, Debug)]
struct Wanted {
    /// Whose.
    job: usize,
    /// Which of its blocks.
    index: u64,
    /// The block of the disk.
    external: u64,
    /// Whether its map entry lies in a hole, which must not be touched.
    hole: bool,
    entry: MapEntry,
    /// The map could not be read, or the entry does not say where the block is.
    failed: Option<Status>,
}

/// A request's bytes, and its bookkeeping.
type Batch<'b> = (&'b [Bio], &'b mut [Job]);

impl Reads {
    /// Reads a request, or the most of it: [`Reads::run`] does the rest.
    pub(super) fn add(
        &mut self,
        shared: &Shared,
        io: &mut Io,
        place: &mut Place,
        batch: Batch<'_>,
        (job, bio): (usize, &Bio),
    ) {
        let block = u64::from(shared.lba_size.block());
        let first = bio.sector.bytes() / block;
        for index in 0..bio.len / block {
            if self.blocks.len() == AT_ONCE {
                self.run(shared, io, place, (batch.0, &mut *batch.1));
            }
            if batch.1[job].failed() {
                return;
            }
            let external = first + index;
            self.blocks.push(Wanted { job, index, external, hole: false, entry: MapEntry::from_raw(0), failed: None });
        }
    }

    /// Reads what waits.
    pub(super) fn run(&mut self, shared: &Shared, io: &mut Io, place: &mut Place, (bios, jobs): Batch<'_>) {
        if self.blocks.is_empty() {
            return;
        }
        for wanted in &mut self.blocks {
            let (arena, lba) = shared.locate(wanted.external);
            // Asked before going online, since it may ask the kernel.
            wanted.hole = matches!(io.extents.next(arena.map_offset(lba), 4), Extent::Hole(_));
        }
        {
            let section = io.section(shared);
            let mut maps = section.maps(Access::Read);
            for wanted in self.blocks.iter().filter(|wanted| !wanted.hole) {
                let (arena, lba) = shared.locate(wanted.external);
                maps.prefetch(arena, lba);
            }
            let blocks = &mut self.blocks;
            let _published = place.publish(blocks.len(), |at| blocks[at].look_up(shared, &mut maps));
            // One line of each, so that their addresses are translated side by side, as by `MemoryQueue`.
            for source in self.blocks.iter().filter_map(|wanted| wanted.source(shared, &section)) {
                source.prefetch_at(0);
            }
            let mut rest = self.blocks.as_slice();
            while let [wanted, after @ ..] = rest {
                if let Some(four) = rest.first_chunk()
                    && read_abreast(shared, &section, four, bios, jobs)
                {
                    rest = &rest[ABREAST..];
                    continue;
                }
                rest = after;
                let job = &mut jobs[wanted.job];
                if job.failed() {
                    continue;
                }
                let ahead = after.first().and_then(|next| next.source(shared, &section));
                if let Err(status) = wanted.read(shared, &section, (&bios[wanted.job], job), ahead) {
                    job.fail(wanted.index, status);
                }
            }
        }
        if let Err(fault) = io.reader.confirm() {
            for wanted in &self.blocks {
                if io.lost(shared, &bios[wanted.job], fault) {
                    jobs[wanted.job].fail(0, fault.into());
                }
            }
        }
        self.blocks.clear();
    }
}

impl Wanted {
    /// Looks it up, and says which block must not be written while it is read.
    #[inline]
    fn look_up(&mut self, shared: &Shared, maps: &mut Maps<'_>) -> Block {
        if self.hole {
            return Block::NONE;
        }
        let (arena, lba) = shared.locate(self.external);
        match maps.of(arena, lba).and_then(|map| map.entry(lba)) {
            Ok(entry) => self.entry = entry,
            Err(fault) => {
                shared.ails();
                self.failed = Some(fault.into());
                return Block::NONE;
            }
        }
        let block = self.entry.block(lba);
        match self.entry.state() {
            MapState::Normal if block < arena.geometry.internal_nlba() => return arena.block(block),
            MapState::Normal => self.failed = Some(out_of_bounds(shared, arena, lba, self.entry)),
            MapState::Error => self.failed = Some(Status::Media),
            MapState::Initial | MapState::Zero => {}
        }
        Block::NONE
    }

    /// What is going to be read.
    #[inline]
    fn source<'s>(&self, shared: &Shared, section: &'s Section<'_>) -> Option<Kmap<'s>> {
        if self.failed.is_some() || self.entry.state() != MapState::Normal {
            return None;
        }
        let (arena, lba) = shared.locate(self.external);
        section.block(arena, self.entry.block(lba), Access::Read).ok()
    }

    /// Moves its bytes, and has those of the next one fetched meanwhile.
    #[inline]
    fn read(
        &self,
        shared: &Shared,
        section: &Section<'_>,
        (bio, job): (&Bio, &mut Job),
        mut ahead: Option<Kmap<'_>>,
    ) -> Result<(), Status> {
        if let Some(status) = self.failed {
            return Err(status);
        }
        let mut left = u64::from(shared.lba_size.block());
        if self.entry.state() != MapState::Normal {
            while let Some(range) = job.frames.take(&bio.data, left) {
                let window = section.frames(range, Access::Write)?;
                window.writer().zero(range.len() as usize).map_err(|error| error.fault)?;
                left -= u64::from(range.len());
            }
            return Ok(());
        }
        let (arena, lba) = shared.locate(self.external);
        let window = section.block(arena, self.entry.block(lba), Access::Read)?;
        let mut from = window.reader();
        while let Some(range) = job.frames.take(&bio.data, left) {
            let window = section.frames(range, Access::Write)?;
            let copied = match ahead.take() {
                Some(next) => copy_ahead(&mut from, &mut window.writer(), &next),
                None => copy(&mut from, &mut window.writer()),
            };
            copied.map_err(|error| ended(shared, error))?;
            left -= u64::from(range.len());
        }
        Ok(())
    }
}

/// Reads blocks side by side, each of which goes to one range. False, with nothing done, where one does not, or is not to be read.
fn read_abreast(
    shared: &Shared,
    section: &Section<'_>,
    blocks: &[Wanted; ABREAST],
    bios: &[Bio],
    jobs: &mut [Job],
) -> bool {
    let block = shared.lba_size.block();
    let before = blocks.each_ref().map(|wanted| jobs[wanted.job].frames);
    let mut open = |wanted: &Wanted| {
        let (bio, job) = (&bios[wanted.job], &mut jobs[wanted.job]);
        let source = if job.failed() { None } else { wanted.source(shared, section) }?;
        let range = job.frames.take(&bio.data, block.into()).filter(|range| range.len() == block)?;
        Some((source, section.frames(range, Access::Write).ok()?))
    };
    let mut open_all = || {
        let [a, b, c, d] = blocks;
        Some([open(a)?, open(b)?, open(c)?, open(d)?])
    };
    let Some(windows) = open_all() else {
        // Backwards, since several may be of one request.
        for (wanted, frames) in blocks.iter().zip(before).rev() {
            jobs[wanted.job].frames = frames;
        }
        return false;
    };
    let mut from = windows.each_ref().map(|(source, _)| source.reader());
    let mut to = windows.each_ref().map(|(_, target)| target.writer());
    for (wanted, copied) in blocks.iter().zip(copy_abreast(&mut from, &mut to)) {
        if let Err(error) = copied {
            jobs[wanted.job].fail(wanted.index, ended(shared, error).into());
        }
    }
    true
}

/// Why a copy from the medium stopped, which is remembered of it.
#[cold]
fn ended(shared: &Shared, error: CopyError) -> Fault {
    if error.fault == Fault::Media {
        shared.ails();
    }
    error.fault
}

/// A map entry names a block that there is not.
#[cold]
pub(super) fn out_of_bounds(shared: &Shared, arena: &Arena, lba: u32, entry: MapEntry) -> Status {
    let problem = Problem::MapBlock { lba, block: entry.block(lba), bound: arena.geometry.internal_nlba() };
    let offset = arena.map_offset(lba);
    shared.troubles.tell(Trouble::Unusable(Finding { arena: arena.number, offset, problem }));
    Status::Media
}
