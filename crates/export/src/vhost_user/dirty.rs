// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DirtyLog`]: the pages of the guest that were written, for whoever moves it elsewhere (`VHOST_USER_SET_LOG_BASE`).
//!
//! # Order contract
//! A page is marked after its bytes have landed, by a full barrier: whoever takes the mark away and then reads the page
//! reads those bytes. What a request wrote is marked before the guest is told that it is done.

use pageless_mem::{Access, Online, PhysRange, Region};

use super::guest_map::GuestAddr;
use super::words::Words;

/// Bytes that a bit stands for (`VHOST_LOG_PAGE`).
const PAGE: u64 = 4096;

/// A bit for each page of the guest.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    /// Keeps it mapped.
    _region: Region,
    range: PhysRange,
}

impl DirtyLog {
    /// The log that lies in these bytes of a region; `None` outside it.
    pub(crate) fn new(region: Region, offset: u64, len: u64) -> Option<DirtyLog> {
        let range = region.range(offset, len).filter(|range| u64::from(range.len()) == len)?;
        Some(DirtyLog { _region: region, range })
    }

    /// These bytes of the guest were written. What the log has no bits for, and a log that is gone, cannot be helped: the
    /// guest is not to suffer from it.
    pub(crate) fn mark(&self, online: &Online<'_>, at: GuestAddr, len: u64) {
        if let Ok(window) = online.kmap(self.range, Access::Write) {
            mark(&window, u64::from(self.range.len()), at.0, len);
        }
    }
}

/// Sets the bits of `len` bytes at `at` in a log of `bytes` bytes.
fn mark(log: &impl Words, bytes: u64, at: u64, len: u64) {
    let Some(last) = len.checked_sub(1).and_then(|more| at.checked_add(more)) else { return };
    let (mut page, last) = (at / PAGE, (last / PAGE).min((8 * bytes).saturating_sub(1)));
    while page <= last {
        let end = last.min(page | 7);
        let bits = (page % 8..=end % 8).fold(0, |bits, bit| bits | 1 << bit);
        let Ok(byte) = usize::try_from(page / 8) else { return };
        if log.set_bits8(byte, bits).is_err() {
            return;
        }
        page = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless_mem::{Backing, Memory};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pages_of_what_was_written_are_marked_and_no_others(writes in prop::collection::vec((0u64..1 << 20, 0u64..70_000), 0..12), bytes in 1u64..40, offset in 0u64..9) {
            let memory = Memory::new().unwrap();
            let region = memory.register(Backing::memfd(4096).unwrap()).unwrap();
            let log = DirtyLog::new(region.clone(), offset, bytes).unwrap();
            let mut reader = memory.reader();
            let online = reader.online();
            let mut expected = vec![0u8; 4096];
            for (at, len) in writes {
                log.mark(&online, GuestAddr(at), len);
                for page in (at..at + len).step_by(1024).chain((at + len).checked_sub(1).filter(|_| len > 0)).map(|at| at / PAGE) {
                    if page < 8 * bytes {
                        expected[(offset + page / 8) as usize] |= 1 << (page % 8);
                    }
                }
            }
            let mut found = vec![0; 4096];
            online.kmap(region.range(0, 4096).unwrap(), Access::Read).unwrap().reader().read(&mut found).unwrap();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn no_bytes_and_the_end_of_the_address_space_mark_nothing_else() {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::memfd(4096).unwrap()).unwrap();
        assert!(DirtyLog::new(region.clone(), 4000, 97).is_none());
        let log = DirtyLog::new(region.clone(), 0, 4096).unwrap();
        let mut reader = memory.reader();
        let online = reader.online();
        for (at, len) in [(0, 0), (u64::MAX, 1), (u64::MAX, 2), (1 << 60, u64::MAX)] {
            log.mark(&online, GuestAddr(at), len);
        }
        let mut found = vec![0; 4096];
        online.kmap(log.range, Access::Read).unwrap().reader().read(&mut found).unwrap();
        assert!(found.iter().all(|byte| *byte == 0));
    }
}
