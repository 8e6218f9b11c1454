// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files and block devices: opening, sizes, holes, allocation, durability.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom};

use crate::error::{Named, check, check_len};
use crate::{Errno, Error};

/// How to open.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Loads and reads only.
    pub read_only: bool,
    /// Make the file if it is not there.
    pub create: bool,
    /// `O_EXCL`: with `create`, fail if it is there; on a block device, fail if it is in use.
    pub exclusive: bool,
    /// `O_DIRECT`.
    pub direct: bool,
}

/// An open regular file, block or character device.
#[derive(Debug)]
pub struct File(std::fs::File);

/// What kind of thing a path named.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// Something that holds no bytes to serve: a directory, socket, FIFO.
    Other,
}

/// What `O_DIRECT` asks of memory and offsets (`statx(2)`, `STATX_DIOALIGN`).
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct DirectAlign {
    /// Memory alignment; 0 means `O_DIRECT` is not supported.
    pub memory: u32,
    /// Offset and length alignment.
    pub offset: u32,
}

/// What to do with a range of a file (`fallocate(2)`).
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum FallocMode {
    /// Allocate blocks, keeping size and content.
    Allocate,
    /// Deallocate; reads as zeroes.
    PunchHole,
    /// Zeroes, allocated.
    ZeroRange,
    /// Takes the range out: what lies behind it moves up. Whole blocks of the file system, and not up to the end.
    Collapse,
}

impl FallocMode {
    pub(crate) fn flags(self) -> FallocateFlags {
        match self {
            FallocMode::Allocate => FallocateFlags::KEEP_SIZE,
            FallocMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocMode::ZeroRange => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            FallocMode::Collapse => FallocateFlags::COLLAPSE_RANGE,
        }
    }
}

/// A run of a sparse file.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Run {
    /// Data up to this offset.
    DataUntil(u64),
    /// No data up to this offset.
    HoleUntil(u64),
}

impl File {
    /// Closes what is open and puts `/dev/null` in its place: locks and memory behind it are let go, and who still uses
    /// the descriptor cannot meet a file that was opened since.
    pub fn retire(&self) -> Result<(), Error> {
        let null = std::fs::File::open("/dev/null").named("open(/dev/null)")?;
        // SAFETY: both descriptors are open and owned; dup3 touches no memory.
        check("dup3", unsafe { libc::dup3(null.as_raw_fd(), self.0.as_raw_fd(), libc::O_CLOEXEC) }.into()).map(drop)
    }

    /// Opens a path.
    pub fn open(path: &Path, options: OpenOptions) -> Result<File, Error> {
        let mut flags = 0;
        flags |= if options.direct { libc::O_DIRECT } else { 0 };
        flags |= if options.exclusive { libc::O_EXCL } else { 0 };
        let mut open = std::fs::OpenOptions::new();
        open.read(true).write(!options.read_only).custom_flags(flags);
        if options.create {
            open.create(!options.exclusive).create_new(options.exclusive);
        }
        open.open(path).map(File).named("open")
    }

    /// An unnamed file in `directory`, gone when closed (`O_TMPFILE`).
    pub fn unnamed(directory: &Path, direct: bool) -> Result<File, Error> {
        let flags = libc::O_TMPFILE | if direct { libc::O_DIRECT } else { 0 };
        let mut open = std::fs::OpenOptions::new();
        open.read(true).write(true).custom_flags(flags).open(directory).map(File).named("open(O_TMPFILE)")
    }

    /// One more descriptor of the same open file: offset and locks are shared, and locks go with the last of them.
    pub fn duplicate(&self) -> Result<File, Error> {
        self.0.try_clone().map(File).named("fcntl(F_DUPFD_CLOEXEC)")
    }

    /// Bytes: the size of a file or block device.
    pub fn size(&self) -> Result<u64, Error> {
        match self.file_type()? {
            FileType::Block => rustix::fs::seek(&self.0, SeekFrom::End(0)).named("lseek(SEEK_END)"),
            _ => Ok(self.0.metadata().named("fstat")?.len()),
        }
    }

