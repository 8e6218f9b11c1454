// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MemoryQueue`]: executes requests to a region, a batch at a time.

use super::Stopped;
use pageless_block::{
    Bio, Completion, Error, Extent, Flags, ListCursor, Op, Queue, Reach, Refused, RefusedWhy, Route, Status, Why,
};
use pageless_mem::persist::{self, Flusher};
use pageless_mem::{
    ABREAST, Access, CopyError, Extents, Fault, Kmap, MemReader, MemWriter, Online, PhysRange, Reader, Region, copy,
    copy_abreast, copy_ahead,
};
use std::os::fd::BorrowedFd;

/// Requests that wait for one poll, at most.
const DEPTH: usize = 256;

/// Bytes moved in one online section, at most: a revocation waits for its end.
const SECTION: u64 = 1 << 20;

/// Copies in one online section, at most.
const TOGETHER: usize = 32;

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
        let mut rest = self.pending.as_slice();
        while let [bio, after @ ..] = rest {
            let (medium, reader) = (&mut self.medium, &mut self.reader);
            let copied = match after {
                [] => medium.copy_together::<1>(reader, rest, out),
                _ => medium.copy_together::<TOGETHER>(reader, rest, out),
            };
            rest = &rest[copied..];
            if copied == 0 {
                out.push(medium.execute(reader, bio, after.first()));
                rest = after;
            }
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
    /// Executes the first bios in one section, as far as they are copies of which nothing is to be asked of the kernel; says how
    /// many those were.
    ///
    /// What all of them copy from is looked up first, and its first lines asked for, so that the CPU translates the addresses of
    /// many pages side by side. Asked for between two copies, each would be waited for; and more lines at once than it has buffers
    /// for would be as well.
    #[inline]
    fn copy_together<const MOST: usize>(
        &mut self,
        reader: &mut Reader,
        bios: &[Bio],
        out: &mut Vec<Completion>,
    ) -> usize {
        let online = reader.online();
        let mut sources = [const { None }; MOST];
        let mut room = SECTION;
        let mut count = 0;
        for (bio, source) in bios.iter().zip(&mut sources) {
            room = room.saturating_sub(bio.len);
            if room == 0 || !self.is_copy(bio) {
                break;
            }
            *source = self.source(&online, bio);
            let Some(window) = source else { break };
            window.prefetch_at(0);
            count += 1;
        }
        let mut done = 0;
        while done < count {
            if let Some(ends) = read_abreast(&online, &bios[done..count], &sources[done..count]) {
                out.extend(bios[done..].iter().zip(ends).map(|(bio, end)| completion(bio, end, ROUTE)));
                done += ABREAST;
                continue;
            }
            let bio = &bios[done];
            let section = Section { online: &online, done: 0 };
            let ahead = sources.get(done + 1).and_then(Option::as_ref);
            let moved = match &sources[done] {
                Some(from) if bio.op == Op::Read => section.read(from, bio.data.iter(), ahead),
                first => match self.region.range(bio.sector.bytes(), bio.len) {
                    Some(media) => section.write(media, first.as_ref(), bio.data.iter(), ahead),
                    None => Err(nothing_done(Fault::Gone)),
                },
            };
            out.push(completion(bio, moved.map(drop), ROUTE));
            done += 1;
            // So what is confirmed below is the last bio's.
            if online.touched_device() {
                break;
            }
        }
        drop(online);
        if let Err(stopped) = confirm(reader)
            && let Some(last) = out.last_mut().filter(|last| last.status.is_ok())
        {
            *last = completion(&bios[done - 1], Err(stopped), ROUTE);
        }
        done
    }

    /// Whether a bio is nothing but a copy, and of known data.
    #[inline]
    fn is_copy(&mut self, bio: &Bio) -> bool {
        match bio.op {
            Op::Read => self.extents.known_data(bio.sector.bytes(), bio.len),
            Op::Write => !bio.wants_fua(),
            _ => false,
        }
    }

    /// What `bio` copies from, or the first of it. What cannot be looked at is found out when its turn comes, and memory of a
    /// device, which might be waited for, is not.
    #[inline(always)]
    fn source<'o>(&self, online: &'o Online<'_>, bio: &Bio) -> Option<Kmap<'o>> {
        let range = match bio.op {
            Op::Read => self.region.range(bio.sector.bytes(), bio.len)?,
            Op::Write => *bio.data.as_slice().first()?,
            _ => return None,
        };
        online.peek(range, Access::Read)
    }

    /// Executes `bio`, and has the first lines of `next` fetched meanwhile.
    #[inline]
    fn execute(&mut self, reader: &mut Reader, bio: &Bio, next: Option<&Bio>) -> Completion {
        let (result, route) = match bio.op {
            Op::Read | Op::Write => {
                let moved = self.transfer(reader, bio, next);
                (moved.and(confirm(reader)), ROUTE)
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
        completion(bio, result, route)
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
            let online = reader.online();
            let section = Section { online: &online, done };
            let ahead = next.take().and_then(|next| self.source(&online, next));
            let ranges = frames.up_to(&bio.data, extent.len());
            done = match extent {
                Extent::Hole(_) => section.zeroes(ranges)?,
                Extent::Data(len) => {
                    let media = self.region.range(offset, len).ok_or(Stopped { done, fault: Fault::Gone })?;
                    if bio.op == Op::Read {
                        section.read(&section.open(media, Access::Read, done)?, ranges, ahead.as_ref())?
                    } else {
                        section.write(media, None, ranges, ahead.as_ref())?
                    }
                }
            };
        }
        Ok(())
    }
}

/// A copy from or to memory of a device that went away "works": whether it was one.
#[inline]
fn confirm(reader: &mut Reader) -> Result<(), Stopped> {
    reader.confirm().map_err(nothing_done)
}

#[inline]
fn completion(bio: &Bio, result: Result<(), Stopped>, route: Route) -> Completion {
    let (status, done) = match result {
        Ok(()) => (Status::Ok, bio.len),
        Err(stopped) => (Status::from(stopped.fault), stopped.done),
    };
    Completion { tag: bio.tag, status, done, route }
}

fn nothing_done(fault: Fault) -> Stopped {
    Stopped { done: 0, fault }
}

/// The part of a transfer that is done in one online section.
struct Section<'a> {
    online: &'a Online<'a>,
    /// Bytes of the bio done in the sections before.
    done: u64,
}

