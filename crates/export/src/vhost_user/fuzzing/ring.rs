// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Walker`]: what this side makes of the bytes of a ring, to be compared with what somebody else makes of them.

#[cfg(test)]
mod twin;

use std::sync::Arc;

use pageless_mem::{Access, Backing, Memory, Reader, Region};

use crate::Error;
use crate::vhost_user::chain::{Chain, Descriptor, Piece};
use crate::vhost_user::guest_map::{GuestAddr, GuestMap, Slot};
use crate::vhost_user::ring::{self, Broken, Ring};
use crate::vhost_user::words::Words;

/// Bytes of the guest, from address 0.
pub const LEN: u64 = 1 << 13;
/// Entries of the ring.
pub const SIZE: u16 = 16;
/// Where its table is.
pub const TABLE: u64 = 0;
/// Where its available ring is.
pub const AVAIL: u64 = 0x100;
/// Where its used ring is.
pub const USED: u64 = 0x200;
/// Where nothing of the ring is.
pub const FREE: u64 = 0x300;

/// The runs that a chain names, in order: address and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// What the device may read.
    pub readable: Vec<(u64, u32)>,
    /// What it may write.
    pub writable: Vec<(u64, u32)>,
    /// Something readable came after something writable.
    pub disordered: bool,
}

/// Why a chain was not walked to its end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For an indirect table that may not be, or lies somewhere else.
    pub table: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Walker {
    region: Region,
    map: GuestMap,
    reader: Reader,
    ring: Ring,
    chain: Chain,
}

