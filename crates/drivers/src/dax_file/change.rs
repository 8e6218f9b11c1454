// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of a file under its frames: shorter, longer, holes, bytes taken out, closed.

use super::segment::{Deadline, Segment, Segments, Span};
use super::{DaxError, DaxFile, Shared, State};
use pageless_block::Status;
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
        let mut state = shared.changing();
        shared.check(what, 0, len, state.len)?;
        let file = shared.file(&state)?;
        shared
            .segments(&state)
            .cut(len, change.deadline, &mut || shared.call(file.truncate(len)))
            .map_err(|error| shared.refused(what, error))?;
        state.len = len;
        let dead = state.bury();
        drop(state);
        drop(dead);
        Ok(())
    }

    /// Makes the file `len` bytes long; what is new is a hole, with frames of its own. Nothing in flight is waited for, only
    /// other changes.
    ///
    /// # Errors
    /// [`DaxError::Busy`] for another change, what the file system refuses, [`DaxError::OutOfRange`] when it is longer already.
    pub fn grow(&self, len: u64, patience: Duration) -> Result<(), DaxError> {
        let what = "grow";
        let shared = &*self.shared;
        let change = shared.begin(what, self.size(), u64::MAX, patience)?;
        let mut state = shared.changing();
        if len <= state.len {
            let (path, end) = (shared.path.clone(), state.len);
            let outside = DaxError::OutOfRange { path, what, start: 0, end: len, len: end };
            return if len == end { Ok(()) } else { Err(outside) };
        }
        let file = shared.file(&state)?;
        let refused = |error| shared.refused(what, error);
        let last = state.segments.last();
        if let Some(last) = last.filter(|last| last.can_extend(len)) {
            shared.call(file.truncate(len)).map_err(refused)?;
            if last.extend(len) {
                state.len = len;
                return Ok(());
            }
        }
        if state.segments.len() >= DaxFile::MAX_PARTS && shared.join(&mut state, len).map_err(refused)? {
            return Ok(());
        }
        // Mapped before there is anything to map, so that what fails has changed nothing.
        let file = shared.file(&state)?;
        let span = Span { start: state.len, end: len, reserve: len, read_only: false };
        let segment = Segment::map(&shared.memory, file, &shared.path, span).map_err(refused)?;
        shared.call(file.truncate(len)).map_err(refused)?;
        state.segments.push(segment);
        state.len = len;
        drop(state);
        drop(change);
        Ok(())
    }

    /// Deallocates `len` bytes at `offset`, which then read as zeroes. The frames stay the same.
    ///
    /// # Errors
    /// [`DaxError::Busy`], what the file system refuses, [`DaxError::OutOfRange`].
    pub fn punch_hole(&self, offset: u64, len: u64, patience: Duration) -> Result<(), DaxError> {
        let what = "punch hole";
        let shared = &*self.shared;
        let end = shared.check(what, offset, len, self.size())?;
        if len == 0 {
            return Ok(());
        }
        let change = shared.begin(what, offset, end, patience)?;
        // A copy: others may use and change the rest of the file while this waits.
        let state = shared.state();
        shared.check(what, offset, len, state.len)?;
        let (segments, file) = (state.segments.clone(), shared.call(shared.file(&state)?.duplicate()));
        drop(state);
        let file = file.map_err(|error| shared.refused(what, error))?;
        Segments { all: &segments, path: &shared.path }
            .while_idle(offset, end, change.deadline, &mut || {
                shared.call(file.fallocate(FallocMode::PunchHole, offset, len))
            })
            .map_err(|error| shared.refused(what, error))
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
        let mut state = shared.changing();
        // One byte more: a collapse that reaches the end is a truncation.
        shared.check(what, offset, len.saturating_add(1), state.len)?;
        if len == 0 {
            return Ok(());
        }
        let file = shared.file(&state)?;
        let refused = |error| shared.refused(what, error);
        let span = Span { start: offset, end: state.len - len, reserve: 0, read_only: false };
        let rest = Segment::map(&shared.memory, file, &shared.path, span).map_err(refused)?;
        shared
            .segments(&state)
            .cut(offset, change.deadline, &mut || shared.call(file.fallocate(FallocMode::Collapse, offset, len)))
            .map_err(refused)?;
        state.len -= len;
        let dead = state.bury();
        state.segments.push(rest);
        drop(state);
        drop(dead);
        Ok(())
    }

    /// Waits until nobody has any of the file, flushes it and lets it go, with its lock: every lease is `Gone`. Pages are given
    /// back, and the lock with them, on another thread, which is waited for as long as the patience lasts.
    ///
    /// # Errors
    /// [`DaxError::Busy`] and [`DaxError::Flush`] leave the file open as it was. Closing twice is no error.
    pub fn close(&self, patience: Duration) -> Result<(), DaxError> {
        let shared = &*self.shared;
        let deadline = Deadline::after(patience);
        let change = match shared.begin("close", 0, u64::MAX, patience) {
            Err(DaxError::Closed { .. }) => return Ok(()),
            // Nothing is written, and so may be closed.
            Err(DaxError::ReadOnly { .. }) => {
                Change { deadline, _guard: shared.lock(0, u64::MAX, Access::Read, patience)? }
            }
            begun => begun?,
        };
        let mut state = shared.changing();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut flushed = Status::Ok;
        let cut = shared.segments(&state).cut(0, change.deadline, &mut || {
            flushed = shared.flush(&state, &mut seen);
            if flushed.is_ok() { Ok(()) } else { Err(Error::Empty) }
        });
        if !flushed.is_ok() {
            return Err(DaxError::Flush { path: shared.path.clone(), status: flushed });
        }
        cut.map_err(|error| shared.refused("close", error))?;
        state.file = None;
        state.len = 0;
        let dead = state.bury();
        drop(state);
        for segment in &dead {
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
            return Err(DaxError::ReadOnly { path: self.path.clone(), what });
        }
        let guard = self.lock(start, end.saturating_sub(start), Access::Write, deadline.left())?;
        if self.state().file.is_none() {
            return Err(self.closed());
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
        self.ranges.lock(offset, len, access, patience).map_err(|taken| {
            let Taken { thread, range: (start, end), access, .. } = taken;
            let holder = Holder { thread, name: cpu::thread_name(thread), in_flight: Some((start, end, access)) };
            let what = self.path.display().to_string();
            DaxError::Busy(Box::new(Busy { what, patience, holders: vec![holder] }))
        })
    }

    /// Keeps leases from looking until the change is over.
    fn changing(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn file<'s>(&self, state: &'s State) -> Result<&'s File, DaxError> {
        state.file.as_ref().ok_or_else(|| self.closed())
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
    fn join(&self, state: &mut State, len: u64) -> Result<bool, Error> {
        /// How long a section of the CPU may take that nobody told us of.
        const SECTION: Duration = Duration::from_millis(10);
        let Ok(_all) = self.lock(0, state.len, Access::Write, Duration::ZERO) else { return Ok(false) };
        let Some(file) = &state.file else { return Ok(false) };
        let span = Span { start: 0, end: len, reserve: len, read_only: false };
        let whole = Segment::map(&self.memory, file, &self.path, span)?;
        let cut = self.segments(state).cut(0, Deadline::after(SECTION), &mut || self.call(file.truncate(len)));
        match cut {
            Ok(()) => {
                drop(std::mem::replace(&mut state.segments, vec![whole]));
                state.len = len;
                Ok(true)
            }
            Err(Error::Busy(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl State {
    /// Takes out the parts of which nothing is left.
    fn bury(&mut self) -> Vec<Segment> {
        let (dead, live) =
            std::mem::take(&mut self.segments).into_iter().partition(|segment| segment.region().revoked());
        self.segments = live;
        dead
    }
}
