// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`InflightQueue`]: which requests of a split ring are in work, in memory that outlives this process ("Inflight I/O
//! tracking" of the vhost-user specification).
//!
//! # Recovery contract
//! Killed between any two stores, the record still says which heads were taken and not given back, in which order, and how
//! many: a successor does those again, goes on behind them, and the guest sees each request used exactly once. That holds
//! because a head is marked before it is begun, a batch is linked before the used index shows it, and the marks go after.
//!
//! The memory is the front-end's too. Whatever it says, no walk here is longer than the ring.

use pageless_block::Status;
use pageless_mem::{Access, Fault, Online, PhysRange, Region};

use super::words::{Window, Words};

const VERSION: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
const STATES: usize = 16;
/// In the state of a head.
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// The only version there is.
const CURRENT: u16 = 1;

/// Bytes that the records of one queue take, so that the next one's start at a cache line.
pub(crate) fn queue_bytes(size: u16) -> u64 {
    (STATES as u64 + 16 * u64::from(size)).next_multiple_of(64)
}

fn state(head: u16) -> usize {
    STATES + 16 * usize::from(head)
}

/// A record that cannot be what an earlier server left.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRecord {
    /// Of a format that is not known.
    #[error("the record of what is in flight has version {0}, and 1 is what there is")]
    Version(u16),
    /// Of another ring.
    #[error("the record of what is in flight is of a ring of {0}, and this one has {1}")]
    Size(u16, u16),
    /// It is not there.
    #[error("the record of what is in flight: {0}")]
    Memory(Status),
}

impl From<Fault> for NoRecord {
    fn from(fault: Fault) -> NoRecord {
        NoRecord::Memory(fault.into())
    }
}

/// The records of one queue, and what this process adds to them.
#[derive(Debug)]
pub(crate) struct InflightQueue {
    /// Keeps it mapped.
    _region: Region,
    range: PhysRange,
    book: Book,
    #[cfg(test)]
    pub(crate) fuse: super::testing::Fuse,
}

impl InflightQueue {
    /// The records of a ring of `size` that lie at `offset` of a region; `None` outside it, or where words would be misaligned.
    pub(crate) fn new(region: Region, offset: u64, size: u16) -> Option<InflightQueue> {
        let bytes = STATES as u64 + 16 * u64::from(size);
        let range = region.range(offset, bytes).filter(|range| u64::from(range.len()) == bytes)?;
        offset.is_multiple_of(8).then(|| InflightQueue {
            _region: region,
            range,
            book: Book::new(size),
            #[cfg(test)]
            fuse: super::testing::Fuse::default(),
        })
    }

    /// The records, to be written.
    #[inline]
    pub(crate) fn open<'o>(&mut self, online: &'o Online<'_>) -> Result<(&mut Book, Window<'o>), Fault> {
        let window = Window::new(online.kmap(self.range, Access::Write)?);
        #[cfg(test)]
        let window = Window { fuse: self.fuse.clone(), ..window };
        Ok((&mut self.book, window))
    }
}

/// What is remembered of the records without reading them.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    size: u16,
    counter: u64,
    last: u16,
}

impl Book {
    pub(crate) fn new(size: u16) -> Book {
        Book { size, counter: 0, last: 0 }
    }

    /// A head is about to be begun.
    #[inline]
    pub(crate) fn mark(&mut self, records: &impl Words, head: u16) -> Result<(), Fault> {
        records.store64(state(head) + COUNTER, self.counter)?;
        self.counter = self.counter.wrapping_add(1);
        records.store8(state(head) + INFLIGHT, 1)
    }

    /// A head is part of the batch that the used index will show next.
    #[inline]
    pub(crate) fn link(&mut self, records: &impl Words, head: u16) -> Result<(), Fault> {
        records.store16(state(head) + NEXT, self.last)?;
        self.last = head;
        records.store16(LAST_BATCH_HEAD, head)
    }

    /// The used index shows the batch.
    #[inline]
    pub(crate) fn settle(
        &self,
        records: &impl Words,
        batch: impl IntoIterator<Item = u16>,
        used: u16,
    ) -> Result<(), Fault> {
        for head in batch {
            records.store8(state(head) + INFLIGHT, 0)?;
        }
        records.store16(USED_IDX, used)
    }

    /// What an earlier server left, where the ring's used index is `used`: the heads to do again, in order, of which the
    /// next available entry comes after. A record that nobody used yet is begun, and `base` is that entry.
    pub(crate) fn recover(&mut self, records: &impl Words, used: u16, base: u16) -> Result<(u16, Vec<u16>), NoRecord> {
        match records.load16(VERSION)? {
            0 => {
                self.begin(records, used)?;
                return Ok((base, Vec::new()));
            }
            CURRENT => {}
            other => return Err(NoRecord::Version(other)),
        }
        let size = records.load16(DESC_NUM)?;
        if size != self.size {
            return Err(NoRecord::Size(size, self.size));
        }
        self.last = records.load16(LAST_BATCH_HEAD)?;
        let batch = used.wrapping_sub(records.load16(USED_IDX)?);
        self.unmark(records, batch)?;
        records.store16(USED_IDX, used)?;
        let mut left = Vec::new();
        for head in 0..size {
            if records.load8(state(head) + INFLIGHT)? == 1 {
                left.push((records.load64(state(head) + COUNTER)?, head));
            }
        }
        // Counters wrap after centuries, so order is order.
        left.sort_unstable();
        self.counter = left.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let heads: Vec<u16> = left.into_iter().map(|(_, head)| head).collect();
        let count = u16::try_from(heads.len()).unwrap_or(size);
        Ok((used.wrapping_add(count), heads))
    }

    /// The used index shows a batch whose marks may still be there.
    fn unmark(&self, records: &impl Words, batch: u16) -> Result<(), Fault> {
        let mut head = self.last;
        for _ in 0..batch.min(self.size) {
            if head >= self.size {
                break;
            }
            records.store8(state(head) + INFLIGHT, 0)?;
            head = records.load16(state(head) + NEXT)?;
        }
        Ok(())
    }

    /// Says last that there is a record.
    fn begin(&mut self, records: &impl Words, used: u16) -> Result<(), Fault> {
        for head in 0..self.size {
            records.store8(state(head) + INFLIGHT, 0)?;
        }
        records.store16(LAST_BATCH_HEAD, self.last)?;
        records.store16(USED_IDX, used)?;
        records.store16(DESC_NUM, self.size)?;
        records.store16(VERSION, CURRENT)
    }
}
