// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MemoryQueue`]: executes requests to a region, a batch at a time.

use super::Stopped;
use pageless_block::{
    Bio, Completion, Error, Extent, Flags, ListCursor, Op, Queue, Reach, Refused, RefusedWhy, Route, Status, Why,
};
use pageless_mem::persist::{self, Flusher};
use pageless_mem::{
    Access, CopyError, Extents, Fault, Kmap, MemKind, MemReader, MemWriter, Online, PhysRange, Reader, Region, copy,
    copy_ahead,
};
use std::os::fd::BorrowedFd;

/// Requests that wait for one poll, at most.
const DEPTH: usize = 256;

/// Bytes moved in one online section, at most: a revocation waits for its end.
const SECTION: u64 = 1 << 20;

/// Which way bytes go, whatever frames they go to: opening a window checks those.
const ROUTE: Route = Reach::of_memory(Why::MemoryDisk).best();

#[derive(Debug)]
pub(super) struct MemoryQueue {
    pending: Vec<Bio>,
    reader: Reader,
    medium: Medium,
}

impl MemoryQueue {
    pub(super) fn new(reader: Reader, region: Region) -> MemoryQueue {
        let (extents, flusher) = (region.extents(), region.flusher());
        MemoryQueue { pending: Vec::new(), reader, medium: Medium { region, extents, flusher } }
    }

    /// Asks for the first line of whatever is read, so that the CPU translates the addresses of many pages side by side. Asked for
    /// between two copies, each would be waited for; and more lines at once than it has buffers for would be as well.
    #[inline]
    fn find_sources(&mut self) {
        let Medium { region, .. } = &self.medium;
        // A window on memory of a device may have to wait for it.
        if self.pending.len() < 2 || matches!(region.kind(), MemKind::DmaBuf | MemKind::Bar) {
            return;
        }
        let online = self.reader.online();
        for bio in self.pending.iter().filter(|bio| bio.op == Op::Read) {
            if let Some(first) = region.range(bio.sector.bytes(), 1)
                && let Ok(window) = online.kmap(first, Access::Read)
            {
                window.prefetch_at(0);
            }
        }
    }
}

impl Queue for MemoryQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.pending.len() == DEPTH {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        bio.pass(|bio| self.pending.push(bio));
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let count = self.pending.len();
        self.find_sources();
        for (index, bio) in self.pending.iter().enumerate() {
            let next = self.pending.get(index + 1);
            out.push(self.medium.execute(&mut self.reader, bio, next));
        }
        if count > 0 {
            persist::fence();
            self.pending.clear();
        }
        Ok(count)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

/// The memory that is the disk, as one queue sees it.
#[derive(Debug)]
struct Medium {
    region: Region,
    extents: Extents,
    flusher: Flusher,
}

impl Medium {
    /// Executes `bio`, and has the first lines of `next` fetched meanwhile.
    #[inline]
    fn execute(&mut self, reader: &mut Reader, bio: &Bio, next: Option<&Bio>) -> Completion {
        let (result, route) = match bio.op {
            Op::Read | Op::Write => {
                let moved = self.transfer(reader, bio, next).and_then(|()| self.confirm(reader, bio));
                (moved, ROUTE)
            }
            Op::Flush => (self.flusher.flush().map_err(nothing_done), Route::None),
            Op::Discard => (self.region.punch(bio.sector.bytes(), bio.len).map_err(nothing_done), Route::None),
            Op::WriteZeroes => match self.write_zeroes(bio) {
                Some(result) => (result.map_err(nothing_done), Route::None),
                None => {
                    return Completion { tag: bio.tag, status: Status::Unsupported, done: 0, route: Route::None };
                }
            },
        };
        let result = match result {
            Ok(()) if bio.wants_fua() => self.flusher.persist(bio.sector.bytes(), bio.len).map_err(nothing_done),
            result => result,
        };
        let (status, done) = match result {
            Ok(()) => (Status::Ok, bio.len),
            Err(stopped) => (Status::from(stopped.fault), stopped.done),
        };
        Completion { tag: bio.tag, status, done, route }
    }

    /// A copy from or to memory of a device that went away "works": whether it was one.
    #[inline]
    fn confirm(&self, reader: &mut Reader, bio: &Bio) -> Result<(), Stopped> {
        match reader.confirm() {
            Ok(()) => Ok(()),
            Err(fault) => self.blame(reader, bio, fault),
        }
    }

    /// What was looked at ahead for the next bio is not this one's fault.
    #[cold]
    fn blame(&self, reader: &mut Reader, bio: &Bio, fault: Fault) -> Result<(), Stopped> {
        let online = reader.online();
        let gone = |range| online.kmap(range, Access::Read).is_err();
        let media = self.region.range(bio.sector.bytes(), bio.len);
        let ours = fault != Fault::Gone || media.into_iter().chain(&bio.data).any(gone);
        if ours { Err(nothing_done(fault)) } else { Ok(()) }
    }

