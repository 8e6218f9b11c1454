// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flog: what each lane wrote last, and which internal block it has free.
//!
//! Every lane has a *group* of 64 bytes, in which it uses two of four slots in turn. The sequence numbers 1, 2, 3, 1, …
//! say which of the two is current. An entry is stored in two halves of 8 bytes, which no power failure tears; the
//! second one holds the sequence number, and makes the entry current.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::map::{MapEntry, MapState};

/// Bytes of an entry.
pub const ENTRY_SIZE: u64 = 16;
/// Bytes of a lane's group.
pub const GROUP_SIZE: u64 = 64;

/// A number of the cycle 1, 2, 3.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seq(u32);

impl Seq {
    /// Of a lane that has written nothing yet.
    pub const FIRST: Seq = Seq(1);

    /// As it was read. `None` for 0, which says that the slot was never used, and for what is no sequence number.
    pub const fn from_raw(number: u32) -> Option<Seq> {
        match number {
            1..=3 => Some(Seq(number)),
            _ => None,
        }
    }

    /// As it is stored.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Seq {
        Seq(self.0 % 3 + 1)
    }
}

/// One write of a lane, as it lies on the medium.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FlogEntry {
    /// The external block that was written.
    pub lba: U32,
    /// Its map entry before: the lane's free block once the write is complete. Writers differ in the flags they keep.
    pub old_map: U32,
    /// Its map entry after.
    pub new_map: U32,
    /// 1, 2 or 3, and 0 in a slot that was never used.
    pub seq: U32,
}

impl FlogEntry {
    /// The write of `lba` that exchanged `old` for the block `new`.
    pub const fn new(lba: u32, old: MapEntry, new: u32, seq: Seq) -> FlogEntry {
        FlogEntry {
            lba: U32::new(lba),
            old_map: U32::new(old.raw()),
            new_map: U32::new(MapEntry::normal(new).raw()),
            seq: U32::new(seq.raw()),
        }
    }

    /// Of a lane that has written nothing: `block` is free. Its two maps are equal, which no write leaves behind.
    pub const fn initial(lane: u32, block: u32) -> FlogEntry {
        let entry = U32::new(MapEntry::zero(block).raw());
        FlogEntry { lba: U32::new(lane), old_map: entry, new_map: entry, seq: U32::new(Seq::FIRST.raw()) }
    }

    /// The two words of its two stores: block and old map, then new map and sequence number.
    pub const fn halves(&self) -> (u64, u64) {
        let (lba, old) = (self.lba.get() as u64, self.old_map.get() as u64);
        let (new, seq) = (self.new_map.get() as u64, self.seq.get() as u64);
        (lba | old << 32, new | seq << 32)
    }

    /// As Linux writes it, and ndctl wants it: numbers of blocks, and of the flags only an error of the old one. PMDK compares with
    /// the map's entry, flags and all, so in a pool they stay.
    #[must_use]
    pub const fn plain(self) -> FlogEntry {
        let old = MapEntry::from_raw(self.old_map.get());
        let old = match old.state() {
            MapState::Error => old.raw(),
            _ => old.stripped(),
        };
        FlogEntry { old_map: U32::new(old), new_map: U32::new(self.new_block()), ..self }
    }

    /// The block that the write freed.
    pub const fn old_block(&self) -> u32 {
        MapEntry::from_raw(self.old_map.get()).stripped()
    }

    /// The block that the write filled.
    pub const fn new_block(&self) -> u32 {
        MapEntry::from_raw(self.new_map.get()).stripped()
    }

    /// Whether the lane has written nothing yet.
    pub const fn is_initial(&self) -> bool {
        self.old_block() == self.new_block()
    }

    /// Whether the slot was never used.
    pub fn is_padding(&self) -> bool {
        self.as_bytes().iter().all(|byte| *byte == 0)
    }

    /// Where the medium is between the flog and the map, given the map's entry of [`FlogEntry::lba`].
    pub const fn progress(&self, map: MapEntry) -> Progress {
        let mapped = map.block(self.lba.get());
        if self.is_initial() || mapped == self.new_block() {
            Progress::Complete
        } else if mapped == self.old_block() {
            Progress::MapPending
        } else {
            Progress::Overtaken
        }
    }
}

/// How far a lane's last write got. Blocks are compared without their flags, as the kernel does.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The map has the new block, or there was no write.
    Complete,
    /// The map still has the old block: recovery stores `MapEntry::normal(new_block)`, and the old block is free then.
    MapPending,
    /// Another lane has written the same block since.
    Overtaken,
}

