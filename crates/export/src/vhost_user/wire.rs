// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is on the socket: numbers and layouts of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst), in the machine's
//! own byte order, and of virtio-blk's configuration space (virtio 1.3, 5.2.4), which is little-endian.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version in the flags of every message.
pub(crate) const VERSION: u32 = 1;
/// The flags' bits for it.
pub(crate) const VERSION_MASK: u32 = 3;
/// It answers one.
pub(crate) const REPLY: u32 = 1 << 2;
/// It wants to be told how it went.
pub(crate) const NEED_REPLY: u32 = 1 << 3;

/// The longest payload that any message has: all of the configuration space that one carries.
pub(crate) const MAX_PAYLOAD: usize = size_of::<ConfigHead>() + MAX_CONFIG as usize;
const _: () = assert!(size_of::<MemTableHead>() + MAX_REGIONS * size_of::<MemRegion>() <= MAX_PAYLOAD);
/// Entries of a memory table that is sent whole.
pub(crate) const MAX_REGIONS: usize = 8;
/// Memory regions that a front-end may add one by one.
pub(crate) const MAX_SLOTS: u64 = 509;
/// Bytes of the configuration space that one message carries.
pub(crate) const MAX_CONFIG: u32 = 256;

/// In the payload of a kick, call or error descriptor: which ring, and that there is no descriptor.
pub(crate) const RING_MASK: u64 = 0xff;
pub(crate) const NO_FD: u64 = 1 << 8;
/// In the flags of ring addresses: stores to the used ring are logged.
pub(crate) const LOG_USED: u32 = 1;

/// The numbers of messages that a front-end sends.
pub(crate) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_LOG_FD: u32 = 7;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const SET_CONFIG: u32 = 25;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
    pub(crate) const RESET_DEVICE: u32 = 34;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

bitflags::bitflags! {
    /// What both sides of the socket can do.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub(crate) struct ProtocolFeatures: u64 {
        /// More than one ring.
        const MQ = 1 << 0;
        /// The dirty log comes by descriptor.
        const LOG_SHMFD = 1 << 1;
        /// Messages may ask how they went.
        const REPLY_ACK = 1 << 3;
        /// The configuration space is read and written by message.
        const CONFIG = 1 << 9;
        /// What is in flight is recorded in memory that outlives the back-end.
        const INFLIGHT_SHMFD = 1 << 12;
        /// The device can be reset.
        const RESET_DEVICE = 1 << 13;
        /// Memory is added and removed a region at a time.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
    }
}

/// The feature bit that says whether rings start enabled, and that there are [`ProtocolFeatures`].
pub(crate) const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// The feature bit that says that written pages are logged.
pub(crate) const F_LOG_ALL: u64 = 1 << 26;

macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $type,)*
        }
    )*};
}

layouts! {
    /// The head of a message; `size` bytes follow.
    Header {
        /// One of [`request`].
        request: u32,
        /// Version, [`REPLY`], [`NEED_REPLY`].
        flags: u32,
        /// Bytes of payload.
        size: u32,
    }
    /// A ring and a number.
    VringState {
        index: u32,
        num: u32,
    }
    /// Where a ring is, by the front-end's addresses; the log address is the guest's.
    VringAddr {
        index: u32,
        flags: u32,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    }
    /// Before the entries of a memory table.
    MemTableHead {
        count: u32,
        padding: u32,
    }
    /// An entry of it.
    MemRegion {
        /// Guest address.
        guest: u64,
        /// Bytes.
        size: u64,
        /// The front-end's address.
        user: u64,
        /// Where it starts in what its descriptor maps.
        mmap_offset: u64,
    }
    /// One entry by itself.
    OneMemRegion {
        padding: u64,
        region: MemRegion,
    }
    /// The dirty log.
    Log {
        /// Bytes.
        size: u64,
        /// Where it starts in what its descriptor maps.
        offset: u64,
    }
    /// Before some of the configuration space.
    ConfigHead {
        offset: u32,
        size: u32,
        flags: u32,
    }
    /// The records of what is in flight.
    Inflight {
        /// Bytes.
        mmap_size: u64,
        /// Where they start in what their descriptor maps.
        mmap_offset: u64,
        /// Rings.
        queues: u16,
        /// Entries in each.
        queue_size: u16,
        padding: u32,
    }
}

/// `struct virtio_blk_config` as far as what is offered reaches.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct BlkConfig {
    /// In sectors of 512 bytes.
    pub(crate) capacity: U64,
    pub(crate) size_max: U32,
    pub(crate) seg_max: U32,
    pub(crate) cylinders: U16,
    pub(crate) heads: u8,
    pub(crate) sectors: u8,
    pub(crate) blk_size: U32,
    /// A physical block is so often doubled a logical one.
    pub(crate) physical_block_exp: u8,
    pub(crate) alignment_offset: u8,
    /// In logical blocks.
    pub(crate) min_io_size: U16,
    /// In logical blocks.
    pub(crate) opt_io_size: U32,
    /// Whether there is a cache that is written back.
    pub(crate) writeback: u8,
    pub(crate) unused: u8,
    pub(crate) num_queues: U16,
    pub(crate) max_discard_sectors: U32,
    pub(crate) max_discard_seg: U32,
    pub(crate) discard_sector_alignment: U32,
    pub(crate) max_write_zeroes_sectors: U32,
    pub(crate) max_write_zeroes_seg: U32,
    pub(crate) write_zeroes_may_unmap: u8,
    pub(crate) unused1: [u8; 3],
}

const _: () = assert!(size_of::<BlkConfig>() == 60);
/// Where the one byte is that a driver may write.
pub(crate) const CONFIG_WRITEBACK: u32 = 32;
