// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`SlotPool`]: the bounded memory that payloads pass through on their way between a socket and a device.
//!
//! One registered region, cut into slots. A slot is held by whoever fills it and by every bio whose data lies in
//! it, and is free again when the last of them lets go. The lowest free slot is taken first, so that a quiet
//! server touches little; [`SlotPool::shrink`] gives the rest back.

use pageless_mem::{Backing, Memory, PhysRange, Region};

/// Bytes in a slot.
pub(crate) const SLOT: u32 = 256 << 10;

/// The number of a slot.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(u16);

#[derive(Debug)]
pub(crate) struct SlotPool {
    region: Region,
    whole: Vec<PhysRange>,
    holders: Vec<u32>,
    touched: Vec<bool>,
    free: usize,
}

impl SlotPool {
    pub(crate) fn new(memory: &Memory, slots: u16) -> Result<SlotPool, pageless_mem::Error> {
        let region = memory.register(Backing::anon(u64::from(slots) * u64::from(SLOT))?)?;
        let slot = |n: u16| region.range(u64::from(n) * u64::from(SLOT), u64::from(SLOT));
        let whole: Vec<PhysRange> = (0..slots).map_while(slot).collect();
        let count = whole.len();
        Ok(SlotPool { region, whole, holders: vec![0; count], touched: vec![false; count], free: count })
    }

    /// Slots nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free
    }

    /// Takes a free slot, held once.
    pub(crate) fn take(&mut self) -> Option<SlotId> {
        let index = self.holders.iter().position(|&holders| holders == 0)?;
        self.holders[index] = 1;
        self.touched[index] = true;
        self.free -= 1;
        u16::try_from(index).ok().map(SlotId)
    }

    pub(crate) fn hold(&mut self, slot: SlotId) {
        self.holders[usize::from(slot.0)] += 1;
    }

    pub(crate) fn release(&mut self, slot: SlotId) {
        let holders = &mut self.holders[usize::from(slot.0)];
        *holders -= 1;
        if *holders == 0 {
            self.free += 1;
        }
    }

    /// Is there one holder only?
    pub(crate) fn alone(&self, slot: SlotId) -> bool {
        self.holders[usize::from(slot.0)] == 1
    }

    /// The frames of a part of a slot; `None` when it is empty or does not fit.
    pub(crate) fn range(&self, slot: SlotId, from: u32, len: u32) -> Option<PhysRange> {
        let whole = self.whole[usize::from(slot.0)];
        let tail = if from == 0 { whole } else { whole.split_at(from)?.1 };
        if len == tail.len() { Some(tail) } else { tail.split_at(len).map(|(part, _)| part) }
    }

    /// Gives the memory of free slots back to the system, and says whether there was any to give.
    pub(crate) fn shrink(&mut self) -> bool {
        let mut gave = false;
        for index in 0..self.whole.len() {
            if self.holders[index] == 0 && self.touched[index] {
                // A slot that cannot be given back stays, which costs memory and nothing else.
                let _ = self.region.punch(index as u64 * u64::from(SLOT), u64::from(SLOT));
                self.touched[index] = false;
                gave = true;
            }
        }
        gave
    }
}

/// A slot that is being filled from the front: whoever puts bytes there takes the next part of it.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    slot: Option<SlotId>,
    used: u32,
}

impl Fill {
    /// The slot to go on filling, and where: at least `want` bytes of it are unused.
    /// `None` when the pool has no more.
    pub(crate) fn room(&mut self, pool: &mut SlotPool, want: u32) -> Option<(SlotId, u32)> {
        if let Some(slot) = self.slot {
            if pool.alone(slot) {
                // All that was put there is done with, and it is warm in the cache.
                self.used = 0;
            }
            if SLOT - self.used >= want {
                return Some((slot, self.used));
            }
            self.close(pool);
        }
        let slot = pool.take()?;
        self.slot = Some(slot);
        self.used = 0;
        Some((slot, 0))
    }

    /// Would [`room`](Fill::room) do without another slot?
    pub(crate) fn has_room(&self, pool: &SlotPool, want: u32) -> bool {
        self.slot.is_some_and(|slot| pool.alone(slot) || SLOT - self.used >= want)
    }

    /// The slot was used up to here.
    pub(crate) fn advance(&mut self, to: u32) {
        self.used = to;
    }

    /// Lets go of the slot.
    pub(crate) fn close(&mut self, pool: &mut SlotPool) {
        if let Some(slot) = self.slot.take() {
            pool.release(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_when_its_last_holder_lets_go() {
        let memory = Memory::new().unwrap();
        let mut pool = SlotPool::new(&memory, 2).unwrap();
        let slot = pool.take().unwrap();
        pool.hold(slot);
        let other = pool.take().unwrap();
        assert_eq!((pool.free(), pool.take()), (0, None));
        pool.release(slot);
        assert_eq!(pool.free(), 0);
        pool.release(slot);
        assert_eq!(pool.take(), Some(slot), "the lowest free one comes back");
        assert_ne!(slot, other);
    }

    #[test]
    fn parts_of_a_slot_stay_inside_it() {
        let memory = Memory::new().unwrap();
        let mut pool = SlotPool::new(&memory, 2).unwrap();
        let slot = pool.take().unwrap();
        assert_eq!(pool.range(slot, 0, SLOT).map(|r| r.len()), Some(SLOT));
        assert_eq!(pool.range(slot, 28, SLOT - 28).map(|r| r.len()), Some(SLOT - 28));
        assert_eq!(pool.range(slot, 28, SLOT), None);
        assert_eq!(pool.range(slot, 28, 0), None);
        assert_eq!(pool.range(slot, SLOT, 1), None);
    }

    #[test]
    fn filling_starts_over_when_nobody_else_holds_the_slot() {
        let memory = Memory::new().unwrap();
        let mut pool = SlotPool::new(&memory, 2).unwrap();
        let mut fill = Fill::default();
        let (slot, at) = fill.room(&mut pool, 1000).unwrap();
        assert_eq!(at, 0);
        pool.hold(slot);
        fill.advance(1000);
        assert_eq!(fill.room(&mut pool, 1000), Some((slot, 1000)));
        pool.release(slot);
        assert_eq!(fill.room(&mut pool, SLOT), Some((slot, 0)));
        pool.hold(slot);
        fill.advance(1);
        let (next, _) = fill.room(&mut pool, SLOT).unwrap();
        assert_ne!(next, slot);
        fill.close(&mut pool);
        pool.release(slot);
        assert_eq!(pool.free(), 2);
        assert!(pool.shrink());
        assert!(!pool.shrink(), "nothing was touched since");
    }
}
