// SPDX-License-Identifier: MIT OR Apache-2.0
//! What opening makes of flogs and maps that were made by hand, and what bad media do to a disk in use.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use btt_rig::{LANES, Rig, run, second};
use pageless_block::{Bio, BlockDevice, Flags, Queue, Sector, Status, open_checked};
use pageless_drivers::btt::check::Problem;
use pageless_drivers::btt::flog::{FlogEntry, FlogGroup, Seq};
use pageless_drivers::btt::info::{ArenaState, InfoBlock};
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{AccessMode, BttDisk, BttError, OpenOptions, Trouble};
use pageless_mem::testing::poison;
use pageless_mem::{Access, PhysRange};
use zerocopy::IntoBytes;

mod btt_rig;

#[test]
fn btt_flog_with_the_map_behind_is_finished_once_and_for_all() {
    let rig = Rig::new();
    rig.cut_off(2, 5);
    let disk = rig.open();
    assert_eq!((disk.finished(), disk.troubles()), (1, vec![]));
    assert_eq!((rig.read(&disk, 5), rig.map(5)), ((Status::Ok, 0xee), MapEntry::normal(rig.free(2))));
    drop(disk);
    let after = rig.bytes();
    assert_eq!(rig.open().finished(), 0);
    assert!(after == rig.bytes(), "to recover twice is to recover once");
}

#[test]
fn btt_flog_that_is_finished_frees_the_old_block_and_changes_nothing() {
    let rig = Rig::new();
    rig.cut_off(2, 5);
    rig.set_map(5, MapEntry::normal(rig.free(2)));
    let before = rig.bytes();
    let disk = rig.open();
    assert_eq!((disk.finished(), rig.read(&disk, 5)), (0, (Status::Ok, 0xee)));
    assert!(before == rig.bytes());
    // Lane 2 writes to block 5 now, and lane 2 is the only one that may.
    let mut queue = disk.open_queue().unwrap();
    for lba in 0..3 * LANES {
        assert_eq!(rig.write(&mut *queue, lba, lba as u8 + 1), Status::Ok);
    }
    for lba in 0..3 * LANES {
        assert_eq!(rig.read(&disk, lba), (Status::Ok, lba as u8 + 1));
    }
}

#[test]
fn btt_flog_of_a_block_that_another_lane_wrote_since_frees_the_old_block() {
    let rig = Rig::new();
    rig.cut_off(2, 5);
    // Lane 3 wrote the same block later, and freed what lane 2 had filled.
    rig.set_entry(3, 1, FlogEntry::new(5, MapEntry::normal(rig.free(2)), rig.free(3), second()));
    rig.set_map(5, MapEntry::normal(rig.free(3)));
    rig.set_block(rig.free(3), 0x33);
    let disk = rig.open();
    assert_eq!((disk.finished(), disk.troubles()), (0, vec![]));
    assert_eq!(rig.read(&disk, 5), (Status::Ok, 0x33));
}

#[test]
fn btt_flog_entry_without_its_second_half_does_not_count() {
    let rig = Rig::new();
    // Block and old map are there; new map and number are what they were.
    let torn = FlogEntry { lba: 5.into(), old_map: MapEntry::normal(5).raw().into(), ..FlogEntry::default() };
    rig.set_entry(2, 1, torn);
    let disk = rig.open();
    assert_eq!((disk.finished(), disk.troubles(), rig.map(5)), (0, vec![], MapEntry::from_raw(0)));
    assert_eq!(rig.read(&disk, 5), (Status::Ok, 0));
}

#[test]
fn btt_flog_of_zero_and_error_entries_is_finished_too() {
    for old in [MapEntry::zero(5), MapEntry::error(5), MapEntry::normal(5)] {
        let rig = Rig::new();
        rig.cut_off(1, 5);
        rig.set_map(5, old);
        let disk = rig.open();
        assert_eq!((disk.finished(), rig.read(&disk, 5)), (1, (Status::Ok, 0xee)), "{old:?}");
    }
}

