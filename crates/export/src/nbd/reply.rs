// SPDX-License-Identifier: MIT OR Apache-2.0
//! The heads of replies, byte for byte. Data follows from wherever it lies.

use zerocopy::IntoBytes;

use super::errno::Errno;
use super::wire::{self, BASE_ALLOCATION_ID, ChunkHeader, Descriptor, ReplyFlags, SimpleReply, chunk};

/// A reply without data, or what goes before the data: short enough to be kept by value.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    bytes: [u8; Head::MAX],
    len: u8,
}

impl Head {
    /// A chunk header and the twelve bytes of a hole.
    const MAX: usize = 32;

    fn new(parts: &[&[u8]]) -> Head {
        let mut head = Head { bytes: [0; Head::MAX], len: 0 };
        for part in parts {
            let from = usize::from(head.len);
            head.bytes[from..from + part.len()].copy_from_slice(part);
            head.len += u8::try_from(part.len()).unwrap_or(0);
        }
        head
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(crate) fn len(&self) -> u32 {
        u32::from(self.len)
    }

    /// Success, in any session; the data of a read follows unless replies are structured.
    pub(crate) fn ok(cookie: u64) -> Head {
        Head::new(&[simple(cookie, 0).as_bytes()])
    }

    /// `length` bytes at `offset` follow.
    pub(crate) fn data(cookie: u64, offset: u64, length: u32, done: bool) -> Head {
        // Payloads are at most 32 MiB: the eight bytes of the offset still fit.
        let header = header(cookie, chunk::OFFSET_DATA, length + 8, done);
        Head::new(&[header.as_bytes(), &offset.to_be_bytes()])
    }

    /// `length` bytes at `offset` are zeroes.
    pub(crate) fn hole(cookie: u64, offset: u64, length: u32, done: bool) -> Head {
        let header = header(cookie, chunk::OFFSET_HOLE, 12, done);
        Head::new(&[header.as_bytes(), &offset.to_be_bytes(), &length.to_be_bytes()])
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({:02x?})", self.as_bytes())
    }
}

fn simple(cookie: u64, error: u32) -> SimpleReply {
    SimpleReply { magic: wire::SIMPLE_REPLY_MAGIC.into(), error: error.into(), cookie: cookie.into() }
}

fn header(cookie: u64, kind: u16, length: u32, done: bool) -> ChunkHeader {
    let flags = if done { ReplyFlags::DONE } else { ReplyFlags::empty() };
    ChunkHeader {
        magic: wire::STRUCTURED_REPLY_MAGIC.into(),
        flags: flags.bits().into(),
        kind: kind.into(),
        cookie: cookie.into(),
        length: length.into(),
    }
}

fn concat(parts: &[&[u8]]) -> Box<[u8]> {
    parts.concat().into()
}

/// The whole answer to a request that failed. A session with structured replies is told why in words.
pub(crate) fn error(structured: bool, cookie: u64, errno: Errno, why: &str) -> Box<[u8]> {
    if !structured {
        return simple(cookie, errno.number()).as_bytes().into();
    }
    let why = &why.as_bytes()[..why.len().min(wire::MAX_STRING)];
    let length = u16::try_from(why.len()).unwrap_or(0);
    let header = header(cookie, chunk::ERROR, 6 + u32::from(length), true);
    concat(&[header.as_bytes(), &errno.number().to_be_bytes(), &length.to_be_bytes(), why])
}

/// A chunk that says where a request failed.
pub(crate) fn error_at(cookie: u64, errno: Errno, offset: u64, done: bool) -> Box<[u8]> {
    let header = header(cookie, chunk::ERROR_OFFSET, 14, done);
    let no_words = 0u16;
    concat(&[header.as_bytes(), &errno.number().to_be_bytes(), &no_words.to_be_bytes(), &offset.to_be_bytes()])
}

/// The whole answer to a block status request.
pub(crate) fn block_status(cookie: u64, extents: &[Descriptor]) -> Box<[u8]> {
    let length = u32::try_from(size_of_val(extents)).unwrap_or(0) + 4;
    let header = header(cookie, chunk::BLOCK_STATUS, length, true);
    concat(&[header.as_bytes(), &BASE_ALLOCATION_ID.to_be_bytes(), extents.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nbd_structured_reply_chunks_have_the_lengths_they_claim() {
        for whole in [
            Head::hole(7, 4096, 512, true).as_bytes(),
            &error(true, 7, Errno::Inval, "because"),
            &error_at(7, Errno::Io, 512, true),
            &block_status(7, &[Descriptor { length: 512.into(), status: 3.into() }]),
        ] {
            assert_eq!(whole[..4], wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
            assert_eq!(whole[4..6], [0, 1], "DONE");
            assert_eq!(whole[8..16], 7u64.to_be_bytes());
            let length = u32::from_be_bytes(*whole[16..].first_chunk().unwrap());
            assert_eq!(length as usize, whole.len() - 20);
        }
        let data = Head::data(7, 4096, 512, false);
        assert_eq!(data.as_bytes()[16..20], 520u32.to_be_bytes());
        assert_eq!(data.as_bytes()[4..6], [0, 0]);
    }

    #[test]
    fn nbd_simple_reply_is_sixteen_bytes() {
        assert_eq!(Head::ok(7).as_bytes(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(error(false, 7, Errno::Perm, "words").len(), 16);
    }
}
