// SPDX-License-Identifier: MIT OR Apache-2.0
mod image;

use image::{Heard, Image};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::find::FindError;
use super::*;
use crate::btt::flog::{FlogEntry, FlogGroup, FlogLayout, SeqError, Which};
use crate::btt::info::{ArenaState, Field, InfoBlock, InfoError};
use crate::btt::layout::{ARENA_MIN, LbaSize, PAGE};
use crate::btt::map::MapEntry;

/// The one finding that there is, by name and place.
fn only(image: &mut Image) -> (&'static str, u64, Worth) {
    let (_, heard) = image.check();
    match heard.findings[..] {
        [Finding { offset, problem, .. }] => (problem.name(), offset, problem.worth()),
        ref others => panic!("{others:?}"),
    }
}

#[test]
fn btt_new_media_of_every_placement_and_size_are_clean() {
    for placement in Placement::ALL {
        for lba_size in LbaSize::ALL {
            let mut image = Image::new(placement, lba_size, 256);
            let (report, heard) = image.check();
            assert_eq!(heard.findings, [], "{placement:?} {lba_size:?}");
            assert_eq!((report.found.placement, report.arenas.len()), (placement, 1));
            assert!(report.counts.consistent() && report.changes.is_empty());
            assert_eq!(heard.progress, Some((image.geometry.map_len(), image.geometry.map_len())));
        }
    }
}

#[test]
fn btt_media_that_were_written_to_are_clean() {
    for layout in [FlogLayout::Packed, FlogLayout::Padded] {
        let mut image = Image::standard();
        for (lane, lba) in (0..200).map(|n| (n % 7, (n * 37) % 50)) {
            image.write(layout, lane, lba);
        }
        assert_eq!(image.check().1.findings, [], "{layout:?}");
    }
}

#[test]
fn btt_info_block_that_is_torn_is_restored_from_its_copy() {
    for placement in Placement::ALL {
        for copy in [CopyOf::First, CopyOf::Second] {
            for damage in [0_usize, 100, 4095] {
                let mut image = Image::new(placement, LbaSize::new(512).unwrap(), 256);
                let offset = image.info_offset(copy);
                let good: InfoBlock = image.medium.get(offset).unwrap();
                let mut torn = good.clone();
                torn.as_mut_bytes()[damage..].fill(0x5a);
                image.medium.put(offset, torn.as_bytes()).unwrap();
                let (report, heard) = image.check();
                assert!(
                    matches!(heard.findings[..], [Finding { problem: Problem::Info(found, _), offset: at, .. }]
                        if found == copy && at == offset),
                    "{placement:?} {copy:?} {damage}: {heard:?}"
                );
                assert!(!report.counts.consistent());
                repair::apply(&mut image.medium, &report.changes).unwrap();
                assert_eq!(image.medium.get::<InfoBlock>(offset).unwrap(), good);
                assert_eq!(image.check().1.findings, []);
            }
        }
    }
}

#[test]
fn btt_without_any_info_block_is_none() {
    let mut image = Image::standard();
    for copy in [CopyOf::First, CopyOf::Second] {
        let offset = image.info_offset(copy);
        image.medium.put(offset, &[0; 4096]).unwrap();
    }
    let nothing = check(&mut image.medium, CheckOptions::default(), &mut Heard::default());
    assert!(matches!(nothing, Err(CheckError::Find(FindError::None { at: 4096, .. }))), "{nothing:?}");

    let mut torn = Image::standard();
    for copy in [CopyOf::First, CopyOf::Second] {
        torn.patch_info(copy, |block| block.unused[0] ^= 1, false);
    }
    let (name, offset, worth) = only(&mut torn);
    assert_eq!((name, offset, worth), ("arena-lost", 4096, Worth::Damage));
}

#[test]
fn btt_info_copies_that_differ_are_nobodys_guess() {
    let mut image = Image::standard();
    image.patch_info(CopyOf::Second, |block| block.uuid = Uuid([3; 16]), true);
    image.unfinished(4, 9);
    let (report, heard) = image.check();
    let names: Vec<_> = heard.findings.iter().map(|finding| finding.problem.name()).collect();
    assert_eq!(names, ["info-copies-differ", "unfinished-write-unclear"]);
    let second = image.info_offset(CopyOf::Second);
    let told = format!("differ from their byte 16 on; the second one is at byte {second}");
    assert!(heard.findings[0].to_string().ends_with(&told), "{}", heard.findings[0]);
    assert!(report.changes.is_empty());
}

