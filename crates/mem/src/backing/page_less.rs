// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "`foreign` is an unsafe fn: its caller vouches for the addresses")]
//! Memory that is or may be page-less, or that the kernel will not pin.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use pageless_sys::file::{File, FileType, OpenOptions};
use pageless_sys::mmap::{Mapping, Protection};
use pageless_sys::{Errno, dmabuf, memfd, pagemap, pci, vfio};

use super::{Backing, Store, frames_of, lock_file, multiple};
use crate::Error;
use crate::device::Device;
use crate::extents::Sparse;
use crate::medium::{Medium, SYS};
use crate::persist::{Mapped, Reason};
use crate::pfn::FRAME_SIZE;
use crate::region::MemKind;

impl Backing {
    /// Secret memory (`memfd_secret`): the kernel refuses to pin it.
    pub fn secret(len: u64) -> Result<Backing, Error> {
        let limit = pageless_sys::limits::memlock().unwrap_or(u64::MAX);
        let file = memfd::secret(frames_of("size", len)?)?;
        let store = Store::map(file, len).map_err(|error| match error.errno() {
            Some(Errno::EAGAIN | Errno::ENOMEM) => Error::LockedMemory { wanted: len, limit },
            _ => error,
        })?;
        Ok(Backing::new(MemKind::Secret, "secret", len, store).sparse(Sparse::Pagemap))
    }

    /// A dma-buf made of memfd pages: `VM_PFNMAP` when mapped.
    pub fn udmabuf(len: u64) -> Result<Backing, Error> {
        let pages = memfd::memfd(frames_of("size", len)?)?;
        let buffer = memfd::udmabuf(pages.as_fd(), len)?;
        Backing::dma_buf("udmabuf", buffer, len)
    }

    /// A dma-buf from the heap of that name (`/dev/dma_heap/NAME`): `VM_PFNMAP` when mapped.
    ///
    /// # Errors
    /// [`Error::Path`] names the heap's node: `ENOENT` where there is no such heap, `ENOMEM` where it is too small.
    pub fn dma_heap(name: &str, len: u64) -> Result<Backing, Error> {
        let path = Path::new("/dev/dma_heap").join(name);
        let at = |source| Error::Path { path: path.clone(), source };
        let buffer = dmabuf::from_heap(&path, frames_of("size", len)?).map_err(at)?;
        let backing = Backing::dma_buf("heap", buffer, len)?;
        Ok(Backing { path: Some(name.into()), ..backing })
    }

    fn dma_buf(label: &'static str, buffer: OwnedFd, len: u64) -> Result<Backing, Error> {
        let backing = Backing::new(MemKind::DmaBuf, label, len, Store::map(buffer, len)?).because(Reason::Device);
        Ok(Backing { device: Some(Device::dma_buf()), ..backing })
    }

    /// All of a device-DAX character device, for one writer or many readers: it is locked as a file is, until all of it was
    /// revoked.
    ///
    /// # Errors
    /// [`Error::Locked`] with the holder's pid; [`Error::Path`].
    pub fn devdax(path: &Path, read_only: bool) -> Result<Backing, Error> {
        let at = |source| Error::Path { path: path.to_owned(), source };
        let file = File::open(path, OpenOptions { read_only, ..OpenOptions::default() }).map_err(at)?;
        if file.file_type().map_err(at)? != FileType::Character {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        lock_file(&file, path, read_only)?;
        let len = devdax_size(path)?;
        let protection = if read_only { Protection::Read } else { Protection::ReadWrite };
        let mapping = Mapping::shared(file.as_fd(), 0, len, protection).map_err(at)?;
        mapping.dont_fork()?;
        let medium = file.device().ok().and_then(|device| Medium::of_char(Path::new(SYS), device));
        let backing = Backing::new(MemKind::Dax, "dax", len, Store::File { mapping, file });
        let backing = Backing { path: Some(path.to_owned()), writable: !read_only, ..backing };
        Ok(backing.persistent(Mapped::DevDax, medium))
    }

    /// `len` bytes of physical memory from address `phys`, by `/dev/mem`: memory that was kept out of the kernel's map at
    /// boot (`memmap=16M$0x3c000000`, `mem=`). Nothing says whose it is, so its kind is [`MemKind::Foreign`].
    ///
    /// # Errors
    /// [`Error::Misaligned`] for an address or length that is not in frames; [`Error::Path`] names `/dev/mem`: `EPERM` for
    /// memory that the kernel uses itself (`CONFIG_STRICT_DEVMEM`) or under lockdown.
    pub fn devmem(phys: u64, len: u64) -> Result<Backing, Error> {
        let path = PathBuf::from("/dev/mem");
        let at = |source| Error::Path { path: path.clone(), source };
        multiple("address", phys, FRAME_SIZE)?;
        phys.checked_add(frames_of("size", len)?)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| at(pageless_sys::Error::TooLarge { call: "mmap", value: phys }))?;
        // Without O_SYNC, which would map RAM uncached.
        let file = File::open(&path, OpenOptions::default()).map_err(at)?;
        let mapping = Mapping::shared(file.as_fd(), phys, len, Protection::ReadWrite).map_err(at)?;
        mapping.dont_fork()?;
        let backing =
            Backing::new(MemKind::Foreign, "devmem", len, Store::File { mapping, file }).because(Reason::Foreign);
        Ok(Backing { path: Some(format!("{phys:#x}").into()), ..backing })
    }

