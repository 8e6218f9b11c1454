// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of a file under its frames: shorter, longer, holes, bytes taken out, closed.

use super::segment::{Deadline, Segment, Segments, Span};
use super::{DaxError, DaxFile, Shared, State};
use pageless_mem::{Access, Busy, Error, Holder, RangeGuard, Taken};
use pageless_sys::cpu;
use pageless_sys::file::{FallocMode, File};
use std::sync::{PoisonError, RwLockWriteGuard};
use std::time::Duration;

impl DaxFile {
    /// Cuts the file to `len` bytes. Frames past it are `Gone`, and stay so when it grows again.
    ///
    /// # Errors
    /// [`DaxError::Busy`], what the file system refuses, [`DaxError::OutOfRange`] when it is shorter already.
    pub fn truncate(&self, len: u64, patience: Duration) -> Result<(), DaxError> {
        let what = "truncate";
        let shared = &*self.shared;
        let change = shared.begin(what, len, u64::MAX, patience)?;
        shared.check(what, 0, len, self.size())?;
        shared
            .cut(len, change.deadline, |state| {
                shared.call(state.file()?.truncate(len))?;
                state.len = len;
                Ok(state.bury())
            })
            .map(drop)
            .map_err(|error| shared.refused(what, error))
    }

    /// Makes the file `len` bytes long; what is new is a hole, with frames of its own. Nothing in flight is waited for, only
    /// other changes.
    ///
    /// # Errors
    /// [`DaxError::Busy`] for another change, what the file system refuses, [`DaxError::OutOfRange`] when it is longer already.
    pub fn grow(&self, len: u64, patience: Duration) -> Result<(), DaxError> {
        let what = "grow";
        let shared = &*self.shared;
        let _change = shared.begin(what, self.size(), u64::MAX, patience)?;
        let refused = |error| shared.refused(what, error);
        if self.parts() >= DaxFile::MAX_PARTS && shared.join(len).map_err(refused)? {
            return Ok(());
        }
        let mut state = shared.changing();
        let end = state.len;
        if len <= end {
            let outside = || DaxError::OutOfRange { path: shared.path.clone(), what, start: 0, end: len, len: end };
            return if len == end { Ok(()) } else { Err(outside()) };
        }
        let room = state.segments.last().is_some_and(|last| last.can_extend(len));
        let part = if room {
            None
        } else {
            // Mapped before there is anything to map, so that what fails has changed nothing.
            let span = Span { start: end, end: len, reserve: len, read_only: false };
            let file = state.file().map_err(refused)?;
            Some(Segment::map(&shared.memory, file, &shared.path, span).map_err(refused)?)
        };
        let file = state.file().map_err(refused)?;
        let grown = shared.call(file.truncate(len));
        shared.changed();
        grown.map_err(refused)?;
        match (part, state.segments.last()) {
            (None, Some(last)) => drop(last.extend(len)),
            (part, _) => state.segments.extend(part),
        }
        state.len = len;
        Ok(())
    }

    /// Deallocates `len` bytes at `offset`, which then read as zeroes. The frames stay the same.
    ///
    /// # Errors
    /// [`DaxError::Busy`], what the file system refuses, [`DaxError::OutOfRange`].
    pub fn punch_hole(&self, offset: u64, len: u64, patience: Duration) -> Result<(), DaxError> {
        let what = "punch hole";
        let shared = &*self.shared;
        let deadline = Deadline::after(patience);
        let end = shared.check(what, offset, len, self.size())?;
        if len == 0 {
            return Ok(());
        }
        let _change = shared.begin(what, offset, end, patience)?;
        let state = shared.state();
        shared.check(what, offset, len, state.len)?;
        let segments = state.segments.clone();
        let file = state.file().and_then(|file| shared.call(file.duplicate()));
        drop(state);
        let file = file.map_err(|error| shared.refused(what, error))?;
        let parts = Segments { all: &segments, path: &shared.path };
        let mut punch = || {
            let punched = shared.call(file.fallocate(FallocMode::PunchHole, offset, len));
            shared.changed();
            punched
        };
        let mut punched = parts.while_idle(offset, end, Deadline::after(Duration::ZERO), &mut punch);
        if matches!(punched, Err(Error::Busy(_))) && !deadline.left().is_zero() {
            // Users who relieve each other would never leave all of it idle.
            let _taking = shared.turn.take();
            punched = parts.while_idle(offset, end, deadline, &mut punch);
        }
        punched.map_err(|error| shared.refused(what, error))
    }

    /// Takes `len` bytes at `offset` out of the file: what lies behind them moves up. Every frame from `offset` on changes its
    /// meaning, so all of those are `Gone`, and the rest of the file is mapped anew.
    ///
    /// # Errors
    /// [`DaxError::Busy`], [`DaxError::OutOfRange`] unless something lies behind; from the file system `EINVAL` unless offset
    /// and length are whole blocks of it, `EOPNOTSUPP` where it has no such thing (tmpfs).
    pub fn collapse(&self, offset: u64, len: u64, patience: Duration) -> Result<(), DaxError> {
        let what = "collapse";
        let shared = &*self.shared;
        let change = shared.begin(what, offset, u64::MAX, patience)?;
        let size = self.size();
        // One byte more: a collapse that reaches the end is a truncation.
        shared.check(what, offset, len.saturating_add(1), size)?;
        if len == 0 {
            return Ok(());
        }
        let refused = |error| shared.refused(what, error);
        let span = Span { start: offset, end: size - len, reserve: 0, read_only: false };
        let mut rest = Some(shared.map(span).map_err(refused)?);
        shared
            .cut(offset, change.deadline, |state| {
                shared.call(state.file()?.fallocate(FallocMode::Collapse, offset, len))?;
                state.len -= len;
                let dead = state.bury();
                state.segments.extend(rest.take());
                Ok(dead)
            })
            .map(drop)
            .map_err(refused)
    }