#[test]
fn btt_error_flag_that_only_one_copy_has_is_set_in_the_other() {
    for copy in [CopyOf::First, CopyOf::Second] {
        let mut image = Image::standard();
        let offset = image.info_offset(copy);
        let block: InfoBlock = image.medium.get(offset).unwrap();
        image.medium.put(offset, block.with_state(ArenaState::Error).as_bytes()).unwrap();
        let (report, heard) = image.check();
        let names: Vec<_> = heard.findings.iter().map(|finding| finding.problem.name()).collect();
        assert_eq!(names, ["info-flags-differ", "error-flag"]);
        repair::apply(&mut image.medium, &report.changes).unwrap();
        assert_eq!(only(&mut image), ("error-flag", 4096, Worth::Damage));
    }
}

#[test]
fn btt_info_that_lies_about_its_sizes_is_named_with_its_bounds() {
    let mut image = Image::standard();
    for copy in [CopyOf::First, CopyOf::Second] {
        image.patch_info(copy, |block| block.nextoff = 8192.into(), true);
    }
    let (_, heard) = image.check();
    let [Finding { problem: Problem::ArenaLost(error, _), .. }] = heard.findings[..] else { panic!("{heard:?}") };
    assert!(matches!(error, InfoError::Bounds { field: Field::Nextoff, found: 8192, .. }), "{error}");
}

#[test]
fn btt_chain_that_ends_too_early_is_told() {
    let mut image = Image::standard();
    // A second arena of the same BTT behind the first, which does not know of it.
    let mut medium = image.grown(ARENA_MIN);
    let block: InfoBlock = medium.get(4096).unwrap();
    medium.put(4096 + image.geometry.size(), block.as_bytes()).unwrap();
    let options = CheckOptions { placement: Some(Placement::V1_1), parent_uuid: None, ..CheckOptions::default() };
    let mut heard = Heard::default();
    check(&mut medium, options, &mut heard).unwrap();
    assert!(matches!(heard.findings[..], [Finding { arena: 1, problem: Problem::Unreached, .. }]), "{heard:?}");
}

#[test]
fn btt_arenas_of_another_btt_are_told() {
    let mut image = Image::standard();
    let size = image.geometry.size();
    let mut medium = image.grown(size);
    let block: InfoBlock = medium.get(4096).unwrap();
    let mut first = block.clone();
    first.nextoff = size.into();
    let first = first.sealed();
    let mut second = block;
    second.uuid = Uuid([1; 16]);
    second.parent_uuid = Uuid([2; 16]);
    let second = second.sealed();
    for (start, block) in [(4096, &first), (4096 + size, &second)] {
        medium.put(start, block.as_bytes()).unwrap();
        medium.put(start + image.geometry.info2off(), block.as_bytes()).unwrap();
    }
    image.flog_at(&mut medium, 4096 + size);
    let mut heard = Heard::default();
    let report = check(&mut medium, CheckOptions::default(), &mut heard).unwrap();
    let names: Vec<_> = heard.findings.iter().map(|finding| (finding.arena, finding.problem.name())).collect();
    assert_eq!(names, [(1, "uuid"), (1, "parent-uuid")]);
    assert_eq!(report.arenas.len(), 2);
}

#[test]
fn btt_write_cut_off_after_its_flog_is_finished() {
    let mut image = Image::standard();
    image.write(FlogLayout::Packed, 4, 9);
    let (old, new) = image.unfinished(4, 9);
    let map = image.geometry.map_offset(9) + 4096;
    assert_eq!(only(&mut image), ("unfinished-write", 4096 + image.geometry.flog_offset(4), Worth::Unfinished));
    let (report, heard) = image.check();
    assert!(report.counts.consistent(), "a cut is no damage");
    let problem = Problem::Unfinished { lane: 4, lba: 9, old, new };
    assert_eq!(heard.findings[0].problem, problem);
    let [change] = &report.changes[..] else { panic!("{:?}", report.changes) };
    assert_eq!((change.offset, &change.new[..]), (map, &MapEntry::normal(new).raw().to_le_bytes()[..]));
    repair::apply(&mut image.medium, &report.changes).unwrap();
    assert_eq!(image.check().1.findings, []);
    assert_eq!(image.map(9), MapEntry::normal(new));
}

