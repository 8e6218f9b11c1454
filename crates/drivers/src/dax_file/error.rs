// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DaxError`]: why a mapped file could not be opened, changed or moved.

use crate::file::FileError;
use pageless_block::{Route, Status};
use pageless_mem::Busy;
use pageless_sys::Errno;
use std::path::PathBuf;

/// Why something about a [`DaxFile`](super::DaxFile) was not done. Unless it says otherwise nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaxError {
    /// Somebody had the bytes until the deadline passed: I/O in flight, a window of the CPU, a range that is locked. Offsets
    /// are the file's.
    #[error(transparent)]
    Busy(Box<Busy>),
    /// The file system, or the kernel, refused.
    #[error("{}: {what}: {source}{}", path.display(), hint(what, source.errno()))]
    Refused {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// Call and errno.
        source: pageless_sys::Error,
    },
    /// It could not be opened, locked or mapped.
    #[error(transparent)]
    Memory(#[from] pageless_mem::Error),
    /// Bytes that the file does not have.
    #[error("{}: {what} {start}..{end}, but it ends at {len}", path.display())]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// First byte asked for.
        start: u64,
        /// Past the last.
        end: u64,
        /// Where the file ends.
        len: u64,
    },
    /// It was opened for reading.
    #[error("{}: {what} at byte {offset} of {len}: it was opened read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// The first byte it was about.
        offset: u64,
        /// Where the file ends.
        len: u64,
    },
    /// It was closed.
    #[error("{}: {what} at byte {offset}: it was closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// The first byte it was about.
        offset: u64,
    },
    /// What was stored could not be made durable.
    #[error("{}: flush of {len} bytes: {status}{}", path.display(), cause(source.as_deref()))]
    Flush {
        /// The file.
        path: PathBuf,
        /// What users of the medium are told.
        status: Status,
        /// Where the file ends.
        len: u64,
        /// Call and errno, or how short the file is; none where a queue failed, or somebody else met it and this user hears of
        /// it.
        source: Option<Box<pageless_mem::Error>>,
    },
    /// The file on the other side of a transfer could not be opened.
    #[error(transparent)]
    Other(#[from] FileError),
    /// The queue of the other side could not be opened, or broke.
    #[error(transparent)]
    Queue(#[from] pageless_block::Error),
    /// A transfer ended early: so many bytes from its start were moved, and more may have been.
    #[error("{} and {}: {status} after {moved} of {len} bytes, route {route}", path.display(), other.display())]
    Transfer {
        /// The mapped file.
        path: PathBuf,
        /// The other file.
        other: PathBuf,
        /// How it ended.
        status: Status,
        /// Contiguous bytes from the start that were moved.
        moved: u64,
        /// Bytes asked for.
        len: u64,
        /// Which way they went.
        route: Route,
    },
}

impl DaxError {
    /// Whether a later call may go through.
    pub fn is_busy(&self) -> bool {
        matches!(self, DaxError::Busy(_))
    }

    /// The kernel's reason, where there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            DaxError::Busy(_) => Some(Errno::EBUSY),
            DaxError::Refused { source, .. } => Some(source.errno()),
            DaxError::Memory(error) => error.errno(),
            DaxError::Flush { source, .. } => source.as_ref().and_then(|error| error.errno()),
            _ => None,
        }
    }
}

fn cause(source: Option<&pageless_mem::Error>) -> String {
    source.map(|error| format!("; {error}")).unwrap_or_default()
}

/// What helps where the errno alone does not say it.
fn hint(what: &str, errno: Errno) -> &'static str {
    match (what, errno) {
        (_, Errno::EOPNOTSUPP) => "; this file system cannot do that",
        ("collapse", Errno::EINVAL) => "; offset and length must be whole blocks of the file system",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_file_the_call_and_what_would_help() {
        let refused = |what, errno| DaxError::Refused {
            path: PathBuf::from("/d/x"),
            what,
            source: pageless_sys::Error::Call { call: "fallocate", errno },
        };
        let text = refused("collapse", Errno::EOPNOTSUPP).to_string();
        assert!(text.starts_with("/d/x: collapse: fallocate: EOPNOTSUPP"), "{text}");
        assert!(text.ends_with("this file system cannot do that"), "{text}");
        let text = refused("collapse", Errno::EINVAL).to_string();
        assert!(text.ends_with("whole blocks of the file system"), "{text}");
        assert_eq!(refused("punch", Errno::ENOSPC).errno(), Some(Errno::ENOSPC));
    }
}