    /// Waits until nobody has any of the file, flushes it and lets it go, with its lock: every lease is `Gone`. Pages are given
    /// back, and the lock with them, on another thread, which is waited for as long as the patience lasts.
    ///
    /// # Errors
    /// [`DaxError::Busy`] and [`DaxError::Flush`] leave the file open as it was. Closing twice is no error.
    pub fn close(&self, patience: Duration) -> Result<(), DaxError> {
        let shared = &*self.shared;
        let deadline = Deadline::after(patience);
        // Who closes it at the same time waits here, and finds it closed.
        let _guard = shared.lock(0, u64::MAX, Access::Write, patience)?;
        if shared.state().file.is_none() {
            return Ok(());
        }
        let mut unflushed = None;
        let cut = shared.cut(0, deadline, |state| {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = shared.flush(state, &mut seen) {
                unflushed = Some(shared.unflushed(error, state.len));
                return Err(Error::GivenUp { start: 0, end: state.len, why: "they could not be flushed" });
            }
            state.file = None;
            state.len = 0;
            Ok(state.bury())
        });
        if let Some(error) = unflushed {
            return Err(error);
        }
        for segment in cut.map_err(|error| shared.refused("close", error))? {
            let released = segment.region().released().wait(deadline.left());
            released.map_err(|error| shared.refused("close", error))?;
        }
        Ok(())
    }
}

/// The right to change a range of the file.
struct Change {
    deadline: Deadline,
    _guard: RangeGuard,
}

impl Shared {
    fn begin(&self, what: &'static str, start: u64, end: u64, patience: Duration) -> Result<Change, DaxError> {
        let deadline = Deadline::after(patience);
        if self.read_only {
            return Err(self.only_read(what, start));
        }
        let guard = self.lock(start, end.saturating_sub(start), Access::Write, deadline.left())?;
        if self.state().file.is_none() {
            return Err(self.closed(what, start));
        }
        Ok(Change { deadline, _guard: guard })
    }

    pub(super) fn lock(
        &self,
        offset: u64,
        len: u64,
        access: Access,
        patience: Duration,
    ) -> Result<RangeGuard, DaxError> {
        // As long as forever, but a time that can be added to now.
        let longest = Deadline::after(patience).left();
        self.ranges.lock(offset, len, access, longest).map_err(|taken| {
            let Taken { thread, range: (start, end), access, .. } = taken;
            let holder = Holder {
                thread,
                name: cpu::thread_name(thread),
                in_flight: Some((start, end, access)),
                changes: false,
            };
            let what = self.path.display().to_string();
            DaxError::Busy(Box::new(Busy { what, patience, holders: vec![holder] }))
        })
    }

    fn changing(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what lies from `at` on, and changes the file at a moment when nobody has any of it; or nothing.
    fn cut(
        &self,
        at: u64,
        deadline: Deadline,
        mut change: impl FnMut(&mut State) -> Result<Vec<Segment>, Error>,
    ) -> Result<Vec<Segment>, Error> {
        let _taking = self.turn.take();
        // A copy: what is stored is told of, and flushed, while this waits.
        let segments = self.state().segments.clone();
        let mut dead = Vec::new();
        Segments { all: &segments, path: &self.path }.cut(at, deadline, &mut || {
            let mut state = self.changing();
            let changed = change(&mut state);
            self.changed();
            dead = changed?;
            Ok(())
        })?;
        Ok(dead)
    }

    fn map(&self, span: Span) -> Result<Segment, Error> {
        Segment::map(&self.memory, self.state().file()?, &self.path, span)
    }

    /// Names the file in an error of the kernel.
    fn call<T>(&self, result: Result<T, pageless_sys::Error>) -> Result<T, Error> {
        result.map_err(|source| Error::Path { path: self.path.clone(), source })
    }

    fn refused(&self, what: &'static str, error: Error) -> DaxError {
        match error {
            Error::Busy(busy) => DaxError::Busy(busy),
            Error::Path { path, source } => DaxError::Refused { path, what, source },
            Error::Sys(source) => DaxError::Refused { path: self.path.clone(), what, source },
            error => DaxError::Memory(error),
        }
    }

    /// Maps all of the file anew, as one part of `len` bytes, unless somebody has some of it. The caller has locked what is
    /// behind the end.
    fn join(&self, len: u64) -> Result<bool, Error> {
        /// How long a section of the CPU may take.
        const SECTION: Duration = Duration::from_millis(10);
        let size = self.state().len;
        let Ok(_all) = self.lock(0, size, Access::Write, Duration::ZERO) else { return Ok(false) };
        if len <= size {
            return Ok(false);
        }
        let mut whole = Some(self.map(Span { start: 0, end: len, reserve: len, read_only: false })?);
        let joined = self.cut(0, Deadline::after(SECTION), |state| {
            self.call(state.file()?.truncate(len))?;
            state.len = len;
            let dead = state.bury();
            state.segments.extend(whole.take());
            Ok(dead)
        });
        match joined {
            Ok(_) => Ok(true),
            Err(Error::Busy(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl State {
    /// The file, which is there: who is about to change it has looked, and keeps others from closing it.
    fn file(&self) -> Result<&File, Error> {
        self.file.as_ref().ok_or(Error::GivenUp { start: 0, end: self.len, why: "the file was closed" })
    }

    /// Takes out the parts of which nothing is left.
    fn bury(&mut self) -> Vec<Segment> {
        let (dead, live) =
            std::mem::take(&mut self.segments).into_iter().partition(|segment| segment.region().revoked());
        self.segments = live;
        dead
    }
}