#[test]
fn btt_writes_that_cannot_be_finished_without_a_guess_are_left() {
    // Two lanes, one lba: either may be the later one.
    let mut image = Image::standard();
    image.unfinished(4, 9);
    image.unfinished(5, 9);
    let (report, heard) = image.check();
    let unclear = |lane, other| Problem::UnfinishedUnclear { lane, lba: 9, why: Why::OtherLane(other) };
    assert!(heard.has(unclear(4, 5)) && heard.has(unclear(5, 4)), "{heard:?}");
    assert!(report.changes.is_empty() && report.counts.damage > 0);

    // The new block is somebody else's too.
    let mut image = Image::standard();
    let (_, new) = image.unfinished(4, 9);
    image.set_map(20, MapEntry::normal(new));
    let (report, heard) = image.check();
    assert!(heard.has(Problem::UnfinishedUnclear { lane: 4, lba: 9, why: Why::Shared(new) }), "{heard:?}");
    assert!(heard.has(Problem::BlockTwice { lba: 20, block: new }));
    assert!(report.changes.is_empty());
}

#[test]
fn btt_flog_damage_is_told_by_lane_and_bound() {
    let geometry = Image::standard().geometry;
    let (external, internal) = (geometry.external_nlba(), geometry.internal_nlba());
    let entry = |lba: u32, old: u32, new: u32, seq: u32| FlogEntry {
        lba: lba.into(),
        old_map: old.into(),
        new_map: new.into(),
        seq: seq.into(),
    };
    let lost = Problem::BlocksLost { first: external + 3, count: 1 };
    let cases = [
        (entry(3, external + 3, external + 3, 0), Problem::FlogSequence(3, SeqError { first: 0, second: 0 }), false),
        (entry(3, external + 3, external + 3, 7), Problem::FlogSequence(3, SeqError { first: 7, second: 0 }), false),
        (
            entry(external, external + 3, external + 3, 1),
            Problem::FlogLba { lane: 3, lba: external, bound: external },
            false,
        ),
        (
            entry(3, internal, internal - 1, 1),
            Problem::FlogBlock { lane: 3, field: "old_map", block: internal, bound: internal },
            false,
        ),
        (
            entry(3, external + 4, external + 4, 1),
            Problem::BlockFreeTwice { lane: 4, other: 3, block: external + 4 },
            true,
        ),
        (entry(3, 17, 17, 1), Problem::BlockFreeAndMapped { lane: 3, block: 17 }, true),
    ];
    for (entry, problem, loses) in cases {
        let mut image = Image::standard();
        image.set_flog(3, Which::First, entry);
        let (report, heard) = image.check();
        assert!(heard.has(problem), "{problem:?}: {heard:?}");
        // A lane whose block is unknown leaves it open which blocks are lost.
        assert_eq!(heard.has(lost), loses, "{problem:?}: {heard:?}");
        assert!(report.changes.is_empty() && report.counts.damage > 0);
    }
    let mut image = Image::standard();
    let mut group = FlogGroup::initial(3, external + 3);
    group.slots[3] = group.slots[0];
    image.set_group(3, &group);
    assert_eq!(only(&mut image), ("flog-padding", 4096 + geometry.flogoff(), Worth::Damage));
}

#[test]
fn btt_map_damage_is_told_by_entry() {
    let geometry = Image::standard().geometry;
    let bound = geometry.internal_nlba();
    let lost = |first| Problem::BlocksLost { first, count: 1 };
    let cases = [
        (100, MapEntry::normal(bound), Problem::MapBlock { lba: 100, block: bound, bound }, Some(lost(100))),
        (100, MapEntry::zero(bound + 5), Problem::MapBlock { lba: 100, block: bound + 5, bound }, Some(lost(100))),
        (100, MapEntry::error(99), Problem::BlockTwice { lba: 100, block: 99 }, Some(lost(100))),
        (100, MapEntry::from_raw(5), Problem::MapState { lba: 100, raw: 5 }, None),
        (
            100,
            MapEntry::normal(bound - 1),
            Problem::BlockFreeAndMapped { lane: 255, block: bound - 1 },
            Some(lost(100)),
        ),
    ];
    for (lba, entry, problem, also) in cases {
        let mut image = Image::standard();
        image.set_map(lba, entry);
        let (report, heard) = image.check();
        assert!(heard.has(problem), "{problem:?}: {heard:?}");
        assert!(also.is_none_or(|also| heard.has(also)), "{problem:?}: {heard:?}");
        assert_eq!(heard.findings.len(), 1 + usize::from(also.is_some()));
        assert!(report.changes.is_empty());
    }
    let mut image = Image::standard();
    (100..400).for_each(|lba| image.set_map(lba, MapEntry::normal(7)));
    let (report, heard) = image.check();
    assert!(heard.has(Problem::BlocksLost { first: 100, count: 300 }), "{heard:?}");
    assert_eq!(report.counts.damage, 301);
}

