// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Seen`]: a bit for each internal block of an arena.

/// A bit for each internal block of an arena.
#[derive(Debug)]
pub(super) struct Seen {
    words: Vec<u64>,
    bound: u32,
}

impl Seen {
    pub(super) fn new(bound: u32) -> Seen {
        Seen { words: vec![0; bound.div_ceil(64) as usize], bound }
    }

    pub(super) fn bound(&self) -> u32 {
        self.bound
    }

    /// Has the bits of these blocks, in bounds or not, brought into the cache side by side: one after the other each of them is waited
    /// for, since the next may be the same.
    #[inline]
    pub(super) fn fetch(&self, blocks: impl Iterator<Item = u32>) {
        let words = blocks.map(|block| self.words.get((block / 64) as usize).copied().unwrap_or(0));
        std::hint::black_box(words.fold(0, |all, word| all | word));
    }

    /// Sets the bit of a block that is in bounds, and says whether it was clear: nobody has it.
    #[inline]
    pub(super) fn take(&mut self, block: u32) -> bool {
        let (word, bit) = (&mut self.words[(block / 64) as usize], 1 << (block % 64));
        let clear = *word & bit == 0;
        *word |= bit;
        clear
    }

    /// Sets the bits of 64 blocks in bounds from this one on, if they are all clear, and says so.
    #[inline]
    pub(super) fn take_64(&mut self, block: u32) -> bool {
        let (word, low) = ((block / 64) as usize, u64::MAX << (block % 64));
        let clear = self.words[word] & low == 0 && (low == u64::MAX || self.words[word + 1] & !low == 0);
        if clear {
            self.words[word] |= low;
            if low != u64::MAX {
                self.words[word + 1] |= !low;
            }
        }
        clear
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
        fn all_ways_to_take_agree_with_a_set(
            bound in 64..700_u32,
            steps in prop::collection::vec((any::<bool>(), 0..10_000_u32), 0..200),
        ) {
            let (mut seen, mut set) = (Seen::new(bound), BTreeSet::new());
            for (many, block) in steps {
                if many {
                    let run = block % (bound - 63)..block % (bound - 63) + 64;
                    let clear = !run.clone().any(|block| set.contains(&block));
                    prop_assert_eq!(seen.take_64(run.start), clear);
                    set.extend(run.filter(|_| clear));
                } else {
                    prop_assert_eq!(seen.take(block % bound), set.insert(block % bound));
                }
            }
            let missing: Vec<u32> = seen.missing().flat_map(|(first, count)| first..first + count).collect();
            prop_assert_eq!(missing, (0..bound).filter(|block| !set.contains(block)).collect::<Vec<_>>());
        }
    }
}
