// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "vouches for addresses of a mapping that it keeps")]
//! Parts of a mapping that somebody else made and keeps a share of.

use std::sync::Arc;

use pageless_sys::mmap::Mapping;

use super::{Backing, multiple};
use crate::Error;
use crate::pfn::FRAME_SIZE;

impl Backing {
    /// `len` bytes at `offset` of a mapping that its owner goes on using by address: what a program that maps its buffers
    /// through `pageless_sys` registers. The mapping stays until the region and every I/O on it are gone, whoever lets go
    /// first, and is kept out of children. `writable` says what users of the region may do.
    ///
    /// # Errors
    /// [`Error::Misaligned`] or [`Error::Empty`] unless both are whole frames, [`Error::OutOfMapping`] where the mapping
    /// ends before.
    pub fn lent(mapping: &Arc<Mapping>, offset: usize, len: u64, writable: bool) -> Result<Backing, Error> {
        multiple("address", offset as u64, FRAME_SIZE)?;
        let mapped = mapping.len() as u64;
        if (offset as u64).checked_add(len).is_none_or(|end| end > mapped) {
            return Err(Error::OutOfMapping { offset: offset as u64, len, mapped });
        }
        mapping.dont_fork()?;
        // SAFETY: the mapping is held by the backing, hence by the region, every table and every I/O that know it; it is
        // not inherited by children; and a `Mapping` hands out no reference to its bytes.
        let backing = unsafe { Backing::foreign(mapping.addr() + offset, len, writable)? };
        Ok(Backing { label: "lent", lender: Some(Arc::clone(mapping)), ..backing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Memory};

    #[test]
    fn a_lent_mapping_outlives_its_lender() {
        let mapping = Arc::new(Mapping::anonymous(4 * FRAME_SIZE).unwrap());
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::lent(&mapping, 4096, 8192, true).unwrap()).unwrap();
        assert_eq!((region.len(), region.inner().addr()), (8192, mapping.addr() + 4096));
        assert_eq!(Arc::strong_count(&mapping), 2);
        drop(mapping);
        let mut reader = memory.reader();
        let online = reader.online();
        let window = online.kmap(region.range(0, 8192).unwrap(), Access::Write).unwrap();
        window.writer().write(&[7; 8192]).unwrap();
    }

    #[test]
    fn only_whole_frames_of_the_mapping_are_lent() {
        let mapping = Arc::new(Mapping::anonymous(2 * FRAME_SIZE).unwrap());
        let lent = |offset, len| Backing::lent(&mapping, offset, len, true).unwrap_err();
        assert!(matches!(lent(1, 4096), Error::Misaligned { what: "address", .. }));
        assert!(matches!(lent(0, 4097), Error::Misaligned { what: "size", .. }));
        assert!(matches!(lent(0, 0), Error::Empty));
        for (offset, len) in [(4096, 8192), (8192, 4096), (4096, u64::MAX)] {
            assert!(matches!(lent(offset, len), Error::OutOfMapping { mapped: 8192, .. }));
        }
    }
}
