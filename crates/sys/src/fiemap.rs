// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of a file lie on the device under its file system (`FS_IOC_FIEMAP`).

use std::os::fd::{AsFd, AsRawFd};

use crate::Error;
use crate::error::check;
use crate::file::File;

/// `struct fiemap_extent`, linux/fiemap.h.
#[repr(C)]
#[derive(Copy, Clone, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for answers behind it.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// Extents asked for at a time.
const BATCH: usize = 72;

const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FIEMAP_EXTENT_LAST: u32 = 1;
/// `FIEMAP_EXTENT_UNKNOWN`, `_DELALLOC`, `_ENCODED`: the place on the device is not one.
const NOWHERE: u32 = 2 | 4 | 8;

/// A run of a file that lies in one piece on the device.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Placed {
    /// First byte in the file.
    pub logical: u64,
    /// First byte on the device.
    pub physical: u64,
    /// Bytes.
    pub len: u64,
}

/// Hands the runs of `[start, end)` of the file that have a place on the device to `each`, in order, until it says that it has
/// enough. A run may begin before and end after.
///
/// # Errors
/// `EOPNOTSUPP` from a file system that does not tell.
pub fn extents(file: &File, start: u64, end: u64, mut each: impl FnMut(Placed) -> bool) -> Result<(), Error> {
    let mut at = start;
    while at < end {
        let mut request = Request {
            start: at,
            length: end - at,
            flags: 0,
            mapped_extents: 0,
            extent_count: u32::try_from(BATCH).unwrap_or(1),
            reserved: 0,
            extents: [RawExtent::default(); BATCH],
        };
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the argument is a live fiemap with as many extents behind it as it says.
        let answer = unsafe { libc::ioctl(fd, FS_IOC_FIEMAP, &raw mut request) };
        check("ioctl(FIEMAP)", answer.into())?;
        let mapped = request.extents.get(..request.mapped_extents as usize).unwrap_or(&request.extents);
        let before = at;
        for extent in mapped {
            let placed = Placed { logical: extent.logical, physical: extent.physical, len: extent.length };
            if extent.flags & NOWHERE == 0 && !each(placed) {
                return Ok(());
            }
            at = at.max(extent.logical.saturating_add(extent.length));
        }
        let last = mapped.last().is_none_or(|extent| extent.flags & FIEMAP_EXTENT_LAST != 0);
        if last || at == before {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn every_run_of_a_file_is_found_once_and_in_order() {
        // Other file systems than tmpfs tell; one that does not is no failure of ours.
        let program = std::env::current_exe().unwrap();
        let folder = program.parent().unwrap();
        let file = File::unnamed(folder, false).unwrap();
        // Every other block, so that no two runs join: more than fit into one answer.
        let blocks = 2 * BATCH as u64;
        for block in 0..blocks {
            file.write_at(&[1; 4096], block * 8192).unwrap();
        }
        file.sync_data().unwrap();
        let mut found = Vec::new();
        let told = extents(&file, 0, blocks * 8192, |placed| {
            found.push(placed);
            true
        });
        if told.is_err() {
            let _ = writeln!(std::io::stderr(), "skipped: the file system of {} has no FIEMAP", folder.display());
            return;
        }
        let covered =
            |byte: u64| found.iter().filter(|run| (run.logical..run.logical + run.len).contains(&byte)).count();
        assert!((0..blocks).all(|block| covered(block * 8192) == 1), "{found:?}");
        assert!(found.is_sorted_by_key(|run| run.logical));
        let mut first = 0;
        extents(&file, 8192, blocks * 8192, |run| {
            first = run.logical;
            false
        })
        .unwrap();
        assert!(first <= 8192, "stops where it is told to, after the run at {first}");
    }
}
