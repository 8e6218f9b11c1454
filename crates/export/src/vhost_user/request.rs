// SPDX-License-Identifier: MIT OR Apache-2.0
//! A virtio block request (virtio 1.3, 5.2.6): from a chain to bios, or to a status at once.
//!
//! Where the descriptors end says nothing: the header is the first sixteen bytes that may be read, the status the last byte
//! that may be written, the data what lies between. A header that changes while it is read is whatever was read.

use pageless_block::{Bio, Flags, Op, RefusedWhy, ScatterList, Sector, Status};
use pageless_mem::{Access, Online, PhysRange};

use super::chain::{self, Chain, Piece};
use super::guest_map::{GuestAddr, GuestMap};
use super::words::Words;

bitflags::bitflags! {
    /// The negotiated features that the data path looks at.
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Features: u64 {
        /// Flush requests exist.
        const FLUSH = 1 << 9;
        /// The driver may switch the cache between write-back and write-through.
        const CONFIG_WCE = 1 << 11;
        /// Discard requests exist.
        const DISCARD = 1 << 13;
        /// Write-zeroes requests exist.
        const WRITE_ZEROES = 1 << 14;
        /// A descriptor may name a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Each side says by an index when it wants to be woken.
        const EVENT_IDX = 1 << 29;
        const _ = !0;
    }
}

/// Ranges in one discard or write-zeroes request, at most.
pub(crate) const MAX_RANGES: u32 = 32;
/// Bytes of the device's name that a driver is told.
pub(crate) const ID_BYTES: usize = 20;

/// Bytes of data in one request, at most: twice what is offered, all segments at their longest.
const MOST: u64 = 1 << 30;

const HEADER: u64 = 16;
const RANGE: u64 = 16;
const UNMAP: u32 = 1;

