// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the NBD protocol puts on the wire: magic numbers, codes and fixed-size messages, all big-endian.
//!
//! Every name is the specification's own (`doc/proto.md` of the NBD project) without its `NBD_` prefix,
//! so that a reader can search for either. Nothing here decides anything.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `NBDMAGIC`, the first eight bytes of every server.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the server's second word and the start of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Starts every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts every request of the transmission phase.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The longest string (export name, query, message) the protocol allows.
pub const MAX_STRING: usize = 4096;
/// The largest payload of one request we take or give.
pub const MAX_PAYLOAD: u32 = 32 << 20;

bitflags::bitflags! {
    /// What the server says of itself in its greeting.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options are answered, unknown ones included.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The 124 zero bytes after `OPT_EXPORT_NAME` can be left out.
        const NO_ZEROES = 1 << 1;
    }

    /// What the client answers to the greeting.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// It understands option replies.
        const FIXED_NEWSTYLE = 1 << 0;
        /// It does not want the 124 zero bytes.
        const NO_ZEROES = 1 << 1;
    }

    /// What an export can do.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        /// Every writing command is refused.
        const READ_ONLY = 1 << 1;
        /// `CMD_FLUSH` exists.
        const SEND_FLUSH = 1 << 2;
        /// `CMD_FLAG_FUA` exists.
        const SEND_FUA = 1 << 3;
        /// The medium turns.
        const ROTATIONAL = 1 << 4;
        /// `CMD_TRIM` exists.
        const SEND_TRIM = 1 << 5;
        /// `CMD_WRITE_ZEROES` and `CMD_FLAG_NO_HOLE` exist.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// `CMD_FLAG_DF` exists; only once structured replies are agreed.
        const SEND_DF = 1 << 7;
        /// A flush on one connection covers the writes of all.
        const CAN_MULTI_CONN = 1 << 8;
        /// `CMD_CACHE` exists.
        const SEND_CACHE = 1 << 10;
        /// `CMD_FLAG_FAST_ZERO` exists.
        const SEND_FAST_ZERO = 1 << 11;
    }

    /// The flags of one request.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Durable before the reply.
        const FUA = 1 << 0;
        /// `WRITE_ZEROES` must leave the range allocated.
        const NO_HOLE = 1 << 1;
        /// `READ` must answer with one content chunk.
        const DF = 1 << 2;
        /// `BLOCK_STATUS` must answer with one extent.
        const REQ_ONE = 1 << 3;
        /// `WRITE_ZEROES` must be fast or fail.
        const FAST_ZERO = 1 << 4;
    }

    /// The flags of one structured reply chunk.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct ReplyFlags: u16 {
        /// The last chunk of this reply.
        const DONE = 1 << 0;
    }
}

/// `NBD_OPT_…`: what a client asks for during the handshake.
pub mod opt {
    /// Pick an export the old way; cannot be refused politely.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Encrypt; not spoken here.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and begin.
    pub const GO: u32 = 7;
    /// Use chunks for replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Name the metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// `NBD_REP_…`: how an option is answered.
pub mod rep {
    /// Yes, or the end of a list.
    pub const ACK: u32 = 1;
    /// One export.
    pub const SERVER: u32 = 2;
    /// One piece of information on an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    /// Malformed option.
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    /// More than the server is willing to take.
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// `NBD_INFO_…`: the kinds of information in `REP_INFO`.
pub mod info {
    /// Size and transmission flags; always sent.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// A sentence for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

/// `NBD_CMD_…`: the requests of the transmission phase.
pub mod cmd {
    /// Read data.
    pub const READ: u16 = 0;
    /// Write the payload that follows.
    pub const WRITE: u16 = 1;
    /// Disconnect; has no reply.
    pub const DISC: u16 = 2;
    /// Make completed writes durable.
    pub const FLUSH: u16 = 3;
    /// Forget data.
    pub const TRIM: u16 = 4;
    /// Expect reads soon.
    pub const CACHE: u16 = 5;
    /// Write zeroes without a payload.
    pub const WRITE_ZEROES: u16 = 6;
    /// Tell data from holes.
    pub const BLOCK_STATUS: u16 = 7;
}

/// `NBD_REPLY_TYPE_…`: the kinds of chunk.
pub mod chunk {
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset, not sent.
    pub const OFFSET_HOLE: u16 = 2;
    /// A list of extents.
    pub const BLOCK_STATUS: u16 = 5;
    /// The request failed.
    pub const ERROR: u16 = (1 << 15) + 1;
    /// The request failed at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// `base:allocation`: the extent takes no space.
pub const STATE_HOLE: u32 = 1 << 0;
/// `base:allocation`: the extent reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;
/// The one metadata context there is, and the number we give it.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The number of `base:allocation` in `REP_META_CONTEXT` and in block status chunks.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// The server's greeting.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Greeting {
    /// [`INIT_MAGIC`].
    pub init: U64,
    /// [`OPTION_MAGIC`].
    pub option: U64,
    /// [`HandshakeFlags`].
    pub flags: U16,
}

/// The head of an option; `length` bytes follow.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OptionHeader {
    /// [`OPTION_MAGIC`].
    pub magic: U64,
    /// One of [`opt`].
    pub option: U32,
    /// Bytes of data that follow.
    pub length: U32,
}

/// The head of a reply to an option; `length` bytes follow.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OptionReply {
    /// [`OPTION_REPLY_MAGIC`].
    pub magic: U64,
    /// The option answered.
    pub option: U32,
    /// One of [`rep`].
    pub kind: U32,
    /// Bytes of data that follow.
    pub length: U32,
}

/// `INFO_EXPORT`.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InfoExport {
    /// [`info::EXPORT`].
    pub kind: U16,
    /// Bytes.
    pub size: U64,
    /// [`TransmissionFlags`].
    pub flags: U16,
}

/// `INFO_BLOCK_SIZE`.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InfoBlockSize {
    /// [`info::BLOCK_SIZE`].
    pub kind: U16,
    /// Offsets and lengths are multiples of this.
    pub minimum: U32,
    /// And best of this.
    pub preferred: U32,
    /// The longest payload.
    pub maximum: U32,
}

/// A request; a `WRITE` is followed by `length` bytes.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    /// [`REQUEST_MAGIC`].
    pub magic: U32,
    /// [`CommandFlags`].
    pub flags: U16,
    /// One of [`cmd`].
    pub kind: U16,
    /// Handed back in the reply.
    pub cookie: U64,
    /// Bytes from the start of the export.
    pub offset: U64,
    /// Bytes.
    pub length: U32,
}

/// A simple reply; that of a successful read is followed by its data.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    /// [`SIMPLE_REPLY_MAGIC`].
    pub magic: U32,
    /// Zero, or an [`Errno`](super::Errno).
    pub error: U32,
    /// The request's.
    pub cookie: U64,
}

/// The head of a chunk; `length` bytes follow.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`STRUCTURED_REPLY_MAGIC`].
    pub magic: U32,
    /// [`ReplyFlags`].
    pub flags: U16,
    /// One of [`chunk`].
    pub kind: U16,
    /// The request's.
    pub cookie: U64,
    /// Bytes that follow.
    pub length: U32,
}

/// One extent of a block status chunk.
#[derive(Copy, Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Descriptor {
    /// Bytes.
    pub length: U32,
    /// [`STATE_HOLE`] and [`STATE_ZERO`].
    pub status: U32,
}

/// Bytes of a request without its payload.
pub const REQUEST_LEN: usize = size_of::<RequestHeader>();
