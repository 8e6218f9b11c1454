// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Fingerprint`]: whether blocks are all those of an arena, each once, without a bit for each.
//!
//! # What it rests on
//! Each of the 2³⁰ blocks that an entry can name has a number: the product, modulo 2⁶⁴, of three random ones, one for each ten bits
//! of the block. The numbers of as many blocks as an arena has, added up, are compared with those of all its blocks. Where blocks
//! are missing and others are there twice, or out of bounds, the difference is a polynomial of degree three in the random
//! numbers in which a block that is missing has the coefficient −1. Such a one is a multiple of 2ᵗ with a probability of at most
//! (t² + 5t + 8) / 8 · 2⁻ᵗ: of degree one it is 2⁻ᵗ, and where the factor of one of the numbers is a multiple of 2ˢ and no more, that
//! number alone makes the sum one of 2ᵗ with 2ˢ⁻ᵗ. So it is zero, and something wrong unnoticed, with less than 2⁻⁵⁴. No medium can
//! be made for that, since the numbers are others each time.

use std::hash::{BuildHasher, RandomState};

use crate::btt::map::{MAX_BLOCKS, MapEntry, MapState};

use super::walk::run;

/// Bits of a block that one of the random numbers is for.
const BITS: u32 = 10;
const COUNT: usize = 1 << BITS;
const _: () = assert!(1 << (3 * BITS) == MAX_BLOCKS);

/// Random numbers for each ten bits of a block.
#[derive(Debug)]
pub(super) struct Fingerprint {
    low: Digit,
    mid: Digit,
    high: Digit,
}

/// Random numbers for ten bits.
#[derive(Debug)]
struct Digit {
    numbers: Box<[u64; COUNT]>,
    /// Of each, what those before it come to; and all of them.
    before: Box<[u64; COUNT + 1]>,
}

impl Digit {
    fn new(random: impl Fn(u64) -> u64) -> Digit {
        let (mut numbers, mut before) = (Box::new([0; COUNT]), Box::new([0_u64; COUNT + 1]));
        for n in 0..COUNT {
            numbers[n] = random(n as u64);
            before[n + 1] = before[n].wrapping_add(numbers[n]);
        }
        Digit { numbers, before }
    }

    #[inline]
    fn number(&self, digit: u32) -> u64 {
        self.numbers[digit as usize % COUNT]
    }

    fn all(&self) -> u64 {
        self.before[COUNT]
    }
}

impl Fingerprint {
    /// One that nobody has had before.
    pub(super) fn new() -> Fingerprint {
        // A keyed hash of a key that the kernel gave is as good as its random numbers.
        let key = RandomState::new();
        let digit = |which: u64| Digit::new(|n| key.hash_one((which, n)));
        Fingerprint { low: digit(0), mid: digit(1), high: digit(2) }
    }

    /// Of one block.
    #[inline]
    pub(super) fn of(&self, block: u32) -> u64 {
        let upper = self.mid.number(block >> BITS).wrapping_mul(self.high.number(block >> (2 * BITS)));
        self.low.number(block).wrapping_mul(upper)
    }

    /// Of all blocks below this one, which is [`MAX_BLOCKS`] at most.
    pub(super) fn below(&self, end: u32) -> u64 {
        let [low, mid, high] = [0, BITS, 2 * BITS].map(|bits| (end >> bits) as usize);
        let (low, mid) = (low % COUNT, mid % COUNT);
        let whole = self.high.before[high].wrapping_mul(self.mid.all()).wrapping_mul(self.low.all());
        let Some(number) = self.high.numbers.get(high) else { return whole };
        let mids = self.mid.before[mid].wrapping_mul(self.low.all());
        let lows = self.mid.numbers[mid].wrapping_mul(self.low.before[low]);
        whole.wrapping_add(number.wrapping_mul(mids.wrapping_add(lows)))
    }

    /// Of so many blocks from one on; nothing where there are not as many.
    pub(super) fn range(&self, first: u32, count: u32) -> Option<u64> {
        let end = first.checked_add(count).filter(|end| *end <= MAX_BLOCKS)?;
        Some(self.below(end).wrapping_sub(self.below(first)))
    }