    /// All of a PCI BAR, by its sysfs `resourceN` file; through VFIO where the function is bound to `vfio-pci`, which
    /// takes the function's IOMMU group. When such a function is to be unbound or unplugged the kernel waits for its user: the
    /// next I/O lets it go, and ends with `Gone`.
    ///
    /// # Errors
    /// [`Error::Path`] names the file; [`Error::Vfio`] the function, its group and what VFIO refused.
    pub fn bar(resource: &Path) -> Result<Backing, Error> {
        let at = |source| Error::Path { path: resource.to_owned(), source };
        let function = resource.parent().unwrap_or(Path::new(""));
        let config = pci::Config::open(function).map_err(at)?;
        let held_by_vfio = pci::driver(function).is_some_and(|name| name.replace('_', "-").ends_with("vfio-pci"));
        let (mapping, file, len, writable, vfio) = match held_by_vfio {
            false => {
                let file = File::open(resource, OpenOptions::default()).map_err(at)?;
                let len = frames_of("BAR size", file.size().map_err(at)?)?;
                let mapping = Mapping::shared(file.as_fd(), 0, len, Protection::ReadWrite).map_err(at)?;
                (mapping, file, len, true, None)
            }
            true => {
                let device = vfio_device(function)?;
                let bar = device.bar(bar_number(resource).unwrap_or(u32::MAX)).map_err(at)?;
                if !bar.mappable {
                    return Err(at(pageless_sys::Error::Call { call: "mmap", errno: Errno::EINVAL }));
                }
                let len = frames_of("BAR size", bar.size)?;
                let protection = if bar.writable { Protection::ReadWrite } else { Protection::Read };
                let mapping = Mapping::shared(device.as_fd(), bar.offset, len, protection).map_err(at)?;
                // The device's own descriptor must go when the kernel wants the function back.
                let file =
                    File::open(resource, OpenOptions { read_only: true, ..OpenOptions::default() }).map_err(at)?;
                (mapping, file, len, bar.writable, Some(device))
            }
        };
        mapping.dont_fork()?;
        let label = if vfio.is_some() { "bar (vfio)" } else { "bar" };
        let backing = Backing::new(MemKind::Bar, label, len, Store::File { mapping, file }).because(Reason::Device);
        let device = Some(Device::pci(config, vfio));
        Ok(Backing { path: Some(resource.to_owned()), writable, device, ..backing })
    }

    /// Addresses that something else in this process mapped.
    ///
    /// # Errors
    /// [`Error::Inheritable`] where a fork would give the child a copy of them: of parent and child one would lose what the
    /// kernel stores there for an I/O that was under way.
    ///
    /// # Safety
    /// `addr..addr + len` stays mapped, shared or not inherited by children, until the region, every table that knew it
    /// and every I/O on it are gone, and no Rust reference to its bytes exists in that time. Its bytes may fault.
    pub unsafe fn foreign(addr: usize, len: u64, writable: bool) -> Result<Backing, Error> {
        multiple("address", addr as u64, FRAME_SIZE)?;
        let end = usize::try_from(frames_of("size", len)?).ok().and_then(|len| addr.checked_add(len));
        let end = end.ok_or(Error::Sys(pageless_sys::Error::TooLarge { call: "register", value: len }))?;
        if let Some(at) = pagemap::copied_at_fork(addr, end)? {
            return Err(Error::Inheritable { addr, end, at });
        }
        let backing = Backing::new(MemKind::Foreign, "foreign", len, Store::Foreign(addr)).because(Reason::Foreign);
        Ok(Backing { writable, ..backing })
    }
}

fn vfio_device(function: &Path) -> Result<vfio::Device, Error> {
    let address = function.file_name().unwrap_or_default().to_string_lossy();
    let group = pci::iommu_group(function);
    let opened = match group {
        Some(group) => vfio::Device::open(group, &address),
        None => Err(pageless_sys::Error::Call { call: "readlink(iommu_group)", errno: Errno::ENOENT }),
    };
    opened.map_err(|source| Error::Vfio { function: address.into(), group, source })
}

/// The N of `resourceN` and `resourceN_wc`.
fn bar_number(resource: &Path) -> Option<u32> {
    let name = resource.file_name()?.to_str()?;
    name.strip_prefix("resource")?.trim_end_matches("_wc").parse().ok()
}

/// A devdax device has no size of its own: sysfs tells (`/sys/dev/char/M:N/size`).
fn devdax_size(path: &Path) -> Result<u64, Error> {
    use std::os::unix::fs::MetadataExt;
    let at = |error: std::io::Error| Error::Path {
        path: path.to_owned(),
        source: pageless_sys::Error::Call { call: "read(sysfs size)", errno: Errno::from_io(&error) },
    };
    let device = std::fs::metadata(path).map_err(at)?.rdev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let text = std::fs::read_to_string(format!("/sys/dev/char/{major}:{minor}/size")).map_err(at)?;
    frames_of("devdax size", text.trim().parse().unwrap_or(0))
}

#[cfg(test)]
mod tests;
