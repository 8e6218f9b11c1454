// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::btt::layout::{DEFAULT_NFREE, Placement, cut};
use proptest::prelude::*;
use std::path::Path;

const LEN: u64 = 32 << 20;

fn identity(placement: Placement) -> Identity {
    Identity { uuid: Uuid([7; 16]), parent_uuid: Uuid([9; 16]), version: placement.version() }
}

fn expected(placement: Placement) -> Expected {
    Expected { version: placement.version(), parent_uuid: None, room: placement.room(LEN) }
}

fn block(placement: Placement) -> InfoBlock {
    let size = LbaSize::new(4096).unwrap();
    let geometry = cut(LEN, placement, size, DEFAULT_NFREE).unwrap()[0].geometry;
    InfoBlock::new(&identity(placement), &geometry)
}

/// The block of version 1.1 with a change and a checksum that hides it.
fn changed(change: impl FnOnce(&mut InfoBlock)) -> Result<Info, InfoError> {
    let mut block = block(Placement::V1_1);
    change(&mut block);
    block.sealed().check(&expected(Placement::V1_1))
}

/// The first 128 bytes and the checksum of an arena that `pmempool create -w -s 20M blk 512` of PMDK 1.12.1 made.
#[test]
fn btt_info_block_of_pmdk_is_read_and_written_to_the_byte() {
    #[rustfmt::skip]
    let head: [u8; 128] = [
        0x42, 0x54, 0x54, 0x5f, 0x41, 0x52, 0x45, 0x4e, 0x41, 0x5f, 0x49, 0x4e, 0x46, 0x4f, 0x00, 0x00,
        0x49, 0xf1, 0x47, 0x3e, 0x9c, 0xd3, 0x6e, 0x4a, 0x84, 0x84, 0x54, 0x4f, 0x12, 0x18, 0xcb, 0x78,
        0x46, 0x26, 0x44, 0x8c, 0xcf, 0xb2, 0x37, 0x44, 0xb0, 0xcd, 0x2c, 0x2d, 0x13, 0xa1, 0x60, 0x99,
        0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0x02, 0x00, 0x00, 0x7b, 0x9d, 0x00, 0x00,
        0x00, 0x02, 0x00, 0x00, 0x7b, 0x9e, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x10, 0x3d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x90, 0x3f, 0x01, 0x00, 0x00, 0x00, 0x00,
        0x00, 0xd0, 0x3f, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];
    let mut bytes = [0; 4096];
    bytes[..128].copy_from_slice(&head);
    bytes[4088..].copy_from_slice(&0x0147_b810_e781_cf54_u64.to_le_bytes());
    let block = InfoBlock::read_from_bytes(&bytes).unwrap();
    let expected = Expected { version: Placement::Pmemblk.version(), parent_uuid: None, room: (20 << 20) - 8192 };
    let info = block.check(&expected).unwrap();
    assert_eq!(info.state, ArenaState::Good);
    let geometry = cut(20 << 20, Placement::Pmemblk, LbaSize::new(512).unwrap(), DEFAULT_NFREE).unwrap()[0].geometry;
    assert_eq!(info.geometry, geometry);
    assert_eq!(InfoBlock::new(&info.identity, &geometry).as_bytes(), bytes);
}

