// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Seen`]: a bit for each internal block of an arena.
//!
//! A map in no order would set bits all over: of a large arena each of them is a miss of the caches and of the TLB. So blocks
//! wait, sorted by the segment of the bits that theirs lies in, until there are many for a segment that fits into the
//! cache. Those of one segment stay in the order of their LBAs.

/// Two's logarithm of the blocks whose bits are a segment: 256 KiB.
const SEGMENT: u32 = if cfg!(test) { 6 } else { 21 };
/// Blocks that wait for one segment, at most, and for all of them.
const EACH: usize = if cfg!(test) { 5 } else { 1 << 14 };
const ALL: usize = 1 << 21;
/// As much room is left between the parts: where all of them are filled to the same height, their ends are not to share a set of the caches.
const GAP: usize = 8 * 9;

/// A bit for each internal block of an arena.
#[derive(Debug)]
pub(super) struct Seen {
    words: Vec<u64>,
    bound: u32,
    /// LBA and block, in a part for each segment.
    waiting: Vec<(u32, u32)>,
    /// How many there are in each part, and at most.
    counts: Vec<u32>,
    each: usize,
    /// From one part to the next.
    stride: usize,
    twice: Vec<(u32, u32)>,
}

impl Seen {
    pub(super) fn new(bound: u32) -> Seen {
        let segments = bound.div_ceil(1 << SEGMENT).max(1) as usize;
        let each = (ALL / segments).min(EACH).min(bound as usize).max(1);
        Seen {
            words: vec![0; bound.div_ceil(64) as usize],
            bound,
            waiting: vec![(0, 0); segments * (each + GAP)],
            counts: vec![0; segments],
            each,
            stride: each + GAP,
            twice: Vec::new(),
        }
    }

    pub(super) fn bound(&self) -> u32 {
        self.bound
    }

    /// An LBA has a block that is in bounds. Whether another one has it too comes out later.
    #[inline]
    pub(super) fn add(&mut self, lba: u32, block: u32) {
        let segment = (block >> SEGMENT) as usize;
        let count = self.counts[segment] as usize;
        self.waiting[segment * self.stride + count] = (lba, block);
        self.counts[segment] += 1;
        if count + 1 == self.each {
            self.settle(segment);
        }
    }

    /// 64 LBAs from this one on have as many blocks, in bounds, from this one on.
    #[inline]
    pub(super) fn add_64(&mut self, lba: u32, block: u32) {
        self.settle((block >> SEGMENT) as usize);
        self.settle(((block + 63) >> SEGMENT) as usize);
        let (word, low) = ((block / 64) as usize, u64::MAX << (block % 64));
        let clear = self.words[word] & low == 0 && (low == u64::MAX || self.words[word + 1] & !low == 0);
        if !clear {
            return (0..64).for_each(|n| self.set(lba + n, block + n));
        }
        self.words[word] |= low;
        if low != u64::MAX {
            self.words[word + 1] |= !low;
        }
    }

    /// Sets the bit of a block that is in bounds, and says whether it was clear: nobody has it.
    pub(super) fn take(&mut self, block: u32) -> bool {
        self.settle((block >> SEGMENT) as usize);
        let (word, bit) = (&mut self.words[(block / 64) as usize], 1 << (block % 64));
        let clear = *word & bit == 0;
        *word |= bit;
        clear
    }

    /// Takes over the blocks of another one, to which those are left that both have; as many as that. Nothing may wait.
    pub(super) fn join(&mut self, other: &mut Seen) -> u32 {
        let mut shared = 0;
        for (own, other) in self.words.iter_mut().zip(&mut other.words) {
            let both = *own & *other;
            *own |= *other;
            *other = both;
            shared += both.count_ones();
        }
        shared
    }

    /// Clears the bit of a block, and says whether it was set. Of one out of bounds it is not.
    pub(super) fn clear(&mut self, block: u32) -> bool {
        let Some(word) = self.words.get_mut((block / 64) as usize) else { return false };
        let bit = 1 << (block % 64);
        let set = *word & bit != 0;
        *word &= !bit;
        set
    }

    /// What waits for a segment is looked at.
    #[inline]
    fn settle(&mut self, segment: usize) {
        if self.counts[segment] > 0 {
            self.settle_some(segment);
        }
    }

    #[inline(never)]
    fn settle_some(&mut self, segment: usize) {
        let first = segment * self.stride;
        for at in first..first + self.counts[segment] as usize {
            let (lba, block) = self.waiting[at];
            self.set(lba, block);
        }
        self.counts[segment] = 0;
    }

    #[inline]
    fn set(&mut self, lba: u32, block: u32) {
        let (word, bit) = (&mut self.words[(block / 64) as usize], 1 << (block % 64));
        if *word & bit != 0 {
            self.twice.push((lba, block));
        }
        *word |= bit;
    }

    /// All that waits is looked at.
    pub(super) fn settle_all(&mut self) {
        (0..self.counts.len()).for_each(|segment| self.settle(segment));
    }

    /// LBAs that came out to have a block that a lower one has, since this was asked last.
    pub(super) fn twice(&mut self) -> Vec<(u32, u32)> {
        let mut twice = std::mem::take(&mut self.twice);
        twice.sort_unstable();
        twice
    }

    /// Runs of blocks that nobody has.
    pub(super) fn missing(&self) -> impl Iterator<Item = (u32, u32)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < self.bound && self.skip(next, u64::MAX) > next {
                next = self.skip(next, u64::MAX);
            }
            let first = next;
            while next < self.bound && self.skip(next, 0) > next {
                next = self.skip(next, 0);
            }
            (next > first).then(|| (first, next - first))
        })
    }

    /// The next block whose bit, or whose whole word, may be another than those of `same`.
    fn skip(&self, block: u32, same: u64) -> u32 {
        let word = self.words[(block / 64) as usize];
        if block.is_multiple_of(64) && word == same {
            return block.saturating_add(64).min(self.bound);
        }
        let bit = word >> (block % 64) & 1;
        if bit == (same & 1) { block + 1 } else { block }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn all_ways_to_add_agree_with_a_set(
            bound in 64..700_u32,
            steps in prop::collection::vec((0..4_u8, 0..10_000_u32), 0..200),
        ) {
            let (mut seen, mut set, mut lba) = (Seen::new(bound), BTreeSet::new(), 0);
            let (mut twice, mut wanted) = (Vec::new(), Vec::new());
            for (how, block) in steps {
                match how {
                    0 => {
                        let first = block % (bound - 63);
                        seen.add_64(lba, first);
                        wanted.extend((0..64).filter(|n| !set.insert(first + n)).map(|n| (lba + n, first + n)));
                        lba += 64;
                    }
                    1 => prop_assert_eq!(seen.take(block % bound), set.insert(block % bound)),
                    _ => {
                        seen.add(lba, block % bound);
                        wanted.extend((!set.insert(block % bound)).then_some((lba, block % bound)));
                        lba += 1;
                    }
                }
                twice.extend(seen.twice());
            }
            seen.settle_all();
            twice.extend(seen.twice());
            twice.sort_unstable();
            prop_assert_eq!(twice, wanted);
            let missing: Vec<u32> = seen.missing().flat_map(|(first, count)| first..first + count).collect();
            prop_assert_eq!(missing, (0..bound).filter(|block| !set.contains(block)).collect::<Vec<_>>());
        }
    }
}
