// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FileExtents`]: where the data of a sparse image is.

use super::open::Opened;
use pageless_block::{Extent, ExtentMap, Status};
use pageless_sys::file::Run;
use std::sync::Arc;

/// Asks the file system each time. Nothing is remembered, since a hole that another queue has filled in the meantime
/// must not be told of as a hole.
#[derive(Debug)]
pub(super) struct FileExtents(pub(super) Arc<Opened>);

impl ExtentMap for FileExtents {
    fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status> {
        let file = &self.0;
        let end = match offset.checked_add(len) {
            Some(end) if len > 0 && end <= file.capacity => end,
            _ => return Err(Status::OutOfRange),
        };
        let block = u64::from(file.block());
        match file.holder.run_at(offset, end).map_err(|_| Status::IoErr)? {
            // holes end at whole blocks for whoever reads around them
            Run::DataUntil(until) => Ok(Extent::Data(until.next_multiple_of(block).min(end) - offset)),
            // a file cut short looks like a hole to its end, but its bytes are lost, not zero
            Run::HoleUntil(_) if file.holder.size().map_err(|_| Status::IoErr)? < file.capacity => Err(Status::IoErr),
            Run::HoleUntil(until) if until == end => Ok(Extent::Hole(len)),
            Run::HoleUntil(until) => match until - until % block {
                whole if whole > offset => Ok(Extent::Hole(whole - offset)),
                _ => Ok(Extent::Data((offset - offset % block + block).min(end) - offset)),
            },
        }
    }
}
