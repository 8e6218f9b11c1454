// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::vhost_user::guest_map::MapError;
use crate::vhost_user::running::RingError;
use crate::vhost_user::wire::MAX_SLOTS;

/// Why a message could not be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// No such ring.
    #[error("ring {ring}, and there are {most}")]
    Ring {
        /// Which.
        ring: u32,
        /// How many there are.
        most: usize,
    },
    /// A ring of a length that does not exist.
    #[error("ring {ring}: {size} entries are no power of two up to 32768")]
    Size {
        /// Which.
        ring: u32,
        /// Entries.
        size: u32,
    },
    /// No index of a split ring.
    #[error("ring {ring}: {base} is no index of a split ring")]
    Base {
        /// Which.
        ring: u32,
        /// What was given.
        base: u32,
    },
    /// A ring that cannot be served.
    #[error("ring {ring}: {why}")]
    Start {
        /// Which.
        ring: u32,
        /// What is wrong.
        why: RingError,
    },
    /// What was not offered.
    #[error("features {unknown:#x} were not offered")]
    Features {
        /// Those.
        unknown: u64,
    },
    /// A table that is none.
    #[error(transparent)]
    Map(#[from] MapError),
    /// More than was offered.
    #[error("more than {MAX_SLOTS} memory regions")]
    Slots,
    /// It was not added.
    #[error("{size:#x} bytes at guest address {guest:#x} are no entry of the memory table")]
    NoRegion {
        /// Guest address.
        guest: u64,
        /// Bytes.
        size: u64,
    },
    /// Past the last address.
    #[error("{len:#x} bytes at {offset:#x} wrap")]
    Wraps {
        /// Where they start.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Longer than any guest needs.
    #[error("a dirty log of {0:#x} bytes cannot be used")]
    LogSize(u64),
    /// Only the cache can be switched.
    #[error("{size} bytes at {offset} of the configuration space cannot be written")]
    Config {
        /// First byte.
        offset: u32,
        /// Bytes.
        size: u32,
    },
    /// Records that do not fit what is served.
    #[error("{bytes} bytes for records of what is in flight in {queues} rings of {queue_size}")]
    Records {
        /// Rings.
        queues: u16,
        /// Entries in each.
        queue_size: u16,
        /// Bytes that were given, 0 where they were asked for.
        bytes: u64,
    },
    /// Memory of the guest that cannot be mapped.
    #[error("memory table: {size:#x} bytes at guest address {guest:#x}: {why}")]
    Entry {
        /// Guest address.
        guest: u64,
        /// Bytes.
        size: u64,
        /// What is wrong.
        why: pageless_mem::Error,
    },
    /// Other memory that cannot be mapped.
    #[error(transparent)]
    Memory(#[from] pageless_mem::Error),
    /// The kernel refused something else.
    #[error(transparent)]
    Sys(#[from] pageless_sys::Error),
    /// A descriptor could not be had twice.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
