// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Backlog`]: bios that are to be submitted, in order.

use std::collections::VecDeque;

use pageless_block::Bio;

/// See the [module](self). A bio of one range goes in and out by its parts: see [`Bio::pass`].
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bios: VecDeque<Bio>,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.bios.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bios.clear();
    }

    #[inline]
    pub(crate) fn push(&mut self, bio: Bio) {
        bio.pass(|bio| self.bios.push_back(bio));
    }

    /// The first one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Bio> {
        let Bio { op, flags, sector, len, ref data, tag } = *self.bios.front()?;
        let Some(range) = data.single() else { return self.bios.pop_front() };
        self.bios.pop_front();
        Some(Bio { op, flags, sector, len, data: range.into(), tag })
    }

    /// What came out first is the first again.
    #[cold]
    pub(crate) fn put_back(&mut self, bio: Bio) {
        self.bios.push_front(bio);
    }
}