    /// `None`: only by storing zero after zero, which the submitter does not want.
    fn write_zeroes(&self, bio: &Bio) -> Option<Result<(), Fault>> {
        let (offset, len) = (bio.sector.bytes(), bio.len);
        let deallocate = self.region.punchable() && !bio.flags.contains(Flags::NO_UNMAP);
        match deallocate {
            true => Some(self.region.punch(offset, len)),
            false if bio.flags.contains(Flags::FAST_ONLY) => None,
            false => Some(self.region.zero(offset, len)),
        }
    }

    #[inline]
    fn transfer(&mut self, reader: &mut Reader, bio: &Bio, mut next: Option<&Bio>) -> Result<(), Stopped> {
        let mut frames = ListCursor::default();
        let mut done = 0;
        while done < bio.len {
            let offset = bio.sector.bytes() + done;
            let len = (bio.len - done).min(SECTION);
            // Asked before going online, since it may ask the kernel. Writes do not care what is there.
            let extent = if bio.op == Op::Read { self.extents.next(offset, len) } else { Extent::Data(len) };
            let section = Section { online: reader.online(), bio, done };
            let ahead = next.take().and_then(|next| section.source(&self.region, next));
            done = match extent {
                Extent::Hole(len) => section.zeroes(&mut frames, len)?,
                Extent::Data(len) => {
                    let media = self.region.range(offset, len).ok_or(Stopped { done, fault: Fault::Gone })?;
                    section.copy(&mut frames, media, ahead)?
                }
            };
        }
        Ok(())
    }
}

fn nothing_done(fault: Fault) -> Stopped {
    Stopped { done: 0, fault }
}

/// The part of a transfer that is done in one online section.
struct Section<'a> {
    online: Online<'a>,
    bio: &'a Bio,
    /// Bytes done in the sections before.
    done: u64,
}

impl Section<'_> {
    /// Moves the bytes of `media` from or to the frames, has what `ahead` shows fetched meanwhile, and says how much of the
    /// bio is then done.
    #[inline]
    fn copy(&self, frames: &mut ListCursor, media: PhysRange, mut ahead: Option<Kmap<'_>>) -> Result<u64, Stopped> {
        let mut run = |from: &mut MemReader<'_>, to: &mut MemWriter<'_>| match ahead.take() {
            Some(next) => copy_ahead(from, to, &next),
            None => copy(from, to),
        };
        let mut done = self.done;
        let end = done + u64::from(media.len());
        let stop = |done, fault| Stopped { done, fault };
        if self.bio.op == Op::Read {
            let window = self.online.kmap(media, Access::Read).map_err(|fault| stop(done, fault))?;
            let mut from = window.reader();
            while let Some(range) = frames.take(&self.bio.data, end - done) {
                let window = self.online.kmap(range, Access::Write).map_err(|fault| stop(done, fault))?;
                done += moved(run(&mut from, &mut window.writer()), done)?;
            }
        } else {
            let window = self.online.kmap(media, Access::Write).map_err(|fault| stop(done, fault))?;
            let mut to = window.writer().streaming();
            while let Some(range) = frames.take(&self.bio.data, end - done) {
                let window = self.online.kmap(range, Access::Read).map_err(|fault| stop(done, fault))?;
                done += moved(run(&mut window.reader(), &mut to), done)?;
            }
        }
        Ok(done)
    }

    /// Fills `len` bytes of the frames with zeroes, which is what a hole reads as, without touching the hole.
    fn zeroes(&self, frames: &mut ListCursor, len: u64) -> Result<u64, Stopped> {
        let mut done = self.done;
        let end = done + len;
        while let Some(range) = frames.take(&self.bio.data, end - done) {
            let window = self.online.kmap(range, Access::Write).map_err(|fault| Stopped { done, fault })?;
            let bytes = range.len() as usize;
            done += moved(window.writer().zero(bytes).map(|()| bytes), done)?;
        }
        Ok(done)
    }

    /// What `next` will read. What cannot be looked at is found out when its turn comes.
    #[inline]
    fn source(&self, region: &Region, next: &Bio) -> Option<Kmap<'_>> {
        let range = match next.op {
            Op::Read => region.range(next.sector.bytes(), next.len),
            Op::Write => next.data.as_slice().first().copied(),
            _ => None,
        };
        self.online.kmap(range?, Access::Read).ok()
    }
}

/// The bytes of one copy; `before` were done until then.
#[inline]
fn moved(result: Result<usize, CopyError>, before: u64) -> Result<u64, Stopped> {
    match result {
        Ok(bytes) => Ok(bytes as u64),
        Err(error) => Err(Stopped { done: before + error.moved as u64, fault: error.fault }),
    }
}
