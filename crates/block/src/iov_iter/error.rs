// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why memory cannot be named for an I/O, with the numbers.

use pageless_mem::PhysRange;

use super::{MAX_IOVECS, UserIovec};
use crate::Status;

/// Why iovecs were refused, or could not be extracted. `after` is how many bytes from the cursor on can be extracted before
/// the place at fault: whoever wants those truncates to it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IovError {
    /// More iovecs than one call takes.
    #[error("{count} iovecs, one call takes {MAX_IOVECS}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// An iovec ends behind the last address.
    #[error("iovec {index}: {len} bytes at {addr:#x} reach past the last address")]
    Wraps {
        /// Which one.
        index: usize,
        /// Its first address.
        addr: usize,
        /// Its bytes.
        len: usize,
    },
    /// More bytes than `isize::MAX`, which a result could not count.
    #[error("iovec {index}: {len} bytes after {before} are more than {max}", max = isize::MAX)]
    TooLong {
        /// The one that is too much.
        index: usize,
        /// Its bytes.
        len: usize,
        /// Bytes of those before it.
        before: usize,
    },
    /// A destination that names bytes twice.
    #[error("iovecs {first} and {second} of a destination overlap in {len} bytes at {at:#x}")]
    Overlapping {
        /// The earlier one.
        first: usize,
        /// The later one.
        second: usize,
        /// The first byte they share: an address, or a position in the frame space.
        at: u64,
        /// How many they share there.
        len: u64,
    },
    /// Addresses in no region.
    #[error("{len} bytes at {addr:#x} are in no region ({after} bytes on)")]
    Unregistered {
        /// The first address.
        addr: usize,
        /// Bytes of the iovec that are in none.
        len: usize,
        /// Bytes that could be extracted before it.
        after: usize,
    },
    /// Frames in no region, or in none any more.
    #[error("frames {range:?} are gone ({after} bytes on)")]
    Gone {
        /// The frames.
        range: PhysRange,
        /// Bytes that could be extracted before them.
        after: usize,
    },
    /// A destination in a region that may not be written.
    #[error("{len} bytes at {addr:#x} may only be read ({after} bytes on)")]
    ReadOnly {
        /// The first address.
        addr: usize,
        /// Bytes in that region.
        len: usize,
        /// Bytes that could be extracted before it.
        after: usize,
    },
    /// The same, where the destination was given as frames.
    #[error("frames {range:?} may only be read ({after} bytes on)")]
    ReadOnlyFrames {
        /// The frames.
        range: PhysRange,
        /// Bytes that could be extracted before them.
        after: usize,
    },
    /// Less than a block is left.
    #[error("{left} bytes are left, a block has {block_size}")]
    PartBlock {
        /// Bytes left.
        left: usize,
        /// Bytes in a block.
        block_size: u32,
    },
    /// One block is spread over more ranges than a request may have.
    #[error("a block of {block_size} bytes is spread over more than {max_segments} ranges")]
    Fragmented {
        /// Bytes in a block.
        block_size: u32,
        /// The most ranges in one request.
        max_segments: u32,
    },
}

impl IovError {
    /// What a submitter reports for it.
    pub fn status(self) -> Status {
        match self {
            IovError::Unregistered { .. } | IovError::Gone { .. } => Status::Gone,
            IovError::ReadOnly { .. } | IovError::ReadOnlyFrames { .. } => Status::ReadOnly,
            IovError::Wraps { .. } | IovError::TooLong { .. } => Status::OutOfRange,
            IovError::TooMany { .. }
            | IovError::Overlapping { .. }
            | IovError::PartBlock { .. }
            | IovError::Fragmented { .. } => Status::Unsupported,
        }
    }
}

/// Why memory that was to be registered on the spot could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError<E> {
    /// As without registering.
    #[error(transparent)]
    Iov(#[from] IovError),
    /// The registrar refused.
    #[error("{len} bytes at {addr:#x} cannot be registered: {source}", len = at.len, addr = at.addr)]
    Registrar {
        /// The whole frames it was asked for.
        at: UserIovec,
        /// What it says.
        source: E,
    },
}
