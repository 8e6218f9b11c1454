// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening: which file, who else has it, the first mapping.

use super::segment::{Segment, Span};
use super::turn::Turn;
use super::{DaxError, DaxFile, Shared, State};
use crate::file::sticky::FlushErrors;
use pageless_mem::{Error, FRAME_SIZE, Memory, RangeLock};
use pageless_sys::Errno;
use pageless_sys::file::{File, FileType, OpenOptions};
use pageless_sys::lock::{self, Lock};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

/// How to open a file to be mapped.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub struct DaxOptions {
    /// Bytes: the size of a file that is made, or what an existing one must at least hold.
    pub size: Option<u64>,
    /// Make the file, sparse, if it is not there; needs `size`.
    pub create: bool,
    /// Map for reading, and let others read.
    pub read_only: bool,
}

impl DaxFile {
    /// Opens, locks and maps all of a regular file, which may be empty and of any size.
    ///
    /// # Errors
    /// [`DaxError::Memory`] names the path and the cause: in use, too small, no regular file, what the kernel says.
    pub fn open(memory: &Memory, path: &Path, options: DaxOptions) -> Result<DaxFile, DaxError> {
        let (file, made) = open(path, options)?;
        let opened = DaxFile::of(memory, path, options, file, made);
        if made && opened.is_err() {
            // Nobody else has seen it under our lock; the error that counts is the first.
            drop(std::fs::remove_file(path));
        }
        opened
    }

    fn of(memory: &Memory, path: &Path, options: DaxOptions, file: File, made: bool) -> Result<DaxFile, DaxError> {
        let at = |source| Error::Path { path: path.to_owned(), source };
        if file.file_type().map_err(at)? != FileType::Regular {
            return Err(Error::NotAFile { path: path.to_owned() }.into());
        }
        take_lock(&file, path, options.read_only)?;
        if let (true, Some(size)) = (made, options.size) {
            file.truncate(size).map_err(at)?;
        }
        let len = file.size().map_err(at)?;
        if let Some(wanted) = options.size.filter(|wanted| *wanted > len) {
            return Err(Error::TooSmall { path: path.to_owned(), actual: len, wanted }.into());
        }
        // An empty file has no bytes to name; what its memory will be is found out beyond its end.
        let end = if len == 0 { FRAME_SIZE } else { len };
        let span = Span { start: 0, end, reserve: 0, read_only: options.read_only };
        let first = Segment::map(memory, &file, path, span)?;
        let durability = first.region().durability();
        let segments = if len == 0 { Vec::new() } else { vec![first] };
        let errors = FlushErrors::new();
        let seen = Mutex::new(errors.opener());
        let shared = Shared {
            memory: memory.clone(),
            path: path.to_owned(),
            read_only: options.read_only,
            durability,
            ranges: RangeLock::new(),
            errors,
            // What became of it before, nobody knows.
            changes: AtomicU64::new(1),
            committed: Mutex::new(0),
            turn: Turn::default(),
            state: RwLock::new(State { file: Some(file), len, segments }),
        };
        Ok(DaxFile { shared: Arc::new(shared), seen })
    }
}

/// Opens or makes the file; whether it was made.
fn open(path: &Path, options: DaxOptions) -> Result<(File, bool), Error> {
    let at = |source| Error::Path { path: path.to_owned(), source };
    if options.create && options.size.is_some() && !options.read_only {
        // Exclusive, so that a file which somebody makes meanwhile is not taken for ours.
        let how = OpenOptions { create: true, exclusive: true, ..OpenOptions::default() };
        match File::open(path, how) {
            Ok(file) => return Ok((file, true)),
            Err(error) if error.errno() == Errno::EEXIST => {}
            Err(error) => return Err(at(error)),
        }
    }
    let how = OpenOptions { read_only: options.read_only, ..OpenOptions::default() };
    File::open(path, how).map(|file| (file, false)).map_err(at)
}

pub(super) fn take_lock(file: &File, path: &Path, read_only: bool) -> Result<(), Error> {
    let how = if read_only { Lock::Shared } else { Lock::Exclusive };
    lock::lock_image(file.as_fd(), how).map_err(|source| match source.errno() {
        Errno::EAGAIN | Errno::EACCES => {
            let pid = file.identity().ok().and_then(lock::holder);
            Error::Locked { path: path.to_owned(), pid }
        }
        _ => Error::Path { path: path.to_owned(), source },
    })
}
