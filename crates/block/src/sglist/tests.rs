// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ScatterList` against a plain list of byte addresses.

#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use super::*;
use pageless_mem::Pfn;
use proptest::prelude::*;

fn range(pfn: u64, offset: u32, len: u32) -> PhysRange {
    PhysRange::new(Pfn::new(pfn).unwrap(), offset, len).unwrap()
}

/// Every byte the list names, in order.
fn bytes(list: &ScatterList) -> Vec<u64> {
    bytes_of(list.iter())
}

fn bytes_of(ranges: impl Iterator<Item = PhysRange>) -> Vec<u64> {
    ranges.flat_map(|r| (0..u64::from(r.len())).map(move |i| r.byte_address() + i)).collect()
}

fn any_range() -> impl Strategy<Value = PhysRange> {
    (0u64..4, 0u32..4096, 1u32..700).prop_map(|(pfn, offset, len)| range(pfn, offset, len))
}

/// Runs that often continue each other, so that merging happens.
fn any_ranges() -> impl Strategy<Value = Vec<PhysRange>> {
    prop::collection::vec((any_range(), any::<bool>()), 0..24).prop_map(|items| {
        let mut ranges: Vec<PhysRange> = Vec::new();
        for (item, follow) in items {
            let next = match ranges.last() {
                Some(last) if follow => {
                    let at = last.byte_address() + u64::from(last.len());
                    range(at / 4096, (at % 4096) as u32, item.len())
                }
                _ => item,
            };
            ranges.push(next);
        }
        ranges
    })
}

#[test]
fn a_list_of_one_is_what_it_was_made_from() {
    let one = range(7, 16, 100);
    let list = ScatterList::from(one);
    assert_eq!(list.as_slice(), [one]);
    assert_eq!(list.len_bytes(), 100);
    assert!(!list.is_empty() && ScatterList::new().is_empty());
}

#[test]
fn the_ninth_range_moves_the_list_to_the_heap_and_changes_nothing_else() {
    let ranges: Vec<_> = (0..20u64).map(|i| range(i * 2, 0, 512)).collect();
    for count in [7, 8, 9, 20] {
        let list: ScatterList = ranges[..count].iter().copied().collect();
        assert_eq!(list.as_slice(), &ranges[..count]);
        assert_eq!(list.len_bytes(), 512 * count as u64);
    }
}

#[test]
fn ranges_that_touch_are_one_also_on_the_heap() {
    let mut list: ScatterList = (0..9u64).map(|i| range(i * 2, 0, 512)).collect();
    list.push(range(16, 512, 512));
    assert_eq!(list.as_slice().len(), 9);
    assert_eq!(list.as_slice()[8], range(16, 0, 1024));
}

#[test]
fn a_range_too_long_to_grow_starts_a_new_one() {
    let list: ScatterList =
        [range(0, 0, PhysRange::MAX_LEN), range(u64::from(PhysRange::MAX_LEN) / 4096, 0, 4096)].into_iter().collect();
    assert_eq!(list.as_slice().len(), 2);
    assert_eq!(list.len_bytes(), u64::from(PhysRange::MAX_LEN) + 4096);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pushing_keeps_every_byte_and_leaves_nothing_to_merge(ranges in any_ranges()) {
        let list: ScatterList = ranges.iter().copied().collect();
        let expected = bytes_of(ranges.iter().copied());
        prop_assert_eq!(list.len_bytes(), expected.len() as u64);
        prop_assert_eq!(bytes(&list), expected);
        for pair in list.as_slice().windows(2) {
            prop_assert!(pair[0].merge(pair[1]).is_none());
        }
    }

    #[test]
    fn a_slice_is_the_bytes_between(ranges in any_ranges(), offset in 0u64..9000, len in 0u64..9000) {
        let list: ScatterList = ranges.into_iter().collect();
        let all = bytes(&list);
        let from = (offset as usize).min(all.len());
        let to = (from + len as usize).min(all.len());
        let part = list.slice(offset, len);
        prop_assert_eq!(part.len_bytes(), (to - from) as u64);
        prop_assert_eq!(bytes(&part), &all[from..to]);
    }

    #[test]
    fn a_cursor_takes_every_byte_once(ranges in any_ranges(), steps in prop::collection::vec(1u64..900, 1..200)) {
        let list: ScatterList = ranges.into_iter().collect();
        let mut cursor = ListCursor::default();
        let mut seen = Vec::new();
        let steps = steps.into_iter().cycle();
        for step in steps {
            let Some(taken) = cursor.take(&list, step) else { break };
            prop_assert!(u64::from(taken.len()) <= step);
            seen.push(taken);
        }
        prop_assert_eq!(bytes_of(seen.into_iter()), bytes(&list));
        prop_assert_eq!(cursor.take(&list, 1), None);
    }

    #[test]
    fn skipping_is_taking_and_forgetting(ranges in any_ranges(), skip in 0u64..9000) {
        let list: ScatterList = ranges.into_iter().collect();
        let mut cursor = ListCursor::default();
        cursor.skip(&list, skip);
        let mut rest = Vec::new();
        while let Some(taken) = cursor.take(&list, u64::MAX) {
            rest.push(taken);
        }
        let all = bytes(&list);
        prop_assert_eq!(bytes_of(rest.into_iter()), &all[(skip as usize).min(all.len())..]);
    }
}
