// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FilePart`]: some of a file as a region, for an owner that has many of one file.

use std::os::fd::AsFd;
use std::path::Path;

use pageless_sys::file::{File, FileType};
use pageless_sys::mmap::{Mapping, Protection};

use super::{Backing, Store, multiple};
use crate::Error;
use crate::extents::Sparse;
use crate::medium::{Medium, SYS};
use crate::persist::{Durability, Mapped, Reason};
use crate::pfn::FRAME_SIZE;
use crate::region::MemKind;

/// Which bytes of a file.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The first, a multiple of the frame size.
    pub offset: u64,
    /// How many; any number but 0.
    pub len: u64,
    /// How many are mapped and have frames, at least `len`: [`Region::extend`](crate::Region::extend) opens the others when the file has them.
    pub reserve: u64,
    /// Map for reading.
    pub read_only: bool,
}

impl Backing {
    /// Maps a part of a file that the caller has opened, and locked if it means to. The lock lives with the region too,
    /// until all of it was revoked or cut off.
    ///
    /// # Errors
    /// What the kernel refuses, with the path; [`Error::Misaligned`], [`Error::Empty`].
    pub fn part(file: &File, path: &Path, part: FilePart) -> Result<Backing, Error> {
        multiple("address", part.offset, FRAME_SIZE)?;
        Backing::mapped(file.duplicate()?, path, part)
    }

    /// `MAP_SYNC` where the file system is DAX on persistent memory, else its page cache.
    pub(super) fn mapped(file: File, path: &Path, part: FilePart) -> Result<Backing, Error> {
        let at = |source| Error::Path { path: path.to_owned(), source };
        let FilePart { offset, len, reserve, read_only } = part;
        let too_large = Error::Sys(pageless_sys::Error::TooLarge { call: "mmap", value: reserve });
        let reserved = reserve.max(len).checked_next_multiple_of(FRAME_SIZE).ok_or(too_large)?;
        if len == 0 {
            return Err(Error::Empty);
        }
        let protection = if read_only { Protection::Read } else { Protection::ReadWrite };
        let (mapping, sync) = match Mapping::shared_sync(file.as_fd(), offset, reserved, protection) {
            Ok(mapping) => (mapping, true),
            Err(_) => (Mapping::shared(file.as_fd(), offset, reserved, protection).map_err(at)?, false),
        };
        mapping.dont_fork()?;
        let backing = Backing::new(MemKind::File, "pmem", len, Store::File { mapping, file });
        let backing = Backing { writable: !read_only, path: Some(path.to_owned()), base: offset, reserved, ..backing };
        let backing = backing.sparse(Sparse::Seek);
        let Some(file) = backing.file_behind() else { return Ok(backing) };
        if sync {
            let medium = file.device().ok().and_then(|device| Medium::of_block(Path::new(SYS), device));
            let backing = backing.persistent(Mapped::MapSync, medium);
            #[cfg(feature = "pmem-io")]
            let backing = Backing { kind: MemKind::Dax, ..backing };
            return Ok(backing);
        }
        // Its node lies in a file system in memory, which says nothing of it.
        if file.file_type().map_err(at)? == FileType::Block {
            let medium = file.device().ok().and_then(|device| Medium::of_block(Path::new(SYS), device));
            let backing = Backing { durability: Durability::Msync, ..backing }.because(Reason::BlockDevice);
            return Ok(Backing { medium, ..backing });
        }
        let reason = match file.file_system() {
            fs if fs.lives_in_memory() => Reason::MemoryFs(fs),
            fs if file.is_dax() => Reason::DaxWithoutSync(fs),
            fs => Reason::PageCache(fs),
        };
        Ok(Backing { durability: Durability::Msync, ..backing }.because(reason))
    }
}
