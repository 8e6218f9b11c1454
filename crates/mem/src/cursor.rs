// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bounded cursors over a window: the only way to name region bytes for a copy.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::bad::{self, BadSource};
use crate::copy;
use crate::error::{CopyError, Fault};
use crate::fault;
use crate::persist::Stores;
use crate::region::Inner;

/// Where a cursor is in its region; nowhere for private memory.
pub(crate) type Place<'k> = Option<(&'k Arc<Inner>, u64)>;

/// Reads forward through a window.
///
/// # Invariants
/// `addr..addr + left` lies in a window (see the module `copy`) or in private memory borrowed for `'k`.
#[derive(Debug)]
pub struct MemReader<'k> {
    pub(crate) addr: usize,
    left: usize,
    place: Place<'k>,
    not_send: PhantomData<*const u8>,
}

/// Writes forward through a window.
///
/// # Invariants
/// As [`MemReader`]; private memory is borrowed mutably.
#[derive(Debug)]
pub struct MemWriter<'k> {
    pub(crate) addr: usize,
    left: usize,
    place: Place<'k>,
    pub(crate) stores: Stores,
    not_send: PhantomData<*const u8>,
}

impl<'k> MemReader<'k> {
    #[inline]
    pub(crate) fn new(addr: usize, len: usize, region: &'k Arc<Inner>, offset: u64) -> MemReader<'k> {
        MemReader { addr, left: len, place: Some((region, offset)), not_send: PhantomData }
    }

    /// The same once more, to be named by who must not make this one live in memory.
    #[inline(always)]
    pub(crate) fn twin(&self) -> MemReader<'k> {
        MemReader { ..*self }
    }

    fn private(buf: &'k [u8]) -> MemReader<'k> {
        MemReader { addr: buf.as_ptr() as usize, left: buf.len(), place: None, not_send: PhantomData }
    }

    /// Bytes left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// Steps over up to `n` bytes.
    #[inline]
    pub fn skip(&mut self, n: usize) {
        self.advance(n.min(self.left));
    }

    /// Steps over `n` bytes, of which there are as many.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        self.addr += n;
        self.left -= n;
        if let Some((_, offset)) = &mut self.place {
            *offset += n as u64;
        }
    }

    /// Fills private memory from the window. Fails with what was moved when the window is shorter or faults.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<(), CopyError> {
        let wanted = buf.len();
        let mut to = MemWriter {
            addr: buf.as_mut_ptr() as usize,
            left: wanted,
            place: None,
            stores: Stores::Cached,
            not_send: PhantomData,
        };
        let moved = copy::copy(self, &mut to)?;
        if moved == wanted { Ok(()) } else { Err(CopyError { moved, fault: Fault::Gone }) }
    }

    /// A load faulted `ahead` bytes on.
    #[cold]
    pub(crate) fn load_fault(&self, ahead: usize, source: BadSource) -> Fault {
        if let Some((region, offset)) = self.place {
            bad::note(region, offset + ahead as u64, source);
        }
        Fault::Media
    }
}

impl<'k> MemWriter<'k> {
    #[inline]
    pub(crate) fn new(addr: usize, len: usize, region: &'k Arc<Inner>, offset: u64, stores: Stores) -> MemWriter<'k> {
        MemWriter { addr, left: len, place: Some((region, offset)), stores, not_send: PhantomData }
    }

    /// The same once more, to be named by who must not make this one live in memory.
    #[inline(always)]
    pub(crate) fn twin(&self) -> MemWriter<'k> {
        MemWriter { ..*self }
    }

    /// For memory that is a disk rather than somebody's buffer: large copies bypass the caches, since nobody reads it
    /// soon, and a frame that is known to be bad gets new memory when it is overwritten whole. Persistent memory is such
    /// without being asked.
    #[must_use]
    #[inline]
    pub fn streaming(self) -> MemWriter<'k> {
        let stores = if self.stores == Stores::Cached { Stores::Streaming } else { self.stores };
        MemWriter { stores, ..self }
    }

    /// Bytes left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// Steps over up to `n` bytes.
    #[inline]
    pub fn skip(&mut self, n: usize) {
        self.advance(n.min(self.left));
    }

    /// Steps over `n` bytes, of which there are as many.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        self.addr += n;
        self.left -= n;
        if let Some((_, offset)) = &mut self.place {
            *offset += n as u64;
        }
    }

    /// Stores private memory into the window. Fails with what was moved when the window is shorter or faults.
    pub fn write(&mut self, buf: &[u8]) -> Result<(), CopyError> {
        let moved = copy::copy(&mut MemReader::private(buf), self)?;
        if moved == buf.len() { Ok(()) } else { Err(CopyError { moved, fault: Fault::Gone }) }
    }

    /// Stores `n` zeroes. Fails with what was stored when the window is shorter or faults.
    pub fn zero(&mut self, n: usize) -> Result<(), CopyError> {
        let moved = copy::zero(self, n)?;
        if moved == n { Ok(()) } else { Err(CopyError { moved, fault: Fault::Gone }) }
    }

    /// Where it is in its region; nowhere for private memory.
    #[inline]
    pub(crate) fn place(&self) -> Place<'k> {
        self.place
    }

    /// A store faulted `ahead` bytes on, where `left` bytes are still to come: sees to it that it can be made again.
    #[cold]
    pub(crate) fn mend(&self, ahead: usize, left: usize, source: BadSource) -> Result<(), Fault> {
        let (region, offset) = self.place.ok_or(Fault::Media)?;
        // The bad frame of a buffer has other users, who would not see the new one.
        let left = if self.stores == Stores::Cached { 0 } else { left };
        fault::mend(region, offset + ahead as u64, left as u64, source)
    }

    /// The medium does not take what is stored `ahead` bytes on.
    #[cold]
    pub(crate) fn media_fault(&self, ahead: usize, source: BadSource) -> Fault {
        if let Some((region, offset)) = self.place {
            bad::note(region, offset + ahead as u64, source);
        }
        Fault::Media
    }
}
