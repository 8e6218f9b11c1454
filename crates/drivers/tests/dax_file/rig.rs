// SPDX-License-Identifier: MIT OR Apache-2.0
//! Places for files, bytes in frames.
#![allow(dead_code, reason = "each test binary uses some of it")]

use pageless_block::ScatterList;
use pageless_drivers::dax_file::{DaxFile, DaxOptions};
use pageless_mem::{Access, Fault, Memory};
use pageless_sys::file::{File, OpenOptions};
use pageless_testkit::regions::TempPath;
use pageless_testkit::require;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) const KIB: usize = 1024;

/// Until something that must happen.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// For what is known not to.
pub(crate) const SHORT: Duration = Duration::from_millis(2);
/// Long enough that what does not wait would be over; nothing is asserted about it.
pub(crate) const SOON: Duration = Duration::from_millis(5);

pub(crate) type Bytes = Vec<u8>;

/// A folder of this file system, unless all tests are told one: a guest's DAX mount.
const FOLDER: &str = "PAGELESS_DAX_DIR";
/// A folder on a disk that does `O_DIRECT`, for the files that are read into those.
const OTHER: &str = "PAGELESS_DISK_DIR";

/// A file system to have files on.
#[derive(Debug)]
pub(crate) struct Place {
    kind: String,
    folder: Option<PathBuf>,
}

/// A file that goes when this does.
#[derive(Debug)]
pub(crate) struct Scratch(TempPath);

impl Deref for Scratch {
    type Target = TempPath;

    fn deref(&self) -> &TempPath {
        &self.0
    }
}

impl Scratch {
    /// What it takes on its file system.
    pub(crate) fn allocated(&self) -> u64 {
        fs::metadata(self.path()).unwrap().blocks() * 512
    }
}

/// Where to try what must hold everywhere.
pub(crate) fn places() -> Vec<Place> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return vec![Place { kind: "told".to_owned(), folder: Some(folder.into()) }];
    }
    let kinds = ["ext4", "tmpfs"].map(str::to_owned);
    let found = kinds.into_iter().filter(|kind| require(&format!("a folder on {kind}"), TempPath::on(kind)).is_some());
    let mut places: Vec<_> = found.map(|kind| Place { kind, folder: None }).collect();
    if places.is_empty() {
        places.push(on_disk());
    }
    places
}

/// Where the other file of a transfer is: beside the test binary, where `O_DIRECT` works if anywhere, or in the folder that is
/// told for it, or for all.
pub(crate) fn on_disk() -> Place {
    let folder = std::env::var_os(OTHER).or_else(|| std::env::var_os(FOLDER)).map(PathBuf::from);
    let folder = folder.or_else(|| std::env::current_exe().unwrap().parent().map(Path::to_owned));
    Place { kind: "disk".to_owned(), folder }
}

impl Place {
    pub(crate) fn name(&self) -> &str {
        &self.kind
    }

    pub(crate) fn path(&self) -> Scratch {
        Scratch(match &self.folder {
            Some(folder) => TempPath::within(folder),
            None => TempPath::on(&self.kind).unwrap(),
        })
    }

    /// A file with these bytes, and the bytes.
    pub(crate) fn file(&self, bytes: &[u8]) -> (Scratch, Bytes) {
        let path = self.path();
        fs::write(path.path(), bytes).unwrap();
        (path, bytes.to_vec())
    }

    pub(crate) fn is_dax(&self) -> bool {
        self.kind == "told"
    }

    pub(crate) fn has_no_collapse(&self) -> bool {
        self.kind == "tmpfs"
    }

    /// Whether the kernel does `O_DIRECT` on its files.
    pub(crate) fn is_direct(&self) -> bool {
        let (path, _) = self.file(&[0; 4096]);
        let direct = File::open(path.path(), OpenOptions { direct: true, ..OpenOptions::default() });
        direct.is_ok_and(|file| !file.memory_fs() && !self.is_dax())
    }
}

pub(crate) fn file(memory: &Memory, path: &TempPath) -> DaxFile {
    DaxFile::open(memory, path.path(), DaxOptions::default()).unwrap()
}

/// Bytes that differ from block to block and from byte to byte, and are never 0.
pub(crate) fn pattern(len: usize, salt: usize) -> Bytes {
    (0..len).map(|at| ((at ^ (at >> 9).wrapping_mul(31)).wrapping_add(salt) % 255 + 1).to_le_bytes()[0]).collect()
}

pub(crate) fn load(memory: &Memory, frames: &ScatterList) -> Result<Bytes, Fault> {
    let mut reader = memory.reader();
    let mut all = Vec::new();
    for range in frames {
        let start = all.len();
        all.resize(start + range.len() as usize, 0);
        let online = reader.online();
        let window = online.kmap(range, Access::Read)?;
        window.reader().read(&mut all[start..]).map_err(|error| error.fault)?;
    }
    Ok(all)
}

pub(crate) fn store(memory: &Memory, frames: &ScatterList, mut bytes: &[u8]) {
    let mut reader = memory.reader();
    for range in frames {
        let online = reader.online();
        let window = online.kmap(range, Access::Write).unwrap();
        let (now, later) = bytes.split_at(bytes.len().min(range.len() as usize));
        window.writer().write(now).unwrap();
        bytes = later;
    }
}

/// Fails with the first byte that differs.
#[track_caller]
pub(crate) fn same(got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len(), "bytes");
    if let Some(at) = got.iter().zip(expected).position(|(got, expected)| got != expected) {
        panic!("byte {at} is {:#x}, not {:#x}", got[at], expected[at]);
    }
}

/// Makes a file immutable, or mutable again; whether that worked.
pub(crate) fn immutable(path: &Path, set: bool) -> bool {
    let output = Command::new("chattr").arg(if set { "+i" } else { "-i" }).arg(path).output();
    let done = output.is_ok_and(|output| output.status.success());
    require("permission to make a file immutable (chattr)", done.then_some(()).ok_or("refused")).is_some()
}

/// A small file system in memory.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(crate) fn mount(size: &str) -> Option<Tmpfs> {
        let at = std::env::temp_dir().join(format!("pageless-dax-{}-{size}", std::process::id()));
        fs::create_dir(&at).unwrap();
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).output();
        let mounted = output.is_ok_and(|output| output.status.success());
        if !mounted {
            let _ = fs::remove_dir(&at);
        }
        require("permission to mount a tmpfs", mounted.then_some(Tmpfs(at)).ok_or("refused"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        let _ = fs::remove_dir(&self.0);
    }
}

/// Whether frames can be the buffer of direct I/O as they are. A block that lies across two parts of a file is not: before
/// Linux 6.18 each part of a vector must be aligned by itself.
pub(crate) fn aligned(frames: &ScatterList) -> bool {
    frames.iter().all(|range| (range.byte_address() | u64::from(range.len())).is_multiple_of(512))
}
