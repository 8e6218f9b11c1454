// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a BTT lies on, mapped as it is: a file, a block device such as `/dev/pmem0`, a device-DAX node.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use pageless_mem::{Backing, FRAME_SIZE, FileOptions, FilePart, Memory, Region};
use pageless_sys::Errno;
use pageless_sys::file::{File, OpenOptions};
use pageless_sys::lock::{Lock, lock_image};

use super::error::{OpenError, Problem};
use super::memory::named;
use super::{Made, Options, file, program};

/// Maps what is there, as many whole frames of it as there are, and locks it: for reading only, others may read too.
///
/// # Errors
/// [`OpenError`] names the path, the cause and a remedy.
pub fn open_medium(memory: &Memory, path: &Path, options: Options) -> Result<Region, OpenError> {
    let opened = backing(path, options).and_then(|backing| memory.register(backing).map_err(Problem::Memory));
    let argument = path.display().to_string();
    opened.map_err(|problem| OpenError { argument, read_only: options.read_only, problem })
}

/// As [`open_medium`] for writing, of a file that is made, sparse, if it is not there. One that is there must have that
/// size. The file is removed again unless it is [kept](Made::keep).
///
/// # Errors
/// As [`open_medium`].
pub fn make_medium(memory: &Memory, path: &Path, size: u64) -> Result<(Region, Option<Made>), OpenError> {
    let options = Options { read_only: false, size_if_made: Some(size) };
    let made = file::prepare(path, Some(size), options, FRAME_SIZE).map_err(|problem| OpenError {
        argument: path.display().to_string(),
        read_only: false,
        problem,
    })?;
    Ok((open_medium(memory, path, options)?, made))
}

/// The file or device at `path`.
pub(super) fn backing(path: &Path, options: Options) -> Result<Backing, Problem> {
    let read_only = options.read_only;
    let there = std::fs::metadata(path).map_err(|error| match Errno::from_io(&error) {
        errno @ Errno::ENOENT => Problem::NotFound { path: path.into(), errno },
        errno => Problem::Refused { doing: "open", path: path.into(), errno },
    })?;
    let kind = there.file_type();
    match () {
        () if kind.is_block_device() => device(path, read_only),
        () if kind.is_char_device() => Backing::devdax(path, read_only).map_err(|error| named(path, error)),
        () if !kind.is_file() => Err(Problem::NotAFile { path: path.into() }),
        () if there.len() < FRAME_SIZE => Err(Problem::Empty { path: path.into() }),
        () => {
            let size = Some(there.len() / FRAME_SIZE * FRAME_SIZE);
            Backing::file(path, FileOptions { size, create: false, read_only }).map_err(|error| named(path, error))
        }
    }
}

/// A block device, through its page cache. A writer has it for itself: the kernel refuses it to mounts and drivers meanwhile.
fn device(path: &Path, read_only: bool) -> Result<Backing, Problem> {
    let refused = |doing, errno| Problem::Refused { doing, path: path.into(), errno };
    let how = OpenOptions { read_only, exclusive: !read_only, ..OpenOptions::default() };
    let file = File::open(path, how).map_err(|error| refused("open", error.errno()))?;
    let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
    lock_image(file.as_fd(), lock).map_err(|error| match error.errno() {
        Errno::EAGAIN | Errno::EACCES => {
            let pid = file.identity().ok().and_then(pageless_sys::lock::holder);
            Problem::Locked { path: path.into(), pid, program: pid.and_then(program) }
        }
        errno => refused("lock", errno),
    })?;
    let len = file.size().map_err(|error| refused("use", error.errno()))? / FRAME_SIZE * FRAME_SIZE;
    Backing::part(&file, path, FilePart { offset: 0, len, reserve: len, read_only }).map_err(|error| named(path, error))
}
