// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FileError`]: why a path cannot be a disk, and what would help.

use pageless_sys::Errno;
use std::path::PathBuf;

/// Why a path cannot be opened as a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is nothing there, and making it was not asked for.
    #[error("{}: no such file; give a size to make it", path.display())]
    Missing {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The kernel refused to open it.
    #[error("{}: {errno}", path.display())]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// Its reason.
        errno: Errno,
    },
    /// A directory, a socket, a character device.
    #[error("{}: neither a regular file nor a block device", path.display())]
    NotADisk {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Another process has it open in a way that excludes us.
    #[error("{}: in use{}", path.display(), by(*holder))]
    Locked {
        /// What was to be opened.
        path: PathBuf,
        /// Who holds the lock, where that can be found.
        holder: Option<u32>,
    },
    /// Empty, and no size was given.
    #[error("{}: empty; give a size", path.display())]
    Empty {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Smaller than asked.
    #[error("{}: {size} bytes, but {asked} were asked for; `truncate -s {asked}` makes it larger", path.display())]
    TooSmall {
        /// What was to be opened.
        path: PathBuf,
        /// What is there.
        size: u64,
        /// What was asked.
        asked: u64,
    },
    /// Not whole blocks.
    #[error(
        "{}: {size} bytes is no multiple of its {block}-byte block; `truncate -s {}` makes it one",
        path.display(), size.next_multiple_of(u64::from(*block))
    )]
    PartBlock {
        /// What was to be opened.
        path: PathBuf,
        /// What is there or was asked for.
        size: u64,
        /// The smallest unit of I/O there.
        block: u32,
    },
    /// A call on the open file failed.
    #[error("{}: {source}", path.display())]
    Call {
        /// The file.
        path: PathBuf,
        /// Which call, and why.
        source: pageless_sys::Error,
    },
}

fn by(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_path_cause_and_remedy() {
        let path = PathBuf::from("/d/x.img");
        let part = FileError::PartBlock { path: path.clone(), size: 1000, block: 512 };
        assert_eq!(
            part.to_string(),
            "/d/x.img: 1000 bytes is no multiple of its 512-byte block; `truncate -s 1024` makes it one"
        );
        let locked = FileError::Locked { path, holder: Some(7) };
        assert_eq!(locked.to_string(), "/d/x.img: in use by process 7");
    }
}
