// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an input changes in an image, by patches of 16 bytes: kind u8, flags u8, index u16, three words u32.

use pageless_drivers::btt::flog::{FlogEntry, FlogGroup, FlogLayout};
use pageless_drivers::btt::info::InfoBlock;
use pageless_drivers::btt::map::MapEntry;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{Arena, Image, NFREE};

impl Image {
    pub(super) fn patch(&mut self, patch: &[u8]) {
        let word = |at: usize| u32::from_le_bytes([patch[at], patch[at + 1], patch[at + 2], patch[at + 3]]);
        let (kind, flags, index) = (patch[0], patch[1], u16::from_le_bytes([patch[2], patch[3]]));
        let (a, b, c) = (word(4), word(8), word(12));
        let arena = self.arenas[usize::from(flags >> 7) % self.arenas.len()];
        let geometry = arena.geometry;
        let block = |n: u32| near(n, geometry.external_nlba());
        let lane = u32::from(index) % NFREE;
        match kind % 9 {
            // A map entry: anything, or something that could be.
            0 => self.store(arena.start + geometry.map_offset(a % geometry.external_nlba()), &b.to_le_bytes()),
            1 => {
                let entry = (b & 3) << 30 | block(c);
                self.store(arena.start + geometry.map_offset(a % 64), &entry.to_le_bytes());
            }
            // A flog entry, likewise.
            2 => {
                let offset = arena.start + geometry.flog_offset(lane) + u64::from(flags & 3) * 16;
                let seq = u32::from(flags >> 2 & 7);
                self.store(offset, [a, b, c, seq].map(u32::to_le_bytes).as_flattened());
            }
            3 => {
                let offset = arena.start + geometry.flog_offset(lane) + u64::from(flags & 3) * 16;
                let seq = u32::from(flags >> 2 & 3);
                self.store(offset, [a % 16, block(b), block(c), seq].map(u32::to_le_bytes).as_flattened());
            }
            // A field of an info block, sealed or not, in either copy or both.
            4 | 5 => self.info(arena, flags, |info| {
                let value = u64::from(a) | u64::from(b) << 32;
                let value = if kind % 9 == 5 { value & 0x1_ffff_fe00 } else { value };
                let at = 48 + usize::from(index) % 56;
                let bytes = value.to_le_bytes();
                let len = if c & 1 == 0 { 4 } else { 8 };
                info.as_mut_bytes()[at..at + len].copy_from_slice(&bytes[..len]);
            }),
            // Bytes of an info block, likewise.
            6 => self.info(arena, flags, |info| {
                let at = usize::from(index) % 4093;
                info.as_mut_bytes()[at..at + 4].copy_from_slice(&a.to_le_bytes());
            }),
            // A write, whole or cut off before the map.
            7 => self.write(arena, lane, a % 16, flags & 1 == 0),
            _ => self.store((u64::from(a) % self.medium.len()) & !3, &b.to_le_bytes()),
        }
    }

    fn info(&mut self, arena: Arena, flags: u8, change: impl Fn(&mut InfoBlock)) {
        for (bit, offset) in [(1, arena.start), (2, arena.start + arena.geometry.info2off())] {
            if flags & bit != 0
                && let Ok(mut info) = self.medium.get::<InfoBlock>(offset)
            {
                change(&mut info);
                let info = if flags & 4 != 0 { info.sealed() } else { info };
                self.store(offset, info.as_bytes());
            }
        }
    }

    fn write(&mut self, arena: Arena, lane: u32, lba: u32, whole: bool) {
        let (flog, map) =
            (arena.start + arena.geometry.flog_offset(lane), arena.start + arena.geometry.map_offset(lba));
        let (Ok(mut group), Ok(word)) = (self.medium.get::<FlogGroup>(flog), self.medium.get::<U32>(map)) else {
            return;
        };
        let Ok(current) = group.current(FlogLayout::Packed) else { return };
        let (old, new) = (MapEntry::from_raw(word.get()).block(lba), current.entry.old_block());
        let slot = FlogLayout::Packed.slot(current.which.other());
        group.slots[slot] = FlogEntry::new(lba, MapEntry::normal(old), new, current.seq.next());
        self.store(flog, group.as_bytes());
        if whole {
            self.store(map, &MapEntry::normal(new).raw().to_le_bytes());
        }
    }
}

/// A number as it could be meant: a low block, or one near the end.
fn near(n: u32, external: u32) -> u32 {
    let low = n % 32;
    if n & 0x100 == 0 { low } else { external + low % 10 }
}
