// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`ModelDisk`]: what a disk must hold.

use std::collections::BTreeMap;

const BLOCK: usize = 512;

/// The bytes of a disk, and for some blocks what they may be instead: a discard leaves old data or zeroes, a write that
/// failed leaves old data or new. Once such a block was read it is what was read.
#[derive(Clone, Debug)]
pub struct ModelDisk {
    bytes: Vec<u8>,
    /// By block, what its bytes may be instead.
    instead: BTreeMap<usize, Vec<[u8; BLOCK]>>,
}

impl ModelDisk {
    /// A disk of zeroes, a multiple of 512 long.
    pub fn new(len: usize) -> ModelDisk {
        ModelDisk { bytes: vec![0; len], instead: BTreeMap::new() }
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a disk of no bytes is of no use to a test")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What is there, as far as it is known.
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        &self.bytes[offset..offset + len]
    }

    /// A write that was done.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
        for block in blocks(offset, data.len()) {
            // A block that is written in part keeps what the rest of it may be.
            let (from, to) = overlap(block, offset, data.len());
            if to - from == BLOCK {
                self.instead.remove(&block);
            } else if let Some(instead) = self.instead.get_mut(&block) {
                for other in instead {
                    other[from..to].copy_from_slice(&self.bytes[block * BLOCK + from..block * BLOCK + to]);
                }
            }
        }
    }

    /// A write that may have been done, byte by byte.
    pub fn maybe_write(&mut self, offset: usize, data: &[u8]) {
        for block in blocks(offset, data.len()) {
            let (from, to) = overlap(block, offset, data.len());
            let start = block * BLOCK;
            let mut other = [0; BLOCK];
            other.copy_from_slice(&self.bytes[start..start + BLOCK]);
            other[from..to].copy_from_slice(&data[start + from - offset..start + to - offset]);
            self.instead.entry(block).or_default().push(other);
        }
    }

    /// Zeroes that were written.
    pub fn zero(&mut self, offset: usize, len: usize) {
        self.write(offset, &vec![0; len]);
    }

    /// Zeroes that may have been written: a discard.
    pub fn maybe_zero(&mut self, offset: usize, len: usize) {
        self.maybe_write(offset, &vec![0; len]);
    }

    /// Whether these bytes may be read there; if so, from now on they are what is there.
    ///
    /// # Errors
    /// The first byte that may not.
    pub fn read(&mut self, offset: usize, data: &[u8]) -> Result<(), Mismatch> {
        for block in blocks(offset, data.len()) {
            let (from, to) = overlap(block, offset, data.len());
            let start = block * BLOCK;
            self.read_block(block, from, &data[start + from - offset..start + to - offset])?;
        }
        Ok(())
    }

    fn read_block(&mut self, block: usize, from: usize, data: &[u8]) -> Result<(), Mismatch> {
        let start = block * BLOCK + from;
        let known = &self.bytes[start..start + data.len()];
        let instead = self.instead.get(&block);
        if known == data && instead.is_none() {
            return Ok(());
        }
        for (index, (&expected, &found)) in known.iter().zip(data).enumerate() {
            let other = || instead.is_some_and(|all| all.iter().any(|other| other[from + index] == found));
            if expected != found && !other() {
                return Err(Mismatch { offset: start + index, expected, found });
            }
        }
        self.write(start, data);
        Ok(())
    }

    /// Whether the bytes may all be zero.
    pub fn may_be_zero(&self, offset: usize, len: usize) -> bool {
        blocks(offset, len).all(|block| {
            let (from, to) = overlap(block, offset, len);
            let instead = self.instead.get(&block);
            self.bytes[block * BLOCK + from..block * BLOCK + to].iter().enumerate().all(|(index, byte)| {
                *byte == 0 || instead.is_some_and(|all| all.iter().any(|other| other[from + index] == 0))
            })
        })
    }
}

fn blocks(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset / BLOCK..(offset + len).div_ceil(BLOCK)
}

/// What of a block the range covers, from its first byte.
fn overlap(block: usize, offset: usize, len: usize) -> (usize, usize) {
    let start = block * BLOCK;
    (offset.max(start) - start, (offset + len).min(start + BLOCK) - start)
}

/// A byte that should not be what it is.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("byte {offset} is {found:#04x} and should be {expected:#04x}")]
pub struct Mismatch {
    /// Where.
    pub offset: usize,
    /// What the model holds.
    pub expected: u8,
    /// What the device gave.
    pub found: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_and_nothing_else() {
        let mut model = ModelDisk::new(2048);
        model.write(512, &[7; 512]);
        assert_eq!(model.read(512, &[7; 512]), Ok(()));
        let wrong = model.read(0, &[7; 1024]).unwrap_err();
        assert_eq!(wrong, Mismatch { offset: 0, expected: 0, found: 7 });
        assert_eq!(model.read(1024, &[0; 1024]), Ok(()));
    }

    #[test]
    fn a_discarded_block_is_old_or_zero_until_it_is_read() {
        let mut model = ModelDisk::new(1024);
        model.write(0, &[7; 1024]);
        model.maybe_zero(0, 1024);
        assert!(model.may_be_zero(0, 1024));
        assert_eq!(model.clone().read(0, &[7; 1024]), Ok(()));
        assert!(model.clone().read(0, &[8; 1024]).is_err());
        assert_eq!(model.read(0, &[0; 512]), Ok(()));
        assert!(model.read(0, &[7; 512]).is_err(), "it was zero when it was read");
        assert_eq!(model.read(512, &[7; 512]), Ok(()));
    }

    #[test]
    fn a_failed_write_leaves_any_mix_of_old_and_new_behind_what_was_done() {
        let mut model = ModelDisk::new(1024);
        model.write(0, &[1; 1024]);
        model.write(0, &[2; 100]);
        model.maybe_write(100, &[2; 924]);
        model.maybe_write(0, &[3; 512]);
        let mut mixed = [2; 1024];
        mixed[300..400].fill(1);
        mixed[0..10].fill(3);
        assert_eq!(model.clone().read(0, &mixed), Ok(()));
        mixed[50] = 1;
        assert_eq!(model.read(0, &mixed), Err(Mismatch { offset: 50, expected: 2, found: 1 }));
    }

    #[test]
    fn writing_part_of_an_uncertain_block_settles_that_part() {
        let mut model = ModelDisk::new(512);
        model.maybe_write(0, &[9; 512]);
        model.write(0, &[4; 256]);
        let mut found = [9; 512];
        assert!(model.clone().read(0, &found).is_err());
        found[..256].fill(4);
        assert_eq!(model.read(0, &found), Ok(()));
    }
}
