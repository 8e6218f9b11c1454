// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file that is memory: its bytes have frame numbers, and the file can still be changed under them.
//!
//! # Words
//! A *part* is a region that shows some of the file; opening maps one. A [`Lease`] names the frames of a range. It is a name
//! and not a hold: what holds frames is I/O in flight, and a window while its thread is online.
//!
//! # Flow
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use pageless_drivers::dax_file::{DaxFile, DaxOptions, DirectFile};
//! use pageless_drivers::file::FileDiskOptions;
//! use std::time::Duration;
//! # let folder = std::env::current_exe()?.parent().unwrap().join(format!("dax-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # let (data, mapped) = (folder.join("data"), folder.join("mapped"));
//! # std::fs::write(&data, vec![7; 200_000])?;
//!
//! let memory = pageless_mem::Memory::new()?;
//! let file = DaxFile::open(&memory, &mapped, DaxOptions { size: Some(1 << 20), create: true, ..DaxOptions::default() })?;
//! // O_DIRECT from another file into the frames of this one.
//! let mut source = DirectFile::open(&memory, &data, FileDiskOptions { read_only: true, ..FileDiskOptions::default() })?;
//! let moved = file.read_from(&mut source, 0, 4096, 200_000)?;
//! println!("{} bytes, {}", moved.bytes, moved.route);
//! // Waits for I/O in flight, and then nobody has what was cut off: its frames are `Gone`.
//! file.truncate(100_000, Duration::from_secs(1))?;
//! file.close(Duration::from_secs(1))?;
//! assert_eq!(std::fs::read(&mapped)?[4096..], [7; 95_904]);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Change contract
//! [`truncate`](DaxFile::truncate), [`punch_hole`](DaxFile::punch_hole), [`collapse`](DaxFile::collapse) and
//! [`close`](DaxFile::close) wait for what has the bytes, at most so long; then they fail with
//! [`Busy`](DaxError::Busy), which says who has them, and have changed nothing. What the file system refuses changes nothing
//! either. Frames that were cut off stay dead: where the file grows again it has new ones. A [`flush`](DaxFile::flush), or a
//! [`persist`](pageless_block::DirectAccess::persist) of a lease, makes size and blocks as durable as the bytes.
//!
//! While one of them is under way and waits (a punch only where somebody has the bytes) a lease names nothing new ([`Status::Aborted`]), so that what is in
//! flight can end: do that, [`wait`](Lease::wait), and ask again. Who uses frames that it was told earlier may get `Gone` from
//! a change that is then taken back; a lease tells.
//!
//! # Metadata
//! A file has as many parts as it was grown in steps, less those that fit the room mapped beyond the last one (as much as the
//! file is long), and when there are [`DaxFile::MAX_PARTS`] of them and nothing is in flight they are mapped anew as one. Leases
//! break then, as they do after a collapse.
//!
//! # What it is not
//! It is no disk and no queue: a lease is a [`DirectAccess`](pageless_block::DirectAccess), and what moves bytes are the
//! queues of other devices. It does not order I/O; who wants that asks for a [`lock`](DaxFile::lock).

mod change;
mod direct_file;
mod error;
mod lease;
mod open;
mod segment;
mod transfer;
mod turn;

pub use direct_file::DirectFile;
pub use error::DaxError;
pub use lease::Lease;
pub use open::DaxOptions;
pub use transfer::Moved;

use crate::file::status;
use crate::file::sticky::{FlushErrors, Seen};
use pageless_block::{Op, Status};
use pageless_mem::persist::{self, Durability};
use pageless_mem::{Access, Error, Memory, RangeGuard, RangeLock};
use pageless_sys::file::File;
use segment::Segment;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use turn::Turn;

/// A mapped file.
#[derive(Debug)]
pub struct DaxFile {
    shared: Arc<Shared>,
    /// Which failed flushes the owner was told of.
    seen: Mutex<Seen>,
}

/// What the file and its leases share.
#[derive(Debug)]
struct Shared {
    memory: Memory,
    path: PathBuf,
    read_only: bool,
    durability: Durability,
    /// Held by who changes the file, and by who asks for it.
    ranges: RangeLock,
    errors: FlushErrors,
    /// How often size or blocks changed, and how many of those changes are durable.
    changes: AtomicU64,
    committed: Mutex<u64>,
    /// Whose turn it is.
    turn: Turn,
    state: RwLock<State>,
}

/// What a change changes, at a moment when nothing that it takes is in flight. Never held while waiting.
#[derive(Debug)]
struct State {
    /// Holds the lock; `None` once it is closed.
    file: Option<File>,
    len: u64,
    segments: Vec<Segment>,
}

