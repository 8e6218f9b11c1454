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
        if let Some((start, end, _)) = mapping_line(line) {
            inside = (start..end).contains(&addr);
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return Some(flags.trim().to_owned());
        }
    }
    None
}

/// The first address in `[addr, end)` that a fork would give the child a copy of: in a private mapping without
/// `MADV_DONTFORK` (the flag `dc`). One of the two then loses what the kernel stores through pages it took before.
pub fn copied_at_fork(addr: usize, end: usize) -> Result<Option<usize>, Error> {
    let maps = std::fs::read_to_string("/proc/self/maps").named("read(/proc/self/maps)")?;
    let private = maps.lines().filter_map(mapping_line).filter(|(.., private)| *private);
    let mut met = private.filter(|(start, past, _)| *start < end && addr < *past).map(|(start, ..)| start.max(addr));
    // Only what is private is worth the longer look at its flags.
    Ok(met.find(|at| vm_flags(*at).is_none_or(|flags| !flags.split(' ').any(|flag| flag == "dc"))))
}

/// Start, end and privacy in the head of an entry of maps or smaps: `55d0c0000000-55d0c0021000 rw-p …`.
fn mapping_line(line: &str) -> Option<(usize, usize, bool)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).ok());
    Some((start?, end?, rest.as_bytes().get(3) == Some(&b'p')))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::mmap::Mapping;

    #[test]
    fn untouched_pages_are_holes() {
        let Ok(pagemap) = Pagemap::open() else {
            let _ = writeln!(std::io::stderr(), "skipped: kernel lacks PAGEMAP_SCAN (guest/units covers it)");
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

    #[test]
    fn private_mappings_are_copied_at_fork_until_they_are_told_not_to() {
        use std::os::fd::AsFd;
        let private = Mapping::anonymous(64 << 10).unwrap();
        let (start, end) = (private.addr(), private.addr() + private.len());
        assert_eq!(copied_at_fork(start, end), Ok(Some(start)));
        assert_eq!(copied_at_fork(start + 8192, start + 12288), Ok(Some(start + 8192)));
        private.dont_fork().unwrap();
        assert_eq!(copied_at_fork(start, end), Ok(None));
        let memfd = crate::memfd::memfd(4096).unwrap();
        let shared = Mapping::shared(memfd.as_fd(), 0, 4096, crate::mmap::Protection::ReadWrite).unwrap();
        assert_eq!(copied_at_fork(shared.addr(), shared.addr() + 4096), Ok(None));
    }
}