#[test]
fn btt_block_that_a_user_wrote_is_never_taken_for_an_arena() {
    // The first data block of version 2.0 lies where version 1.1 begins.
    let mut image = Image::new(Placement::V2_0, LbaSize::new(4096).unwrap(), 256);
    let forged = Image::standard().medium.get::<InfoBlock>(4096).unwrap();
    image.medium.put(4096, forged.as_bytes()).unwrap();
    assert_eq!(image.check().0.found.placement, Placement::V2_0);
    image.medium.put(0, &[0; 4096]).unwrap();
    let found = find::find(&mut image.medium, CheckOptions::default());
    assert_eq!(found, Err(FindError::Ambiguous));
    let options = CheckOptions { placement: Some(Placement::V2_0), parent_uuid: None, ..CheckOptions::default() };
    let mut heard = Heard::default();
    let report = check(&mut image.medium, options, &mut heard).unwrap();
    repair::apply(&mut image.medium, &report.changes).unwrap();
    assert_eq!(image.check().1.findings, []);
}

#[test]
fn btt_parent_of_another_namespace_is_told() {
    let mut image = Image::standard();
    let parent = Uuid([8; 16]);
    let options = CheckOptions { placement: None, parent_uuid: Some(parent), ..CheckOptions::default() };
    let mut heard = Heard::default();
    check(&mut image.medium, options, &mut heard).unwrap();
    let [Finding { problem: Problem::ArenaLost(error, _), .. }] = heard.findings[..] else { panic!("{heard:?}") };
    assert!(matches!(error, InfoError::Parent { expected, .. } if expected == parent));
}

#[test]
fn btt_one_block_of_another_parent_is_not_repaired_by_one_of_ours() {
    // The first: another's BTT was put over ours, whose copy is still there. The second: nobody knows.
    for (copy, name) in [(CopyOf::First, "arena-lost"), (CopyOf::Second, "info-copies-differ")] {
        let mut image = Image::standard();
        let ours = image.medium.get::<InfoBlock>(image.info_offset(CopyOf::First)).unwrap().parent_uuid;
        image.patch_info(copy, |block| block.parent_uuid = Uuid([8; 16]), true);
        let options = CheckOptions { parent_uuid: Some(ours), ..CheckOptions::default() };
        let mut heard = Heard::default();
        let report = check(&mut image.medium, options, &mut heard).unwrap();
        assert_eq!(heard.findings.iter().map(|finding| finding.problem.name()).collect::<Vec<_>>(), [name]);
        assert!(report.changes.is_empty() && report.counts.damage == 1, "{heard:?}");
    }
}

#[test]
fn btt_pool_without_a_btt_and_with_another_block_size() {
    let mut image = Image::new(Placement::Pmemblk, LbaSize::new(512).unwrap(), 256);
    image.medium.put(4096, &520_u32.to_le_bytes()).unwrap();
    assert_eq!(only(&mut image), ("pool-block-size", 4096, Worth::Damage));
    for copy in [CopyOf::First, CopyOf::Second] {
        let offset = image.info_offset(copy);
        image.medium.put(offset, &[0; 4096]).unwrap();
    }
    assert_eq!(find::find(&mut image.medium, CheckOptions::default()), Err(FindError::EmptyPool));
}

#[test]
fn btt_medium_too_small_for_any_arena() {
    let mut medium = image::medium(ARENA_MIN - PAGE);
    let found = find::find(&mut medium, CheckOptions::default());
    assert_eq!(found, Err(FindError::TooSmall { len: ARENA_MIN - PAGE, min: ARENA_MIN }));
}

#[test]
fn btt_check_stops_when_it_is_told_to() {
    let mut image = Image::standard();
    for first_look in [FirstLook::Entries, FirstLook::Fingerprint { threads: 1 }, FirstLook::Fingerprint { threads: 4 }]
    {
        let mut heard = Heard { stop: true, ..Heard::default() };
        let options = CheckOptions { first_look, ..CheckOptions::default() };
        let stopped = check(&mut image.medium, options, &mut heard);
        assert!(matches!(stopped, Err(CheckError::Stopped)));
    }
}

#[test]
fn btt_fingerprint_alone_says_that_a_map_is_sound() {
    let mut image = Image::standard();
    (0..200).for_each(|n| image.write(FlogLayout::Packed, n % 7, (n * 37) % 50));
    image.unfinished(4, 9);
    image.unfinished(5, 700);
    let arena = image.check().0.arenas[0];
    for (threads, wrong) in [(1, false), (3, false), (1, true), (3, true)] {
        if wrong {
            image.set_map(300, MapEntry::normal(301));
        }
        let mut heard = Heard::default();
        let mut session = Session::new(&mut image.medium, &mut heard, FirstLook::Fingerprint { threads });
        session.total = arena.info.geometry.map_len();
        let lanes = session.flog(&arena).unwrap();
        assert_eq!(session.sound(&arena, &lanes).unwrap(), !wrong);
        image.set_map(300, MapEntry::from_raw(0));
    }
}

