// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DaxFile::read_from`] and [`DaxFile::write_to`]: between another file and the frames of this one, in one call.

use super::direct_file::{Bytes, DirectFile, Progress, Stop};
use super::{DaxError, DaxFile, Lease};
use pageless_block::{Direct, DirectAccess, Route, Status};
use std::path::Path;
use std::time::Duration;

/// What a transfer did.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Bytes.
    pub bytes: u64,
    /// Which way they went: of several the one farthest from direct.
    pub route: Route,
}

impl DaxFile {
    /// Reads `len` bytes at `source_offset` of another file into this one, at `offset`: with `O_DIRECT` into the frames where
    /// the kernel does that. Holes there are filled. The frames are in flight while their I/O runs, and no longer.
    ///
    /// # Errors
    /// [`DaxError::OutOfRange`] of either file and [`DaxError::ReadOnly`] before anything is moved, [`DaxError::Transfer`]
    /// with the count afterwards.
    pub fn read_from(
        &self,
        source: &mut DirectFile,
        source_offset: u64,
        offset: u64,
        len: u64,
    ) -> Result<Moved, DaxError> {
        if self.shared.read_only {
            return Err(self.shared.only_read("read into", offset));
        }
        inside(source, "read", source_offset, len)?;
        let mut progress = Progress::new();
        if len == 0 {
            return Ok(progress.into());
        }
        let mut lease = self.lease(offset, len)?;
        let result = loop {
            let (at, changes) = (progress.bytes, lease.changes());
            let frames = match patiently(&lease, || lease.frames(at, len - at)) {
                Ok(frames) => frames,
                Err(status) => break Err(status.into()),
            };
            match source.transfer(source_offset + at, &Bytes::Fill(frames), &mut progress) {
                // They may be there again.
                Err(Stop::Status(Status::Gone)) if lease.changes() != changes => {}
                result => break result,
            }
        };
        // The kernel stored behind our back: a flush has to know.
        let waiting = lease.clone();
        let stored = match progress.bytes {
            0 => Ok(()),
            bytes => patiently(&waiting, || lease.stored(0, bytes)),
        };
        self.ended(source.path(), len, progress, result.and(stored.map_err(Stop::from)))
    }

    /// Writes `len` bytes at `offset` of this file to another, at `target_offset`: with `O_DIRECT` from the frames where the
    /// kernel does that. Holes of this file are not touched, and become zeroes of the other: deallocated where it can.
    ///
    /// # Errors
    /// As [`DaxFile::read_from`]. A file to write to does not grow.
    pub fn write_to(
        &self,
        target: &mut DirectFile,
        target_offset: u64,
        offset: u64,
        len: u64,
    ) -> Result<Moved, DaxError> {
        inside(target, "write", target_offset, len)?;
        let mut progress = Progress::new();
        if len == 0 {
            return Ok(progress.into());
        }
        let mut lease = self.lease(offset, len)?;
        let (waiting, mut at) = (lease.clone(), 0);
        let result = loop {
            if at == len {
                break Ok(());
            }
            let changes = lease.changes();
            let bytes = match patiently(&waiting, || lease.access(at, len - at)) {
                Ok(Direct::Data(range)) => Bytes::From(range.into()),
                Ok(Direct::Hole(len)) => Bytes::Zeroes(len),
                Err(status) => break Err(status.into()),
            };
            match target.transfer(target_offset + at, &bytes, &mut progress) {
                Ok(()) => {}
                Err(Stop::Status(Status::Gone)) if lease.changes() != changes => {}
                Err(stop) => break Err(stop),
            }
            at = progress.bytes;
        };
        self.ended(target.path(), len, progress, result)
    }

    fn ended(&self, other: &Path, len: u64, progress: Progress, result: Result<(), Stop>) -> Result<Moved, DaxError> {
        let status = match result {
            Ok(()) if progress.bytes == len => return Ok(progress.into()),
            Ok(()) => Status::IoErr,
            Err(Stop::Status(status)) => status,
            Err(Stop::Queue(error)) => return Err(error.into()),
        };
        let (path, other) = (self.shared.path.clone(), other.to_owned());
        Err(DaxError::Transfer { path, other, status, moved: progress.bytes, len, route: progress.route })
    }
}

impl From<Progress> for Moved {
    fn from(progress: Progress) -> Moved {
        Moved { bytes: progress.bytes, route: progress.route }
    }
}

/// Asks again after a change of the file, for one who has nothing in flight.
fn patiently<T>(lease: &Lease, mut ask: impl FnMut() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        match ask() {
            Err(Status::Aborted) => lease.wait(Duration::from_secs(1)),
            answer => return answer,
        };
    }
}

/// Whether the bytes are in the other file.
fn inside(other: &DirectFile, what: &'static str, start: u64, len: u64) -> Result<(), DaxError> {
    let end = start.saturating_add(len);
    if end <= other.size() {
        return Ok(());
    }
    Err(DaxError::OutOfRange { path: other.path().to_owned(), what, start, end, len: other.size() })
}
