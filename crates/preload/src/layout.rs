// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the segments of a call lie in a slot.
//!
//! # The kernel's verdict
//! Each piece of a segment starts in the slot at the offset within a page that it has in the program's memory, and is a
//! segment of its own again. So the kernel judges the alignment of addresses and lengths on the slot as it would have
//! judged the program's buffer: what would have been `EINVAL` for ordinary memory is `EINVAL`.

/// The unit in which alignment is kept: no block device asks more of an address.
pub(crate) const PAGE: usize = 4096;

/// The most that one call moves (`MAX_RW_COUNT`).
const MOST: usize = 0x7fff_f000;

/// The end of what a program can have mapped on any x86-64; nothing beyond it is worth a try.
const ADDRESSES: usize = 1 << 56;

/// A run of the program's memory: an iovec.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) addr: usize,
    pub(crate) len: usize,
}

/// Part of a segment, and where in the slot it lies.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) addr: usize,
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// The segments of one call, by number.
pub(crate) trait Segments: Copy {
    fn count(self) -> usize;
    fn segment(self, index: usize) -> Segment;
}

/// How far a call has come.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    segment: usize,
    offset: usize,
}

impl Cursor {
    pub(crate) const START: Cursor = Cursor { segment: 0, offset: 0 };

    /// Further by `bytes`.
    pub(crate) fn advance(mut self, segments: impl Segments, mut bytes: usize) -> Cursor {
        while bytes > 0 && self.segment < segments.count() {
            let left = segments.segment(self.segment).len.saturating_sub(self.offset);
            if bytes < left {
                self.offset += bytes;
                return self;
            }
            bytes -= left;
            self = Cursor { segment: self.segment + 1, offset: 0 };
        }
        self
    }
}

/// The bytes that a call asks for, as the kernel counts them; `None` for addresses that no program has.
pub(crate) fn total(segments: impl Segments) -> Option<usize> {
    let mut total = 0usize;
    for index in 0..segments.count() {
        let Segment { addr, len } = segments.segment(index);
        addr.checked_add(len).filter(|end| *end <= ADDRESSES)?;
        total = total.checked_add(len)?;
    }
    Some(if total < MOST { total } else { MOST })
}

/// The room that all of it takes in a slot.
pub(crate) fn room(segments: impl Segments) -> usize {
    pieces(segments, Cursor::START, usize::MAX, MOST).last().map_or(0, |piece| piece.at + piece.len)
}

/// How many bytes from `from` on make the next chunk in a slot of `capacity` bytes. What does not hold the rest ends at
/// a whole number of blocks, or the next chunk would start inside one; 0 when no whole block fits.
pub(crate) fn chunk(segments: impl Segments, from: Cursor, capacity: usize, left: usize) -> usize {
    let fits: usize = pieces(segments, from, capacity, left).map(|piece| piece.len).sum();
    // Block sizes end at 64 KiB today.
    let unit = if fits >= 1 << 16 { 1 << 16 } else { PAGE };
    if fits >= left { left } else { fits - fits % unit }
}

/// The next `bytes` from `from` on, laid out in `capacity` bytes until either ends.
pub(crate) fn pieces(
    segments: impl Segments,
    from: Cursor,
    capacity: usize,
    bytes: usize,
) -> impl Iterator<Item = Piece> {
    let (mut cursor, mut end, mut left) = (from, 0usize, bytes);
    core::iter::from_fn(move || {
        while cursor.segment < segments.count() && left > 0 {
            let segment = segments.segment(cursor.segment);
            let rest = segment.len.saturating_sub(cursor.offset);
            if rest == 0 {
                cursor = Cursor { segment: cursor.segment + 1, offset: 0 };
                continue;
            }
            let addr = segment.addr.wrapping_add(cursor.offset);
            let at = end.checked_add(addr.wrapping_sub(end) % PAGE)?;
            let len = rest.min(left).min(capacity.saturating_sub(at));
            if len == 0 {
                return None;
            }
            (end, left) = (at.checked_add(len)?, left - len);
            cursor.offset += len;
            return Some(Piece { addr, at, len });
        }
        None
    })
}

#[cfg(test)]
mod tests;