impl Walker {
    /// With memory of its own.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(memory: &Memory) -> Result<Walker, Error> {
        let region = memory.register(Backing::memfd(LEN)?)?;
        let slot = Slot { guest: GuestAddr(0), user: 0, region: region.clone(), offset: 0, len: LEN };
        let map = GuestMap::new(vec![Arc::new(slot)]).unwrap_or_default();
        Ok(Walker { region, map, reader: memory.reader(), ring: Ring::new(SIZE, false, 0, 0), chain: Chain::default() })
    }

    /// Bytes of the guest from now on.
    pub fn store(&mut self, at: u64, bytes: &[u8]) {
        let online = self.reader.online();
        let range = self.region.range(at, bytes.len() as u64);
        let window = range.and_then(|range| online.kmap(range, Access::Write).ok());
        let stored = window.map(|window| window.writer().write(bytes));
        assert_eq!(stored, Some(Ok(())), "the guest's memory is there");
    }

    /// Bytes of the guest.
    pub fn load(&mut self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let online = self.reader.online();
        let range = self.region.range(at, len as u64);
        let window = range.and_then(|range| online.kmap(range, Access::Read).ok());
        let loaded = window.map(|window| window.reader().read(&mut bytes));
        assert_eq!(loaded, Some(Ok(())), "the guest's memory is there");
        bytes
    }

    /// Both sides of the ring have got to this index.
    pub fn begin(&mut self, index: u16, event_idx: bool) {
        self.ring = Ring::new(SIZE, event_idx, index, index);
    }

    /// How many heads are available; `None` where the index makes no sense.
    pub fn waiting(&mut self) -> Option<u16> {
        let range = self.region.range(AVAIL, ring::avail_bytes(SIZE).into())?;
        let online = self.reader.online();
        self.ring.waiting(&online.kmap(range, Access::Read).ok()?).ok()
    }

    /// Takes the next head, and walks its chain; `None` where there is no such head.
    pub fn take(&mut self) -> Option<(u16, Result<Walked, Refused>)> {
        let (avail, table) = (
            self.region.range(AVAIL, ring::avail_bytes(SIZE).into())?,
            self.region.range(TABLE, ring::table_bytes(SIZE).into())?,
        );
        let online = self.reader.online();
        let head = self.ring.peek(&online.kmap(avail, Access::Read).ok()?, 0);
        self.ring.take(1);
        let (head, table) = (head.ok()?, online.kmap(table, Access::Read).ok()?);
        let open = |at, len| online.kmap(self.map.range(at, len)?, Access::Read).ok();
        let chain = &mut self.chain;
        let walked = Descriptor::read(&table, head.into())
            .and_then(|first| chain.read((&table, SIZE), first, true, open))
            .map(|()| {
                let runs = |pieces: &[Piece]| pieces.iter().map(|piece| (piece.at.0, piece.len)).collect();
                let (readable, writable) = (runs(&chain.readable), runs(&chain.writable));
                Walked { readable, writable, disordered: chain.disordered }
            })
            .map_err(|broken| Refused { table: matches!(broken, Broken::Table { .. }) });
        Some((head, walked))
    }

    /// Gives these heads back, and says whether the driver is to be called.
    pub fn give(&mut self, heads: &[(u16, u32)]) -> Option<bool> {
        let (avail, used) = (
            self.region.range(AVAIL, ring::avail_bytes(SIZE).into())?,
            self.region.range(USED, ring::used_bytes(SIZE).into())?,
        );
        let online = self.reader.online();
        let (avail, used) = (online.kmap(avail, Access::Read).ok()?, online.kmap(used, Access::Write).ok()?);
        for (head, written) in heads {
            self.ring.put(&used, *head, *written).ok()?;
        }
        self.ring.publish(&used).ok()?;
        used.barrier();
        self.ring.wants_call(&avail).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::twin::{Compared, Twin};
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    /// A descriptor, mostly of a kind that leads somewhere.
    fn descriptor() -> impl Strategy<Value = Vec<u8>> {
        let at = prop_oneof![4 => (0..4 * TABLES as u64).prop_map(|at| FREE + 4 * at), 1 => any::<u64>()];
        let len = prop_oneof![4 => (0..14u32).prop_map(|count| 16 * count), 1 => any::<u32>()];
        let flags = prop_oneof![6 => 0..8u16, 1 => any::<u16>()];
        let next = prop_oneof![6 => 0..SIZE, 1 => any::<u16>()];
        (at, len, flags, next).prop_map(|(at, len, flags, next)| {
            [&at.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
        })
    }

    /// Descriptors where indirect tables may be.
    const TABLES: usize = 40;

    /// Descriptors in the table and behind the ring, and heads of them.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let descriptors = |count| proptest::collection::vec(descriptor(), count);
        let head = prop_oneof![9 => 0..SIZE, 1 => any::<u16>()];
        let heads = proptest::collection::vec(head.prop_map(u16::to_le_bytes), 18);
        let places = [TABLE, AVAIL + 4, FREE].map(|at| usize::try_from(at).unwrap());
        (any::<[u8; 6]>(), descriptors(SIZE.into()), heads, descriptors(TABLES), 0..4usize).prop_map(
            move |(start, table, heads, tables, shift)| {
                let mut guest = vec![0; usize::try_from(LEN).unwrap()];
                let parts = [
                    (places[0], table.concat()),
                    (places[1], heads.concat()),
                    (places[2] + 4 * shift, tables.concat()),
                ];
                for (at, part) in parts {
                    guest[at..at + part.len()].copy_from_slice(&part);
                }
                [&start[..], &guest].concat()
            },
        )
    }

    proptest! {
        /// Whatever lies there, both walk it alike, or this side refuses what the specification forbids.
        #[test]
        fn rings_are_walked_as_virtio_queue_walks_them(input in input()) {
            Twin::new().compare(&input);
        }
    }

    /// The comparison sees something: a seed's name says how many chains were walked and how many refused.
    #[test]
    fn ring_seeds_are_walked_as_their_names_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vhost_user_ring");
        let mut twin = Twin::new();
        let mut seeds = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Compared { walked, refused } = twin.compare(&std::fs::read(&path).unwrap());
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.ends_with(&format!("-{walked}-{refused}")), "{name}: {walked} {refused}");
            seeds += 1;
        }
        assert!(seeds >= 4, "{seeds}");
    }
}
