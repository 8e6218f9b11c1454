// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a region is and what may be done with it, found by trying, without changing a byte or filling a hole.

use std::path::{Path, PathBuf};

use pageless_sys::{Errno, pagemap};

use crate::extents::Extent;
use crate::io::attempt;
use crate::{Access, FRAME_SIZE, Fault, Pinned, Reader, Region};

/// The outcome of one try.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Ok,
    /// The kernel refuses.
    Refused(Errno),
    /// The CPU faults on it.
    Faulted(Fault),
    /// It could not be tried, and why.
    Untested(&'static str),
}

/// What a region is, by what the kernel does with it.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Class {
    /// `VM_PFNMAP`: no page behind it.
    PageLess,
    /// The kernel refuses to pin it for another reason.
    Unpinnable,
    /// The kernel has pages for it and pins them.
    PageBacked,
    /// All a hole: nothing could be tried.
    Unknown,
}

/// What may be done with a region.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it is.
    pub class: Class,
    /// The kernel's `VmFlags` of the mapping.
    pub vm_flags: String,
    /// CPU loads.
    pub cpu_map: Verdict,
    /// `O_DIRECT`.
    pub short_pin: Verdict,
    /// io_uring fixed buffers.
    pub long_pin: Verdict,
    /// Copying sends.
    pub send: Verdict,
    /// `MSG_ZEROCOPY` sends.
    pub send_zerocopy: Verdict,
}

fn verdict(tried: Option<Result<(), Errno>>, otherwise: &'static str) -> Verdict {
    tried.map_or(Verdict::Untested(otherwise), |result| result.map_or_else(Verdict::Refused, |()| Verdict::Ok))
}

const HOLE: Verdict = Verdict::Untested("hole");

impl Region {
    /// Whether there is no page behind it: asked of the kernel each time, which searches all mappings of the process. For
    /// reports; an I/O finds out by trying.
    pub fn is_page_less(&self) -> bool {
        says_pfnmap(&vm_flags(self))
    }
}

fn vm_flags(region: &Region) -> String {
    pagemap::vm_flags(region.inner().addr()).unwrap_or_default()
}

fn says_pfnmap(vm_flags: &str) -> bool {
    vm_flags.split(' ').any(|flag| flag == "pf")
}

/// Tries everything on the first allocated frame of the region.
pub fn probe(region: &Region, reader: &mut Reader) -> Report {
    let vm_flags = vm_flags(region);
    let page_less = says_pfnmap(&vm_flags);
    let mut report = Report {
        class: if page_less { Class::PageLess } else { Class::Unknown },
        vm_flags,
        cpu_map: HOLE,
        short_pin: HOLE,
        long_pin: HOLE,
        send: HOLE,
        send_zerocopy: HOLE,
    };
    let Some(frame) = allocated_frame(region) else { return report };
    let Some(range) = region.range(frame, FRAME_SIZE) else { return report };
    let online = reader.online();
    let window = match online.kmap(range, Access::Read) {
        Ok(window) => window,
        Err(fault) => return Report { cpu_map: Verdict::Faulted(fault), ..report },
    };
    let loaded = window.reader().read(&mut [0; 64]);
    report.cpu_map = loaded.map_or_else(|error| Verdict::Faulted(error.fault), |()| Verdict::Ok);
    let Ok(pinned) = online.pin(&[range], Access::Read) else { return report };
    drop(online); // the tries below may sleep; the pin keeps the mapping
    report.short_pin = short_pin(&pinned);
    report.long_pin = verdict(attempt::register(&pinned), "io_uring is not to be had here");
    report.send = verdict(attempt::send(&pinned), "unix sockets are not to be had here");
    report.send_zerocopy = verdict(attempt::send_zerocopy(&pinned), "MSG_ZEROCOPY on loopback is not to be had here");
    match report.short_pin {
        Verdict::Ok => region.set_short_pin(Pinned::Ok),
        Verdict::Refused(errno) => region.set_short_pin(Pinned::Refused(errno)),
        _ => {}
    }
    match report.long_pin {
        Verdict::Ok => region.set_long_pin(Pinned::Ok),
        Verdict::Refused(errno) => region.set_long_pin(Pinned::Refused(errno)),
        _ => {}
    }
    report.class = match (page_less, report.short_pin, report.long_pin) {
        (true, ..) => Class::PageLess,
        (_, Verdict::Refused(_), _) => Class::Unpinnable,
        (_, Verdict::Untested(_), Verdict::Refused(_)) => Class::Unpinnable,
        _ => Class::PageBacked,
    };
    report
}

fn allocated_frame(region: &Region) -> Option<u64> {
    let mut extents = region.extents();
    let mut at = 0;
    while at < region.len() {
        match extents.next(at, region.len() - at) {
            Extent::Data(_) => return Some(at / FRAME_SIZE * FRAME_SIZE),
            Extent::Hole(len) => at += len,
        }
    }
    None
}

/// Tries the places where a scratch file may be until one has `O_DIRECT`.
fn short_pin(pinned: &crate::Inflight) -> Verdict {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let tried = places.iter().find_map(|place: &PathBuf| attempt::direct_write(pinned, Path::new(place)));
    verdict(tried, "no file system with O_DIRECT for a scratch file")
}
