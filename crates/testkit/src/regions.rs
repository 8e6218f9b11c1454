// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`TestRegion`]: memory of every kind this host can make.

use crate::require::{kernel, require};
use pageless_mem::{Backing, FileOptions, Memory, Region};
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A kind of memory, with a place for it where it has one.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Anonymous.
    Ram,
    /// An unnamed tmpfs file.
    Memfd,
    /// Huge pages from the administrator's pool.
    Hugetlb,
    /// Memory that the kernel refuses to pin.
    Secret,
    /// A mapped file on tmpfs.
    Tmpfs,
    /// A mapped file on ext4.
    Ext4,
    /// One page that is really `VM_PFNMAP`, where root can have it: 4 KiB, whatever length is asked for. The kernel writes
    /// to the first 1088 bytes of it; [`PFN_MAP_OURS`] are left alone.
    PfnMap,
    /// A dma-buf from the system heap: `VM_PFNMAP` too.
    DmaHeap,
}

/// The bytes of [`Kind::PfnMap`] that the kernel leaves alone, in whole sectors.
pub const PFN_MAP_OURS: Range<u64> = 1536..4096;

impl Kind {
    /// The kinds that can be as long as asked for and that most hosts have.
    pub const ALL: [Kind; 6] = [Kind::Ram, Kind::Memfd, Kind::Hugetlb, Kind::Secret, Kind::Tmpfs, Kind::Ext4];

    /// Memory of this kind, of `len` bytes; `None`, and a line that says why, when this host has none.
    pub fn make(self, memory: &Memory, len: u64) -> Option<TestRegion> {
        let made = self.try_make(memory, len);
        match self {
            Kind::PfnMap => kernel("a perf page that is VM_PFNMAP", "guest/bar", made),
            Kind::DmaHeap => kernel("dma-buf heaps", "guest/dmabuf", made),
            Kind::Secret => kernel("memfd_secret", "guest/secret", made),
            Kind::Hugetlb => kernel("huge pages in its pool", "guest/hugetlb", made),
            _ => require(&format!("{self:?} memory"), made),
        }
    }

    fn try_make(self, memory: &Memory, len: u64) -> Result<TestRegion, String> {
        let file = match self {
            Kind::Tmpfs => Some(TempPath::on("tmpfs")?),
            Kind::Ext4 => Some(TempPath::on("ext4")?),
            _ => None,
        };
        let options = FileOptions { size: Some(len), create: true, read_only: false };
        let backing = match (self, &file) {
            (Kind::Ram, _) => Backing::anon(len),
            (Kind::Memfd, _) => Backing::memfd(len),
            (Kind::Hugetlb, _) => Backing::hugetlb(len),
            (Kind::Secret, _) => Backing::secret(len),
            (Kind::PfnMap, _) => Backing::perf_page(),
            (Kind::DmaHeap, _) => Backing::dma_heap("system", len),
            (Kind::Tmpfs | Kind::Ext4, Some(path)) => Backing::file(path.path(), options),
            (Kind::Tmpfs | Kind::Ext4, None) => return Err("no place for the file".to_owned()),
        };
        let region = backing.and_then(|backing| memory.register(backing)).map_err(|error| error.to_string())?;
        Ok(TestRegion { region, file })
    }
}

/// A region, and the file behind it, which goes when this does.
#[derive(Debug)]
pub struct TestRegion {
    region: Region,
    file: Option<TempPath>,
}

impl TestRegion {
    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The file behind it.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(TempPath::path)
    }

    /// What the file takes on its file system (`st_blocks`), in bytes.
    pub fn allocated(&self) -> Option<u64> {
        self.path().and_then(|path| fs::metadata(path).ok()).map(|metadata| metadata.blocks() * 512)
    }
}

/// A path that nobody else uses; what is there is removed with it.
#[derive(Debug)]
pub struct TempPath(PathBuf);

impl TempPath {
    /// On a file system of this type, wherever this host has one that can be written.
    ///
    /// # Errors
    /// When it has none.
    pub fn on(fs_type: &str) -> Result<TempPath, String> {
        let places = [std::env::temp_dir(), PathBuf::from("/dev/shm"), PathBuf::from("."), PathBuf::from("/var/tmp")];
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let fits =
            |place: &PathBuf| fs::canonicalize(place).is_ok_and(|place| type_of(&mounts, &place) == Some(fs_type));
        let place = places.iter().find(|place| fits(place));
        place.map(|place| TempPath::within(place)).ok_or_else(|| format!("no folder on {fs_type}"))
    }

    /// In this folder.
    pub fn within(folder: &Path) -> TempPath {
        let number = RandomState::new().build_hasher().finish();
        TempPath(folder.join(format!("pageless-test-{}-{number:016x}", std::process::id())))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        // Nothing may ever have been made there.
        let _ = fs::remove_file(&self.0);
    }
}

/// The type of the file system a path is on, from the text of `/proc/self/mounts`.
fn type_of<'m>(mounts: &'m str, path: &Path) -> Option<&'m str> {
    let fields = mounts.lines().map(|line| line.split(' ').skip(1));
    let on = fields.filter_map(|mut fields| Some((Path::new(fields.next()?), fields.next()?)));
    // The innermost mount counts, and of several on one folder the last.
    on.filter(|(mount, _)| path.starts_with(mount)).max_by_key(|(mount, _)| mount.components().count()).map(|(_, t)| t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_says_the_type() {
        let mounts = "a / ext4 rw 0 0\nb /tmp tmpfs rw 0 0\nc /tmp xfs rw 0 0\n";
        assert_eq!(type_of(mounts, Path::new("/tmp/x")), Some("xfs"));
        assert_eq!(type_of(mounts, Path::new("/tmpx")), Some("ext4"));
    }

    #[test]
    fn anonymous_memory_is_always_there_and_files_go_with_their_region() {
        let memory = Memory::new().unwrap();
        let made: Vec<_> = Kind::ALL.iter().filter_map(|kind| kind.make(&memory, 2 << 20)).collect();
        assert!(made.iter().any(|made| made.path().is_none()));
        let paths: Vec<_> = made.iter().filter_map(|made| made.path().map(Path::to_owned)).collect();
        assert!(paths.iter().all(|path| path.exists()));
        drop(made);
        assert!(!paths.iter().any(|path| path.exists()));
    }
}
