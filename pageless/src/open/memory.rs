// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory specs to backings, and what a refusal of each kind means.

use std::path::Path;

use pageless_mem::{Backing, Error, FileOptions};
use pageless_sys::Errno;

use super::error::{HUGE_PAGES, Problem};
use super::file::{self, Made};
use super::{Options, program};
use crate::spec::MemorySpec;

/// Files are mapped by the frame.
const FRAME: u64 = 4096;

/// Sees to the file behind the memory, where there is one; the file if it was made.
pub(super) fn prepare(spec: &MemorySpec, options: Options) -> Result<Option<Made>, Problem> {
    match spec {
        MemorySpec::Pmem { path, size } => file::prepare(path, *size, options, FRAME),
        _ => Ok(None),
    }
}

/// Makes and maps the memory a spec names.
pub(super) fn backing(spec: &MemorySpec, options: Options) -> Result<Backing, Problem> {
    match spec {
        MemorySpec::Ram(len) => Backing::anon(*len).map_err(|error| plain(*len, error)),
        MemorySpec::Memfd(len) => Backing::memfd(*len).map_err(|error| plain(*len, error)),
        MemorySpec::Hugetlb(len) => Backing::hugetlb(*len).map_err(|error| huge_pages(*len, error)),
        MemorySpec::Secret(len) => Backing::secret(*len).map_err(secret),
        MemorySpec::Udmabuf(len) => Backing::udmabuf(*len).map_err(udmabuf),
        MemorySpec::Heap { size, name } => {
            let name = name.as_deref().unwrap_or("system");
            Backing::dma_heap(name, *size).map_err(|error| heap(name, *size, error))
        }
        MemorySpec::Pmem { path, .. } => {
            let how = FileOptions { size: None, create: false, read_only: options.read_only };
            Backing::file(path, how).map_err(|error| named(path, error))
        }
        MemorySpec::Dax(path) => Backing::devdax(path, false).map_err(|error| named(path, error)),
        MemorySpec::Bar(bar) => {
            let path = bar.resource();
            Backing::bar(&path).map_err(|error| match (error.errno(), error) {
                (_, Error::Vfio { function, group, source }) => Problem::Vfio { function, group, source },
                (Some(errno), _) if errno != Errno::ENOENT => Problem::BarRefused { path: path.clone(), errno },
                (_, error) => named(&path, error),
            })
        }
        MemorySpec::DevMem { address, size } => Backing::devmem(*address, *size).map_err(|error| match error.errno() {
            Some(errno) => Problem::DevMem { address: *address, size: *size, errno },
            None => Problem::Memory(error),
        }),
    }
}

/// An error about a named file.
pub(super) fn named(path: &Path, error: Error) -> Problem {
    let path = path.to_owned();
    match error {
        Error::Locked { path, pid } => Problem::Locked { path, pid, program: pid.and_then(program) },
        Error::NotAFile { path } => Problem::NotMappable { path },
        Error::Misaligned { value, .. } => Problem::PartFrame { path, size: value },
        Error::Path { path, source } if source.errno() == Errno::ENOENT => {
            Problem::NotFound { path, errno: source.errno() }
        }
        error => match error.errno() {
            Some(errno) => Problem::Refused { doing: "map", path, errno },
            None => Problem::Memory(error),
        },
    }
}

fn plain(asked: u64, error: Error) -> Problem {
    match error.errno() {
        Some(errno) => Problem::NoMemory { asked, errno },
        None => Problem::Memory(error),
    }
}

fn huge_pages(len: u64, error: Error) -> Problem {
    match error.errno() {
        Some(errno @ Errno::ENOMEM) => {
            let count = |what| count_huge_pages(what).unwrap_or(0);
            let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
            Problem::NoHugePages { need: len.div_ceil(2 << 20), free, reserved: count("nr_hugepages"), errno }
        }
        Some(errno @ (Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV | Errno::ENOENT)) => {
            Problem::NoFeature { what: "huge pages in a memfd", from: "Linux 4.14 with CONFIG_HUGETLBFS", errno }
        }
        _ => Problem::Memory(error),
    }
}

fn secret(error: Error) -> Problem {
    let errno = error.errno().unwrap_or(Errno::ENOMEM);
    match error {
        Error::LockedMemory { wanted: need, limit } => Problem::LockedMemory { need, limit, errno },
        error => match error.errno() {
            Some(errno @ Errno::ENOSYS) => Problem::NoFeature {
                what: "memfd_secret(2)",
                from: "Linux 5.14 with CONFIG_SECRETMEM, before 6.5 also secretmem.enable=1 on its command line",
                errno,
            },
            _ => Problem::Memory(error),
        },
    }
}

fn heap(name: &str, asked: u64, error: Error) -> Problem {
    match error.errno() {
        Some(errno @ Errno::ENOENT) => Problem::NoHeap { name: name.into(), errno },
        Some(errno @ (Errno::EACCES | Errno::EPERM)) => {
            Problem::Refused { doing: "open", path: Path::new("/dev/dma_heap").join(name), errno }
        }
        Some(errno @ Errno::ENOMEM) => Problem::NoMemory { asked, errno },
        _ => Problem::Memory(error),
    }
}

fn udmabuf(error: Error) -> Problem {
    match error.errno() {
        Some(errno @ (Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::ENOTTY)) => {
            Problem::NoFeature { what: "udmabuf", from: "Linux 4.20 with CONFIG_UDMABUF: sudo modprobe udmabuf", errno }
        }
        Some(errno @ (Errno::EACCES | Errno::EPERM)) => {
            Problem::Refused { doing: "open", path: "/dev/udmabuf".into(), errno }
        }
        _ => Problem::Memory(error),
    }
}

/// One number about huge pages of 2 MiB.
fn count_huge_pages(what: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("{HUGE_PAGES}/{what}")).ok()?;
    text.trim().parse().ok()
}
