// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use proptest::prelude::*;

fn group(layout: FlogLayout, first: u32, second: u32) -> FlogGroup {
    let mut group = FlogGroup::default();
    for (which, seq) in [(Which::First, first), (Which::Second, second)] {
        group.slots[layout.slot(which)] =
            FlogEntry { lba: U32::new(1), old_map: U32::new(2), new_map: U32::new(3), seq: U32::new(seq) };
    }
    group
}

#[test]
fn btt_flog_entry_is_four_little_endian_words_in_a_group_of_64_bytes() {
    let entry = FlogEntry::new(0x0102_0304, MapEntry::normal(5), 6, Seq::FIRST);
    let bytes = [4, 3, 2, 1, 5, 0, 0, 0xc0, 6, 0, 0, 0xc0, 1, 0, 0, 0];
    assert_eq!(entry.as_bytes(), bytes);
    assert_eq!(FlogEntry::read_from_bytes(&bytes).unwrap(), entry);
    assert_eq!(size_of::<FlogEntry>() as u64, ENTRY_SIZE);
    assert_eq!(size_of::<FlogGroup>() as u64, GROUP_SIZE);
}

#[test]
fn btt_flog_sequence_numbers_cycle_through_1_2_3() {
    let mut seq = Seq::FIRST;
    for expected in [1, 2, 3, 1, 2] {
        assert_eq!(seq.raw(), expected);
        seq = seq.next();
    }
    assert!([0, 4, 5, u32::MAX].into_iter().all(|raw| Seq::from_raw(raw).is_none()));
}

/// Whatever pair a lane can leave behind, the later one is current; everything else has none.
#[test]
fn btt_flog_the_entry_that_follows_the_other_is_current() {
    let first = [(1, 0), (2, 1), (3, 2), (1, 3)];
    let second = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3), (3, 1)];
    for layout in [FlogLayout::Packed, FlogLayout::Padded] {
        for a in 0..6 {
            for b in 0..6 {
                let expected = match (a, b) {
                    pair if first.contains(&pair) => Some(Which::First),
                    pair if second.contains(&pair) => Some(Which::Second),
                    _ => None,
                };
                let current = group(layout, a, b).current(layout);
                assert_eq!(current.map(|current| current.which).ok(), expected, "{layout:?} ({a}, {b})");
                assert_eq!(current.err(), expected.is_none().then_some(SeqError { first: a, second: b }));
            }
        }
    }
}

#[test]
fn btt_flog_of_a_new_lane_frees_its_block_and_needs_no_recovery() {
    let group = FlogGroup::initial(3, 700);
    let current = group.current(FlogLayout::Packed).unwrap();
    assert_eq!((current.which, current.seq), (Which::First, Seq::FIRST));
    assert_eq!((current.entry.lba.get(), current.entry.old_block(), current.entry.new_block()), (3, 700, 700));
    assert_eq!(current.entry.progress(MapEntry::normal(700)), Progress::Complete);
    assert!(group.slots[1..].iter().all(FlogEntry::is_padding));
}

#[test]
fn btt_flog_that_is_plain_has_the_numbers_of_blocks_and_of_the_flags_an_error() {
    let plain = FlogEntry::new(9, MapEntry::normal(5), 6, Seq::FIRST).plain();
    assert_eq!((plain.lba.get(), plain.old_map.get(), plain.new_map.get(), plain.seq.get()), (9, 5, 6, 1));
    let failed = FlogEntry::new(9, MapEntry::error(5), 6, Seq::FIRST).plain();
    assert_eq!((failed.old_map.get(), failed.new_map.get()), (MapEntry::error(5).raw(), 6));
    assert!(FlogEntry::initial(3, 700).plain().is_initial());
}

#[test]
fn btt_flog_a_write_is_unfinished_while_the_map_has_its_old_block() {
    let entry = FlogEntry::new(9, MapEntry::zero(5), 6, Seq::FIRST);
    assert_eq!(entry.progress(MapEntry::normal(6)), Progress::Complete);
    assert_eq!(entry.progress(MapEntry::error(6)), Progress::Complete, "flagged since");
    assert_eq!(
        entry.progress(MapEntry::normal(5)),
        Progress::MapPending,
        "Linux keeps no flags in the flog, PMDK does"
    );
    assert_eq!(entry.progress(MapEntry::normal(7)), Progress::Overtaken);
    let fresh = FlogEntry::new(9, MapEntry::normal(9), 6, Seq::FIRST);
    assert_eq!(fresh.progress(MapEntry::from_raw(0)), Progress::MapPending, "an initial entry maps 9 to 9");
}

#[test]
fn btt_flog_layout_is_told_by_the_slots_in_use() {
    let scan = |groups: &[FlogGroup]| {
        let mut scan = LayoutScan::default();
        groups.iter().for_each(|group| scan.add(group));
        scan.finish()
    };
    let new = FlogGroup::initial(0, 9);
    assert_eq!(scan(&[new, new]), Ok(FlogLayout::Packed), "never written to");
    assert_eq!(scan(&[new, group(FlogLayout::Packed, 1, 2)]), Ok(FlogLayout::Packed));
    assert_eq!(scan(&[group(FlogLayout::Padded, 1, 2), new]), Ok(FlogLayout::Padded));
    let mixed = [group(FlogLayout::Packed, 1, 2), group(FlogLayout::Padded, 1, 2)];
    assert_eq!(scan(&mixed), Err(UnknownPadding { used: [true, true, true, false] }));
    assert_eq!(scan(&[FlogGroup::default()]), Err(UnknownPadding { used: [false; 4] }));
    let mut last = new;
    last.slots[3] = last.slots[0];
    assert!(scan(&[last]).is_err());
}

proptest! {
    /// However often a lane has written, the last entry is current, in either layout.
    #[test]
    fn btt_flog_after_any_number_of_writes_the_last_is_current(writes in 0_u32..50, padded: bool) {
        let layout = if padded { FlogLayout::Padded } else { FlogLayout::Packed };
        let mut group = FlogGroup::initial(0, 1000);
        for lba in 1..=writes {
            let current = group.current(layout).unwrap();
            let entry = FlogEntry::new(lba, MapEntry::normal(lba), current.entry.old_block(), current.seq.next());
            group.slots[layout.slot(current.which.other())] = entry;
        }
        let current = group.current(layout).unwrap();
        prop_assert_eq!(current.entry.lba.get(), writes);
    }

    #[test]
    fn btt_flog_any_bytes_are_judged(bytes: [u8; 64]) {
        let group = FlogGroup::read_from_bytes(&bytes).unwrap();
        for layout in [FlogLayout::Packed, FlogLayout::Padded] {
            if let Ok(current) = group.current(layout) {
                prop_assert_eq!(current.entry.seq.get(), current.seq.raw());
            }
        }
    }
}
