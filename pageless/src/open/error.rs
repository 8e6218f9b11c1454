// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a spec could not be opened: which argument, the cause with its errno, and a remedy.

use std::fmt;
use std::path::{Path, PathBuf};

use pageless_drivers::btt::BttError;
use pageless_drivers::btt::check::CheckError;
use pageless_drivers::btt::check::find::FindError;
use pageless_sys::Errno;

use super::{file, holder};
use crate::spec::{Exact, Human};

/// Where the kernel tells and is told about huge pages of 2 MiB.
pub(super) const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// A spec that parsed and could not be opened.
#[derive(Debug)]
pub struct OpenError {
    /// The spec as it was given.
    pub argument: String,
    /// It was opened for reading, so what is missing cannot be made.
    pub read_only: bool,
    /// What stood in the way.
    pub problem: Problem,
}

/// What stood in the way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// Nothing of that name.
    NotFound {
        /// The name.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel refused to open or make it.
    Refused {
        /// What was tried: "open", "make"…
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A directory, socket or the like.
    NotAFile {
        /// The name.
        path: PathBuf,
    },
    /// A file whose size is no multiple of what it is read in.
    NotMultiple {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// What that must be a multiple of.
        unit: u64,
    },
    /// A file that was to be made, of a size it cannot be made of.
    PartMade {
        /// The file.
        path: PathBuf,
        /// The size it was to have.
        size: u64,
        /// What that must be a multiple of.
        unit: u64,
    },
    /// A file that does not have the size asked for.
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        have: u64,
        /// The size asked for.
        asked: u64,
    },
    /// No room to make the file.
    NoSpace {
        /// The file.
        path: PathBuf,
        /// The size asked for.
        asked: u64,
        /// The kernel's answer.
        errno: Errno,
        /// Bytes the file system has left, where it says.
        free: Option<u64>,
    },
    /// Another process has it.
    Locked {
        /// The file.
        path: PathBuf,
        /// The process, where it could be found.
        pid: Option<u32>,
        /// The name of its program.
        program: Option<String>,
    },
    /// Something that cannot be mapped as a file.
    NotMappable {
        /// The name.
        path: PathBuf,
    },
    /// Memory of a device that is no whole frames.
    PartFrame {
        /// Its file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The kernel gives out no memory of this size.
    NoMemory {
        /// The size asked for.
        asked: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Not enough reserved huge pages of 2 MiB.
    NoHugePages {
        /// Huge pages needed.
        need: u64,
        /// Huge pages free.
        free: u64,
        /// Huge pages there are.
        reserved: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Locked memory beyond `RLIMIT_MEMLOCK`.
    LockedMemory {
        /// Bytes needed.
        need: u64,
        /// Bytes the limit allows.
        limit: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel has no such feature, or has it switched off.
    NoFeature {
        /// The feature.
        what: &'static str,
        /// Where the kernel gets it from.
        from: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The BAR is there and cannot be mapped.
    BarRefused {
        /// The sysfs file.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A function that is bound to VFIO and cannot be had from it.
    Vfio {
        /// The function.
        function: Box<str>,
        /// Its IOMMU group, where it is in one.
        group: Option<u32>,
        /// What was tried, and the kernel's answer.
        source: pageless_sys::Error,
    },
    /// Physical memory that cannot be mapped.
    DevMem {
        /// Its address.
        address: u64,
        /// Bytes.
        size: u64,
        /// The kernel's answer.
        errno: Errno,
    },
    /// No heap of that name.
    NoHeap {
        /// The name.
        name: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A file of no bytes.
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Memory on which there is no BTT, or none that can be used or made.
    Btt {
        /// The file, where the memory is one.
        path: Option<PathBuf>,
        /// Why.
        error: Box<BttError>,
    },
    /// A BTT with other blocks than asked for.
    OtherSector {
        /// Bytes of its blocks.
        have: u32,
        /// Bytes asked for.
        asked: u32,
    },
    /// Memory that failed in another way.
    Memory(pageless_mem::Error),
    /// A file that failed in another way.
    File(pageless_drivers::file::FileError),
}

impl OpenError {
    /// What to do about it, where something can be proposed.
    pub fn remedy(&self) -> Option<String> {
        let argument = &self.argument;
        let path = |p: &PathBuf| quoted(&p.display().to_string());
        match &self.problem {
            Problem::NotFound { path: missing, .. } => Some(if let Some(disk) = holder::btt_of(missing) {
                let disk = path(&disk);
                format!(
                    "the kernel's BTT has the namespace and is {disk}: use that, or take it away (ndctl disable-namespace)"
                )
            } else if argument.starts_with("bar:") {
                "`lspci -D` lists the functions, `lspci -vs ADDRESS` their BARs".into()
            } else if argument.starts_with("dax:") {
                "`daxctl list` shows the nodes; `ndctl create-namespace --mode=devdax` makes one".into()
            } else if self.read_only || file::among_devices(missing) {
                "check the name: `ls` shows what there is".into()
            } else if missing.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
                format!(
                    "make its directory first: mkdir -p {}",
                    path(&missing.parent().map(Into::into).unwrap_or_default())
                )
            } else {
                format!("check the name, or have it made: {argument},size=1G")
            }),
            Problem::Refused { errno, path: p, doing } => match *errno {
                Errno::EACCES | Errno::EPERM if *doing == "make" => {
                    Some(format!("get access to its directory: `ls -ld {}` shows who has it", directory(p)))
                }
                Errno::EACCES | Errno::EPERM => Some(format!("get access: `ls -l {}` shows who has it", path(p))),
                Errno::EROFS => {
                    Some("the file system is read-only: serve it with --read-only, or copy elsewhere".into())
                }
                Errno::EBUSY => {
                    let shown = || format!("it is in use: `lsblk {}` and `fuser -v {}` show by whom", path(p), path(p));
                    Some(holder::of(p).unwrap_or_else(shown))
                }
                Errno::EFBIG => Some("the file system takes no file of this size: give a smaller size=".into()),
                Errno::ETXTBSY => Some("a running program is mapped from it: use another file".into()),
                _ => None,
            },
            Problem::NotAFile { .. } => Some("name a regular file or a block device".into()),
            Problem::NotMultiple { path: p, unit, .. } => {
                Some(format!("pad it with zeroes: truncate -s %{unit} {}", path(p)))
            }
            Problem::PartMade { path: p, size, unit } => {
                let whole = match size.checked_next_multiple_of(*unit) {
                    Some(whole) => format!("have it made larger: size={whole}"),
                    None => "give a smaller size=".into(),
                };
                Some(match argument.starts_with("pmem:") {
                    true => format!("{whole}; or keep the size, in a file that is not mapped: file:{}", p.display()),
                    false => whole,
                })
            }
            Problem::OtherSize { path: p, have, asked } if have < asked => {
                let grow = format!("truncate -s {asked} {}", path(p));
                Some(format!("leave size= out to use it as it is, or make it longer: {grow}"))
            }
            Problem::OtherSize { .. } => Some("leave size= out to use all of it".into()),
            Problem::NoSpace { path: p, .. } => {
                let dir = directory(p);
                Some(format!("make room, or give a smaller size=: `df -h {dir}` and `df -i {dir}` show what is left"))
            }
            Problem::Locked { pid: Some(pid), .. } => Some(format!("stop it first (kill {pid}), or use another image")),
            Problem::Locked { path: p, pid: None, .. } => Some(format!("`sudo fuser -v {}` shows by whom", path(p))),
            Problem::NotMappable { path: p } => {
                Some(format!("a block device is a disk without being mapped: file:{}", p.display()))
            }
            Problem::PartFrame { .. } => Some("name a BAR or device of whole 4 KiB frames: `lspci -vs ADDRESS`".into()),
            Problem::NoMemory { .. } => Some(
                "give a smaller size: `free -h` shows what there is, /proc/sys/vm/overcommit_memory what may be asked"
                    .into(),
            ),
            Problem::NoHugePages { need, free, reserved, .. } => {
                let enough = reserved + need.saturating_sub(*free);
                Some(format!("reserve them: echo {enough} | sudo tee {HUGE_PAGES}/nr_hugepages"))
            }
            Problem::LockedMemory { need, .. } => {
                Some(format!("raise the limit: ulimit -l {} (as root, or by limits.conf)", need.div_ceil(1024)))
            }
            Problem::NoFeature { from, .. } => Some(format!("needs {from}")),
            Problem::BarRefused { errno, .. } => Some(match *errno {
                Errno::EACCES | Errno::EPERM => "mapping a BAR takes root (CAP_SYS_RAWIO), no kernel lockdown, and a \
                     function no driver holds (CONFIG_IO_STRICT_DEVMEM): echo ADDRESS | sudo tee \
                     /sys/bus/pci/devices/ADDRESS/driver/unbind"
                    .into(),
                Errno::EINVAL | Errno::ENODEV => {
                    "only memory BARs can be mapped, not I/O ports: `lspci -vs ADDRESS` says which is which".into()
                }
                _ => "enable the function first: echo 1 | sudo tee /sys/bus/pci/devices/ADDRESS/enable".into(),
            }),
            Problem::Vfio { group: None, .. } => {
                Some("turn the IOMMU on: intel_iommu=on (or amd_iommu=on) on the kernel's command line".into())
            }
            Problem::Vfio { group: Some(group), source, .. } => Some(match source.errno() {
                Errno::EBUSY => format!(
                    "the group is open elsewhere (one program has it, for one BAR): sudo fuser -v /dev/vfio/{group}"
                ),
                Errno::EPERM => format!(
                    "every function of the group must be bound to vfio-pci: ls /sys/kernel/iommu_groups/{group}/devices"
                ),
                Errno::EACCES => format!("get access: `ls -l /dev/vfio/{group}` shows who has it"),
                _ => "load the modules: sudo modprobe -a vfio-pci vfio_iommu_type1".into(),
            }),
            Problem::DevMem { address, size, errno } => Some(match *errno {
                Errno::EPERM => format!(
                    "the kernel uses this memory itself (CONFIG_STRICT_DEVMEM), or is locked down: keep it out at boot, \
                     memmap={}${address:#x} on the kernel's command line (`cat /proc/iomem` lists what lies where)",
                    Exact(*size)
                ),
                Errno::EACCES => "/dev/mem is for root (CAP_SYS_RAWIO)".into(),
                Errno::ENOENT => "needs a kernel with CONFIG_DEVMEM".into(),
                _ => "`cat /proc/iomem` lists what lies where".into(),
            }),
            Problem::NoHeap { .. } => {
                Some("`ls /dev/dma_heap` lists them; the system heap is CONFIG_DMABUF_HEAPS_SYSTEM (Linux 5.6)".into())
            }
            Problem::Empty { path: p } => Some(format!("give it a size: truncate -s 1G {}", path(p))),
            Problem::Btt { path: Some(p), error } => match &**error {
                BttError::Check(CheckError::Find(FindError::None { .. })) => {
                    Some(format!("pageless btt create {} makes one", path(p)))
                }
                BttError::Check(CheckError::Find(FindError::Ambiguous)) => {
                    Some("say which: layout=1.1 or layout=2.0".into())
                }
                BttError::Damaged(_) => Some(format!("pageless btt check {} tells all that is wrong", path(p))),
                _ => None,
            },
            Problem::OtherSector { .. } => Some("leave sector= out to use it as it is".into()),
            Problem::Btt { .. } | Problem::Memory(_) | Problem::File(_) => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NotFound { path, errno } => write!(f, "there is no {}: {errno}", path.display()),
            Problem::Refused { doing, path, errno } => write!(f, "cannot {doing} {}: {errno}", path.display()),
            Problem::NotAFile { path } => write!(f, "{} is neither a file nor a block device", path.display()),
            Problem::NotMultiple { path, size, unit } => {
                write!(f, "the size of {}, {size}, is no multiple of {unit}", path.display())
            }
            Problem::PartMade { path, size, unit } => {
                write!(f, "{} cannot be made of {size} bytes, no multiple of {unit}", path.display())
            }
            Problem::OtherSize { path, have, asked } => {
                let than = if have < asked { "smaller" } else { "larger" };
                let (have, asked) = (exactly(*have), exactly(*asked));
                write!(f, "{} is {have}, {than} than the {asked} asked for", path.display())
            }
            Problem::NoSpace { path, asked, errno, free } => {
                write!(f, "no room to make {} of {}: {errno}", path.display(), exactly(*asked))?;
                free.map_or(Ok(()), |free| write!(f, ", {} are free", Human(free)))
            }
            Problem::Locked { path, pid, program } => {
                write!(f, "{} is in use by ", path.display())?;
                match (pid, program) {
                    (Some(pid), Some(program)) => write!(f, "process {pid} ({program})"),
                    (Some(pid), None) => write!(f, "process {pid}"),
                    (None, _) => f.write_str("a process that is not ours to see"),
                }
            }
            Problem::NotMappable { path } => write!(f, "{} is no regular file, so it cannot be mapped", path.display()),
            Problem::PartFrame { path, size } => {
                write!(f, "{} has {size} bytes, no multiple of 4096", path.display())
            }
            Problem::NoMemory { asked, errno } => write!(f, "no memory of {}: {errno}", exactly(*asked)),
            Problem::NoHugePages { need, free, errno, .. } => {
                write!(f, "needs {need} huge pages of 2 MiB, {free} are free: {errno}")
            }
            Problem::LockedMemory { need, limit, errno } => {
                let (limit, need) = (limit / 1024, need.div_ceil(1024));
                write!(f, "RLIMIT_MEMLOCK is {limit} KiB, {need} KiB needed: {errno}")
            }
            Problem::NoFeature { what, errno, .. } => write!(f, "this kernel has no {what}: {errno}"),
            Problem::BarRefused { path, errno } => write!(f, "cannot map {}: {errno}", path.display()),
            Problem::Vfio { function, group, source } => {
                write!(f, "{function} is bound to VFIO and cannot be had from it")?;
                match group {
                    Some(group) => write!(f, " (IOMMU group {group}): {source}"),
                    None => write!(f, ": it is in no IOMMU group"),
                }
            }
            Problem::DevMem { address, size, errno } => {
                write!(f, "cannot map {} at physical address {address:#x}: {errno}", exactly(*size))
            }
            Problem::NoHeap { name, errno } => write!(f, "there is no dma-buf heap `{name}`: {errno}"),
            Problem::Btt { error, .. } => error.fmt(f),
            Problem::OtherSector { have, asked } => {
                write!(f, "its blocks have {have} bytes, not the {asked} asked for")
            }
            Problem::Memory(error) => error.fmt(f),
            Problem::Empty { path } => write!(f, "{} is empty", path.display()),
            Problem::File(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.argument, self.problem)?;
        match self.remedy() {
            Some(remedy) => write!(f, "\n  help: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Memory(error) => Some(error),
            Problem::File(error) => Some(error),
            Problem::Btt { error, .. } => Some(&**error),
            _ => None,
        }
    }
}

/// A size both exact and readable: `1000 bytes`, `4096 bytes (4K)`.
fn exactly(bytes: u64) -> String {
    let short = Exact(bytes).to_string();
    if short == bytes.to_string() { format!("{bytes} bytes") } else { format!("{bytes} bytes ({short})") }
}

/// The directory a file is in, as a shell takes it.
fn directory(path: &Path) -> String {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => quoted(&dir.display().to_string()),
        _ => ".".into(),
    }
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests;
