// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Ring`]: the device's side of a split virtqueue (virtio 1.3, 2.7).
//!
//! # Words
//! The driver makes *heads* of chains *available*; the device gives them back *used*. A *kick* is the driver waking the
//! device, a *call* the device waking the driver. All memory is the guest's: every word of it may be anything at any
//! time, so each is read once, and what was read is checked before it is used.
//!
//! # Ordering contract
//! Whoever wants to sleep says so, runs a barrier and looks again; whoever has published something runs a barrier and
//! then looks who sleeps. So either the sleeper finds it or the publisher wakes them: no kick and no call is lost.

use pageless_block::Status;
use pageless_mem::Fault;

use super::words::Words;

/// The longest ring.
pub(crate) const MAX_SIZE: u16 = 1 << 15;

const IDX: usize = 2;
const ENTRIES: usize = 4;
/// `VRING_AVAIL_F_NO_INTERRUPT`: the driver wants no call.
const NO_INTERRUPT: u16 = 1;
/// `VRING_USED_F_NO_NOTIFY`: the device wants no kick.
const NO_NOTIFY: u16 = 1;

/// Bytes of the descriptor table.
pub(crate) fn table_bytes(size: u16) -> u32 {
    16 * u32::from(size)
}

/// Bytes of the available ring, `used_event` with them.
pub(crate) fn avail_bytes(size: u16) -> u32 {
    6 + 2 * u32::from(size)
}

/// Bytes of the used ring, `avail_event` with them.
pub(crate) fn used_bytes(size: u16) -> u32 {
    6 + 8 * u32::from(size)
}

/// Where an entry of the used ring starts in it.
pub(crate) fn used_entry(slot: u16) -> u64 {
    ENTRIES as u64 + 8 * u64::from(slot)
}

/// The ring's own structures cannot be made sense of: nothing more is taken from it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// More was made available than the ring has room for.
    #[error("the available index went from {from} to {to} in a ring of {size}")]
    Jumped {
        /// Where the device had got to.
        from: u16,
        /// What the driver says.
        to: u16,
        /// Entries there are.
        size: u16,
    },
    /// A head or the next of a descriptor that is not in the table.
    #[error("descriptor {index} of a table of {size}")]
    Index {
        /// What was named.
        index: u32,
        /// Entries there are.
        size: u32,
    },
    /// A chain longer than its table: it runs in a circle.
    #[error("a chain of more descriptors than the {size} of its table")]
    Loop {
        /// Entries there are.
        size: u32,
    },
    /// A head was made available again before it was used.
    #[error("descriptor {head} was made available twice")]
    Twice {
        /// Which.
        head: u16,
    },
    /// A table of descriptors where none may be, or that is none.
    #[error("an indirect table of {len} bytes at {at:#x}: {why}")]
    Table {
        /// Where it is said to be.
        at: u64,
        /// Its bytes.
        len: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The memory of the ring is not, or no longer, there.
    #[error("the memory of the ring: {0}")]
    Memory(Status),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Broken {
        Broken::Memory(fault.into())
    }
}

/// Windows on the parts of a ring that wake and tell.
#[derive(Debug)]
pub(crate) struct Parts<A, U> {
    pub(crate) avail: A,
    pub(crate) used: U,
}

/// Where the device has got to.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    size: u16,
    event_idx: bool,
    /// The next available entry to look at.
    taken: u16,
    /// The next used entry to fill.
    put: u16,
    /// What the used index was when the driver was last considered for a call; unknown at first.
    considered: Option<u16>,
}

impl Ring {
    /// A ring of so many entries, a power of two, from these positions.
    pub(crate) fn new(size: u16, event_idx: bool, next_avail: u16, used: u16) -> Ring {
        Ring { size, event_idx, taken: next_avail, put: used, considered: None }
    }

    /// Entries.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The next available entry: where a successor goes on.
    pub(crate) fn next_avail(&self) -> u16 {
        self.taken
    }

    /// The used index as it will be once everything put is published.
    pub(crate) fn next_used(&self) -> u16 {
        self.put
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Where in its ring the next used entry goes.
    #[inline]
    pub(crate) fn used_slot(&self) -> u16 {
        self.put & (self.size - 1)
    }

    /// How many heads are available and not yet taken.
    #[inline]
    pub(crate) fn waiting(&self, avail: &impl Words) -> Result<u16, Broken> {
        let idx = avail.load16(IDX)?;
        let count = idx.wrapping_sub(self.taken);
        if count > self.size {
            return Err(Broken::Jumped { from: self.taken, to: idx, size: self.size });
        }
        Ok(count)
    }

    /// Looks at a head that is available, without taking it: the `ahead`th from here.
    #[inline]
    pub(crate) fn peek(&self, avail: &impl Words, ahead: u16) -> Result<u16, Broken> {
        let head = avail.load16(ENTRIES + 2 * self.slot(self.taken.wrapping_add(ahead)))?;
        if head >= self.size {
            return Err(Broken::Index { index: head.into(), size: self.size.into() });
        }
        Ok(head)
    }

    /// So many heads that were peeked at are taken.
    #[inline]
    pub(crate) fn take(&mut self, count: u16) {
        self.taken = self.taken.wrapping_add(count);
    }

    /// Fills the next used entry. Nobody sees it before [`publish`](Ring::publish).
    #[inline]
    pub(crate) fn put(&mut self, used: &impl Words, head: u16, written: u32) -> Result<(), Broken> {
        let at = ENTRIES + 8 * self.slot(self.put);
        used.store32(at, head.into())?;
        used.store32(at + 4, written)?;
        self.put = self.put.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver what was put.
    #[inline]
    pub(crate) fn publish(&self, used: &impl Words) -> Result<(), Broken> {
        Ok(used.store16(IDX, self.put)?)
    }

    /// Whether the driver wants a call for what was published since it was last asked.
    #[inline]
    pub(crate) fn wants_call(&mut self, avail: &impl Words) -> Result<bool, Broken> {
        let before = self.considered.replace(self.put);
        avail.barrier();
        if !self.event_idx {
            return Ok(avail.load16(0)? & NO_INTERRUPT == 0);
        }
        let event = avail.load16(ENTRIES + 2 * usize::from(self.size))?;
        // Nothing is known of what went before: a call too many does no harm.
        Ok(before.is_none_or(|before| self.put.wrapping_sub(event).wrapping_sub(1) < self.put.wrapping_sub(before)))
    }

    /// Asks for kicks, and says whether heads are available already: then there may be no kick for them.
    pub(crate) fn sleep(&self, parts: &Parts<impl Words, impl Words>) -> Result<bool, Broken> {
        if self.event_idx {
            parts.used.store16(ENTRIES + 8 * usize::from(self.size), self.taken)?;
        } else {
            parts.used.store16(0, 0)?;
        }
        parts.used.barrier();
        Ok(self.waiting(&parts.avail)? > 0)
    }

    /// Asks for no more kicks. With `EVENT_IDX` there is nothing to do: the index named is in the past.
    pub(crate) fn wake(&self, used: &impl Words) -> Result<(), Broken> {
        if !self.event_idx {
            used.store16(0, NO_NOTIFY)?;
        }
        Ok(())
    }

    /// What `sleep` and `wake` write to: offset in the used ring.
    pub(crate) fn request_word(&self) -> u64 {
        if self.event_idx { ENTRIES as u64 + 8 * u64::from(self.size) } else { 0 }
    }
}

/// The used index, as it is in memory.
pub(crate) fn used_index(used: &impl Words) -> Result<u16, Broken> {
    Ok(used.load16(IDX)?)
}
