// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data of staged parts, coming and going.

use pageless_block::Status;
use pageless_mem::PhysRange;

use super::{Broken, Fetched, Output, Owed, Staged};
use crate::nbd::pool::SlotId;
use crate::slab::Key;

impl Output {
    /// The parts that no bio was made for, among the first `window` bytes of staged parts: their numbers, offsets
    /// and lengths.
    pub(crate) fn wanted(&self, window: u32) -> impl Iterator<Item = (u64, u64, u32)> {
        let mut seen = 0u32;
        let staged = self.owed.iter().zip(self.base..).filter_map(|(owed, number)| match owed {
            Owed::Staged(staged) => Some((number, staged)),
            _ => None,
        });
        let near = staged.take_while(move |(_, staged)| {
            let near = seen < window;
            seen = seen.saturating_add(staged.len);
            near
        });
        near.filter(|(_, s)| s.data == Fetched::Wanted).map(|(number, s)| (number, s.offset, s.len))
    }

    /// A bio was made for the part of that number.
    pub(crate) fn coming(&mut self, number: u64, bio: Key) {
        if let Some(staged) = self.staged(number) {
            staged.data = Fetched::Coming(bio);
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.base)?).ok()
    }

    fn staged(&mut self, number: u64) -> Option<&mut Staged> {
        let place = self.place(number)?;
        match self.owed.get_mut(place) {
            Some(Owed::Staged(staged)) => Some(staged),
            _ => None,
        }
    }

    /// The data of a part arrived. Hands back the slot if nobody waits for it any more. Says which bio now fetches
    /// the part of another number, where one changed places with this so that what is here need not wait for it.
    pub(crate) fn arrived(
        &mut self,
        number: u64,
        slot: SlotId,
        range: PhysRange,
    ) -> Result<Option<Renumbered>, SlotId> {
        let Some(staged) = self.staged(number).filter(|s| matches!(s.data, Fetched::Coming(_))) else {
            return Err(slot);
        };
        staged.data = Fetched::Here(slot, range);
        if !staged.alone() {
            return Ok(None);
        }
        let from = self.place(number).unwrap_or(0);
        let waits = |owed: &Owed| matches!(owed, Owed::Staged(s) if !matches!(s.data, Fetched::Here(..)));
        let Some(to) = self.owed.iter().take(from).position(waits) else { return Ok(None) };
        match self.owed[to] {
            // A place whose chunk was begun keeps its tenant.
            Owed::Staged(Staged { data: Fetched::Coming(bio), .. }) if to > 0 || self.open.is_none() => {
                let Owed::Staged(other) = &self.owed[to] else { return Ok(None) };
                if !other.alone() {
                    return Ok(None);
                }
                self.owed.swap(from, to);
                Ok(Some(Renumbered { bio, number }))
            }
            _ => Ok(None),
        }
    }

    /// A part could not be fetched.
    pub(crate) fn missing(
        &mut self,
        number: u64,
        offset: u64,
        status: Status,
        release: &mut dyn FnMut(SlotId),
    ) -> Result<(), Broken> {
        match self.place(number) {
            Some(place) if matches!(self.owed.get(place), Some(Owed::Staged(_))) => {
                self.fail_staged(place, offset, status, release)
            }
            _ => Ok(()),
        }
    }

    /// Is this output stuck for want of data that something else behind it may be holding up?
    pub(crate) fn stalled(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Staged(s)) if s.data == Fetched::Wanted)
    }

    /// Gives up all data that is here: it is fetched again when its turn comes.
    pub(crate) fn evict(&mut self, release: &mut dyn FnMut(SlotId)) {
        for owed in &mut self.owed {
            if let Owed::Staged(Staged { data, .. }) = owed
                && let Fetched::Here(slot, _) = *data
            {
                release(slot);
                *data = Fetched::Wanted;
            }
        }
    }
}

/// The part that `bio` fetches now has this number.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renumbered {
    pub(crate) bio: Key,
    pub(crate) number: u64,
}
