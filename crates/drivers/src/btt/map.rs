// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`MapEntry`]: where one external block lies, and what a reader gets of it.

/// Bytes of an entry.
pub const ENTRY_SIZE: u64 = 4;
/// As many blocks as an entry can name.
pub const MAX_BLOCKS: u32 = 1 << 30;

const BLOCK: u32 = MAX_BLOCKS - 1;
const ERROR: u32 = 1 << 30;
const ZERO: u32 = 1 << 31;

/// What a reader gets.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum MapState {
    /// Never written: the block of the same number, whose content is whatever it was.
    Initial,
    /// A media error.
    Error,
    /// Zeroes.
    Zero,
    /// The block's bytes.
    Normal,
}

/// One word of the map, little-endian on the medium: the state in the two upper bits, the internal block in the rest.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct MapEntry(u32);

impl MapEntry {
    /// The word as it was read.
    pub const fn from_raw(word: u32) -> MapEntry {
        MapEntry(word)
    }

    /// The word to be stored.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// `block` holds the bytes. Bits above the block's 30 are dropped.
    pub const fn normal(block: u32) -> MapEntry {
        MapEntry(block & BLOCK | ZERO | ERROR)
    }

    /// Reads as zeroes; `block` is kept for the next write.
    pub const fn zero(block: u32) -> MapEntry {
        MapEntry(block & BLOCK | ZERO)
    }

    /// Reads as a media error; `block` is kept for the next write.
    pub const fn error(block: u32) -> MapEntry {
        MapEntry(block & BLOCK | ERROR)
    }

    /// What a reader gets.
    pub const fn state(self) -> MapState {
        match (self.0 & ZERO != 0, self.0 & ERROR != 0) {
            (false, false) => MapState::Initial,
            (false, true) => MapState::Error,
            (true, false) => MapState::Zero,
            (true, true) => MapState::Normal,
        }
    }

    /// The internal block that belongs to `lba`: its own number as long as the entry is initial, whatever else its bits say.
    pub const fn block(self, lba: u32) -> u32 {
        match self.state() {
            MapState::Initial => lba,
            _ => self.0 & BLOCK,
        }
    }

    /// The 30 bits of the block, whatever the state: what a flog keeps of an entry.
    pub const fn stripped(self) -> u32 {
        self.0 & BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn btt_map_entry_has_four_states_in_its_two_upper_bits() {
        assert_eq!(MapEntry::from_raw(0).state(), MapState::Initial);
        assert_eq!(MapEntry::from_raw(0x4000_0007), MapEntry::error(7));
        assert_eq!(MapEntry::from_raw(0x8000_0007), MapEntry::zero(7));
        assert_eq!(MapEntry::from_raw(0xc000_0007), MapEntry::normal(7));
        assert_eq!(MapEntry::normal(7).state(), MapState::Normal);
        assert_eq!(MapEntry::zero(7).state(), MapState::Zero);
        assert_eq!(MapEntry::error(7).state(), MapState::Error);
    }

    #[test]
    fn btt_map_entry_that_is_initial_is_the_block_of_its_own_number() {
        assert_eq!(MapEntry::from_raw(0).block(41), 41);
        assert_eq!(MapEntry::from_raw(5).block(41), 41, "the kernel and PMDK ignore the rest of an initial entry");
        assert_eq!(MapEntry::zero(5).block(41), 5);
    }

    proptest! {
        #[test]
        fn btt_map_entry_keeps_state_and_block(block in 0..MAX_BLOCKS, lba in 0..MAX_BLOCKS) {
            for (entry, state) in [
                (MapEntry::normal(block), MapState::Normal),
                (MapEntry::zero(block), MapState::Zero),
                (MapEntry::error(block), MapState::Error),
            ] {
                prop_assert_eq!(entry.state(), state);
                prop_assert_eq!(entry.block(lba), block);
                prop_assert_eq!(entry.stripped(), block);
                prop_assert_eq!(MapEntry::from_raw(entry.raw()), entry);
            }
        }
    }
}
