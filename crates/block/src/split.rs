// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Splitter`]: one bio as a sequence of smaller ones.

use crate::{Bio, Flags, Limits, ListCursor, Op, ScatterList, Sector};

/// What one piece may be at most.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Bounds {
    /// Multiples of `block`.
    max_bytes: u64,
    max_unmap: u64,
    max_segments: usize,
    block: u64,
}

impl Bounds {
    /// For limits that [`Limits::validate`] accepts.
    pub(crate) fn new(limits: &Limits) -> Bounds {
        let block = u64::from(limits.block_size);
        Bounds {
            max_bytes: limits.max_bytes / block * block,
            max_unmap: limits.max_unmap / block * block,
            max_segments: limits.max_segments as usize,
            block,
        }
    }

    /// Whether the device takes this bio as it is.
    #[inline]
    pub(crate) fn fits(&self, bio: &Bio) -> bool {
        match bio.op {
            Op::Read | Op::Write => bio.len <= self.max_bytes && bio.data.as_slice().len() <= self.max_segments,
            Op::Discard | Op::WriteZeroes => bio.len <= self.max_unmap,
            Op::Flush => true,
        }
    }

    /// Whether the bio, which does not fit, can be cut into pieces that do. It cannot when a single
    /// block is spread over too many ranges.
    pub(crate) fn splits(&self, bio: &Bio) -> bool {
        let mut at = Position::default();
        while at.done < bio.len {
            let len = self.piece_len(bio.op, &bio.data, bio.len, at);
            if len == 0 {
                return false;
            }
            at.advance(&bio.data, len);
        }
        true
    }

    /// The length of the piece that starts at `at`; 0 when no piece can.
    fn piece_len(&self, op: Op, data: &ScatterList, len: u64, at: Position) -> u64 {
        let left = len - at.done;
        if !op.has_data() {
            return left.min(self.max_unmap);
        }
        let most = left.min(self.max_bytes);
        let mut cursor = at.cursor;
        let mut bytes = 0;
        for _ in 0..self.max_segments {
            match cursor.take(data, most - bytes) {
                Some(range) => bytes += u64::from(range.len()),
                None => break,
            }
        }
        bytes / self.block * self.block
    }
}

/// How far a bio has been cut.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Position {
    done: u64,
    cursor: ListCursor,
}

impl Position {
    /// The offset in the bio.
    pub(crate) fn offset(self) -> u64 {
        self.done
    }

    fn advance(&mut self, data: &ScatterList, bytes: u64) {
        self.done += bytes;
        self.cursor.skip(data, bytes);
    }
}

/// Cuts a bio lazily, so that however long it is only what the device takes now exists.
#[derive(Debug)]
pub(crate) struct Splitter {
    op: Op,
    flags: Flags,
    start: u64,
    len: u64,
    data: ScatterList,
    at: Position,
}

impl Splitter {
    /// Cuts `bio`, whose pieces carry `flags`.
    pub(crate) fn new(bio: Bio, flags: Flags) -> Splitter {
        Splitter { op: bio.op, flags, start: bio.sector.bytes(), len: bio.len, data: bio.data, at: Position::default() }
    }

    /// The length of the whole bio.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the next piece starts, to come back to.
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// The offset of the next piece in the bio.
    pub(crate) fn offset(&self) -> u64 {
        self.at.done
    }

    /// Goes back to a piece that was not taken.
    pub(crate) fn rewind(&mut self, to: Position) {
        self.at = to;
    }

    /// Gives up the rest.
    pub(crate) fn stop(&mut self) {
        self.at.done = self.len;
    }

    /// The next piece, with this tag.
    pub(crate) fn next(&mut self, bounds: &Bounds, tag: u64) -> Option<Bio> {
        if self.at.done >= self.len {
            return None;
        }
        let len = bounds.piece_len(self.op, &self.data, self.len, self.at);
        let mut data = ScatterList::new();
        let mut cursor = self.at.cursor;
        while let Some(range) = cursor.take(&self.data, len - data.len_bytes()) {
            data.push(range);
        }
        let piece = Bio {
            op: self.op,
            flags: self.flags,
            sector: Sector((self.start + self.at.done) / Sector::SIZE),
            len,
            data,
            tag,
        };
        self.at = Position { done: self.at.done + len, cursor };
        Some(piece)
    }
}

#[cfg(test)]
mod tests;
