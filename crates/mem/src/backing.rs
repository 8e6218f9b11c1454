// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a region is made of: the mapping, the descriptor behind it, and what they are good for.

#[cfg(feature = "pmem-io")]
mod lent;
#[cfg(feature = "pmem-io")]
mod page_less;
mod part;
#[cfg(feature = "pmem-io")]
mod shared;
#[cfg(feature = "testing")]
mod testing;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use pageless_sys::cpu::{self, WriteBack};
use pageless_sys::file::{File, FileType, OpenOptions};
use pageless_sys::lock::{self, Lock};
use pageless_sys::mmap::{Mapping, Protection, Reserved};
use pageless_sys::{Errno, memfd};

#[cfg(feature = "pmem-io")]
use crate::device::Device;
use crate::medium::Medium;
use crate::persist::{Durability, FlushDomain, Mapped, PersistenceDomain, Reason, Stores};
use crate::pfn::FRAME_SIZE;
use crate::region::MemKind;
use crate::{Error, extents::Sparse};

pub use part::FilePart;

const HUGE: u64 = 2 << 20;

/// Memory made and mapped, ready to be registered.
#[derive(Debug)]
pub struct Backing {
    kind: MemKind,
    len: u64,
    writable: bool,
    durability: Durability,
    reason: Reason,
    /// What lines are written back with, where that is what stores need.
    lines: WriteBack,
    /// The persistent memory device under the mapping.
    medium: Option<Medium>,
    sparse: Sparse,
    label: &'static str,
    path: Option<PathBuf>,
    store: Store,
    /// The byte of the file behind that the first byte of the region is.
    base: u64,
    /// Bytes that are mapped and have frames: `len` of them, and those that [`Region::extend`](crate::Region::extend) opens.
    reserved: u64,
    #[cfg(feature = "pmem-io")]
    device: Option<Device>,
    /// Keeps mapped what was [lent](lent).
    #[cfg(feature = "pmem-io")]
    #[expect(dead_code, reason = "it is there to be dropped")]
    lender: Option<std::sync::Arc<Mapping>>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum Store {
    /// Private memory without a descriptor.
    Anonymous(Mapping),
    /// A mapping of a descriptor.
    File {
        /// The mapping.
        mapping: Mapping,
        /// What is mapped.
        file: File,
    },
    /// Addresses that somebody else mapped.
    #[cfg(feature = "pmem-io")]
    Foreign(usize),
}

/// How to open a file to be mapped.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Bytes: the size of a file that is created, or what an existing one must at least hold. `None`: all of it.
    pub size: Option<u64>,
    /// Make the file, sparse, if it is not there; needs `size`.
    pub create: bool,
    /// Map for reading and take a reader's lock.
    pub read_only: bool,
}

impl Backing {
    /// Private anonymous memory on huge pages where the kernel gives them; nothing is allocated yet.
    pub fn anon(len: u64) -> Result<Backing, Error> {
        let mapping = Mapping::anonymous(frames_of("size", len)?)?;
        // Refused where transparent huge pages are off; 4 KiB pages serve as well, only slower.
        let _ = mapping.advise_huge();
        mapping.dont_fork()?;
        Ok(Backing::new(MemKind::Anon, "ram", len, Store::Anonymous(mapping)).sparse(Sparse::Pagemap))
    }

    /// An unnamed tmpfs file.
    pub fn memfd(len: u64) -> Result<Backing, Error> {
        let file = memfd::memfd(frames_of("size", len)?)?;
        Ok(Backing::new(MemKind::Anon, "memfd", len, Store::map(file, len)?).sparse(Sparse::Seek))
    }

    /// Memory on 2 MiB huge pages from the pool of the administrator.
    pub fn hugetlb(len: u64) -> Result<Backing, Error> {
        let file = memfd::hugetlb(multiple("size", len, HUGE)?)?;
        Ok(Backing::new(MemKind::Anon, "hugetlb", len, Store::map(file, len)?).sparse(Sparse::Pagemap))
    }