#[test]
fn btt_flog_numbers_go_round_and_the_later_slot_is_current() {
    let rig = Rig::new();
    let (one, two, three) = (Seq::FIRST, second(), second().next());
    // Lane by lane: both slots, and which is current. What is not current names a block that no lane may have.
    for (lane, [first, other], current) in [
        (0, [one, two], 1),
        (1, [two, three], 1),
        (2, [three, one], 1),
        (3, [two, one], 0),
        (4, [three, two], 0),
        (5, [one, three], 0),
    ] {
        let entry = |seq, slot: usize| {
            let old = if slot == current { lane + 20 } else { 40 };
            FlogEntry::new(lane + 20, MapEntry::normal(old), rig.free(lane), seq)
        };
        let mut group = FlogGroup::default();
        (group.slots[0], group.slots[1]) = (entry(first, 0), entry(other, 1));
        rig.set_group(lane, group);
    }
    let disk = rig.open();
    assert_eq!((disk.finished(), disk.troubles()), (6, vec![]));
    for lane in 0..6 {
        assert_eq!(rig.map(lane + 20), MapEntry::normal(rig.free(lane)));
    }
}

#[test]
fn btt_flog_of_old_kernels_is_continued_in_its_own_slots() {
    let rig = Rig::new();
    // Linux before 4.15 used slots 0 and 2.
    rig.set_entry(0, 2, FlogEntry::new(5, MapEntry::normal(5), rig.free(0), second()));
    let disk = rig.open();
    assert_eq!((disk.finished(), disk.troubles()), (1, vec![]));
    let mut queue = disk.open_queue().unwrap();
    for lba in 0..2 * LANES {
        assert_eq!(rig.write(&mut *queue, lba, 9), Status::Ok);
    }
    drop(queue);
    for lane in 0..LANES {
        let group = rig.group(lane);
        assert!(group.slots[1].is_padding() && group.slots[3].is_padding(), "lane {lane}: {group:?}");
    }
    assert!((0..LANES).any(|lane| !rig.group(lane).slots[2].is_padding()));
    assert_eq!(rig.open().troubles(), []);
}

#[test]
fn btt_flogs_that_contradict_each_other_are_not_recovered() {
    let rig = Rig::new();
    rig.cut_off(2, 5);
    rig.cut_off(3, 5);
    rig.frozen(|problem| matches!(problem, Problem::UnfinishedUnclear { .. }));

    let rig = Rig::new();
    rig.set_group(3, FlogGroup::initial(3, rig.free(2)));
    rig.frozen(|problem| matches!(problem, Problem::BlockFreeTwice { .. }));
}

#[test]
fn btt_flogs_that_say_nothing_make_the_arena_read_only() {
    let rig = Rig::new();
    rig.set_block(3, 0x77);
    rig.set_map(3, MapEntry::normal(3));
    rig.set_entry(4, 1, FlogEntry::initial(4, rig.free(4)));
    rig.frozen(|problem| matches!(problem, Problem::FlogSequence(4, _)));
    assert_eq!(rig.read(&rig.open(), 3), (Status::Ok, 0x77));

    let rig = Rig::new();
    rig.set_entry(4, 1, FlogEntry::new(u32::MAX >> 3, MapEntry::normal(5), rig.free(4), second()));
    rig.frozen(|problem| matches!(problem, Problem::FlogLba { lane: 4, .. }));

    let rig = Rig::new();
    rig.set_group(4, FlogGroup::initial(4, u32::MAX >> 2));
    rig.frozen(|problem| matches!(problem, Problem::FlogBlock { lane: 4, .. }));

    let rig = Rig::new();
    rig.set_entry(4, 3, FlogEntry::initial(4, rig.free(4)));
    rig.frozen(|problem| matches!(problem, Problem::FlogPadding(_)));
}

/// Nobody waits for the map before something is changed. Then a block of two owners is found, whoever comes first, and however.
#[test]
fn btt_block_of_two_owners_is_found_by_the_first_change_and_nothing_is_changed() {
    let is = |trouble: &Trouble| matches!(trouble, Trouble::Froze(found) if matches!(found.problem, Problem::BlockFreeAndMapped { lane: 4, .. }));
    let changes: [fn(PhysRange) -> Bio; 4] = [
        |frames| Bio::write(Sector(0), frames, 0),
        |_| Bio::write_zeroes(Sector(0), 4096, 0),
        |_| Bio::write_zeroes(Sector(0), 4096, 0).with_flags(Flags::NO_UNMAP),
        |_| Bio::discard(Sector(8 * 9), 4096, 0),
    ];
    for change in changes {
        let rig = Rig::new();
        rig.set_map(9, MapEntry::normal(rig.free(4)));
        rig.set_block(rig.free(4), 0x99);
        let before = rig.bytes();
        let disk = rig.open();
        assert_eq!((disk.troubles(), disk.limits().read_only), (vec![], false));
        assert_eq!(rig.read(&disk, 9), (Status::Ok, 0x99));
        std::thread::scope(|scope| {
            let changing = || run(&mut *disk.open_queue().unwrap(), [change(rig.range(1))]);
            let threads = [(); 4].map(|()| scope.spawn(changing));
            assert!(threads.into_iter().all(|thread| thread.join().unwrap() == [Status::ReadOnly]));
        });
        assert_eq!(disk.troubles().iter().filter(|trouble| is(trouble)).count(), 1, "{:?}", disk.troubles());
        assert_eq!(rig.read(&disk, 9), (Status::Ok, 0x99));
        assert!(before == rig.bytes());
    }
    // With a write to be finished, opening is the first change.
    let rig = Rig::new();
    rig.cut_off(2, 5);
    rig.set_map(9, MapEntry::normal(rig.free(4)));
    rig.frozen(|problem| matches!(problem, Problem::BlockFreeAndMapped { lane: 4, .. }));
}

