// SPDX-License-Identifier: MIT OR Apache-2.0
//! `BLOCK_STATUS`: extents of the medium as descriptors.

use pageless_block::{Extent, ExtentMap, Status};

use super::wire::{Descriptor, STATE_HOLE, STATE_ZERO};

/// Describes up to `most` extents from `offset` on, at least one; together never more than `length` bytes.
/// A device that does not know holes is all data.
pub(crate) fn describe(
    map: Option<&mut (dyn ExtentMap + 'static)>,
    offset: u64,
    length: u32,
    most: usize,
) -> Result<Vec<Descriptor>, Status> {
    let descriptor = |length: u32, status: u32| Descriptor { length: length.into(), status: status.into() };
    let Some(map) = map else { return Ok(vec![descriptor(length, 0)]) };
    let mut found: Vec<(u32, u32)> = Vec::new();
    let mut told = 0;
    while told < length {
        let left = length - told;
        let (bytes, status) = match map.next(offset + u64::from(told), left.into())? {
            Extent::Data(bytes) => (bytes, 0),
            Extent::Hole(bytes) => (bytes, STATE_HOLE | STATE_ZERO),
        };
        let bytes = u32::try_from(bytes).unwrap_or(left).clamp(1, left);
        let full = found.len() == most;
        match found.last_mut() {
            Some(last) if last.1 == status => last.0 += bytes,
            _ if full => break,
            _ => found.push((bytes, status)),
        }
        told += bytes;
    }
    Ok(found.into_iter().map(|(length, status)| descriptor(length, status)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data and holes of 4 KiB in turn, told in pieces of at most 1 KiB.
    #[derive(Debug)]
    struct Stripes;

    impl ExtentMap for Stripes {
        fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status> {
            let n = (4096 - offset % 4096).min(len).min(1024);
            Ok(if (offset / 4096).is_multiple_of(2) { Extent::Data(n) } else { Extent::Hole(n) })
        }
    }

    fn lengths(offset: u64, length: u32, most: usize) -> Vec<(u32, u32)> {
        let found = describe(Some(&mut Stripes), offset, length, most).unwrap();
        found.iter().map(|d| (d.length.get(), d.status.get())).collect()
    }

    #[test]
    fn nbd_block_status_merges_neighbours_and_stays_within_the_request() {
        assert_eq!(lengths(0, 12288, 100), [(4096, 0), (4096, 3), (4096, 0)]);
        assert_eq!(lengths(512, 4096, 100), [(3584, 0), (512, 3)]);
    }

    #[test]
    fn nbd_block_status_req_one_is_one_extent() {
        assert_eq!(lengths(4096, 1 << 20, 1), [(4096, 3)]);
    }

    #[test]
    fn nbd_block_status_without_a_map_is_data() {
        let all = describe(None, 0, u32::MAX, 1).unwrap();
        assert_eq!((all.len(), all[0].length.get(), all[0].status.get()), (1, u32::MAX, 0));
    }
}
