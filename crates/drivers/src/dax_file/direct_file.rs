// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DirectFile`]: the file on the other side of a transfer.
//!
//! What is made of whole blocks goes through the queue of a [`FileDisk`], which does `O_DIRECT` on the frames where the kernel
//! takes them and bounces where it does not. What is left at either end is less than a block, and the CPU's.

use super::DaxError;
use super::open::take_lock;
use crate::file::{FileDisk, FileDiskOptions, FileError, status};
use pageless_block::{
    Bio, BlockDevice, Checked, Completion, Error, Op, Queue, Route, ScatterList, Sector, Status, Why, open_checked,
};
use pageless_mem::{Access, Fault, Memory, Reader, persist};
use pageless_sys::epoll::{Epoll, Interest};
use pageless_sys::file::{File, OpenOptions};
use std::path::{Path, PathBuf};

/// A regular file of any size, or a block device. It belongs to one thread.
#[derive(Debug)]
pub struct DirectFile {
    path: PathBuf,
    read_only: bool,
    size: u64,
    /// All whole blocks of it; `None` where there is none.
    blocks: Option<Blocks>,
    /// What is less than a block goes through the page cache of this.
    file: File,
    reader: Reader,
}

#[derive(Debug)]
struct Blocks {
    /// `None` once it broke: what was in flight is cancelled then, and reaped.
    queue: Option<Checked>,
    name: String,
    epoll: Epoll,
    block: u64,
    capacity: u64,
}

/// What becomes of bytes of the file.
#[derive(Debug)]
pub(super) enum Bytes {
    /// They fill these frames.
    Fill(ScatterList),
    /// These frames are written to them.
    From(ScatterList),
    /// So many become zeroes.
    Zeroes(u64),
}

/// What was moved so far.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) bytes: u64,
    pub(super) route: Route,
}

/// Why a transfer ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Status(Status),
    Queue(Error),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Stop {
        Stop::Status(status)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Status(fault.into())
    }
}

impl DirectFile {
    /// Opens and locks a file. Without a size in the options it may be of any but 0.
    ///
    /// # Errors
    /// As [`FileDisk::open`].
    pub fn open(memory: &Memory, path: &Path, options: FileDiskOptions) -> Result<DirectFile, DaxError> {
        let read_only = options.read_only;
        let disk = match FileDisk::open(memory, path, options.clone()) {
            Err(FileError::PartBlock { size, block, .. }) if options.size.is_none() => {
                match size - size % u64::from(block) {
                    0 => None,
                    size => Some(FileDisk::open(memory, path, FileDiskOptions { size: Some(size), ..options })?),
                }
            }
            disk => Some(disk?),
        };
        let call = |source| FileError::Call { path: path.to_owned(), source };
        let file = File::open(path, OpenOptions { read_only, ..OpenOptions::default() }).map_err(call)?;
        if disk.is_none() {
            take_lock(&file, path, read_only)?;
        }
        let size = file.size().map_err(call)?;
        let blocks = disk.as_ref().map(|disk| Blocks::new(disk)).transpose()?;
        Ok(DirectFile { path: path.to_owned(), read_only, size, blocks, file, reader: memory.reader() })
    }

    /// Bytes that can be moved.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes everything durable that was written to it.
    ///
    /// # Errors
    /// [`DaxError::Flush`] with what the medium says, [`DaxError::Queue`]. What failed may be lost, and a later flush need not
    /// fail for it.
    pub fn flush(&mut self) -> Result<(), DaxError> {
        if self.read_only {
            return Ok(());
        }
        let failed = |status, source| DaxError::Flush { path: self.path.clone(), status, len: self.size, source };
        // Both, since the kernel tells each open file of the writes that it lost.
        let blocks =
            self.blocks.as_mut().map_or(Ok(Status::Ok), |blocks| blocks.run(Bio::flush(0)).map(|done| done.status));
        let edges = self.file.sync_data().map_err(|error| {
            let status = status::of(error.errno(), Op::Flush);
            failed(status, Some(Box::new(error.into())))
        });
        match blocks {
            Ok(Status::Ok) => edges,
            Ok(status) | Err(Stop::Status(status)) => Err(failed(status, None)),
            Err(Stop::Queue(error)) => Err(error.into()),
        }
    }

    /// Does it, in three pieces: up to a block, whole blocks, the rest. The bytes are in the file.
    pub(super) fn transfer(&mut self, offset: u64, bytes: &Bytes, progress: &mut Progress) -> Result<(), Stop> {
        let len = bytes.len();
        let (head, body) = match &self.blocks {
            Some(Blocks { block, capacity, .. }) => {
                let head = (offset.next_multiple_of(*block) - offset).min(len);
                let body = (offset + len).min(*capacity).saturating_sub(offset + head);
                (head, body - body % block)
            }
            None => (len, 0),
        };
        self.edge(offset, &bytes.slice(0, head), progress)?;
        if let (true, Some(blocks)) = (body > 0, &mut self.blocks) {
            let Completion { status, done, route, .. } = blocks.run(bytes.slice(head, body).bio(offset + head))?;
            progress.add(done, route);
            if !status.is_ok() {
                return Err(status.into());
            }
        }
        self.edge(offset + head + body, &bytes.slice(head + body, len - head - body), progress)
    }