impl State {
    fn segment_at(&self, at: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.holds(at))
    }
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self, what: &'static str, offset: u64) -> DaxError {
        DaxError::Closed { path: self.path.clone(), what, offset }
    }

    fn only_read(&self, what: &'static str, offset: u64) -> DaxError {
        DaxError::ReadOnly { path: self.path.clone(), what, offset, len: self.state().len }
    }

    fn check(&self, what: &'static str, start: u64, len: u64, end: u64) -> Result<u64, DaxError> {
        let path = || self.path.clone();
        let outside = |past| DaxError::OutOfRange { path: path(), what, start, end: past, len: end };
        let past = start.checked_add(len).ok_or_else(|| outside(u64::MAX))?;
        if past <= end { Ok(past) } else { Err(outside(past)) }
    }

    /// Size or blocks of the file are others now.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the file's size and blocks durable where a store does not need the kernel to be. `MAP_SYNC` does that for what a
    /// store faults in; the rest of a page that was mapped before the file grew is written without a fault.
    fn commit(&self) -> Result<(), Status> {
        let state = self.state();
        let file = state.file.as_ref().ok_or(Status::Gone)?;
        self.commit_to(file).map_err(|error| status::of(error.errno(), Op::Flush))
    }

    fn commit_to(&self, file: &File) -> Result<(), pageless_sys::Error> {
        if self.durability == Durability::Msync || self.read_only {
            return Ok(());
        }
        // Held meanwhile, so that nobody takes for durable what another is about to make so.
        let mut committed = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.changes.load(Ordering::Acquire);
        if *committed == changes {
            return Ok(());
        }
        file.sync_data()?;
        *committed = changes;
        Ok(())
    }

    /// Makes everything durable that was stored and told of.
    fn flush(&self, state: &State, seen: &mut Seen) -> Result<(), Unflushed> {
        persist::fence();
        let Some(file) = &state.file else { return Err(Unflushed { status: Status::Gone, source: None }) };
        let source = self.sync(file, state.len).err();
        let own = source.as_ref().map_or(Status::Ok, |error| match error.errno() {
            Some(errno) => status::of(errno, Op::Flush),
            None => Status::Media,
        });
        match self.errors.report(seen, own) {
            Status::Ok => Ok(()),
            status => Err(Unflushed { status, source }),
        }
    }

    fn sync(&self, file: &File, len: u64) -> Result<(), Error> {
        if self.durability != Durability::Msync || self.read_only {
            return Ok(self.commit_to(file)?);
        }
        file.sync_data()?;
        match file.size()? {
            // Somebody who ignores our lock has cut it short, and what it held there is lost.
            actual if actual < len => Err(Error::TooSmall { path: self.path.clone(), actual, wanted: len }),
            _ => Ok(()),
        }
    }

    fn unflushed(&self, Unflushed { status, source }: Unflushed, len: u64) -> DaxError {
        DaxError::Flush { path: self.path.clone(), status, len, source: source.map(Box::new) }
    }
}

/// What a flush did not do.
#[derive(Debug)]
struct Unflushed {
    status: Status,
    /// None where somebody else met it.
    source: Option<Error>,
}

impl DaxFile {
    /// Parts that a file has, unless it never rests.
    pub const MAX_PARTS: usize = 64;

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.shared.state().len
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What makes a store to it durable: a fence or cache-line write-back where the mapping is synchronous (fsdax), else
    /// `msync` and `fdatasync`, since it is a page cache.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// Regions that it is made of.
    pub fn parts(&self) -> usize {
        self.shared.state().segments.len()
    }

    /// Bytes of ours that it costs.
    pub fn metadata_bytes(&self) -> usize {
        let state = self.shared.state();
        let segments = state.segments.iter().map(|segment| segment.region().metadata_bytes() + size_of::<Segment>());
        size_of::<Shared>() + self.shared.path.as_os_str().len() + segments.sum::<usize>()
    }

    /// Names the frames of `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`DaxError::OutOfRange`], [`DaxError::Closed`].
    pub fn lease(&self, offset: u64, len: u64) -> Result<Lease, DaxError> {
        let state = self.shared.state();
        if state.file.is_none() {
            return Err(self.shared.closed("lease", offset));
        }
        self.shared.check("lease", offset, len.max(1), state.len)?;
        Ok(Lease::new(&self.shared, &state, offset, len.max(1)))
    }

    /// Takes a range for this caller, waiting at most so long: who asks for an overlapping one waits, readers share. Changes
    /// of the file ask too, for what they change; I/O does not.
    ///
    /// # Errors
    /// [`DaxError::Busy`] says who has it.
    pub fn lock(&self, offset: u64, len: u64, access: Access, patience: Duration) -> Result<RangeGuard, DaxError> {
        self.shared.lock(offset, len, access, patience)
    }

    /// Makes everything durable that was stored to the frames, and told to a lease, before. A failure is told to every lease,
    /// and to the caller of this, once.
    ///
    /// # Errors
    /// [`DaxError::Flush`], [`DaxError::Closed`].
    pub fn flush(&self) -> Result<(), DaxError> {
        let state = self.shared.state();
        if state.file.is_none() {
            return Err(self.shared.closed("flush", 0));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.flush(&state, &mut seen).map_err(|error| self.shared.unflushed(error, state.len))
    }
}

/// What it is and what a flush of it does.
impl fmt::Display for DaxFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        let what = match self.shared.durability {
            Durability::Clwb => "persistent memory mapped with MAP_SYNC: a flush is cache-line write-back",
            Durability::Fence => "persistent memory mapped with MAP_SYNC, CPU caches included: a flush is a fence",
            Durability::Msync => "a page cache: a flush is fdatasync",
            Durability::Volatile => "volatile memory: a flush promises nothing",
        };
        let path = self.shared.path.display();
        write!(f, "{path}, {} bytes in {} part(s), {what}", state.len, state.segments.len())
    }
}

#[cfg(test)]
mod tests;
