// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening: what the path is, who else has it, how large it is, what direct I/O asks for there.

use super::{FileDiskOptions, FileError, plan};
use pageless_block::{Align, Reach};
use pageless_sys::file::{File, FileType, OpenOptions};
use pageless_sys::lock::{self, Lock};
use pageless_sys::{Errno, Error};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// Where the kernel does not say what direct I/O asks for, one of these works.
const SMALL: u32 = 512;
const LARGE: u32 = 4096;

/// An open, locked file that holds whole blocks.
#[derive(Debug)]
pub(super) struct Opened {
    /// Holds the lock. No I/O goes through it but `lseek` and `fstat`.
    pub(super) holder: File,
    /// What messages call it.
    pub(super) name: String,
    pub(super) regular: bool,
    pub(super) read_only: bool,
    pub(super) capacity: u64,
    /// What direct I/O asks for; `None` where there is none.
    pub(super) direct: Option<Align>,
    /// What that means for frames.
    pub(super) reach: Reach,
}

impl Opened {
    pub(super) fn open(path: &Path, options: &FileDiskOptions) -> Result<Opened, FileError> {
        let call = |source| FileError::Call { path: path.to_owned(), source };
        let (holder, made) = holder(path, options)?;
        let opened = Opened::check(path, options, holder, made);
        if made && opened.is_err() {
            // Nobody else has seen it under our lock; leaving an empty file behind would turn "no space" into "empty".
            std::fs::remove_file(path).map_err(|e| call(Error::Call { call: "unlink", errno: Errno::from_io(&e) }))?;
        }
        opened
    }

    fn check(path: &Path, options: &FileDiskOptions, holder: File, made: bool) -> Result<Opened, FileError> {
        let call = |source| FileError::Call { path: path.to_owned(), source };
        take_lock(path, options, &holder)?;
        let regular = holder.file_type().map_err(call)? == FileType::Regular;
        if made {
            holder.truncate(options.size.unwrap_or(0)).map_err(call)?;
        }
        let size = holder.size().map_err(call)?;
        let direct = direct_align(&holder, regular, options.read_only).map_err(call)?;
        let block = direct.map_or(SMALL, |align| align.block);
        let name = format!("file:{}", path.display());
        let path = path.to_owned();
        let capacity = options.size.unwrap_or(size);
        match () {
            () if size < capacity => return Err(FileError::TooSmall { path, size, asked: capacity }),
            () if capacity == 0 => return Err(FileError::Empty { path }),
            () if !capacity.is_multiple_of(u64::from(block)) => {
                return Err(FileError::PartBlock { path, size: capacity, block });
            }
            () => {}
        }
        Ok(Opened { holder, name, regular, read_only: options.read_only, capacity, direct, reach: plan::reach(direct) })
    }

    /// The file once more, for one queue: lost writes are reported once per open file.
    pub(super) fn for_queue(&self) -> Result<File, pageless_block::Error> {
        reopen(&self.holder, self.read_only, self.direct.is_some())
            .map_err(|e| pageless_block::Error::device(&self.name, e))
    }

    /// The smallest unit of I/O.
    pub(super) fn block(&self) -> u32 {
        self.direct.map_or(SMALL, |align| align.block)
    }
}

/// Opens or makes the file; whether it was made.
fn holder(path: &Path, options: &FileDiskOptions) -> Result<(File, bool), FileError> {
    let failed = |errno| FileError::Open { path: path.to_owned(), errno };
    // Looked at before it is opened: opening a FIFO or a tape does things.
    match std::fs::metadata(path).map(|metadata| kind(&metadata)) {
        Ok(FileType::Regular) => {}
        Ok(FileType::Block) => {
            let exclusive = !options.read_only;
            let how = OpenOptions { read_only: options.read_only, exclusive, ..OpenOptions::default() };
            // `EBUSY`: another program, or a mount, which no lock would name.
            return File::open(path, how).map(|file| (file, false)).map_err(|e| failed(e.errno()));
        }
        Ok(_) => return Err(FileError::NotADisk { path: path.to_owned() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if !options.create || options.size.is_none() || options.read_only {
                return Err(FileError::Missing { path: path.to_owned() });
            }
            let how = OpenOptions { create: true, exclusive: true, ..OpenOptions::default() };
            match File::open(path, how) {
                Ok(file) => return Ok((file, true)),
                // somebody made it in between: it is theirs
                Err(e) if e.errno() == Errno::EEXIST => {}
                Err(e) => return Err(failed(e.errno())),
            }
        }
        Err(e) => return Err(failed(Errno::from_io(&e))),
    }
    let how = OpenOptions { read_only: options.read_only, ..OpenOptions::default() };
    File::open(path, how).map(|file| (file, false)).map_err(|e| failed(e.errno()))
}

fn kind(metadata: &std::fs::Metadata) -> FileType {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => FileType::Regular,
        () if kind.is_block_device() => FileType::Block,
        () if kind.is_char_device() => FileType::Character,
        () => FileType::Other,
    }
}

fn take_lock(path: &Path, options: &FileDiskOptions, holder: &File) -> Result<(), FileError> {
    let how = if options.read_only { Lock::Shared } else { Lock::Exclusive };
    match lock::lock_image(holder.as_fd(), how) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.errno(), Errno::EAGAIN | Errno::EACCES) => {
            let pid = holder.identity().ok().and_then(lock::holder);
            Err(FileError::Locked { path: path.to_owned(), holder: pid })
        }
        Err(source) => Err(FileError::Call { path: path.to_owned(), source }),
    }
}

/// The same file under a new open file description, whatever its name is by now.
fn reopen(file: &File, read_only: bool, direct: bool) -> Result<File, Error> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()));
    File::open(&path, OpenOptions { read_only, direct, ..OpenOptions::default() })
}

/// What direct I/O asks for on this file; `None` where there is none.
fn direct_align(holder: &File, regular: bool, read_only: bool) -> Result<Option<Align>, Error> {
    let direct = match reopen(holder, read_only, true) {
        Ok(file) => file,
        Err(e) if e.errno() == Errno::EINVAL => return Ok(None),
        Err(e) => return Err(e),
    };
    // a file system in memory takes the flag and copies all the same (and holds the names of block devices)
    if regular && direct.memory_fs() {
        return Ok(None);
    }
    Ok(match direct.direct_align() {
        Some(align) if align.memory == 0 || align.offset == 0 => None,
        Some(align) => Some(Align { memory: align.memory, block: align.offset.max(SMALL) }),
        None => Some(probe(&direct)?),
    })
}

/// Tries whether the small alignment works, by a read that needs it.
fn probe(direct: &File) -> Result<Align, Error> {
    let mut memory = vec![0; 2 * LARGE as usize];
    let aligned = memory.as_ptr().align_offset(LARGE as usize) + SMALL as usize;
    let buf = &mut memory[aligned..aligned + SMALL as usize];
    match direct.read_at(buf, u64::from(SMALL)) {
        Ok(_) => Ok(Align { memory: SMALL, block: SMALL }),
        Err(e) if e.errno() == Errno::EINVAL => Ok(Align { memory: LARGE, block: LARGE }),
        Err(e) => Err(e),
    }
}