#[test]
fn btt_repair_stores_nothing_when_the_medium_has_changed() {
    let mut image = Image::standard();
    image.unfinished(4, 9);
    image.patch_info(CopyOf::Second, |block| block.unused[5] = 1, false);
    let (report, _) = image.check();
    assert_eq!(report.changes.len(), 2);
    image.set_map(9, MapEntry::zero(9));
    let before: Vec<u8> = image.bytes();
    let refused = repair::apply(&mut image.medium, &report.changes);
    assert_eq!(refused, Err(repair::RepairError::Changed { offset: 4096 + image.geometry.map_offset(9) }));
    assert_eq!(image.bytes(), before);
}

/// So many cases of a long test, unless `PROPTEST_CASES` says otherwise.
fn cases(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { usual } else { ProptestConfig { cases, ..usual } }
}

/// Changes made to an image: what, and where or with which numbers.
type Patch = (u8, u32, u32, u32, u32, u8);

fn patches() -> impl Strategy<Value = Vec<Patch>> {
    proptest::collection::vec((0_u8..6, 0_u32..300, 0_u32..400, 0_u32..400, 0_u32..4, any::<u8>()), 1..12)
}

fn patched(patches: Vec<Patch>) -> Image {
    let mut image = Image::standard();
    let external = image.geometry.external_nlba();
    let block = |n: u32| if n < 200 { n } else { external - 100 + n };
    for (what, at, a, b, seq, byte) in patches {
        match what {
            0 => image.set_map(at, MapEntry::from_raw(u32::from(byte & 3) << 30 | block(a))),
            1 | 2 => {
                let which = if byte & 1 == 0 { Which::First } else { Which::Second };
                let (lane, lba) = (at % 256, u32::from(byte >> 5));
                let entry =
                    FlogEntry { lba: lba.into(), old_map: block(a).into(), new_map: block(b).into(), seq: seq.into() };
                image.set_flog(lane, which, entry);
            }
            3 => drop(image.unfinished(at % 256, a % 8)),
            4 => {
                let copy = if byte & 1 == 0 { CopyOf::First } else { CopyOf::Second };
                image.patch_info(copy, |block| block.as_mut_bytes()[at as usize % 128] ^= byte, byte & 2 == 0);
            }
            _ => image.write(FlogLayout::Packed, at % 256, a % 8),
        }
    }
    image
}

proptest! {
    #![proptest_config(cases(64))]
    /// Whatever an image holds, a repair leaves nothing that could be repaired, and never makes more damage.
    #[test]
    fn btt_after_a_repair_nothing_repairable_is_left(patches in patches()) {
        let mut image = patched(patches);
        let mut heard = Heard::default();
        let Ok(report) = check(&mut image.medium, CheckOptions::default(), &mut heard) else { return Ok(()) };
        repair::apply(&mut image.medium, &report.changes).unwrap();
        let mut again = Heard::default();
        let after = check(&mut image.medium, CheckOptions::default(), &mut again).unwrap();
        prop_assert_eq!(after.counts.repairable + after.counts.unfinished, 0, "{:?} then {:?}", heard, again);
        prop_assert!(after.changes.is_empty());
        prop_assert!(after.counts.damage <= report.counts.damage, "{:?} then {:?}", heard, again);
    }
    /// A fingerprint that is right says what a look at each entry does.
    #[test]
    fn btt_both_looks_come_to_the_same(
        patches in patches(),
        entries in proptest::collection::vec(any::<(u32, u32)>(), 0..6),
        threads in 1_usize..9,
    ) {
        let mut image = patched(patches);
        let external = image.geometry.external_nlba();
        for (lba, block) in entries {
            // Where another one most probably has it.
            image.set_map(lba % external, MapEntry::normal(block % external));
        }
        let mut results = [FirstLook::Entries, FirstLook::Fingerprint { threads }].map(|first_look| {
            let (mut heard, options) = (Heard::default(), CheckOptions { first_look, ..CheckOptions::default() });
            let report = check(&mut image.medium, options, &mut heard).map(|report| (report.counts, report.changes));
            heard.findings.sort_by_key(|finding| (finding.arena, finding.offset, finding.problem.to_string()));
            (report, heard.findings, heard.progress.map(|(done, of)| of - done))
        });
        let [entries, fingerprint] = &mut results;
        prop_assert_eq!(entries, fingerprint);
    }
}
