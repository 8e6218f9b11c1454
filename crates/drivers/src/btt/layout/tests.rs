// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use proptest::prelude::*;

fn lba(bytes: u32) -> LbaSize {
    LbaSize::new(bytes).unwrap()
}

/// What `pmempool create -w blk` of PMDK 1.12.1 makes of these files, as `pmempool info` prints it.
#[test]
fn btt_arena_is_cut_as_pmdk_cuts_it() {
    let arenas = cut(20 << 20, Placement::Pmemblk, lba(512), DEFAULT_NFREE).unwrap();
    let [NewArena { start: 8192, geometry }] = arenas[..] else { panic!("{arenas:?}") };
    assert_eq!((geometry.external_nlba(), geometry.internal_nlba()), (40315, 40571));
    let offsets = (geometry.dataoff(), geometry.mapoff(), geometry.flogoff(), geometry.info2off());
    assert_eq!(offsets, (0x1000, 0x13d_1000, 0x13f_9000, 0x13f_d000));
    assert_eq!(geometry.nextoff(), None);

    let arenas = cut(33_554_433, Placement::Pmemblk, lba(4096), DEFAULT_NFREE).unwrap();
    let geometry = arenas[0].geometry;
    assert_eq!((geometry.external_nlba(), geometry.internal_nlba()), (7919, 8175));
    assert_eq!((geometry.mapoff(), geometry.flogoff(), geometry.info2off()), (0x1ff_1000, 0x1ff_9000, 0x1ff_d000));
}

#[test]
fn btt_placement_is_4096_for_1_1_and_0_for_2_0_and_8192_in_a_pool() {
    assert_eq!(Placement::ALL.map(Placement::offset), [8192, 4096, 0]);
    assert_eq!(Placement::ALL.map(|placement| placement.version().to_string()), ["1.1", "1.1", "2.0"]);
}

#[test]
fn btt_internal_blocks_are_multiples_of_256() {
    let internal = LbaSize::ALL.map(LbaSize::internal);
    assert_eq!(internal, [512, 768, 768, 4096, 4352, 4352, 4352]);
    assert_eq!(LbaSize::ALL.map(|size| (size.block(), size.metadata()))[4..], [(4096, 8), (4096, 64), (4096, 128)]);
    assert_eq!(LbaSize::new(1024), None);
}

#[test]
fn btt_medium_is_cut_into_arenas_of_512_gib_and_a_rest_of_at_least_16_mib() {
    let sizes = |len| {
        let arenas = cut(len, Placement::V2_0, lba(4096), DEFAULT_NFREE).unwrap();
        arenas.iter().map(|arena| (arena.start, arena.geometry.size(), arena.geometry.nextoff())).collect::<Vec<_>>()
    };
    assert_eq!(sizes(ARENA_MIN), [(0, ARENA_MIN, None)]);
    assert_eq!(sizes(ARENA_MAX), [(0, ARENA_MAX, None)]);
    assert_eq!(sizes(ARENA_MAX + ARENA_MIN - PAGE), [(0, ARENA_MAX, None)], "a rest too small is left alone");
    let two = [(0, ARENA_MAX, Some(ARENA_MAX)), (ARENA_MAX, ARENA_MIN, None)];
    assert_eq!(sizes(ARENA_MAX + ARENA_MIN), two);
    assert_eq!(sizes(ARENA_MAX + ARENA_MIN + PAGE - 1), two, "part of a page is nobody's");
}

#[test]
fn btt_medium_below_16_mib_is_refused_with_what_it_takes() {
    for placement in Placement::ALL {
        let min = placement.offset() + ARENA_MIN;
        assert!(cut(min, placement, lba(512), DEFAULT_NFREE).is_ok());
        for len in [0, 1, PAGE, min - 1] {
            let refused = cut(len, placement, lba(512), DEFAULT_NFREE);
            assert_eq!(refused, Err(LayoutError::TooSmall { room: len, min }));
        }
    }
}

#[test]
fn btt_arena_needs_as_many_blocks_to_be_seen_as_free_ones() {
    let geometry = |nfree| Geometry::new(lba(4096), nfree, ARENA_MIN, Follows::Nothing);
    assert_eq!(geometry(0), Err(LayoutError::Lanes { nfree: 0 }));
    assert_eq!(geometry(MAX_NFREE + 1), Err(LayoutError::Lanes { nfree: MAX_NFREE + 1 }));
    assert!(matches!(geometry(4000), Err(LayoutError::TooManyLanes { nfree: 4000, .. })));
    assert!(geometry(2000).is_ok());
    let too_large = Geometry::new(lba(512), 1, ARENA_MAX + PAGE, Follows::Nothing);
    assert_eq!(too_large, Err(LayoutError::TooLarge { size: ARENA_MAX + PAGE }));
}

proptest! {
    /// The invariants that [`Geometry`] states, for every size of medium.
    #[test]
    fn btt_parts_of_an_arena_follow_each_other_and_fit(
        len in ARENA_MIN + 2 * PAGE..3 * ARENA_MAX,
        nfree in 1_u32..=512,
        size in 0..7_usize,
        placement in 0..3_usize,
    ) {
        let placement = Placement::ALL[placement];
        let mut end = placement.offset();
        for NewArena { start, geometry } in cut(len, placement, LbaSize::ALL[size], nfree).unwrap() {
            prop_assert_eq!(start, end);
            prop_assert_eq!(geometry.dataoff(), PAGE);
            prop_assert!(geometry.block_offset(geometry.internal_nlba()) <= geometry.mapoff());
            prop_assert!(geometry.map_offset(geometry.external_nlba()) <= geometry.flogoff());
            prop_assert!(geometry.flog_offset(geometry.nfree()) <= geometry.info2off());
            prop_assert!(geometry.internal_nlba() <= map::MAX_BLOCKS);
            for offset in [geometry.mapoff(), geometry.flogoff(), geometry.info2off()] {
                prop_assert_eq!(offset % PAGE, 0);
            }
            end = start + geometry.size();
        }
        prop_assert!(end <= len && len - end < ARENA_MIN + PAGE);
    }
}
