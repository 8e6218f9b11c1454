// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages of a mapping hold data, and what the kernel says of the mapping.

use std::os::fd::AsRawFd;

use crate::Error;
use crate::error::{Named, check};
use crate::file::Run;

/// `struct pm_scan_arg`, linux/fs.h (6.7 and later).
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGEMAP_SCAN: libc::c_ulong = 0xC060_6610;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// `/proc/self/pagemap`, for asking where a mapping of ours has pages of its own.
#[derive(Debug)]
pub struct Pagemap(std::fs::File);

impl Pagemap {
    /// Opens it; fails where /proc is not there or the kernel has no `PAGEMAP_SCAN`.
    pub fn open() -> Result<Pagemap, Error> {
        let map = Pagemap(std::fs::File::open("/proc/self/pagemap").named("open(/proc/self/pagemap)")?);
        map.run_at(0, 4096)?;
        Ok(map)
    }

    /// The run at address `start`, ending at `end` at the latest. Pages that nobody wrote, and shared zero pages,
    /// are holes. Nothing is faulted in.
    pub fn run_at(&self, start: u64, end: u64) -> Result<Run, Error> {
        let mut found = PageRegion::default();
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start,
            end,
            vec: (&raw mut found) as u64,
            vec_len: 1,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
            ..ScanArg::default()
        };
        // Present pages and swapped ones come as separate runs when adjacent, hence one return category only.
        // SAFETY: the argument is a live pm_scan_arg whose vec names one live page_region.
        let runs = check(
            "ioctl(PAGEMAP_SCAN)",
            unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) }.into(),
        )?;
        Ok(match runs {
            0 => Run::HoleUntil(end),
            _ if found.start > start => Run::HoleUntil(found.start.min(end)),
            _ => Run::DataUntil(found.end.min(end)),
        })
    }
}

/// The `VmFlags` of the mapping that holds `addr` (`pf` is `VM_PFNMAP`: no page behind it), from /proc/self/smaps.
pub fn vm_flags(addr: usize) -> Option<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let mut inside = false;
    for line in smaps.lines() {
        if let Some((range, _)) = line.split_once(' ')
            && let Some((start, end)) = range.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            inside = (start..end).contains(&addr);
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return Some(flags.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmap::Mapping;

    #[test]
    fn untouched_pages_are_holes() {
        let Ok(pagemap) = Pagemap::open() else {
            println!("skipped: kernel lacks PAGEMAP_SCAN (6.7)");
            return;
        };
        let mapping = Mapping::anonymous(64 << 10).unwrap();
        let (start, end) = (mapping.addr() as u64, (mapping.addr() + mapping.len()) as u64);
        assert_eq!(pagemap.run_at(start, end).unwrap(), Run::HoleUntil(end));
        let byte = (mapping.addr() + 8192) as *mut u8;
        // SAFETY: the byte lies in the mapping above and nobody else knows it.
        unsafe { byte.write_volatile(1) };
        assert_eq!(pagemap.run_at(start, end).unwrap(), Run::HoleUntil(start + 8192));
        assert_eq!(pagemap.run_at(start + 8192, end).unwrap(), Run::DataUntil(start + 12288));
        assert!(vm_flags(mapping.addr()).unwrap().contains("rd wr"));
    }
}