/// The two slots of a group that are in use.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum FlogLayout {
    /// Slots 0 and 1: the specification, PMDK, Linux since 4.15.
    Packed,
    /// Slots 0 and 2: Linux before that padded entries to 32 bytes.
    Padded,
}

impl FlogLayout {
    /// Where one of a lane's entries is, from the first byte of the flog on.
    pub const fn offset(self, lane: u32, which: Which) -> u64 {
        lane as u64 * GROUP_SIZE + self.slot(which) as u64 * ENTRY_SIZE
    }

    /// The slot of the `which`th entry of the pair.
    pub const fn slot(self, which: Which) -> usize {
        match (self, which) {
            (_, Which::First) => 0,
            (FlogLayout::Packed, Which::Second) => 1,
            (FlogLayout::Padded, Which::Second) => 2,
        }
    }
}

/// One of the pair that a lane writes in turn.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// Slot 0.
    First,
    /// The other slot, which [`FlogLayout`] tells.
    Second,
}

impl Which {
    /// The one to be written next.
    #[must_use]
    pub const fn other(self) -> Which {
        match self {
            Which::First => Which::Second,
            Which::Second => Which::First,
        }
    }
}

/// A lane's 64 bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FlogGroup {
    /// Two of them in use, the others zero.
    pub slots: [FlogEntry; 4],
}

impl FlogGroup {
    /// Of a new arena.
    pub fn initial(lane: u32, block: u32) -> FlogGroup {
        let mut group = FlogGroup::default();
        group.slots[0] = FlogEntry::initial(lane, block);
        group
    }

    /// One of the pair.
    pub const fn entry(&self, layout: FlogLayout, which: Which) -> &FlogEntry {
        &self.slots[layout.slot(which)]
    }

    /// The entry that counts, and which of the pair it is.
    pub fn current(&self, layout: FlogLayout) -> Result<Current, SeqError> {
        let raw = [Which::First, Which::Second].map(|which| self.entry(layout, which).seq.get());
        let which = newer(raw).ok_or(SeqError { first: raw[0], second: raw[1] })?;
        let entry = *self.entry(layout, which);
        let seq = Seq::from_raw(entry.seq.get()).ok_or(SeqError { first: raw[0], second: raw[1] })?;
        Ok(Current { which, entry, seq })
    }
}

/// The current entry of a lane.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Which of the pair.
    pub which: Which,
    /// What it says.
    pub entry: FlogEntry,
    /// Its sequence number.
    pub seq: Seq,
}

/// Which of two sequence numbers is the later one. A slot that was never used leaves the other, but only where a writer
/// can have left it so: the first slot is written first and with [`Seq::FIRST`], so (2, 0) and (3, 0) are nobody's, and the
/// kernel and PMDK read them differently.
fn newer(raw: [u32; 2]) -> Option<Which> {
    match (Seq::from_raw(raw[0]), Seq::from_raw(raw[1])) {
        (Some(first), Some(second)) if first.next() == second => Some(Which::Second),
        (Some(first), Some(second)) if second.next() == first => Some(Which::First),
        (Some(Seq::FIRST), None) if raw[1] == 0 => Some(Which::First),
        (None, Some(_)) if raw[0] == 0 => Some(Which::Second),
        _ => None,
    }
}

/// Sequence numbers of which neither follows the other.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sequence numbers {first} and {second}: neither follows the other in the cycle 1, 2, 3")]
pub struct SeqError {
    /// Of slot 0.
    pub first: u32,
    /// Of the other slot.
    pub second: u32,
}

/// Finds the [`FlogLayout`] of an arena by which slots its lanes have used.
#[derive(Copy, Clone, Debug, Default)]
pub struct LayoutScan {
    used: [bool; 4],
}

impl LayoutScan {
    /// Takes one more group into account.
    pub fn add(&mut self, group: &FlogGroup) {
        for (used, entry) in self.used.iter_mut().zip(&group.slots) {
            *used |= !entry.is_padding();
        }
    }

    /// What all the groups say together. Where no lane has ever written, new entries go to slots 0 and 1.
    pub const fn finish(self) -> Result<FlogLayout, UnknownPadding> {
        match self.used {
            [true, _, false, false] => Ok(FlogLayout::Packed),
            [true, false, true, false] => Ok(FlogLayout::Padded),
            used => Err(UnknownPadding { used }),
        }
    }
}

/// Slots are in use that no layout has together.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flog slots in use are {used:?}: neither (0, 1) nor (0, 2)")]
pub struct UnknownPadding {
    /// Which of the four have ever been.
    pub used: [bool; 4],
}

#[cfg(test)]
mod tests;