/// Whatever size the pool has, PMDK's arena is the one that we would make.
#[test]
fn btt_info_blocks_that_pmempool_makes_are_ours() {
    let Some(pmempool) = pageless_testkit::require::tool("pmempool") else { return };
    let folder = std::env::temp_dir().join(format!("btt-info-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (len, lba) in [(17 << 20, 512), ((64 << 20) + 4097, 4096), (33 << 20, 520), (20_000_000, 4160)] {
        let path = folder.join(format!("{len}-{lba}"));
        let made = std::process::Command::new(&pmempool)
            .args(["create", "-w", "-s", &len.to_string(), "blk", &lba.to_string()])
            .arg(&path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        compare_pool(&path, len, LbaSize::new(lba).unwrap());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

fn compare_pool(path: &Path, len: u64, size: LbaSize) {
    let bytes = std::fs::read(path).unwrap();
    let start = usize::try_from(Placement::Pmemblk.offset()).unwrap();
    let block = InfoBlock::read_from_bytes(&bytes[start..start + 4096]).unwrap();
    let parent = Uuid(bytes[24..40].try_into().unwrap());
    let expected = Expected {
        version: Placement::Pmemblk.version(),
        parent_uuid: Some(parent),
        room: Placement::Pmemblk.room(len),
    };
    let info = block.check(&expected).unwrap();
    let geometry = cut(len, Placement::Pmemblk, size, DEFAULT_NFREE).unwrap()[0].geometry;
    assert_eq!(info.geometry, geometry, "{}", path.display());
    assert_eq!(InfoBlock::new(&info.identity, &geometry), block);
    let second = start + usize::try_from(geometry.info2off()).unwrap();
    assert_eq!(bytes[second..second + 4096], *block.as_bytes());
}

#[test]
fn btt_checksum_is_fletcher64_over_little_endian_words() {
    assert_eq!(fletcher64(&[]), 0);
    assert_eq!(fletcher64(&[1, 0, 0, 0, 2, 0, 0, 0]), 4 << 32 | 3);
    assert_eq!(fletcher64(&[0xff; 8]), 0xffff_fffd_ffff_fffe, "both sums wrap");
    let block = block(Placement::V1_1);
    let mut without = block.clone();
    without.checksum = 0.into();
    assert_eq!(block.checksum.get(), fletcher64(without.as_bytes()));
}

#[test]
fn btt_info_block_made_here_passes_and_says_what_it_was_made_of() {
    for placement in Placement::ALL {
        let info = block(placement).check(&expected(placement)).unwrap();
        assert_eq!(info.identity, identity(placement));
        assert_eq!(info.state, ArenaState::Good);
        assert_eq!(
            block(placement).with_state(ArenaState::Error).check(&expected(placement)).unwrap().state,
            ArenaState::Error
        );
        assert_eq!(block(placement).with_state(ArenaState::Error).with_state(ArenaState::Good), block(placement));
    }
    assert_eq!(size_of::<InfoBlock>(), 4096);
}

#[test]
fn btt_info_block_of_the_other_version_or_owner_is_refused() {
    let found = Placement::V2_0.version();
    let judged = block(Placement::V2_0).check(&expected(Placement::V1_1));
    assert_eq!(judged, Err(InfoError::Version { found, expected: Placement::V1_1.version() }));

    let parent = Uuid([1; 16]);
    let other = Expected { parent_uuid: Some(parent), ..expected(Placement::V1_1) };
    let judged = block(Placement::V1_1).check(&other);
    assert_eq!(judged, Err(InfoError::Parent { found: Uuid([9; 16]), expected: parent }));
    let mut orphan = block(Placement::V1_1);
    orphan.parent_uuid = Uuid::NIL;
    assert!(orphan.sealed().check(&other).is_ok());
}

#[test]
fn btt_info_block_with_any_byte_changed_is_refused() {
    let block = block(Placement::V1_1);
    for at in 0..4096 {
        let mut bytes = block.as_bytes().to_vec();
        bytes[at] ^= 0x20;
        let judged = InfoBlock::read_from_bytes(&bytes).unwrap().check(&expected(Placement::V1_1));
        match at {
            0..16 => assert!(matches!(judged, Err(InfoError::Signature { .. })), "{at}: {judged:?}"),
            _ => assert!(matches!(judged, Err(InfoError::Checksum { .. })), "{at}: {judged:?}"),
        }
    }
}

#[test]
fn btt_info_numbers_out_of_bounds_are_named_with_their_bounds() {
    let bounds = |result: Result<Info, InfoError>| match result {
        Err(InfoError::Bounds { field, found, min, max }) => (field, found, min, max),
        other => panic!("{other:?}"),
    };
    let good = block(Placement::V1_1);
    let (map, flog, info2) = (good.mapoff.get(), good.flogoff.get(), good.info2off.get());
    let last = Placement::V1_1.room(LEN) - PAGE;

    assert_eq!(changed(|block| block.external_lbasize = 4097.into()), Err(InfoError::LbaSize { found: 4097 }));
    assert_eq!(
        bounds(changed(|block| block.internal_lbasize = 4095.into())),
        (Field::InternalLbasize, 4095, 4096, 8192)
    );
    assert_eq!(bounds(changed(|block| block.nfree = 0.into())), (Field::Nfree, 0, 1, 65536));
    let blocks = u64::from(good.external_nlba.get()) + 256;
    let one_more = good.internal_nlba.get() + 1;
    assert_eq!(
        bounds(changed(|block| block.internal_nlba = one_more.into())),
        (Field::InternalNlba, blocks + 1, blocks, blocks)
    );
    assert_eq!(
        bounds(changed(|block| block.external_nlba = 255.into())),
        (Field::ExternalNlba, 255, 256, (1 << 30) - 256)
    );
    assert_eq!(bounds(changed(|block| block.infosize = 512.into())), (Field::Infosize, 512, 4096, 4096));
    assert_eq!(bounds(changed(|block| block.dataoff = 512.into())), (Field::Dataoff, 512, 4096, last));
    assert_eq!(bounds(changed(|block| block.mapoff = 4096.into())).0, Field::Mapoff, "over the data");
    assert_eq!(bounds(changed(|block| block.flogoff = map.into())).0, Field::Flogoff, "over the map");
    assert_eq!(bounds(changed(|block| block.info2off = flog.into())).0, Field::Info2off, "over the flog");
    assert_eq!(
        bounds(changed(|block| block.info2off = (last + 512).into())),
        (Field::Info2off, last + 512, flog + 16384, last)
    );
    assert_eq!(bounds(changed(|block| block.nextoff = info2.into())).0, Field::Nextoff, "within this arena");
    assert_eq!(bounds(changed(|block| block.nextoff = u64::MAX.into())).0, Field::Nextoff);
    let off = changed(|block| block.flogoff = (flog - 64).into());
    assert!(matches!(off, Err(InfoError::Bounds { .. } | InfoError::Alignment { .. })), "{off:?}");
    assert_eq!(
        changed(|block| block.dataoff = (PAGE + 8).into()),
        Err(InfoError::Alignment { field: Field::Dataoff, found: PAGE + 8 })
    );
}

#[test]
fn btt_info_of_a_medium_that_was_cut_short_is_refused() {
    let short = Expected { room: Placement::V1_1.room(LEN) - PAGE, ..expected(Placement::V1_1) };
    let judged = block(Placement::V1_1).check(&short);
    assert!(matches!(judged, Err(InfoError::Bounds { field: Field::Info2off, .. })), "{judged:?}");
    for room in [0, PAGE, ARENA_MIN - 1] {
        let judged = block(Placement::V1_1).check(&Expected { room, ..expected(Placement::V1_1) });
        assert!(matches!(judged, Err(InfoError::Bounds { .. })), "{judged:?}");
    }
}

#[test]
fn uuids_are_read_and_printed_as_everybody_does() {
    let text = "8c442646-b2cf-4437-b0cd-2c2d13a16099";
    let uuid: Uuid = text.parse().unwrap();
    assert_eq!(uuid.0[..4], [0x8c, 0x44, 0x26, 0x46]);
    assert_eq!(uuid.to_string(), text);
    assert_eq!(text.replace('-', "").to_uppercase().parse(), Ok(uuid));
    for wrong in ["", "8c442646", "8c442646-b2cf-4437-b0cd-2c2d13a1609g", "8c442646b2cf-4437-b0cd-2c2d13a16099", "é"] {
        assert_eq!(wrong.parse::<Uuid>(), Err(NotAUuid { text: wrong.to_owned() }));
    }
}

proptest! {
    /// What passes keeps its promise, whatever the numbers are: every part lies in the room, behind the one before.
    #[test]
    fn btt_info_that_passes_is_safe_to_calculate_with(
        fields in proptest::collection::vec((0_usize..15, any::<u64>(), 0_u32..64), 1..4),
        room in 0..2 * ARENA_MAX,
    ) {
        let mut hostile = block(Placement::V1_1);
        for (field, value, shift) in fields {
            let value = value >> shift;
            let word = U32::new(u32::try_from(value & 0xffff_ffff).unwrap());
            match field {
                0 => hostile.external_lbasize = word,
                1 => hostile.external_nlba = word,
                2 => hostile.internal_lbasize = word,
                3 => hostile.internal_nlba = word,
                4 => hostile.nfree = word,
                5 => hostile.infosize = word,
                6 => hostile.nextoff = value.into(),
                7 => hostile.dataoff = value.into(),
                8 => hostile.mapoff = value.into(),
                9 => hostile.flogoff = value.into(),
                10 => hostile.info2off = value.into(),
                11 => hostile.nextoff = (value & !511).into(),
                12 => hostile.mapoff = (value & !511).into(),
                13 => {
                    hostile.nfree = word;
                    hostile.internal_nlba = hostile.external_nlba.get().wrapping_add(word.get()).into();
                }
                _ => hostile.flags = word,
            }
        }
        let expected = Expected { room, ..expected(Placement::V1_1) };
        if let Ok(Info { geometry, .. }) = hostile.sealed().check(&expected) {
            prop_assert!(geometry.dataoff() >= PAGE);
            prop_assert!(geometry.block_offset(geometry.internal_nlba()) <= geometry.mapoff());
            prop_assert!(geometry.map_offset(geometry.external_nlba()) <= geometry.flogoff());
            prop_assert!(geometry.flog_offset(geometry.nfree()) <= geometry.info2off());
            prop_assert!(geometry.info2off() + PAGE <= geometry.size());
            prop_assert!(geometry.size() <= room);
            prop_assert!(geometry.nextoff().is_none_or(|next| next + ARENA_MIN <= room));
            prop_assert!(geometry.internal_nlba() <= map::MAX_BLOCKS);
        }
    }

    #[test]
    fn btt_info_any_bytes_are_judged(seed in proptest::collection::vec(any::<u8>(), 128)) {
        let mut bytes = vec![0; 4096];
        bytes[..128].copy_from_slice(&seed);
        bytes[..16].copy_from_slice(&SIGNATURE);
        let block = InfoBlock::read_from_bytes(&bytes).unwrap().sealed();
        let _ = block.check(&expected(Placement::V2_0));
    }
}
