// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seeds of the fuzz targets of BTTs, replayed: each image is judged as its name says, and repaired as far as that goes.

#![expect(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "as in the fuzz targets")]

#[path = "../../../fuzz/src/hostile_btt.rs"]
mod hostile_btt;

use std::path::{Path, PathBuf};

use hostile_btt::{Checked, Images};
use pageless_drivers::btt::Trouble;
use pageless_drivers::btt::check::Problem;
use pageless_drivers::btt::map::MapEntry;

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// A seed's name begins with the worst that is found.
#[test]
fn btt_seeds_are_judged_as_their_names_say() {
    let mut images = Images::new();
    for target in ["btt_check", "btt_open", "btt_repair"] {
        for (path, input) in seeds(target) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            images.with(&input, |image| {
                let expected = match image.check() {
                    None => "none",
                    Some(Checked { report, .. }) if report.counts.damage > 0 => "damage",
                    Some(Checked { report, .. }) if report.counts.repairable > 0 => "repairable",
                    Some(Checked { report, .. }) if report.counts.unfinished > 0 => "unfinished",
                    Some(_) => "clean",
                };
                assert_eq!(name.split('-').next(), Some(expected), "{name}");
            });
        }
    }
}

#[test]
fn btt_seeds_are_repaired_and_used_as_far_as_that_goes() {
    let mut images = Images::new();
    for (_, mut input) in seeds("btt_check") {
        images.with(&input, hostile_btt::Image::check_both_ways);
        input[0] |= hostile_btt::SPARSE;
        images.with(&input, hostile_btt::Image::check_both_ways);
    }
    for (_, mut input) in seeds("btt_repair") {
        images.with(&input, hostile_btt::Image::check_and_repair);
        input[0] |= hostile_btt::SPARSE;
        images.with(&input, hostile_btt::Image::check_and_repair);
    }
    for (_, mut input) in seeds("btt_open") {
        images.with(&input, hostile_btt::Image::open_and_use);
        input[0] |= hostile_btt::SPARSE;
        images.with(&input, hostile_btt::Image::open_and_use);
    }
    // Images that end anywhere, in the first pages, in the data, in what follows it, or not at all.
    for which in 0..4 {
        for left in [0_u16, 1, 2, 3, 16, 2000, 4090, 4094, 4095, 4096, 4097, 6000, 8000, 8190, 8191, 8192, u16::MAX] {
            let input = [&[0x30 | which][..], &left.to_le_bytes()].concat();
            images.with(&input, hostile_btt::Image::open_and_use);
            images.with(&input, hostile_btt::Image::check_and_repair);
        }
    }
    // What was tried was taken back.
    for which in [0, 1, 2, 3].into_iter().flat_map(|which| [which, which | hostile_btt::SPARSE]) {
        images.with(&[which], |image| {
            let counts = image.check().unwrap().report.counts;
            assert!(counts.consistent() && counts.unfinished == 0);
        });
    }
}

/// Found by `btt_open`. A lane would store the bytes of its next write to a block that another LBA has; an LBA would give its
/// lane a block that another one still has.
#[test]
fn btt_block_that_has_two_owners_is_not_written() {
    let mut images = Images::new();
    let cases = [
        ("free and mapped", 124, Problem::BlockFreeAndMapped { lane: 4, block: 124 }),
        ("mapped twice", 3, Problem::BlockTwice { lba: 9, block: 3 }),
    ];
    for (what, block, problem) in cases {
        images.with(&[0], |image| {
            let arena = image.arenas[0];
            let entry = MapEntry::normal(block).raw().to_le_bytes();
            image.store(arena.start + arena.geometry.map_offset(9), &entry);
            image.store(arena.start + arena.geometry.block_offset(block), b"whose?");
            let before = image.check().unwrap().findings;
            let mut user = image.open().unwrap();
            for page in 0..8 {
                assert!(user.write(page, page).is_none(), "{what}");
            }
            let froze = |trouble: &Trouble| matches!(trouble, Trouble::Froze(found) if found.problem == problem);
            assert!(user.troubles().iter().any(froze), "{what}: {:?}", user.troubles());
            let read = user.read(9).unwrap().unwrap();
            assert!(read.starts_with(b"whose?"), "{what}: {read:?}");
            assert_eq!(image.check().unwrap().findings, before, "{what}");
        });
    }
}

/// Each arena's map is read when the first of its own blocks is changed.
#[test]
fn btt_arena_with_a_block_of_two_owners_leaves_the_other_one_writable() {
    let mut images = Images::new();
    images.with(&[3], |image| {
        let second = image.arenas[1];
        let entry = MapEntry::normal(3).raw().to_le_bytes();
        image.store(second.start + second.geometry.map_offset(9), &entry);
        let blocks = u64::from(image.arenas[0].geometry.external_nlba());
        let mut user = image.open().unwrap();
        assert!(user.write(0, 0).is_some());
        assert_eq!(user.troubles(), []);
        assert!(user.write(blocks, 1).is_none());
        let froze = |trouble: &Trouble| matches!(trouble, Trouble::Froze(found) if found.arena == 1);
        assert!(user.troubles().iter().any(froze), "{:?}", user.troubles());
        assert!(user.write(1, 2).is_some() && user.read(blocks).unwrap().is_ok());
        drop(user);
        image.open_and_use();
    });
}

/// What is wrong with one block, or with none that anybody has, is no reason not to write the others.
#[test]
fn btt_blocks_that_have_one_owner_are_written_all_the_same() {
    let mut images = Images::new();
    images.with(&[0], |image| {
        let arena = image.arenas[0];
        for (lba, raw) in [(1, 0xc000_ffff_u32), (2, 5)] {
            image.store(arena.start + arena.geometry.map_offset(lba), &raw.to_le_bytes());
        }
        let mut user = image.open().unwrap();
        assert_eq!([0, 1, 2].map(|page| user.write(page, page).is_some()), [true, false, true]);
        let told = user.troubles();
        let is = |wanted: fn(&Trouble) -> bool| assert_eq!(told.iter().filter(|told| wanted(told)).count(), 1, "{told:?}");
        is(|told| matches!(told, Trouble::Unusable(found) if matches!(found.problem, Problem::MapBlock { lba: 1, .. })));
        is(|told| matches!(told, Trouble::Noticed(found) if matches!(found.problem, Problem::MapState { lba: 2, .. })));
        is(|told| matches!(told, Trouble::Noticed(found) if matches!(found.problem, Problem::BlocksLost { first: 1, count: 1 })));
        assert_eq!(told.len(), 3);
        drop(user);
        // All of it again.
        image.open_and_use();
    });
}
