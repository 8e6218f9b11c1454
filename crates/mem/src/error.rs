// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pageless_sys::Errno;

use crate::Access;
use crate::holds::Held;

/// Why memory could not be made, registered or used by the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Sys(#[from] pageless_sys::Error),
    /// The kernel refused something about a named file.
    #[error("{path}: {source}", path = path.display())]
    Path {
        /// The file.
        path: PathBuf,
        /// Call and errno.
        source: pageless_sys::Error,
    },
    /// A region of no bytes.
    #[error("a region of 0 bytes cannot be registered")]
    Empty,
    /// A size or address that is no multiple of what the memory is made of.
    #[error("{what} {value:#x} is no multiple of {align}")]
    Misaligned {
        /// Which number.
        what: &'static str,
        /// The number.
        value: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// The addresses are registered already.
    #[error("addresses {addr:#x}..{end:#x} overlap the region at {other:#x}..{other_end:#x}")]
    Overlap {
        /// First address asked for.
        addr: usize,
        /// Past the last.
        end: usize,
        /// First address of the region that is there.
        other: usize,
        /// Past its last.
        other_end: usize,
    },
    /// More of a mapping than there is.
    #[error("{len} bytes at {offset} asked for of a mapping of {mapped} bytes")]
    OutOfMapping {
        /// Where they would start in it.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes mapped.
        mapped: u64,
    },
    /// More frames than the frame space has left.
    #[error("{frames} frames asked for, {left} are left in the frame space")]
    FrameSpace {
        /// Frames asked for.
        frames: u64,
        /// Frames left.
        left: u64,
    },
    /// The file is smaller than asked.
    #[error("{path} holds {actual} bytes, {wanted} were asked for", path = path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its size.
        actual: u64,
        /// What was asked.
        wanted: u64,
    },
    /// Memory that another process shares is smaller than it says.
    #[error("{len:#x} bytes at {offset:#x} are not in shared memory of {actual:#x} bytes")]
    NotShared {
        /// Where they would start in it.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// The path names something that cannot be mapped.
    #[error("{path} is no regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else has the file open for writing (or, for a writer, at all).
    #[error("{path} is in use{by}", path = path.display(), by = holder(*pid))]
    Locked {
        /// The file.
        path: PathBuf,
        /// The holder, where it could be found.
        pid: Option<u32>,
    },
    /// Private memory that children inherit.
    #[error(
        "addresses {addr:#x}..{end:#x} are private at {at:#x} and a fork would copy them: map them shared, or use MADV_DONTFORK"
    )]
    Inheritable {
        /// First address asked for.
        addr: usize,
        /// Past the last.
        end: usize,
        /// The first of them that would be copied.
        at: usize,
    },
    /// A PCI function that is bound to VFIO could not be had from it.
    #[error("{function} in {group}: {source}", group = group_named(*group))]
    Vfio {
        /// The function's address.
        function: Box<str>,
        /// Its IOMMU group, where it is in one.
        group: Option<u32>,
        /// Call and errno.
        source: pageless_sys::Error,
    },
    /// Locked memory beyond the limit.
    #[error("{wanted} bytes of locked memory needed, RLIMIT_MEMLOCK is {limit}")]
    LockedMemory {
        /// Bytes needed.
        wanted: u64,
        /// The soft limit.
        limit: u64,
    },
    /// Somebody had the memory until the deadline passed.
    #[error(transparent)]
    Busy(Box<Busy>),
    /// What was to be done at a moment when nobody had the bytes was given up by who asked for the moment.
    #[error("bytes {start}..{end} stay as they are: {why}")]
    GivenUp {
        /// The first of them.
        start: u64,
        /// Past the last.
        end: u64,
        /// Why.
        why: &'static str,
    },
    /// Bytes of a region could not be stored.
    #[error("{len} bytes at {offset}: {fault:?}")]
    Fault {
        /// Why.
        fault: Fault,
        /// The first of them.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Bytes outside the region, or of a region that is gone.
    #[error("bytes {start}..{end} are not in {region}, which ends at {len}")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// Past the last.
        end: u64,
        /// Where the region ends.
        len: u64,
        /// What it is.
        region: String,
    },
}

/// Who had memory until a deadline passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is busy after {patience:?}: {holders}", holders = Holders(holders))]
pub struct Busy {
    /// The memory.
    pub what: String,
    /// How long it was waited.
    pub patience: Duration,
    /// Who has it.
    pub holders: Vec<Holder>,
}

/// One who has memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The thread whose reader it was taken with: the one that made the reader.
    pub thread: u32,
    /// Its name, where it still lives.
    pub name: Option<String>,
    /// The bytes in flight, `[start, end)`, and what is done to them; `None` for the CPU's windows of an online section.
    pub in_flight: Option<(u64, u64, Access)>,
    /// Whether the bytes are not in flight but being deallocated, or cut off.
    pub changes: bool,
}

impl Holder {
    pub(crate) fn window(thread: u32) -> Holder {
        Holder { thread, name: pageless_sys::cpu::thread_name(thread), in_flight: None, changes: false }
    }

    pub(crate) fn in_flight(held: &Held) -> Holder {
        let in_flight = Some((held.start, held.end, held.access));
        Holder { in_flight, changes: held.changes, ..Holder::window(held.thread) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.thread)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        match self.in_flight {
            Some((start, end, _)) if self.changes => write!(f, " deallocates bytes {start}..{end}"),
            Some((start, end, access)) => {
                let doing = if access == Access::Write { "writes" } else { "reads" };
                write!(f, " {doing} bytes {start}..{end}")
            }
            None => f.write_str(" has windows open"),
        }
    }
}

/// The first few, and how many more.
struct Holders<'h>(&'h [Holder]);

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        for (index, holder) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{holder}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 if self.0.is_empty() => f.write_str("a thread that is not known"),
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

fn group_named(group: Option<u32>) -> String {
    group.map_or_else(|| "no IOMMU group".to_owned(), |group| format!("IOMMU group {group}"))
}

impl Error {
    /// The kernel's reason, where there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Sys(source) | Error::Path { source, .. } | Error::Vfio { source, .. } => Some(source.errno()),
            Error::Locked { .. } => Some(Errno::EAGAIN),
            Error::LockedMemory { .. } => Some(Errno::ENOMEM),
            Error::Busy(_) => Some(Errno::EBUSY),
            _ => None,
        }
    }
}

/// Why bytes of a region could not be moved. Travels on the data path.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The frames are in no region (any more).
    Gone,
    /// The region may not be written.
    ReadOnly,
    /// The memory could not be read or written: poison, a truncated file, a trapping BAR.
    Media,
    /// A hole of a file could not be filled.
    NoSpace,
}

impl Fault {
    /// What a failed `fsync` or `fallocate` of the medium means.
    pub(crate) fn from_medium(errno: Errno) -> Fault {
        match errno {
            Errno::ENOSPC | Errno::EDQUOT => Fault::NoSpace,
            Errno::EROFS | Errno::EPERM => Fault::ReadOnly,
            _ => Fault::Media,
        }
    }
}

/// A copy that stopped.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct CopyError {
    /// Bytes that were moved before the fault: exact.
    pub moved: usize,
    /// Why it stopped.
    pub fault: Fault,
}