    /// Bytes in a page of the file: what a mapping of it is made of.
    pub fn page_size(&self) -> u64 {
        let huge = |stat: &rustix::fs::StatFs| FileSystem(stat.f_type).is_hugetlbfs();
        let stat = rustix::fs::fstatfs(&self.0).ok().filter(huge);
        stat.and_then(|stat| u64::try_from(stat.f_bsize).ok()).unwrap_or(4096)
    }

    /// Device and inode numbers, the identity of a file in this boot.
    pub fn identity(&self) -> Result<(u64, u64), Error> {
        let metadata = self.0.metadata().named("fstat")?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// The number of the device that it is, or for a regular file lives on.
    pub fn device(&self) -> Result<u64, Error> {
        let metadata = self.0.metadata().named("fstat")?;
        Ok(if metadata.is_file() { metadata.dev() } else { metadata.rdev() })
    }

    /// What the path named.
    pub fn file_type(&self) -> Result<FileType, Error> {
        let kind = self.0.metadata().named("fstat")?.file_type();
        Ok(match () {
            () if kind.is_file() => FileType::Regular,
            () if kind.is_block_device() => FileType::Block,
            () if kind.is_char_device() => FileType::Character,
            () => FileType::Other,
        })
    }

    /// Sets the size of a regular file.
    pub fn truncate(&self, size: u64) -> Result<(), Error> {
        self.0.set_len(size).named("ftruncate")
    }

    /// What `O_DIRECT` asks for, where the kernel says (6.1 and later); `None` where it does not.
    pub fn direct_align(&self) -> Option<DirectAlign> {
        let mask = rustix::fs::StatxFlags::DIOALIGN;
        let stat = rustix::fs::statx(&self.0, "", rustix::fs::AtFlags::EMPTY_PATH, mask).ok()?;
        let known = stat.stx_mask & mask.bits() != 0;
        known.then_some(DirectAlign { memory: stat.stx_dio_mem_align, offset: stat.stx_dio_offset_align })
    }

    /// Whether an asynchronous write with `RWF_DSYNC` is known to be durable when it completes: block devices, and the
    /// file systems that were looked at. FUSE, for one, ignores the flag on that path.
    pub fn honours_dsync(&self) -> bool {
        const KNOWN: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010]; // ext, xfs, btrfs, f2fs
        self.file_type() == Ok(FileType::Block)
            || rustix::fs::fstatfs(&self.0).is_ok_and(|stat| KNOWN.contains(&stat.f_type))
    }

    /// Whether the file lives in memory (tmpfs, ramfs): such files take `O_DIRECT` and copy through the page cache.
    pub fn memory_fs(&self) -> bool {
        self.file_system().lives_in_memory()
    }

    /// Which file system the file lives on.
    pub fn file_system(&self) -> FileSystem {
        FileSystem(rustix::fs::fstatfs(&self.0).map_or(0, |stat| stat.f_type))
    }

    /// Whether the file is used without a page cache now (`STATX_ATTR_DAX`).
    pub fn is_dax(&self) -> bool {
        const STATX_ATTR_DAX: u64 = 0x20_0000;
        let stat = rustix::fs::statx(&self.0, "", rustix::fs::AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::TYPE);
        stat.is_ok_and(|stat| stat.stx_attributes.bits() & STATX_ATTR_DAX != 0)
    }

    /// Allocates, punches or zeroes a range.
    pub fn fallocate(&self, mode: FallocMode, offset: u64, len: u64) -> Result<(), Error> {
        rustix::fs::fallocate(&self.0, mode.flags(), offset, len).named("fallocate")
    }

    /// Makes everything written durable, with the metadata needed to read it back.
    pub fn sync_data(&self) -> Result<(), Error> {
        rustix::fs::fdatasync(&self.0).named("fdatasync")
    }