    /// A mapped file: `MAP_SYNC` where the file system is DAX on persistent memory, else its page cache. Takes an
    /// open-file-description lock on the whole file first.
    pub fn file(path: &Path, options: FileOptions) -> Result<Backing, Error> {
        let at = |source| Error::Path { path: path.to_owned(), source };
        let exists = path.exists();
        let create = options.create && !exists && options.size.is_some();
        options.size.map_or(Ok(0), |size| frames_of("size", size))?;
        // Exclusive, so that a file which somebody makes meanwhile is not taken for ours.
        let read_only = options.read_only && exists;
        let open = OpenOptions { read_only, create, exclusive: create, ..OpenOptions::default() };
        let file = File::open(path, open).map_err(at)?;
        if file.file_type().map_err(at)? != FileType::Regular {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        lock_file(&file, path, options.read_only)?;
        if create && let Some(size) = options.size {
            file.truncate(size).map_err(at).inspect_err(|_| drop(std::fs::remove_file(path)))?;
        }
        let actual = file.size().map_err(at)?;
        let len = options.size.unwrap_or(actual);
        if actual < len {
            return Err(Error::TooSmall { path: path.to_owned(), actual, wanted: len });
        }
        frames_of("size", len)?;
        Backing::mapped(file, path, FilePart { offset: 0, len, reserve: len, read_only: options.read_only })
    }

    fn new(kind: MemKind, label: &'static str, len: u64, store: Store) -> Backing {
        Backing {
            kind,
            len,
            writable: true,
            durability: Durability::Volatile,
            reason: Reason::Anonymous,
            // Every processor has it.
            lines: WriteBack::Clflush,
            medium: None,
            sparse: Sparse::Dense,
            label,
            path: None,
            store,
            base: 0,
            reserved: len,
            #[cfg(feature = "pmem-io")]
            device: None,
            #[cfg(feature = "pmem-io")]
            lender: None,
        }
    }

    fn sparse(self, sparse: Sparse) -> Backing {
        Backing { sparse, ..self }
    }

    pub(crate) fn kind(&self) -> MemKind {
        self.kind
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that have frames.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Where byte `offset` of the region is in the file behind it.
    pub(crate) fn in_file(&self, offset: u64) -> u64 {
        self.base.saturating_add(offset)
    }

    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    pub(crate) fn flush_domain(&self) -> FlushDomain {
        FlushDomain { durability: self.durability, reason: self.reason }
    }

    /// What becomes of what copies store.
    pub(crate) fn stores(&self) -> Stores {
        match self.durability {
            Durability::Clwb => Stores::WrittenBack(self.lines),
            Durability::Fence => Stores::Streaming,
            Durability::Volatile | Durability::Msync => Stores::Cached,
        }
    }

    /// What lines are written back with.
    #[inline]
    pub(crate) fn lines(&self) -> WriteBack {
        self.lines
    }

    /// Whether it is a file with data and holes that is mapped from where it lies: a memfd, a file of tmpfs, a DAX file.
    pub(crate) fn lies_in_memory(&self) -> bool {
        let cached = matches!(self.reason, Reason::PageCache(_) | Reason::BlockDevice | Reason::DaxWithoutSync(_));
        self.sparse == Sparse::Seek && !cached
    }

    /// Whether the mapping is of a file, which lies on its device as the file system likes.
    pub(crate) fn on_file_system(&self) -> bool {
        !matches!(self.reason, Reason::BlockDevice | Reason::Persistent { mapped: Mapped::DevDax, .. })
    }

    /// The persistent memory device under the mapping.
    pub(crate) fn medium(&self) -> Option<&Medium> {
        self.medium.as_ref()
    }

    /// The UUID of the namespace that this is all of; not of one that it is a file in.
    pub(crate) fn namespace_uuid(&self) -> Option<[u8; 16]> {
        let whole = self.medium.as_ref().filter(|_| self.reason == Reason::BlockDevice);
        whole.and_then(Medium::namespace_uuid)
    }

    /// Takes it that this makes stores durable, whatever the kernel says: to treat ordinary memory as persistent, or
    /// where the caches are known to be covered and firmware does not say so. Wrong assumptions lose data.
    #[must_use]
    pub fn assuming(self, durability: Durability) -> Backing {
        Backing { durability, reason: Reason::Assumed, lines: cpu::write_back(), ..self }
    }

    /// Persistent memory, mapped without a page cache.
    fn persistent(self, mapped: Mapped, medium: Option<Medium>) -> Backing {
        let domain = medium.as_ref().map_or(PersistenceDomain::NoRegion, Medium::persistence_domain);
        let lines = cpu::write_back();
        let reason = Reason::Persistent { mapped, domain, write_back: lines };
        Backing { durability: domain.durability(), reason, lines, medium, ..self }
    }

    fn because(self, reason: Reason) -> Backing {
        Backing { reason, ..self }
    }

    pub(crate) fn extent_source(&self) -> Sparse {
        self.sparse
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn addr(&self) -> usize {
        match &self.store {
            Store::Anonymous(mapping) | Store::File { mapping, .. } => mapping.addr(),
            #[cfg(feature = "pmem-io")]
            Store::Foreign(addr) => *addr,
        }
    }

    /// The device whose memory it is, where windows on it need more than an address.
    #[cfg(feature = "pmem-io")]
    pub(crate) fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// The file behind the mapping.
    pub(crate) fn file_behind(&self) -> Option<&File> {
        match &self.store {
            Store::File { file, .. } => Some(file),
            _ => None,
        }
    }

    /// Whether frames can be given back: private memory, and files with holes.
    pub(crate) fn punchable(&self) -> bool {
        matches!(self.store, Store::Anonymous(_)) || self.sparse == Sparse::Seek
    }

    /// Whether a fault on a store may be a hole that can be filled.
    pub(crate) fn fillable(&self) -> bool {
        self.sparse == Sparse::Seek && self.writable
    }

    /// Writes the pages of `[offset, offset + len)` to the medium.
    pub(crate) fn sync_range(&self, offset: usize, len: usize) -> Result<(), Errno> {
        #[cfg(feature = "testing")]
        crate::testing::record::sync_begins(self.addr() + offset, len);
        let result = match &self.store {
            Store::File { mapping, .. } => mapping.sync(offset, len).map_err(|error| error.errno()),
            _ => Ok(()),
        };
        #[cfg(feature = "testing")]
        crate::testing::record::sync_ends(self.addr() + offset, result.is_ok());
        result
    }

    /// Writes everything to the medium, whoever stored it.
    pub(crate) fn sync_all(&self) -> Result<(), Errno> {
        #[cfg(feature = "testing")]
        crate::testing::record::sync_begins(self.addr(), usize::try_from(self.len).unwrap_or(usize::MAX));
        let result = self.file_behind().map_or(Ok(()), |file| file.sync_data().map_err(|error| error.errno()));
        #[cfg(feature = "testing")]
        crate::testing::record::sync_ends(self.addr(), result.is_ok());
        result
    }

    /// Gives up the memory from byte `from` on; all of it, and the file, from 0 on. Nobody may have an address of it.
    pub(crate) fn seal(&self, from: u64) -> Result<(), pageless_sys::Error> {
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        match &self.store {
            Store::Anonymous(mapping) => mapping.seal(start),
            Store::File { mapping, file } => {
                mapping.seal(start)?;
                #[cfg(feature = "pmem-io")]
                self.device.iter().filter(|_| from == 0).for_each(Device::retire);
                if from == 0 { file.retire() } else { Ok(()) }
            }
            #[cfg(feature = "pmem-io")]
            Store::Foreign(_) => Ok(()), // its owner's, who learns that it is free
        }
    }

    /// The addresses of a backing that was sealed whole.
    pub(crate) fn bury(&self) -> Option<Reserved> {
        match &self.store {
            Store::Anonymous(mapping) | Store::File { mapping, .. } => mapping.bury(),
            #[cfg(feature = "pmem-io")]
            Store::Foreign(_) => None,
        }
    }

    pub(crate) fn metadata_bytes(&self) -> usize {
        let medium = self.medium.as_ref().map_or(0, Medium::metadata_bytes);
        medium + self.path.as_ref().map_or(0, |path| path.as_os_str().len())
    }

    /// `ram 16 MiB`, `pmem /mnt/x 1 GiB`.
    pub(crate) fn describe(&self) -> String {
        let path = self.path.as_ref().map_or_else(String::new, |path| format!(" {}", path.display()));
        format!("{}{path} {}", self.label, size(self.len))
    }
}

impl Store {
    fn map(file: OwnedFd, len: u64) -> Result<Store, Error> {
        let file = File::from(file);
        let mapping = Mapping::shared(file.as_fd(), 0, len, Protection::ReadWrite)?;
        mapping.dont_fork()?;
        Ok(Store::File { mapping, file })
    }
}

/// Takes the lock that qemu's tools look for, or says who has it.
fn lock_file(file: &File, path: &Path, read_only: bool) -> Result<(), Error> {
    let lock = if read_only { Lock::Shared } else { Lock::Exclusive };
    lock::lock_image(file.as_fd(), lock).map_err(|source| match source.errno() {
        Errno::EAGAIN | Errno::EACCES => {
            let pid = file.identity().ok().and_then(lock::holder);
            Error::Locked { path: path.to_owned(), pid }
        }
        _ => Error::Path { path: path.to_owned(), source },
    })
}

fn frames_of(what: &'static str, len: u64) -> Result<u64, Error> {
    multiple(what, len, FRAME_SIZE)
}

fn multiple(what: &'static str, value: u64, align: u64) -> Result<u64, Error> {
    match value {
        0 if what != "address" => Err(Error::Empty),
        _ if !value.is_multiple_of(align) => Err(Error::Misaligned { what, value, align }),
        _ => Ok(value),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes;
    while unit + 1 < UNITS.len() && value >= 1024 && value.is_multiple_of(1024) {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}
