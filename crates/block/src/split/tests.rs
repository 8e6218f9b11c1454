// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces against the bio they came from.

use super::*;
use pageless_mem::{Pfn, PhysRange};
use proptest::prelude::*;

fn frames(lens: &[u32]) -> ScatterList {
    // Every range in a frame run of its own: nothing merges.
    lens.iter()
        .enumerate()
        .map(|(i, len)| PhysRange::new(Pfn::new(i as u64 * 1000).unwrap(), 3, *len).unwrap())
        .collect()
}

fn bytes(list: &ScatterList) -> Vec<u64> {
    list.iter().flat_map(|r| (0..u64::from(r.len())).map(move |i| r.byte_address() + i)).collect()
}

fn limits(max_bytes: u64, max_segments: u32, block_size: u32) -> Limits {
    Limits { block_size, max_bytes, max_unmap: max_bytes, max_segments, ..Limits::default() }
}

#[test]
fn limits_are_rounded_down_to_whole_blocks() {
    let bounds = Bounds::new(&limits(1500, 4, 512));
    let bio = Bio::read(Sector(0), frames(&[1024]), 1);
    assert!(bounds.fits(&bio));
    let bio = Bio::read(Sector(0), frames(&[1536]), 1);
    assert!(!bounds.fits(&bio) && bounds.splits(&bio));
    let mut splitter = Splitter::new(bio, Flags::empty());
    assert_eq!(splitter.next(&bounds, 0).unwrap().len, 1024);
    assert_eq!(splitter.next(&bounds, 0).unwrap().len, 512);
    assert!(splitter.next(&bounds, 0).is_none());
}

#[test]
fn a_block_in_too_many_ranges_cannot_be_split() {
    let bounds = Bounds::new(&limits(1 << 20, 4, 512));
    let bio = Bio::read(Sector(0), frames(&[512, 100, 100, 100, 100, 112]), 1);
    assert!(!bounds.fits(&bio) && !bounds.splits(&bio));
    let bio = Bio::read(Sector(0), frames(&[512, 100, 100, 100, 212]), 1);
    assert!(!bounds.fits(&bio) && bounds.splits(&bio));
}

#[test]
fn what_has_no_data_splits_by_its_own_limit() {
    let mut limits = limits(512, 1, 512);
    limits.max_unmap = 4096;
    let bounds = Bounds::new(&limits);
    assert!(bounds.fits(&Bio::discard(Sector(0), 4096, 1)));
    let bio = Bio::write_zeroes(Sector(8), 4096 + 512, 1);
    assert!(!bounds.fits(&bio));
    let mut splitter = Splitter::new(bio, Flags::NO_UNMAP);
    let first = splitter.next(&bounds, 7).unwrap();
    assert_eq!((first.sector, first.len, first.tag), (Sector(8), 4096, 7));
    assert_eq!(first.flags, Flags::NO_UNMAP);
    let second = splitter.next(&bounds, 8).unwrap();
    assert_eq!((second.sector, second.len), (Sector(16), 512));
    assert!(splitter.next(&bounds, 9).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_are_legal_and_make_up_the_whole(
        lens in prop::collection::vec(1u32..3000, 1..40),
        max_blocks in 1u64..12,
        max_segments in 1u32..12,
        block_log in 9u32..13,
        sector_block in 0u64..1000,
        refuse in prop::collection::vec(any::<bool>(), 1..16),
    ) {
        let block = 1u32 << block_log;
        let limits = limits(max_blocks * u64::from(block), max_segments, block);
        let bounds = Bounds::new(&limits);
        let total: u64 = lens.iter().map(|l| u64::from(*l)).sum();
        let len = total / u64::from(block) * u64::from(block);
        prop_assume!(len > 0);
        let data = frames(&lens).slice(0, len);
        let sector = Sector(sector_block * u64::from(block) / 512);
        let bio = Bio::write(sector, data.clone(), 1);
        if !bounds.splits(&bio) {
            // Then some block really is in more ranges than are allowed.
            prop_assert!(lens.len() > max_segments as usize);
            return Ok(());
        }
        let mut splitter = Splitter::new(bio, Flags::FUA);
        let mut seen = Vec::new();
        let mut at = sector.bytes();
        let mut refuse = refuse.into_iter().cycle();
        loop {
            let position = splitter.position();
            let Some(piece) = splitter.next(&bounds, 5) else { break };
            if refuse.next() == Some(true) {
                // A piece that is not taken comes again as it was.
                splitter.rewind(position);
                let again = splitter.next(&bounds, 5).unwrap();
                prop_assert_eq!((again.sector, again.len), (piece.sector, piece.len));
                prop_assert_eq!(&again.data, &piece.data);
            }
            prop_assert_eq!(piece.sector.bytes(), at);
            prop_assert!(piece.len > 0 && piece.len.is_multiple_of(u64::from(block)));
            prop_assert!(bounds.fits(&piece));
            prop_assert_eq!(piece.data.len_bytes(), piece.len);
            prop_assert_eq!(piece.flags, Flags::FUA);
            at += piece.len;
            seen.extend(bytes(&piece.data));
        }
        prop_assert_eq!(at, sector.bytes() + len);
        prop_assert_eq!(seen, bytes(&data));
    }
}
