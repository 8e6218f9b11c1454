// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Extracted`]: the frames of one request, and what is to be done with them afterwards.

use pageless_mem::{PhysRange, Region};

use crate::ScatterList;

/// The frames of one request. They are named, not held: the driver that does the I/O takes hold of them.
#[derive(Debug, Default)]
#[must_use = "the iterator has moved past these bytes"]
pub struct Extracted {
    list: ScatterList,
    /// Regions made on the spot, by frame number.
    registered: Vec<Region>,
}

/// What is to be done with a part when its I/O is done. What `iov_iter_extract_will_pin()` answers.
#[derive(Copy, Clone, Debug)]
pub enum Release<'e> {
    /// Nothing: it was named only. Its region's owner keeps it.
    Nothing,
    /// Drop this region, which was registered for this I/O. Dropped before that, frames not yet in flight are gone; those
    /// in flight stay mapped until it ends.
    Unregister(&'e Region),
}

impl Extracted {
    pub(super) fn new(list: ScatterList, mut registered: Vec<Region>) -> Extracted {
        registered.sort_unstable_by_key(|region| region.frames().start());
        Extracted { list, registered }
    }

    /// The frames.
    pub fn list(&self) -> &ScatterList {
        &self.list
    }

    /// What is to be done with one of the ranges of the list. None of them lies in two regions.
    pub fn release(&self, part: PhysRange) -> Release<'_> {
        let after = self.registered.partition_point(|region| region.frames().start() <= part.pfn());
        match after.checked_sub(1).map(|at| &self.registered[at]) {
            Some(region) if part.pfn().number() - region.frames().start().number() < region.frames().count() => {
                Release::Unregister(region)
            }
            _ => Release::Nothing,
        }
    }

    /// The list to make a bio of, and the regions to drop when it has completed.
    #[must_use = "dropping the regions unregisters them"]
    pub fn into_parts(self) -> (ScatterList, Vec<Region>) {
        (self.list, self.registered)
    }
}
