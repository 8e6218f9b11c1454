// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Words`]: what rings and records are written on, so that tests can put something else under the code that ships.

use std::sync::atomic::{Ordering, fence};

use pageless_mem::{Fault, Kmap};

/// Words of memory that others write too, by the offset of their first byte.
///
/// Loads are acquire and stores release, each of one aligned word. Outside the memory, or where words of the ring's own
/// structures are misaligned, everything is [`Fault::Gone`].
pub(crate) trait Words {
    /// Reads a word.
    fn load16(&self, at: usize) -> Result<u16, Fault>;
    /// Reads a word.
    fn load64(&self, at: usize) -> Result<u64, Fault>;
    /// Reads two words side by side, which need not be aligned: then they may be torn.
    fn pair64(&self, at: usize) -> Result<[u64; 2], Fault>;
    /// Reads a byte.
    fn load8(&self, at: usize) -> Result<u8, Fault>;
    /// Writes a byte.
    fn store8(&self, at: usize, value: u8) -> Result<(), Fault>;
    /// Writes a word.
    fn store16(&self, at: usize, value: u16) -> Result<(), Fault>;
    /// Writes a word.
    fn store32(&self, at: usize, value: u32) -> Result<(), Fault>;
    /// Writes a word.
    fn store64(&self, at: usize, value: u64) -> Result<(), Fault>;
    /// Sets bits of a byte, as a full barrier.
    fn set_bits8(&self, at: usize, bits: u8) -> Result<(), Fault>;
    /// What was stored before is seen by everybody who stores afterwards what is loaded after this.
    fn barrier(&self);
}

impl Words for Kmap<'_> {
    #[inline]
    fn load16(&self, at: usize) -> Result<u16, Fault> {
        self.cell(at).ok_or(Fault::Gone)?.load()
    }

    #[inline]
    fn load64(&self, at: usize) -> Result<u64, Fault> {
        self.cell(at).ok_or(Fault::Gone)?.load()
    }

    #[inline]
    fn pair64(&self, at: usize) -> Result<[u64; 2], Fault> {
        self.load_pair(at)
    }

    #[inline]
    fn load8(&self, at: usize) -> Result<u8, Fault> {
        self.cell(at).ok_or(Fault::Gone)?.load()
    }

    #[inline]
    fn store8(&self, at: usize, value: u8) -> Result<(), Fault> {
        self.cell(at).ok_or(Fault::Gone)?.store(value)
    }

    #[inline]
    fn store16(&self, at: usize, value: u16) -> Result<(), Fault> {
        self.cell(at).ok_or(Fault::Gone)?.store(value)
    }

    #[inline]
    fn store32(&self, at: usize, value: u32) -> Result<(), Fault> {
        self.cell(at).ok_or(Fault::Gone)?.store(value)
    }

    #[inline]
    fn store64(&self, at: usize, value: u64) -> Result<(), Fault> {
        self.cell(at).ok_or(Fault::Gone)?.store(value)
    }

    #[inline]
    fn set_bits8(&self, at: usize, bits: u8) -> Result<(), Fault> {
        self.cell(at).ok_or(Fault::Gone)?.fetch_or(bits).map(drop)
    }

    #[inline]
    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A window on what a successor of this server will find: the used ring, the record of what is in flight. Tests end a
/// server between any two stores to it.
#[derive(Debug)]
pub(crate) struct Window<'o> {
    pub(super) kmap: Kmap<'o>,
    #[cfg(test)]
    pub(crate) fuse: super::testing::Fuse,
}

impl<'o> Window<'o> {
    #[inline]
    pub(crate) fn new(kmap: Kmap<'o>) -> Window<'o> {
        Window {
            kmap,
            #[cfg(test)]
            fuse: super::testing::Fuse::default(),
        }
    }

    /// The window, to be stored to.
    #[inline]
    fn storing(&self) -> Result<&Kmap<'o>, Fault> {
        #[cfg(test)]
        self.fuse.store()?;
        Ok(&self.kmap)
    }
}

impl Words for Window<'_> {
    #[inline]
    fn load16(&self, at: usize) -> Result<u16, Fault> {
        self.kmap.load16(at)
    }

    #[inline]
    fn load64(&self, at: usize) -> Result<u64, Fault> {
        self.kmap.load64(at)
    }

    #[inline]
    fn pair64(&self, at: usize) -> Result<[u64; 2], Fault> {
        self.kmap.pair64(at)
    }

    #[inline]
    fn load8(&self, at: usize) -> Result<u8, Fault> {
        self.kmap.load8(at)
    }

    #[inline]
    fn store8(&self, at: usize, value: u8) -> Result<(), Fault> {
        self.storing()?.store8(at, value)
    }

    #[inline]
    fn store16(&self, at: usize, value: u16) -> Result<(), Fault> {
        self.storing()?.store16(at, value)
    }

    #[inline]
    fn store32(&self, at: usize, value: u32) -> Result<(), Fault> {
        self.storing()?.store32(at, value)
    }

    #[inline]
    fn store64(&self, at: usize, value: u64) -> Result<(), Fault> {
        self.storing()?.store64(at, value)
    }

    #[inline]
    fn set_bits8(&self, at: usize, bits: u8) -> Result<(), Fault> {
        self.storing()?.set_bits8(at, bits)
    }

    #[inline]
    fn barrier(&self) {
        self.kmap.barrier();
    }
}