    /// Less than a block, or all of a file that has none.
    fn edge(&mut self, offset: u64, bytes: &Bytes, progress: &mut Progress) -> Result<(), Stop> {
        const BUFFER: usize = 4096;
        let mut done = 0;
        while done < bytes.len() {
            let piece = bytes.slice(done, BUFFER as u64);
            let mut buffer = [0; BUFFER];
            let buffer = &mut buffer[..usize::try_from(piece.len()).unwrap_or(BUFFER)];
            let failed = |error: pageless_sys::Error| Stop::Status(status::of(error.errno(), piece.op()));
            let at = offset + done;
            let moved = match &piece {
                Bytes::Fill(frames) => {
                    let read = self.file.read_at(buffer, at).map_err(failed)?;
                    self.copy(frames, &mut buffer[..read], Access::Write)?;
                    persist::fence();
                    read
                }
                Bytes::From(frames) => {
                    self.copy(frames, buffer, Access::Read)?;
                    self.file.write_at(buffer, at).map_err(failed)?
                }
                Bytes::Zeroes(_) => self.file.write_at(buffer, at).map_err(failed)?,
            };
            if moved == 0 {
                return Err(Status::IoErr.into()); // somebody cut it short
            }
            progress.add(moved as u64, Route::Bounce(Why::Misaligned));
            done += moved as u64;
        }
        Ok(())
    }

    /// Between private bytes and the first as many of the frames.
    fn copy(&mut self, frames: &ScatterList, mut bytes: &mut [u8], access: Access) -> Result<(), Fault> {
        let online = self.reader.online();
        for range in frames {
            let (now, later) = bytes.split_at_mut(bytes.len().min(range.len() as usize));
            if now.is_empty() {
                break;
            }
            let window = online.kmap(range, access)?;
            let copied = match access {
                Access::Write => window.writer().write(now),
                Access::Read => window.reader().read(now),
            };
            copied.map_err(|error| error.fault)?;
            bytes = later;
        }
        Ok(())
    }
}

impl Blocks {
    fn new(disk: &dyn BlockDevice) -> Result<Blocks, Error> {
        let queue = open_checked(disk)?;
        let broken = |source| Error::device(disk.name(), source);
        let epoll = Epoll::new(1).map_err(broken)?;
        if let Some(event) = queue.event() {
            epoll.add(event, 0, Interest::Read).map_err(broken)?;
        }
        let name = disk.name().to_owned();
        Ok(Blocks {
            queue: Some(queue),
            name,
            epoll,
            block: disk.limits().block_size.into(),
            capacity: disk.capacity(),
        })
    }

    /// Does one bio and waits for it. Nothing is in flight afterwards, also when the queue broke.
    fn run(&mut self, bio: Bio) -> Result<Completion, Stop> {
        let Some(mut queue) = self.queue.take() else {
            return Err(Stop::Queue(Error::device(self.name.clone(), "its queue broke earlier")));
        };
        let ended = wait_for(&mut queue, &mut self.epoll, bio);
        if !matches!(ended, Err(Stop::Queue(_))) {
            self.queue = Some(queue);
        }
        ended
    }
}

fn wait_for(queue: &mut Checked, epoll: &mut Epoll, bio: Bio) -> Result<Completion, Stop> {
    queue.submit(bio).map_err(|refused| Stop::Status(refused.why.status()))?;
    let mut out = Vec::new();
    loop {
        queue.poll(&mut out).map_err(Stop::Queue)?;
        if let Some(completion) = out.first() {
            return Ok(*completion);
        }
        let waited = epoll.wait(None, &mut Vec::new());
        waited.map_err(|error| Stop::Queue(Error::device("epoll", error)))?;
    }
}

impl Bytes {
    fn len(&self) -> u64 {
        match self {
            Bytes::Fill(frames) | Bytes::From(frames) => frames.len_bytes(),
            Bytes::Zeroes(len) => *len,
        }
    }

    /// `len` of them from `offset` on, or fewer where they end before.
    fn slice(&self, offset: u64, len: u64) -> Bytes {
        match self {
            Bytes::Fill(frames) => Bytes::Fill(frames.slice(offset, len)),
            Bytes::From(frames) => Bytes::From(frames.slice(offset, len)),
            Bytes::Zeroes(all) => Bytes::Zeroes(len.min(all.saturating_sub(offset))),
        }
    }

    fn op(&self) -> Op {
        match self {
            Bytes::Fill(_) => Op::Read,
            Bytes::From(_) => Op::Write,
            Bytes::Zeroes(_) => Op::WriteZeroes,
        }
    }

    /// At byte `offset` of the file, the first of a block.
    fn bio(self, offset: u64) -> Bio {
        let sector = Sector(offset / Sector::SIZE);
        match self {
            Bytes::Fill(frames) => Bio::read(sector, frames, 0),
            Bytes::From(frames) => Bio::write(sector, frames, 0),
            Bytes::Zeroes(len) => Bio::write_zeroes(sector, len, 0),
        }
    }
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { bytes: 0, route: Route::None }
    }

    fn add(&mut self, bytes: u64, route: Route) {
        self.bytes += bytes;
        self.route = self.route.worst(route);
    }
}

#[cfg(test)]
mod tests;
