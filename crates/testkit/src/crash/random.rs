// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random numbers from a seed, and hashes.

/// Splitmix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    /// True `n` times in `of`.
    pub(super) fn chance(&mut self, n: usize, of: usize) -> bool {
        self.below(of) < n
    }
}

fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hash of bytes at an offset. The exclusive or of all is that of a medium.
pub(super) fn mix(offset: u64, bytes: &[u8]) -> u128 {
    let (mut a, mut b) = (scramble(offset ^ 0x243f_6a88_85a3_08d3), scramble(offset ^ 0x1319_8a2e_0370_7344));
    for word in bytes.chunks(8) {
        let mut eight = [0; 8];
        eight[..word.len()].copy_from_slice(word);
        let word = u64::from_le_bytes(eight);
        a = scramble(a ^ word);
        b = scramble(b.wrapping_add(word).rotate_left(23));
    }
    u128::from(a) << 64 | u128::from(b)
}
