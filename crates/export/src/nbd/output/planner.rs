// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Planner`]: the pieces of one entry.

use pageless_block::{Direct, Status};

use super::{Begins, Fetched, Lead, Lookup, MAX_CHUNK, MAX_PIECES, Media, Open, Piece, Shape, Staged, What, ZERO_LEN};
use crate::nbd::reply::Head;

/// The pieces of one entry being planned.
pub(super) struct Planner<'a> {
    pub(super) entry: u32,
    pub(super) pieces: &'a mut Vec<Piece>,
    pub(super) budget: &'a mut u32,
}

impl Planner<'_> {
    pub(super) fn push(&mut self, begins: Option<Begins>, what: What) {
        *self.budget = self.budget.saturating_sub(what.len());
        self.pieces.push(Piece { entry: self.entry, begins, what });
    }

    fn full(&self) -> bool {
        *self.budget == 0 || self.pieces.len() + 2 > MAX_PIECES
    }

    /// True when all of the entry is planned; an error says which byte could not be looked up.
    pub(super) fn media(
        &mut self,
        media: Media,
        open: Option<Open>,
        lookup: &mut Lookup<'_>,
    ) -> Result<bool, (u64, Status)> {
        let Media { cookie, mut offset, mut left, shape, last } = media;
        if let Some(open) = open {
            if let Some(head) = open.head.filter(|head| open.head_sent < head.len()) {
                self.push(None, What::Head { head, from: open.head_sent });
            }
            if !self.data(open.offset, open.left, None, lookup)? {
                return Ok(false);
            }
        }
        while left > 0 {
            if self.full() {
                return Ok(false);
            }
            let first = lookup(offset, left.into()).map_err(|status| (offset, status))?;
            let (covers, data, head) = match (shape, first) {
                (Shape::Simple, _) => (left, left, Head::ok(cookie)),
                (Shape::Whole, Direct::Hole(n)) if n >= left.into() => {
                    (left, 0, Head::hole(cookie, offset, left, last))
                }
                (Shape::Whole, _) => (left, left, Head::data(cookie, offset, left, last)),
                (Shape::Chunks, Direct::Hole(n)) => {
                    let n = u32::try_from(n).unwrap_or(left).min(left);
                    (n, 0, Head::hole(cookie, offset, n, last && n == left))
                }
                (Shape::Chunks, Direct::Data(range)) => {
                    let n = run(offset, left, range.len(), lookup);
                    (n, n, Head::data(cookie, offset, n, last && n == left))
                }
            };
            self.push(Some(Begins { offset, covers, data }), What::Head { head, from: 0 });
            if data > 0 && !self.data(offset, data, Some(first), lookup)? {
                return Ok(false);
            }
            offset += u64::from(covers);
            left -= covers;
        }
        Ok(true)
    }

    /// Plans `left` bytes at `offset`, whose first extent may be known already.
    fn data(
        &mut self,
        mut offset: u64,
        mut left: u32,
        mut known: Option<Direct>,
        lookup: &mut Lookup<'_>,
    ) -> Result<bool, (u64, Status)> {
        while left > 0 {
            if *self.budget == 0 || self.pieces.len() >= MAX_PIECES {
                return Ok(false);
            }
            let want = left.min(*self.budget);
            let found = match known.take() {
                Some(found) => found,
                None => lookup(offset, want.into()).map_err(|status| (offset, status))?,
            };
            let what = match found {
                Direct::Data(range) => {
                    let range = range.split_at(want).map_or(range, |(head, _)| head);
                    What::Frames { range, offset }
                }
                Direct::Hole(n) => {
                    let n = u32::try_from(n).unwrap_or(want).min(want).min(ZERO_LEN);
                    What::Zeroes(n)
                }
            };
            let n = what.len();
            self.push(None, what);
            offset += u64::from(n);
            left -= n;
        }
        Ok(true)
    }

    /// True when all of the entry is planned.
    pub(super) fn staged(&mut self, staged: Staged, open: Option<Open>) -> bool {
        let Fetched::Here(_, range) = staged.data else { return false };
        let Staged { cookie, offset, len, lead, .. } = staged;
        let mut begins = None;
        let mut rest = range;
        let head = match open {
            Some(open) => {
                if let Some((_, tail)) = range.split_at(len - open.left) {
                    rest = tail;
                }
                open.head.filter(|head| open.head_sent < head.len()).map(|head| (head, open.head_sent))
            }
            None => {
                begins = Some(Begins { offset, covers: len, data: len });
                match lead {
                    Lead::Simple { .. } => Some((Head::ok(cookie), 0)),
                    Lead::Whole { total } => Some((Head::data(cookie, offset, total, true), 0)),
                    Lead::Chunk { done } => Some((Head::data(cookie, offset, len, done), 0)),
                    Lead::Follow => None,
                }
            }
        };
        if let Some((head, from)) = head {
            self.push(begins.take(), What::Head { head, from });
        }
        if open.is_none_or(|open| open.left > 0) {
            self.push(begins.take(), What::Frames { range: rest, offset });
        }
        true
    }
}

/// How far data reaches from `offset`, `have` bytes of which are known to be data.
fn run(offset: u64, left: u32, have: u32, lookup: &mut Lookup<'_>) -> u32 {
    let most = left.min(MAX_CHUNK);
    let mut n = have.min(most);
    while n < most {
        match lookup(offset + u64::from(n), (most - n).into()) {
            Ok(Direct::Data(range)) => n += range.len().min(most - n),
            _ => break,
        }
    }
    n
}
