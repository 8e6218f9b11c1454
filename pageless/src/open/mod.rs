// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a spec to memory or a disk.
//!
//! ```no_run
//! use pageless::open::{Options, open};
//!
//! let memory = pageless::mem::Memory::new()?;
//! let disk = open(&memory, &"file:/data/disk.img".parse()?, Options { read_only: true, ..Options::default() })?;
//! println!("{} bytes", disk.device.capacity());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Whatever goes wrong says which argument, why, and what to do about it: [`OpenError`].

mod btt;
mod error;
mod file;
mod holder;
mod medium;
mod memory;

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use pageless_block::BlockDevice;
use pageless_drivers::btt::Trouble;
use pageless_drivers::file::{FileDisk, FileDiskOptions};
use pageless_drivers::{NullDisk, PmemDisk, RamDisk};
use pageless_mem::persist::Durability;
use pageless_mem::{Memory, Region};
use pageless_sys::file::{File, OpenOptions};

use crate::spec::{DeviceSpec, MemorySpec, Spec};

pub use self::error::{OpenError, Problem};
pub use self::file::Made;
pub use self::medium::{make_medium, open_medium};

/// What a disk without memory is addressed in, at the least.
const SECTOR: u64 = 512;

/// How to open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// For reading only; others may read at the same time. What is not there is not made.
    pub read_only: bool,
    /// A file that is not there and whose spec gives no size is made with this one.
    pub size_if_made: Option<u64>,
}

/// A spec, opened.
#[derive(Debug)]
pub struct Opened {
    /// The spec, as messages show it.
    pub name: String,
    /// The disk. Any memory is one.
    pub device: Box<dyn BlockDevice>,
    /// The memory, where the spec names memory.
    pub region: Option<Region>,
    /// The memory that the disk lies in, where it does.
    pub medium: Option<Region>,
    /// The file that was made for it. Dropping this removes the file, unless it is [kept](Made::keep).
    pub made: Option<Made>,
    /// Nothing was ever stored in it: all of it reads as zeroes.
    pub fresh: bool,
    /// What making, mapping and registering the memory took; nothing for what is only a disk.
    pub registering: Duration,
    /// What the user should know before using it.
    pub notes: Vec<String>,
    /// What is found wrong while it is used, where that is told.
    pub troubles: Option<Receiver<Trouble>>,
}

/// Opens what a spec names.
///
/// # Errors
/// [`OpenError`] names the spec, the cause and a remedy. What was made on the way is gone again.
pub fn open(memory: &Memory, spec: &Spec, options: Options) -> Result<Opened, OpenError> {
    let name = spec.to_string();
    let opened = match spec {
        Spec::Memory(wanted) => open_memory(memory, wanted, options, &name),
        Spec::Device(DeviceSpec::Btt(wanted)) => btt::open(memory, wanted, options, &name),
        Spec::Device(DeviceSpec::Null(size)) => {
            Ok(only_a_disk(&name, Box::new(NullDisk::new(memory, *size)), None, true))
        }
        Spec::Device(DeviceSpec::File { path, size }) => open_file(memory, path, *size, options, &name),
    };
    opened.map_err(|problem| OpenError { argument: name, read_only: options.read_only, problem })
}

fn open_memory(memory: &Memory, spec: &MemorySpec, options: Options, name: &str) -> Result<Opened, Problem> {
    let made = memory::prepare(spec, options)?;
    let began = Instant::now();
    let region = memory.register(memory::backing(spec, options)?).map_err(Problem::Memory)?;
    let registering = began.elapsed();
    let device: Box<dyn BlockDevice> = match spec {
        MemorySpec::Pmem { .. } | MemorySpec::Dax(_) => Box::new(PmemDisk::new(memory, region.clone(), name)),
        _ => Box::new(RamDisk::new(memory, region.clone(), name)),
    };
    let fresh = match spec {
        MemorySpec::Pmem { .. } => made.is_some(),
        MemorySpec::Dax(_) | MemorySpec::Bar(_) | MemorySpec::DevMem { .. } => false,
        _ => true,
    };
    let notes = page_cache_note(spec, &region).into_iter().collect();
    Ok(Opened {
        medium: Some(region.clone()),
        region: Some(region),
        registering,
        notes,
        ..only_a_disk(name, device, made, fresh)
    })
}

fn open_file(memory: &Memory, path: &Path, size: Option<u64>, options: Options, name: &str) -> Result<Opened, Problem> {
    let made = file::prepare(path, size, options, SECTOR)?;
    let how = FileDiskOptions { read_only: options.read_only, ..FileDiskOptions::default() };
    let disk = FileDisk::open(memory, path, how).map_err(|error| file::unusable(error, made.is_some()))?;
    // A block device says how large it is only now.
    file::fits(path, disk.capacity(), size, SECTOR)?;
    let fresh = made.is_some();
    Ok(only_a_disk(name, Box::new(disk), made, fresh))
}

/// What has no memory that others could use.
fn only_a_disk(name: &str, device: Box<dyn BlockDevice>, made: Option<Made>, fresh: bool) -> Opened {
    Opened {
        name: name.into(),
        device,
        region: None,
        medium: None,
        made,
        fresh,
        registering: Duration::ZERO,
        notes: Vec::new(),
        troubles: None,
    }
}

/// What a file mapped through the page cache means for whoever serves it.
fn page_cache_note(spec: &MemorySpec, region: &Region) -> Option<String> {
    let MemorySpec::Pmem { path, .. } = spec else { return None };
    let cached = region.durability() == Durability::Msync && !on_memory(path);
    cached.then(|| PAGE_CACHE.to_owned())
}

const PAGE_CACHE: &str = "page cache: cold reads block the worker; FLUSH is msync; use file: for a plain disk image";

/// Whether a file lives on tmpfs or the like, where its pages are all there is.
fn on_memory(path: &Path) -> bool {
    let read = OpenOptions { read_only: true, ..OpenOptions::default() };
    File::open(path, read).is_ok_and(|file| file.memory_fs())
}

/// The program a process runs, for messages.
fn program(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
