// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Segment`]: one region of a mapped file, and doing things to many of them at once.

use pageless_mem::{Backing, Error, FRAME_SIZE, FilePart, Memory, Pfn, PhysRange, Region};
use pageless_sys::file::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes mapped beyond a part, at least, so that a file that grows by small steps needs few parts.
const MIN_RESERVE: u64 = 1 << 20;

/// A part of the file. Parts are in order, and the next starts where this ends.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The first byte of the file that this part answers for.
    start: u64,
    /// The byte of the file that the region starts with: `start` or, where that lies within a frame, the frame's first.
    base: u64,
    region: Region,
}

/// Which bytes to map.
#[derive(Copy, Clone, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Bytes to map beyond `end`, if addresses can be had.
    pub(super) reserve: u64,
    pub(super) read_only: bool,
}

impl Segment {
    /// Maps and registers some of the file, which need not be there yet. Nobody can name its frames before they are told.
    pub(super) fn map(memory: &Memory, file: &File, path: &Path, span: Span) -> Result<Segment, Error> {
        let base = span.start / FRAME_SIZE * FRAME_SIZE;
        let len = span.end - base;
        let reserve = len.saturating_add(span.reserve.max(MIN_RESERVE));
        let part = |reserve| FilePart { offset: base, len, reserve, read_only: span.read_only };
        // Room to grow into is a courtesy.
        let backing = match span.reserve {
            0 => Backing::part(file, path, part(len)),
            _ => Backing::part(file, path, part(reserve)).or_else(|_| Backing::part(file, path, part(len))),
        };
        Ok(Segment { start: span.start, base, region: memory.register(backing?)? })
    }

    /// Where it starts in the file.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Where it ends in the file.
    pub(super) fn end(&self) -> u64 {
        self.base + self.region.len()
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// What tells it from every part that any file ever had.
    pub(super) fn id(&self) -> Pfn {
        self.region.frames().start()
    }

    pub(super) fn holds(&self, at: u64) -> bool {
        self.start <= at && at < self.end()
    }

    /// Where a byte of the file is in the region.
    pub(super) fn offset(&self, at: u64) -> u64 {
        at - self.base
    }

    /// The frames of the file's bytes from `at` on, `len` of them or fewer; `None` past the end.
    pub(super) fn frames(&self, at: u64, len: u64) -> Option<PhysRange> {
        self.region.range(self.offset(at), len.min(self.end().checked_sub(at)?))
    }

    /// Whether [`extend`](Self::extend) can reach so far.
    pub(super) fn can_extend(&self, end: u64) -> bool {
        end - self.base <= self.region.reserved()
    }

    /// Lets the part answer for the file up to `end`, with frames that were mapped with it.
    pub(super) fn extend(&self, end: u64) -> bool {
        self.region.extend(end - self.base)
    }

    /// The part of `start..end` that lies here, as the region counts.
    fn within(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (start, end) = (start.max(self.start), end.min(self.end()));
        (start < end).then(|| (self.offset(start), end - start))
    }

    /// An error of the region, told in bytes of the file.
    fn in_file(&self, error: Error, path: &Path) -> Error {
        let Error::Busy(mut busy) = error else { return error };
        busy.what = path.display().to_string();
        for holder in &mut busy.holders {
            if let Some((start, end, _)) = &mut holder.in_flight {
                *start += self.base;
                *end += self.base;
            }
        }
        Error::Busy(busy)
    }
}

/// A deadline and how it came about.
#[derive(Copy, Clone, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(patience: Duration) -> Deadline {
        let now = Instant::now();
        // As good as never.
        Deadline(now.checked_add(patience).unwrap_or(now + Duration::from_secs(1 << 30)))
    }

    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What is done when nobody has the bytes any more.
pub(super) type Change<'c> = &'c mut dyn FnMut() -> Result<(), Error>;

/// A file's parts, on which something is done together or not at all.
#[derive(Copy, Clone, Debug)]
pub(super) struct Segments<'s> {
    pub(super) all: &'s [Segment],
    pub(super) path: &'s Path,
}

impl Segments<'_> {
    /// Cuts off what lies from `at` on, in every part, and does `change`; where that fails, or somebody has some of it until
    /// the deadline, nothing is cut.
    pub(super) fn cut(self, at: u64, deadline: Deadline, change: Change<'_>) -> Result<(), Error> {
        // First to let everything drain: what fails here was never seen as gone.
        self.drain(at, u64::MAX, deadline)?;
        self.cut_drained(at, deadline, change)
    }

    fn cut_drained(self, at: u64, deadline: Deadline, change: Change<'_>) -> Result<(), Error> {
        let Some((last, rest)) = self.all.split_last().filter(|(last, _)| last.end() > at) else { return change() };
        // All of it where all that it answers for goes, and also the start of its first frame, which another part names.
        let within = if at <= last.start { 0 } else { last.offset(at) };
        let mut others = None;
        let result = last.region.cut(within, deadline.left(), || {
            let result = Segments { all: rest, ..self }.cut_drained(at, deadline, change);
            others = Some(());
            result
        });
        result.map_err(|error| if others.is_some() { error } else { last.in_file(error, self.path) })
    }

    /// Does `change` at a moment when nothing in `start..end` is in flight.
    pub(super) fn while_idle(self, start: u64, end: u64, deadline: Deadline, change: Change<'_>) -> Result<(), Error> {
        loop {
            // One part after the other, since who waits for one keeps others out of it; then all at once.
            self.drain(start, end, deadline)?;
            let mut reached = false;
            let attempt = self.all_idle(start, end, &mut || {
                reached = true;
                change()
            });
            match attempt {
                Err(Error::Busy(_)) if !reached && !deadline.left().is_zero() => {}
                result => return result,
            }
        }
    }

    fn all_idle(self, start: u64, end: u64, change: Change<'_>) -> Result<(), Error> {
        let Some((first, rest)) = self.all.split_first() else { return change() };
        let rest = Segments { all: rest, ..self };
        let Some((offset, len)) = first.within(start, end) else { return rest.all_idle(start, end, change) };
        let mut others = None;
        let result = first.region.while_idle(offset, len, Duration::ZERO, || {
            let result = rest.all_idle(start, end, change);
            others = Some(());
            result
        });
        result.map_err(|error| if others.is_some() { error } else { first.in_file(error, self.path) })
    }

    /// Waits until nothing in `start..end` was in flight, in each part at one moment or another.
    fn drain(self, start: u64, end: u64, deadline: Deadline) -> Result<(), Error> {
        for segment in self.all {
            if let Some((offset, len)) = segment.within(start, end) {
                let idle = segment.region.while_idle(offset, len, deadline.left(), || Ok(()));
                idle.map_err(|error| segment.in_file(error, self.path))?;
            }
        }
        Ok(())
    }
}
