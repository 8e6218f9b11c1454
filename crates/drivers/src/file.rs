// SPDX-License-Identifier: MIT OR Apache-2.0
//! `file:` a regular file or block device as a disk, through io_uring and `O_DIRECT` on the frames themselves.
//!
//! # Which way the bytes go
//! Where the kernel pins the frames they are the buffer: [`Route::Direct`]. Nobody is asked in advance. The first
//! operation on a region carries at most one range whose verdict is unknown, so that `EFAULT` names its culprit; the
//! verdict stays with the region. Frames that cannot be pinned, or are not aligned as direct I/O needs them, go through
//! a bounded pool of aligned slots, registered as fixed buffers: [`Route::Bounce`]. A large bio goes in chunks of up to
//! 1 MiB, each one operation, and the copy of one overlaps the I/O of the next. A file system without direct I/O fills
//! the frames from its page cache: [`Route::Copy`].
//!
//! `EFAULT` on frames that were pinned before is a fault of the memory. The bio goes through the pool as well, because
//! the copy by the CPU is what finds out which byte, and why.
//!
//! # Flush
//! `FLUSH` is `fdatasync`, `FUA` is `RWF_DSYNC`. A failed flush is told to every queue, once.
//!
//! # Locks
//! The whole file is locked for as long as the disk lives, shared by readers, exclusive for a writer; a block device
//! that is written is opened `O_EXCL` too.
//!
//! # What it is not
//! It does not check bios ([`Checked`](pageless_block::Checked) does) and it does not order them: a flush covers the
//! writes that had completed when it was submitted.

mod bounce;
mod error;
mod extents;
mod finish;
mod job;
mod open;
mod plan;
mod queue;
mod start;
pub(crate) mod status;
pub(crate) mod sticky;
#[cfg(test)]
mod tests;
mod transfer;

pub use error::FileError;

use extents::FileExtents;
use open::Opened;
#[cfg(doc)]
use pageless_block::Route;
use pageless_block::{BlockDevice, Error, ExtentMap, Limits, Queue};
use pageless_mem::Memory;
use queue::FileQueue;
use std::path::Path;
use std::sync::Arc;
use sticky::FlushErrors;

/// How to open a file as a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDiskOptions {
    /// Nothing will be written.
    pub read_only: bool,
    /// Bytes to serve, from the start; the size of a file that is made. `None`: all that is there.
    pub size: Option<u64>,
    /// Make the file, sparse, if it is not there and a size is given.
    pub create: bool,
    /// Bytes of each queue's bounce pool.
    pub bounce_bytes: u64,
    /// Bios that a queue accepts before it answers "full".
    pub queue_depth: u32,
}

impl Default for FileDiskOptions {
    fn default() -> FileDiskOptions {
        FileDiskOptions { read_only: false, size: None, create: false, bounce_bytes: 4 << 20, queue_depth: 256 }
    }
}

/// A regular file or block device as a disk.
#[derive(Debug)]
pub struct FileDisk {
    limits: Limits,
    memory: Memory,
    file: Arc<Opened>,
    errors: Arc<FlushErrors>,
    options: FileDiskOptions,
}

impl FileDisk {
    /// Opens, locks and measures the file at `path`.
    ///
    /// # Errors
    /// [`FileError`] names the path, the cause and what would help.
    pub fn open(memory: &Memory, path: &Path, options: FileDiskOptions) -> Result<FileDisk, FileError> {
        let file = Opened::open(path, &options)?;
        Ok(FileDisk {
            limits: limits(&file),
            memory: memory.clone(),
            file: Arc::new(file),
            errors: Arc::new(FlushErrors::new()),
            options,
        })
    }

    /// Whether the kernel can use frames as the buffer of this file's I/O.
    pub fn does_direct_io(&self) -> bool {
        self.file.direct.is_some()
    }
}

fn limits(file: &Opened) -> Limits {
    let block = file.block();
    Limits {
        block_size: block,
        physical_block: block.max(4096),
        optimal_io: 128 << 10,
        max_bytes: 64 << 20,
        // what the kernel takes in one vector (UIO_MAXIOV)
        max_segments: 1024,
        memory_align: file.direct.map_or(1, |align| align.memory.max(align.block)),
        atomic_write_unit: block,
        read_only: file.read_only,
        flush: true,
        // where a durable write cannot be asked for, `Checked` makes FUA from a flush
        fua: file.holder.honours_dsync(),
        // advice: where holes cannot be punched, it frees nothing
        discard: true,
        discard_granularity: block.max(4096),
        write_zeroes: true,
        ..Limits::default()
    }
}

impl BlockDevice for FileDisk {
    fn name(&self) -> &str {
        &self.file.name
    }

    fn capacity(&self) -> u64 {
        self.file.capacity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(FileQueue::open(&self.memory, &self.file, &self.errors, &self.options)?))
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        self.file.regular.then(|| Box::new(FileExtents(Arc::clone(&self.file))) as Box<dyn ExtentMap>)
    }
}