#[test]
fn btt_error_flag_of_the_info_block_makes_the_arena_read_only() {
    let rig = Rig::new();
    for offset in [0, rig.arena.geometry.info2off()] {
        let block: InfoBlock = rig.medium().get(rig.arena.start + offset).unwrap();
        rig.put(offset, block.with_state(ArenaState::Error).as_bytes());
    }
    rig.frozen(|problem| matches!(problem, Problem::ErrorFlag));
}

#[test]
fn btt_info_block_that_is_torn_is_made_up_for_by_its_copy() {
    let rig = Rig::new();
    rig.put(0, &[0xff; 512]);
    let disk = rig.open();
    let by_copy = |trouble: &Trouble| matches!(trouble, Trouble::Noticed(finding) if matches!(finding.problem, Problem::Info(..)));
    assert!(disk.troubles().iter().any(by_copy), "{:?}", disk.troubles());
    assert!(!disk.limits().read_only);
    rig.put(rig.arena.geometry.info2off(), &[0xff; 512]);
    let error = BttDisk::open(&rig.memory, &rig.region, "btt", &OpenOptions::default()).unwrap_err();
    assert!(matches!(error, BttError::Check(_)), "{error}");
}

#[test]
fn btt_that_may_not_be_written_is_not_recovered_and_reads_as_before() {
    let rig = Rig::new();
    rig.set_block(5, 0x55);
    rig.set_map(5, MapEntry::normal(5));
    rig.cut_off(2, 5);
    let before = rig.bytes();
    let options = OpenOptions { access: AccessMode::ReadOnly, ..OpenOptions::default() };
    let disk = BttDisk::open(&rig.memory, &rig.region, "btt", &options).unwrap();
    assert_eq!((disk.finished(), rig.read(&disk, 5)), (0, (Status::Ok, 0x55)));
    assert!(before == rig.bytes());
}

#[test]
fn btt_error_entry_fails_reads_until_it_is_overwritten() {
    let rig = Rig::new();
    for lba in 3..7 {
        rig.set_map(lba, MapEntry::error(lba));
    }
    let disk = rig.open();
    let mut queue = open_checked(&disk).unwrap();
    let reads = (2..8).map(|lba| Bio::read(Sector(8 * lba), rig.range(lba), 0));
    assert_eq!(
        run(&mut queue, reads),
        [Status::Ok, Status::Media, Status::Media, Status::Media, Status::Media, Status::Ok]
    );
    assert_eq!(rig.write(&mut queue, 3, 0x33), Status::Ok);
    let zeroes = Bio::write_zeroes(Sector(8 * 4), 4096, 0);
    let unmapped = Bio::write_zeroes(Sector(8 * 5), 4096, 0).with_flags(Flags::NO_UNMAP);
    let discard = Bio::discard(Sector(8 * 6), 4096, 0);
    assert_eq!(run(&mut queue, [zeroes, unmapped, discard]), [Status::Ok; 3]);
    let read: Vec<_> = (3..7).map(|lba| rig.read(&disk, lba)).collect();
    assert_eq!(read, [(Status::Ok, 0x33), (Status::Ok, 0), (Status::Ok, 0), (Status::Ok, 0)]);
    // The blocks that were freed are good after all, and used again.
    for lba in 0..8 * LANES {
        assert_eq!(rig.write(&mut queue, lba, lba as u8), Status::Ok);
    }
    assert_eq!(disk.troubles(), []);
}