    /// Of the blocks that LBAs from this one on have, by their entries; nothing where one of those is none.
    pub(super) fn entries(&self, first: u32, words: &[[u8; 4]]) -> Option<u64> {
        let (mut sum, mut lba) = (0_u64, first);
        for words in words.chunks(64) {
            sum = sum.wrapping_add(match run(lba, words) {
                Some(block) => self.range(block, 64)?,
                None if written(words) => self.written(words),
                None => self.each(lba, words)?,
            });
            // There are not more than fit.
            lba = lba.wrapping_add(u32::try_from(words.len()).unwrap_or(0));
        }
        Some(sum)
    }

    fn written(&self, words: &[[u8; 4]]) -> u64 {
        words.iter().fold(0, |sum, word| sum.wrapping_add(self.of(u32::from_le_bytes(*word))))
    }

    fn each(&self, first: u32, words: &[[u8; 4]]) -> Option<u64> {
        (first..).zip(words).try_fold(0_u64, |sum, (lba, word)| {
            let entry = MapEntry::from_raw(u32::from_le_bytes(*word));
            let good = entry.state() != MapState::Initial || entry.raw() == 0;
            good.then(|| sum.wrapping_add(self.of(entry.block(lba))))
        })
    }
}

/// Whether none of these entries is initial.
fn written(words: &[[u8; 4]]) -> bool {
    // Without a way out, as many are looked at at once as there is room for.
    words.iter().fold(true, |all, word| all & (u32::from_le_bytes(*word) & !(MAX_BLOCKS - 1) != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_come_to_what_their_blocks_do(first in 0..MAX_BLOCKS, count in 0..3_000_u32) {
            let fingerprint = Fingerprint::new();
            let range = fingerprint.range(first, count);
            prop_assert_eq!(range.is_some(), first + count <= MAX_BLOCKS);
            if let Some(range) = range {
                let each = (first..first + count).fold(0_u64, |sum, block| sum.wrapping_add(fingerprint.of(block)));
                prop_assert_eq!(range, each);
            }
        }

        #[test]
        fn entries_come_to_what_their_blocks_do(
            first in 0..MAX_BLOCKS - 1_000,
            runs in prop::collection::vec((0..4_u32, 0..MAX_BLOCKS - 200, 1..200_u32), 1..5),
        ) {
            let fingerprint = Fingerprint::new();
            let words: Vec<u32> = runs
                .iter()
                .flat_map(|(state, block, count)| (0..*count).map(move |n| if *state == 0 { 0 } else { state << 30 | (block + n) }))
                .collect();
            let bytes: Vec<[u8; 4]> = words.iter().map(|word| word.to_le_bytes()).collect();
            let each = (first..).zip(&words).fold(0_u64, |sum, (lba, word)| {
                sum.wrapping_add(fingerprint.of(MapEntry::from_raw(*word).block(lba)))
            });
            prop_assert_eq!(fingerprint.entries(first, &bytes), Some(each));
        }
    }

    #[test]
    fn what_is_none_of_the_states_is_no_entry() {
        let fingerprint = Fingerprint::new();
        for (count, wrong) in [(1, 0), (64, 0), (64, 63), (70, 69)] {
            let mut bytes = vec![MapEntry::normal(9).raw().to_le_bytes(); count];
            bytes[wrong] = [7, 0, 0, 0];
            assert_eq!(fingerprint.entries(0, &bytes), None);
        }
        // A run that goes on behind the last block there can be.
        let last = MapEntry::error(MAX_BLOCKS - 1).raw();
        let bytes: Vec<[u8; 4]> = (0..64).map(|n| (last + n).to_le_bytes()).collect();
        assert_eq!(fingerprint.entries(0, &bytes), None);
    }

    #[test]
    fn blocks_that_are_others_come_to_something_else() {
        let fingerprint = Fingerprint::new();
        let of = |blocks: &[u32]| blocks.iter().fold(0_u64, |sum, block| sum.wrapping_add(fingerprint.of(*block)));
        let all = fingerprint.below(4096);
        let mut blocks: Vec<u32> = (0..4096).rev().collect();
        assert_eq!(of(&blocks), all);
        // One twice; two that have changed their lower digits, or one of them; one out of bounds.
        for (at, to) in [(0, 7), (1024, 2047), (3, 4096), (3, MAX_BLOCKS - 1)] {
            let old = std::mem::replace(&mut blocks[at], to);
            assert_ne!(of(&blocks), all);
            blocks[at] = old;
        }
        assert_ne!(of(&[0, 1025, 1 << 20]), of(&[1, 1024, 1 << 20]));
        assert_ne!(of(&[0, 1025]), of(&[1, 1024]));
    }
}