/// How a request ended, as a guest sees it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// `VIRTIO_BLK_S_OK`
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`
    IoErr = 1,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupported = 2,
}

impl From<Status> for Code {
    fn from(status: Status) -> Code {
        match status {
            Status::Ok => Code::Ok,
            Status::Unsupported => Code::Unsupported,
            Status::IoErr
            | Status::Media
            | Status::NoSpace
            | Status::ReadOnly
            | Status::OutOfRange
            | Status::Gone
            | Status::Aborted => Code::IoErr,
        }
    }
}

/// What a request ends with whose bio the device did not accept. A request that makes no sense is an error, and not one that
/// the device could do without.
pub(crate) fn refused(why: RefusedWhy) -> Status {
    match why {
        RefusedWhy::Misaligned { .. }
        | RefusedWhy::Empty(_)
        | RefusedWhy::BadList { .. }
        | RefusedWhy::Fragmented { .. }
        | RefusedWhy::Tag(_) => Status::IoErr,
        RefusedWhy::Full
        | RefusedWhy::OutOfRange { .. }
        | RefusedWhy::ReadOnly
        | RefusedWhy::Unsupported(_)
        | RefusedWhy::NoFua => why.status(),
    }
}

/// What a request asks for, for counting.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    Id,
    Unknown,
}

/// A request as it is begun: so many bios, or a status at once.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) kind: Kind,
    /// Bios that were made.
    pub(crate) bios: u32,
    /// Says how it ended where there are none.
    pub(crate) status: Status,
    /// Where the guest is told.
    pub(crate) status_at: Option<GuestAddr>,
    /// Bytes that may be written before that.
    pub(crate) room: u64,
    /// Bytes of them that were, so far.
    pub(crate) written: u64,
}

/// What requests are read with.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) online: &'a Online<'a>,
    pub(crate) map: &'a GuestMap,
    pub(crate) features: Features,
    /// What everything that modifies the device is flagged with.
    pub(crate) durable: Flags,
    pub(crate) id: &'a [u8; ID_BYTES],
}

/// Bytes of a request that could not be read, or a place of the guest that is none.
struct Unreadable;

impl Context<'_> {
    /// Reads the request of a chain. Its bios, tagged with `tag`, go to `out`.
    #[inline]
    pub(crate) fn begin(&self, chain: &Chain, tag: u64, mut out: impl FnMut(Bio)) -> Begun {
        let writable = chain::bytes(&chain.writable);
        let last = chain.writable.iter().rev().find(|piece| piece.len > 0);
        let mut begun = Begun {
            kind: Kind::Unknown,
            bios: 0,
            status: Status::IoErr,
            status_at: last.and_then(|piece| piece.at.plus(u64::from(piece.len) - 1)),
            room: writable.saturating_sub(1),
            written: 0,
        };
        if chain.disordered || begun.status_at.is_none() {
            return begun;
        }
        let Ok([head, sector]) = self.pair(&chain.readable, 0) else { return begun };
        let sector = Sector(sector);
        let kind = match head & u64::from(u32::MAX) {
            0 => Kind::Read,
            1 => Kind::Write,
            4 => Kind::Flush,
            8 => Kind::Id,
            11 => Kind::Discard,
            13 => Kind::WriteZeroes,
            _ => Kind::Unknown,
        };
        begun.kind = kind;
        let mut submit = |bio: Bio| {
            begun.bios += 1;
            out(bio);
        };
        let done = match kind {
            Kind::Read => self.frames(&chain.writable, 0, begun.room, |data| submit(Bio::read(sector, data, tag))),
            Kind::Write => {
                let len = chain::bytes(&chain.readable).saturating_sub(HEADER);
                let write = |data| submit(Bio::write(sector, data, tag).with_flags(self.durable));
                self.frames(&chain.readable, HEADER, len, write)
            }
            Kind::Flush => {
                submit(Bio::flush(tag));
                Ok(Status::Ok)
            }
            Kind::Id => self.tell_id(&chain.writable, begun.room).map(|bytes| {
                begun.written = bytes;
                Status::Ok
            }),
            Kind::Discard => self.ranges(&chain.readable, Op::Discard, tag, &mut submit),
            Kind::WriteZeroes => self.ranges(&chain.readable, Op::WriteZeroes, tag, &mut submit),
            Kind::Unknown => Ok(Status::Unsupported),
        };
        begun.status = done.unwrap_or(Status::IoErr);
        begun
    }

    /// Hands the frames of a part of what a chain names to `with`.
    #[inline]
    fn frames(
        &self,
        pieces: &[Piece],
        from: u64,
        len: u64,
        with: impl FnOnce(ScatterList),
    ) -> Result<Status, Unreadable> {
        if len > MOST {
            return Err(Unreadable);
        }
        // Where it is one run of memory its list is made, and moved, by itself: see `Backlog`.
        if let Some(range) = self.run(pieces, from, len) {
            with(range.into());
            return Ok(Status::Ok);
        }
        let mut list = ScatterList::new();
        let emit = &mut |range| list.push(range);
        let all = chain::part(pieces, from, len, |piece| self.map.ranges(piece.at, piece.len, emit));
        if !all {
            return Err(Unreadable);
        }
        with(list);
        Ok(Status::Ok)
    }

    /// That part, where it is just one piece, and that lies in one region.
    #[inline]
    fn run(&self, pieces: &[Piece], from: u64, len: u64) -> Option<PhysRange> {
        let (before, piece) = match (from, pieces) {
            (0, [piece, ..]) => (0, piece),
            (_, [before, piece, ..]) => (u64::from(before.len), piece),
            _ => return None,
        };
        let whole = before == from && len == u64::from(piece.len);
        whole.then(|| self.map.range(piece.at, piece.len)).flatten()
    }

    /// Sixteen bytes, as two words.
    #[inline]
    fn pair(&self, pieces: &[Piece], from: u64) -> Result<[u64; 2], Unreadable> {
        if let (0, Some(Piece { at, len: 16.. })) = (from, pieces.first())
            && let Some(range) = self.map.range(*at, 16)
        {
            let window = self.online.kmap(range, Access::Read).map_err(|_| Unreadable)?;
            return window.pair64(0).map_err(|_| Unreadable);
        }
        self.gather(pieces, from)
    }

    /// Sixteen bytes that lie anyhow.
    #[cold]
    fn gather(&self, pieces: &[Piece], from: u64) -> Result<[u64; 2], Unreadable> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        let all = chain::part(pieces, from, 16, |piece| {
            let mut whole = true;
            let named = self.map.ranges(piece.at, piece.len, &mut |range| {
                let end = filled + range.len() as usize;
                let read = match self.online.kmap(range, Access::Read) {
                    Ok(window) => window.reader().read(&mut bytes[filled..end]).is_ok(),
                    Err(_) => false,
                };
                whole &= read;
                filled = end;
            });
            whole && named
        });
        let word = |half: &[u8]| half.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        if all { Ok([word(&bytes[..8]), word(&bytes[8..])]) } else { Err(Unreadable) }
    }

    /// Stores the device's name, or as much as there is room for, and says how much that is.
    fn tell_id(&self, pieces: &[Piece], room: u64) -> Result<u64, Unreadable> {
        let len = room.min(ID_BYTES as u64);
        let mut rest = self.id.as_slice();
        let all = chain::part(pieces, 0, len, |piece| {
            let mut whole = true;
            let named = self.map.ranges(piece.at, piece.len, &mut |range| {
                let (now, later) = rest.split_at(range.len() as usize);
                whole &= self.online.kmap(range, Access::Write).is_ok_and(|window| window.writer().write(now).is_ok());
                rest = later;
            });
            whole && named
        });
        if all { Ok(len) } else { Err(Unreadable) }
    }

    /// The bios of a request about ranges: none of them unless all make sense.
    fn ranges(&self, pieces: &[Piece], op: Op, tag: u64, submit: &mut impl FnMut(Bio)) -> Result<Status, Unreadable> {
        let offered = if op == Op::Discard { Features::DISCARD } else { Features::WRITE_ZEROES };
        if !self.features.contains(offered) {
            return Ok(Status::Unsupported);
        }
        let bytes = chain::bytes(pieces).saturating_sub(HEADER);
        if bytes == 0 || !bytes.is_multiple_of(RANGE) || bytes / RANGE > MAX_RANGES.into() {
            return Ok(Status::IoErr);
        }
        let mut ranges = [[0; 2]; MAX_RANGES as usize];
        let count = usize::try_from(bytes / RANGE).unwrap_or(0);
        for (range, from) in ranges.iter_mut().zip((0..count).map(|index| HEADER + RANGE * index as u64)) {
            *range = self.pair(pieces, from)?;
            let flags = range[1] >> 32;
            let known = if op == Op::Discard { 0 } else { u64::from(UNMAP) };
            if flags & !known != 0 {
                return Ok(Status::Unsupported);
            }
        }
        for [sector, rest] in &ranges[..count] {
            let (len, unmap) = ((rest & u64::from(u32::MAX)) * Sector::SIZE, rest >> 32 != 0);
            let sector = Sector(*sector);
            if len == 0 {
                continue;
            }
            submit(match op {
                Op::Discard => Bio::discard(sector, len, tag).with_flags(self.durable),
                _ if unmap => Bio::write_zeroes(sector, len, tag).with_flags(self.durable),
                _ => Bio::write_zeroes(sector, len, tag).with_flags(self.durable | Flags::NO_UNMAP),
            });
        }
        Ok(Status::Ok)
    }
}