#[test]
fn btt_map_entry_out_of_bounds_fails_its_block_and_no_other() {
    let rig = Rig::new();
    rig.set_map(3, MapEntry::normal(u32::MAX >> 2));
    let disk = rig.open();
    let mut queue = open_checked(&disk).unwrap();
    let reads = (2..5).map(|lba| Bio::read(Sector(8 * lba), rig.range(lba), 0));
    assert_eq!(run(&mut queue, reads), [Status::Ok, Status::Media, Status::Ok]);
    assert_eq!((rig.write(&mut queue, 3, 1), rig.write(&mut queue, 4, 1)), (Status::Media, Status::Ok));
    let whole = rig.frames.range(0, 5 * 4096).unwrap();
    let mut done = Vec::new();
    queue.submit(Bio::write(Sector(0), whole, 0)).unwrap();
    queue.poll(&mut done).unwrap();
    assert_eq!((done[0].status, done[0].done), (Status::Media, 3 * 4096));
    let unusable = |trouble: &Trouble| matches!(trouble, Trouble::Unusable(_));
    assert!(disk.troubles().iter().any(unusable), "{:?}", disk.troubles());
}

/// Breaks the frame that an internal block lies in; false where this kernel cannot.
fn broken(rig: &Rig, block: u32) -> bool {
    let offset = rig.arena.start + rig.arena.geometry.block_offset(block);
    pageless_testkit::require::kernel("UFFDIO_POISON", "guest/poison", poison(&rig.region, offset)).is_some()
}

#[test]
fn a_bad_block_fails_its_reads_and_is_good_again_when_it_is_overwritten_whole() {
    let rig = Rig::new();
    let disk = rig.open();
    let mut queue = open_checked(&disk).unwrap();
    for lba in 0..16 {
        assert_eq!(rig.write(&mut queue, lba, lba as u8 + 1), Status::Ok);
    }
    if !broken(&rig, rig.map(7).block(7)) {
        return;
    }
    let reads = (6..9).map(|lba| Bio::read(Sector(8 * lba), rig.range(lba), 0));
    assert_eq!(run(&mut queue, reads), [Status::Ok, Status::Media, Status::Ok]);
    assert_eq!(rig.region.bad_ranges().len(), 1);
    assert_eq!(rig.write(&mut queue, 7, 0x77), Status::Ok);
    assert_eq!(rig.read(&disk, 7), (Status::Ok, 0x77));
    for round in 0..4 * LANES {
        for lba in 0..16 {
            assert_eq!(rig.write(&mut queue, lba, (lba + round) as u8), Status::Ok, "{:?}", disk.troubles());
        }
    }
    for lba in 0..16 {
        assert_eq!(rig.read(&disk, lba), (Status::Ok, (lba + 4 * LANES - 1) as u8));
    }
    assert_eq!((rig.region.bad_ranges(), disk.troubles()), (vec![], vec![]));
}

/// A frame holds eight of these blocks, so none of them overwrites it whole.
#[test]
fn a_bad_block_that_cannot_be_cleared_is_written_around_and_never_used_again() {
    let rig = Rig::with(512, 64);
    let disk = rig.open();
    let mut queue = open_checked(&disk).unwrap();
    let write = |queue: &mut dyn Queue, byte: u8| {
        let mut reader = rig.memory.reader();
        let range = rig.frames.range(0, 64 * 512).unwrap();
        reader.online().kmap(range, Access::Write).unwrap().writer().write(&[byte; 64 * 512]).unwrap();
        let bios = (0..64).map(|lba| Bio::write(Sector(lba), rig.frames.range(lba * 512, 512).unwrap(), 0));
        assert_eq!(run(queue, bios), vec![Status::Ok; 64]);
    };
    let read = |queue: &mut dyn Queue| {
        let bios = (0..64).map(|lba| Bio::read(Sector(lba), rig.frames.range(lba * 512, 512).unwrap(), 0));
        run(queue, bios)
    };
    write(&mut queue, 1);
    if !broken(&rig, rig.map(7).block(7)) {
        return;
    }
    let bad = read(&mut queue).iter().filter(|status| **status == Status::Media).count();
    assert!((1..=8).contains(&bad), "{bad}");
    for round in 2..100 {
        write(&mut queue, round);
        assert_eq!(read(&mut queue), vec![Status::Ok; 64]);
    }
    let retired = |trouble: &&Trouble| matches!(trouble, Trouble::LaneRetired { .. });
    assert_eq!(disk.troubles().iter().filter(retired).count(), bad, "{:?}", disk.troubles());
    drop(queue);
    assert!(disk.open_queue().is_ok());
}