    /// The run of data or hole at `offset`, ending at `end` at the latest (`SEEK_DATA`, `SEEK_HOLE`).
    pub fn run_at(&self, offset: u64, end: u64) -> Result<Run, Error> {
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Err(rustix::io::Errno::NXIO) => Ok(Run::HoleUntil(end)),
            Err(errno) => Err(errno).named("lseek(SEEK_DATA)"),
            Ok(data) if data > offset => Ok(Run::HoleUntil(data.min(end))),
            Ok(_) => {
                let hole = rustix::fs::seek(&self.0, SeekFrom::Hole(offset)).named("lseek(SEEK_HOLE)")?;
                Ok(Run::DataUntil(hole.max(offset + 1).min(end)))
            }
        }
    }

    /// Reads into private memory; short only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.0.read_at(buf, offset).named("pread")
    }

    /// Writes from private memory.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize, Error> {
        self.0.write_at(buf, offset).named("pwrite")
    }

    /// Writes from an address; used to try whether the kernel takes it.
    ///
    /// # Safety
    /// The run is mapped for the whole call (its pages may fault: the kernel answers `EFAULT`).
    pub unsafe fn write_from(&self, run: crate::socket::IoVec, offset: u64) -> Result<usize, Error> {
        let offset = i64::try_from(offset).map_err(|_| Error::TooLarge { call: "pwrite", value: offset })?;
        // SAFETY: the caller vouches for the run; the kernel only reads it.
        let written = unsafe { libc::pwrite(self.0.as_raw_fd(), run.addr as *const _, run.len, offset) };
        check_len("pwrite", written)
    }

    /// Reads to an address; used to try whether the kernel takes it.
    ///
    /// # Safety
    /// The run is mapped for the whole call (its pages may fault: the kernel answers `EFAULT`), and no reference to its
    /// bytes exists.
    pub unsafe fn read_into(&self, run: crate::socket::IoVec, offset: u64) -> Result<usize, Error> {
        let offset = i64::try_from(offset).map_err(|_| Error::TooLarge { call: "pread", value: offset })?;
        // SAFETY: the caller vouches for the run.
        let read = unsafe { libc::pread(self.0.as_raw_fd(), run.addr as *mut _, run.len, offset) };
        check_len("pread", read)
    }
}

/// A file system by its magic number (statfs(2)); shown by name where we know one.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct FileSystem(i64);

impl FileSystem {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    const HUGETLBFS: i64 = 0x9584_58f6;
    const SECRETMEM: i64 = 0x5345_434d;
    const DMA_BUF: i64 = 0x444d_4142;

    /// Whether what it holds is lost with power: tmpfs, ramfs.
    pub fn lives_in_memory(self) -> bool {
        matches!(self.0, FileSystem::TMPFS | FileSystem::RAMFS)
    }

    /// Whether it is memory on huge pages, of which mappings are whole.
    pub fn is_hugetlbfs(self) -> bool {
        self.0 == FileSystem::HUGETLBFS
    }

    /// Whether it is secret memory (memfd_secret(2)).
    pub fn is_secret_memory(self) -> bool {
        self.0 == FileSystem::SECRETMEM
    }

    /// Whether it is no file but a dma-buf.
    pub fn is_dma_buf(self) -> bool {
        self.0 == FileSystem::DMA_BUF
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            FileSystem::TMPFS => "tmpfs",
            FileSystem::RAMFS => "ramfs",
            FileSystem::HUGETLBFS => "hugetlbfs",
            FileSystem::SECRETMEM => "secretmem",
            FileSystem::DMA_BUF => "dma-buf",
            0xef53 => "ext4", // and ext2 and ext3, which share its number
            0x5846_5342 => "xfs",
            0x9123_683e => "btrfs",
            0xf2f5_2010 => "f2fs",
            0x794c_7630 => "overlayfs",
            0x6969 => "nfs",
            0x6573_5546 => "fuse",
            0x2fc1_2fc1 => "zfs",
            0x4d44 => "vfat",
            magic => return write!(f, "file system {magic:#x}"),
        })
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<File> for OwnedFd {
    fn from(file: File) -> OwnedFd {
        file.0.into()
    }
}

impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> File {
        File(fd.into())
    }
}

/// Free bytes of the file system that holds `path`.
pub fn free_space(path: &Path) -> Result<u64, Error> {
    let call = "statvfs";
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Call { call, errno: Errno::EINVAL })?;
    let stat = rustix::fs::statvfs(&name).named(call)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
