// SPDX-License-Identifier: MIT OR Apache-2.0
//! A short CPU window on frames.

use std::marker::PhantomData;

use crate::cell::{self, Cell};
use crate::cursor::{MemReader, MemWriter};
use crate::persist::{self, Stores};
use crate::table::Resolved;
use crate::{Access, Fault};

/// A window, for as long as the online section it was opened in. It yields cursors and cells, never a pointer.
#[derive(Debug)]
pub struct Kmap<'o> {
    at: Resolved<'o>,
    access: Access,
    not_send: PhantomData<*const u8>,
}

impl<'o> Kmap<'o> {
    #[inline]
    pub(crate) fn new(at: Resolved<'o>, access: Access) -> Kmap<'o> {
        Kmap { at, access, not_send: PhantomData }
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a window is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.at.len
    }

    /// Where it is, to be prefetched.
    #[inline]
    pub(crate) fn addr(&self) -> usize {
        self.at.addr
    }

    /// Asks the CPU for the first lines, so that a copy that starts soon need not wait for them. Never faults.
    #[inline]
    #[expect(unsafe_code, reason = "the prefetch intrinsic takes a pointer")]
    pub fn prefetch(&self) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in 0..4 {
            let address = self.at.addr.wrapping_add(64 * line) as *const i8;
            // SAFETY: a prefetch never faults and dereferences nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        }
    }

    /// Asks the CPU for the line of the byte at `offset`. Never faults.
    #[inline]
    #[expect(unsafe_code, reason = "the prefetch intrinsic takes a pointer")]
    pub fn prefetch_at(&self, offset: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = self.at.addr.wrapping_add(offset) as *const i8;
        // SAFETY: a prefetch never faults and dereferences nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }

    /// A cursor that reads the window from its start.
    #[inline]
    pub fn reader(&self) -> MemReader<'_> {
        MemReader::new(self.at.addr, self.at.len, self.at.region, self.at.offset)
    }

    /// A cursor that writes the window from its start.
    ///
    /// # Panics
    /// When the window was opened for reading.
    #[inline]
    pub fn writer(&self) -> MemWriter<'_> {
        assert!(self.access == Access::Write, "the window was opened for reading");
        let stores = self.at.stores.unwrap_or(Stores::Cached);
        MemWriter::new(self.at.addr, self.at.len, self.at.region, self.at.offset, stores)
    }

    /// The aligned word of `T` (`u8`, `u16`, `u32`, `u64`) at byte `offset`; `None` outside the window or misaligned.
    #[inline]
    pub fn cell<T: crate::cell::Word>(&self, offset: usize) -> Option<Cell<'_, T>> {
        let end = offset.checked_add(size_of::<T>()).filter(|end| *end <= self.at.len)?;
        let addr = self.at.addr + offset;
        (addr.is_multiple_of(size_of::<T>()) && end > 0)
            .then(|| Cell::new(addr, self.access, self.at.region, self.at.offset + offset as u64))
    }

    /// Two words side by side, from byte `offset` on, each read once (acquire): torn where it is not aligned and others store to
    /// it meanwhile.
    ///
    /// # Errors
    /// [`Fault::Gone`] outside the window, [`Fault::Media`] where one cannot be read.
    #[inline]
    pub fn load_pair(&self, offset: usize) -> Result<[u64; 2], Fault> {
        if offset.checked_add(16).is_none_or(|end| end > self.at.len) {
            return Err(Fault::Gone);
        }
        cell::load_pair(self.at.addr + offset, self.at.region, self.at.offset + offset as u64)
    }

    /// Writes the cache lines of these bytes back, where that is what stores to this memory need
    /// ([`Durability::Clwb`](crate::Durability::Clwb)); elsewhere it does nothing. For words that were stored through a
    /// [`cell`](Self::cell): copies write back what they store. Durable after the next [`fence`](crate::persist::fence),
    /// which a batch shares; what `msync` makes durable needs [`Region::persist`](crate::Region::persist) after the section.
    ///
    /// # Errors
    /// [`Fault::Media`] where a line cannot be written back, [`Fault::Gone`] outside the window.
    #[inline]
    pub fn write_back(&self, offset: usize, len: usize) -> Result<(), Fault> {
        if offset.checked_add(len).is_none_or(|end| end > self.at.len) {
            return Err(Fault::Gone);
        }
        persist::write_back(self.at.region, self.at.addr + offset, self.at.offset + offset as u64, len)
    }
}