impl Section<'_> {
    /// Moves the bytes of `from` to the frames, has what `ahead` shows fetched meanwhile, and says how much of the bio is then done.
    #[inline(always)]
    fn read(
        &self,
        from: &Kmap<'_>,
        frames: impl Iterator<Item = PhysRange>,
        mut ahead: Option<&Kmap<'_>>,
    ) -> Result<u64, Stopped> {
        let mut done = self.done;
        let mut from = from.reader();
        for range in frames {
            let window = self.open(range, Access::Write, done)?;
            done += moved(move_on(&mut from, &mut window.writer(), ahead.take()), done)?;
        }
        Ok(done)
    }

    /// Moves the bytes of the frames to `media`. Of them `first` is a window that is already open.
    #[inline]
    fn write(
        &self,
        media: PhysRange,
        mut first: Option<&Kmap<'_>>,
        frames: impl Iterator<Item = PhysRange>,
        mut ahead: Option<&Kmap<'_>>,
    ) -> Result<u64, Stopped> {
        let mut done = self.done;
        let to = self.open(media, Access::Write, done)?;
        let mut to = to.writer().streaming();
        for range in frames {
            let opened;
            let from = match first.take() {
                Some(window) => window,
                None => {
                    opened = self.open(range, Access::Read, done)?;
                    &opened
                }
            };
            done += moved(move_on(&mut from.reader(), &mut to, ahead.take()), done)?;
        }
        Ok(done)
    }

    #[inline]
    fn open(&self, range: PhysRange, access: Access, done: u64) -> Result<Kmap<'_>, Stopped> {
        self.online.kmap(range, access).map_err(|fault| Stopped { done, fault })
    }

    /// Fills the frames with zeroes, which is what a hole reads as, without touching the hole.
    fn zeroes(&self, frames: impl Iterator<Item = PhysRange>) -> Result<u64, Stopped> {
        let mut done = self.done;
        for range in frames {
            let window = self.open(range, Access::Write, done)?;
            let bytes = range.len() as usize;
            done += moved(window.writer().zero(bytes).map(|()| bytes), done)?;
        }
        Ok(done)
    }
}

/// Reads side by side what the first bios read, where each fills one range. `None`, with nothing done, where they are no such bios.
#[inline]
fn read_abreast(
    online: &Online<'_>,
    bios: &[Bio],
    sources: &[Option<Kmap<'_>>],
) -> Option<[Result<(), Stopped>; ABREAST]> {
    let target = |bio: &Bio| match bio.op {
        Op::Read => online.peek(bio.data.single()?, Access::Write),
        _ => None,
    };
    let [a, b, c, d] = bios.first_chunk()?;
    let targets = [target(a)?, target(b)?, target(c)?, target(d)?];
    let [a, b, c, d] = sources.first_chunk()?;
    let mut from = [a.as_ref()?, b.as_ref()?, c.as_ref()?, d.as_ref()?].map(Kmap::reader);
    let mut to = targets.each_ref().map(Kmap::writer);
    Some(copy_abreast(&mut from, &mut to).map(|copied| moved(copied, 0).map(drop)))
}

/// Copies, and has what `ahead` shows fetched meanwhile.
#[inline]
fn move_on(from: &mut MemReader<'_>, to: &mut MemWriter<'_>, ahead: Option<&Kmap<'_>>) -> Result<usize, CopyError> {
    match ahead {
        Some(next) => copy_ahead(from, to, next),
        None => copy(from, to),
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
