// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Directory`]: where a search begins.

/// Where to search: the span of all starts cut into about twice as many equal buckets as there are regions.
#[derive(Debug, Default)]
pub(super) struct Directory {
    base: u64,
    shift: u32,
    /// The last entry that starts at or before each bucket's first byte, and one more for the end.
    buckets: Vec<u32>,
}

impl Directory {
    pub(super) fn of(starts: &[u64]) -> Directory {
        let (Some(base), Some(last)) = (starts.first().copied(), starts.last()) else { return Directory::default() };
        let span = last - base;
        let wanted = 2 * starts.len() as u64;
        let shift = (span / wanted).checked_ilog2().map_or(0, |bits| bits + 1);
        let buckets = (0..=(span >> shift) + 1).map(|bucket| {
            let byte = base.saturating_add(bucket << shift);
            let after = starts.partition_point(|start| *start <= byte);
            u32::try_from(after - 1).unwrap_or(u32::MAX)
        });
        Directory { base, shift, buckets: buckets.collect() }
    }

    /// The last of the entries that [`Directory::of`] was made from that starts at this byte or before it. Where entries lie
    /// evenly it is one of one or two.
    #[inline]
    pub(super) fn find<T>(&self, byte: u64, entries: &[T], start: impl Fn(&T) -> u64) -> Option<u32> {
        let (first, last) = self.bounds(byte)?;
        if first == last {
            return Some(first);
        }
        let between = entries.get(first as usize + 1..=last as usize)?;
        let before = match between {
            [entry] => usize::from(start(entry) <= byte),
            _ => between.partition_point(|entry| start(entry) <= byte),
        };
        Some(first + u32::try_from(before).ok()?)
    }

    /// The first and the last entry that may be the last one to start at or before `byte`.
    #[inline]
    fn bounds(&self, byte: u64) -> Option<(u32, u32)> {
        let bucket = usize::try_from(byte.checked_sub(self.base)? >> self.shift).ok()?;
        match self.buckets.get(bucket..bucket.checked_add(2)?) {
            Some([first, last]) => Some((*first, *last)),
            _ => self.buckets.last().map(|last| (*last, *last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Directory;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_directory_never_excludes_the_entry(mut starts in prop::collection::vec(0..1u64 << 52, 1..200), probe in any::<u64>(), near in 0..200usize) {
            starts.sort_unstable();
            starts.dedup();
            let directory = Directory::of(&starts);
            prop_assert!(directory.buckets.len() <= 4 * starts.len() + 4);
            let near = starts[near % starts.len()];
            for byte in [probe, probe >> 12, near, near.saturating_sub(1), near + 1, starts[0], u64::MAX] {
                let expected = starts.partition_point(|start| *start <= byte).checked_sub(1);
                match (expected, directory.bounds(byte)) {
                    (None, bounds) => prop_assert_eq!(bounds, None),
                    (Some(index), Some((first, last))) => {
                        prop_assert!((first as usize..=last as usize).contains(&index), "{} {:?}", index, (first, last));
                    }
                    (Some(_), None) => prop_assert!(false, "excluded"),
                }
            }
        }
    }
}
