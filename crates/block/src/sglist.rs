// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`ScatterList`]: the frames of one request.

use pageless_mem::PhysRange;

/// Ranges kept without allocating.
const INLINE: usize = 8;

/// The [`PhysRange`]s of one request, in order. Neighbours that are contiguous in the frame space
/// are one range. Up to eight ranges live in the list itself; more of them on the heap.
#[derive(Clone, Debug, Default)]
pub struct ScatterList {
    bytes: u64,
    ranges: Ranges,
}

#[derive(Clone, Debug, Default)]
enum Ranges {
    #[default]
    None,
    /// What most requests are: moved without looking at room for more.
    One(PhysRange),
    /// The first `used` (at least one) are the list; the others are copies of one of them, since
    /// there is no such thing as an empty range.
    Inline {
        used: u8,
        array: [PhysRange; INLINE],
    },
    Heap(Vec<PhysRange>),
}

impl ScatterList {
    /// No ranges at all.
    #[inline]
    pub const fn new() -> ScatterList {
        ScatterList { bytes: 0, ranges: Ranges::None }
    }

    /// These ranges, of which no two neighbours touch and which have as many bytes.
    pub(crate) fn of_joined(ranges: Vec<PhysRange>, bytes: u64) -> ScatterList {
        match ranges.len() {
            0..=INLINE => ranges.into_iter().collect(),
            _ => ScatterList { bytes, ranges: Ranges::Heap(ranges) },
        }
    }

    /// Bytes in all ranges together.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is no range.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The ranges in order.
    #[inline]
    pub fn as_slice(&self) -> &[PhysRange] {
        match &self.ranges {
            Ranges::None => &[],
            Ranges::One(range) => std::slice::from_ref(range),
            Ranges::Inline { used, array } => &array[..usize::from(*used).min(INLINE)],
            Ranges::Heap(ranges) => ranges,
        }
    }

    /// The ranges in order, by value.
    #[inline]
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, PhysRange>> {
        self.as_slice().iter().copied()
    }

    /// Appends a range, as part of the last one where the two touch.
    #[inline]
    pub fn push(&mut self, range: PhysRange) {
        self.bytes += u64::from(range.len());
        match &mut self.ranges {
            Ranges::None => self.ranges = Ranges::One(range),
            Ranges::One(one) => match one.merge(range) {
                Some(merged) => *one = merged,
                None => {
                    let mut array = [*one; INLINE];
                    array[1] = range;
                    self.ranges = Ranges::Inline { used: 2, array };
                }
            },
            Ranges::Inline { used, array } => {
                let count = usize::from(*used);
                if let Some(merged) = array[count - 1].merge(range) {
                    array[count - 1] = merged;
                } else if count < INLINE {
                    array[count] = range;
                    *used += 1;
                } else {
                    let mut heap = Vec::with_capacity(4 * INLINE);
                    heap.extend_from_slice(array);
                    heap.push(range);
                    self.ranges = Ranges::Heap(heap);
                }
            }
            Ranges::Heap(ranges) => match ranges.last_mut() {
                Some(last) if last.merge(range).is_some() => {
                    *last = last.merge(range).unwrap_or(*last);
                }
                _ => ranges.push(range),
            },
        }
    }

    /// The range, where there is just one.
    #[inline]
    pub fn single(&self) -> Option<PhysRange> {
        match self.ranges {
            Ranges::One(range) => Some(range),
            _ => None,
        }
    }

    /// The part of the list from byte `offset`, at most `len` bytes long: shorter, or empty, where
    /// the list ends before.
    pub fn slice(&self, offset: u64, len: u64) -> ScatterList {
        let mut cursor = ListCursor::default();
        cursor.skip(self, offset);
        cursor.up_to(self, len).collect()
    }
}

impl From<PhysRange> for ScatterList {
    #[inline]
    fn from(range: PhysRange) -> ScatterList {
        ScatterList { bytes: u64::from(range.len()), ranges: Ranges::One(range) }
    }
}

impl Extend<PhysRange> for ScatterList {
    fn extend<I: IntoIterator<Item = PhysRange>>(&mut self, ranges: I) {
        for range in ranges {
            self.push(range);
        }
    }
}

impl FromIterator<PhysRange> for ScatterList {
    fn from_iter<I: IntoIterator<Item = PhysRange>>(ranges: I) -> ScatterList {
        let mut list = ScatterList::new();
        list.extend(ranges);
        list
    }
}

impl<'a> IntoIterator for &'a ScatterList {
    type Item = PhysRange;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, PhysRange>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Two lists are equal when they name the same bytes in the same order.
impl PartialEq for ScatterList {
    fn eq(&self, other: &ScatterList) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ScatterList {}

/// A position in a [`ScatterList`]. It holds no reference: it means something only together with the
/// list it was moved over.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ListCursor {
    range: usize,
    /// Bytes of that range already passed; less than its length.
    passed: u32,
}

impl ListCursor {
    /// The next contiguous bytes, at most `max`, and moves past them; `None` at the end of the list or
    /// when `max` is 0.
    #[inline]
    pub fn take(&mut self, list: &ScatterList, max: u64) -> Option<PhysRange> {
        let range = *list.as_slice().get(self.range)?;
        let whole = self.passed == 0 && u64::from(range.len()) <= max;
        if whole {
            self.range += 1;
            return Some(range);
        }
        self.take_part(range, max)
    }

    fn take_part(&mut self, range: PhysRange, max: u64) -> Option<PhysRange> {
        let rest = range.split_at(self.passed).map_or(range, |(_, rest)| rest);
        match u32::try_from(max) {
            Ok(0) => None,
            Ok(max) if max < rest.len() => {
                self.passed += max;
                rest.split_at(max).map(|(head, _)| head)
            }
            _ => {
                self.range += 1;
                self.passed = 0;
                Some(rest)
            }
        }
    }

    /// The contiguous parts of the next `bytes`, or of what is left of the list: moves past each as it is taken.
    #[inline]
    pub fn up_to(&mut self, list: &ScatterList, mut bytes: u64) -> impl Iterator<Item = PhysRange> {
        std::iter::from_fn(move || {
            let range = self.take(list, bytes)?;
            bytes -= u64::from(range.len());
            Some(range)
        })
    }

    /// Moves `bytes` on, or to the end of the list.
    pub fn skip(&mut self, list: &ScatterList, bytes: u64) {
        self.up_to(list, bytes).for_each(drop);
    }
}

#[cfg(test)]
mod tests;
