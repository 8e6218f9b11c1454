// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that another process made and shares by its descriptor, such as a guest's.

use std::os::fd::{AsFd, OwnedFd};

use pageless_sys::file::{File, FileType};
use pageless_sys::mmap::{Mapping, Protection};

use super::{Backing, Store};
use crate::Error;
use crate::device::Device;
use crate::extents::Sparse;
use crate::persist::Reason;
use crate::pfn::FRAME_SIZE;
use crate::region::MemKind;

impl Backing {
    /// `len` bytes at `offset` of memory whose owner passed its descriptor: a memfd, secret memory, hugetlb, a file on tmpfs,
    /// DAX or a disk, a dma-buf, a device. It is mapped shared and kept out of children; no lock is taken, since the owner goes on using
    /// it. What it is shows in the kind; what may be done with it is found out when an I/O needs it.
    ///
    /// The owner may shrink it at any time: that is contained as every fault is.
    ///
    /// # Errors
    /// [`Error::Misaligned`] unless the offset is in whole pages of the memory, [`Error::NotShared`] where it ends before,
    /// [`Error::Empty`], and what the kernel refuses: `EACCES` for a descriptor that is not open for writing.
    pub fn shared(fd: OwnedFd, offset: u64, len: u64) -> Result<Backing, Error> {
        let file = File::from(fd);
        let page = file.page_size();
        if len == 0 {
            return Err(Error::Empty);
        }
        if !offset.is_multiple_of(page) {
            return Err(Error::Misaligned { what: "offset", value: offset, align: page });
        }
        let end = offset.checked_add(len);
        let regular = file.file_type()? == FileType::Regular;
        if regular {
            let actual = file.size()?;
            end.filter(|end| *end <= actual).ok_or(Error::NotShared { offset, len, actual })?;
        }
        // What is behind the last byte in its page is mapped, and has frames that nobody is given.
        let too_large = pageless_sys::Error::TooLarge { call: "mmap", value: len };
        let reserved = end.and(len.checked_next_multiple_of(page.max(FRAME_SIZE))).ok_or(too_large)?;
        let mapping = Mapping::shared(file.as_fd(), offset, reserved, Protection::ReadWrite)?;
        mapping.dont_fork()?;
        let system = file.file_system();
        // What others have mapped too may have data where our page table shows none.
        let (kind, label, sparse, reason) = match () {
            () if system.is_secret_memory() => (MemKind::Secret, "shared secret", Sparse::Dense, Reason::Anonymous),
            () if system.is_dma_buf() => (MemKind::DmaBuf, "shared dma-buf", Sparse::Dense, Reason::Device),
            () if system.is_hugetlbfs() => (MemKind::Anon, "shared hugetlb", Sparse::Dense, Reason::Anonymous),
            () if !regular => (MemKind::Foreign, "shared device", Sparse::Dense, Reason::Device),
            () if system.lives_in_memory() => (MemKind::Anon, "shared", Sparse::Seek, Reason::Anonymous),
            () if file.is_dax() => (MemKind::Dax, "shared dax", Sparse::Seek, Reason::DaxWithoutSync(system)),
            () => (MemKind::File, "shared file", Sparse::Seek, Reason::PageCache(system)),
        };
        let device = (kind == MemKind::DmaBuf).then(Device::dma_buf);
        let backing = Backing::new(kind, label, len, Store::File { mapping, file }).sparse(sparse).because(reason);
        Ok(Backing { base: offset, reserved, device, ..backing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Fault, Memory, Region};
    use pageless_sys::{Errno, memfd};

    fn byte(memory: &Memory, region: &Region, offset: u64) -> Result<u8, Fault> {
        let mut reader = memory.reader();
        let online = reader.online();
        let window = online.kmap(region.range(offset, 1).ok_or(Fault::Gone)?, Access::Read)?;
        let mut byte = [0];
        window.reader().read(&mut byte).map_err(|error| error.fault)?;
        Ok(byte[0])
    }

    #[test]
    fn both_sides_see_the_same_bytes() {
        let memory = Memory::new().unwrap();
        let fd = memfd::memfd(3 * FRAME_SIZE).unwrap();
        write_byte(&fd, 4096 + 100, 7);
        let region = memory.register(Backing::shared(fd.try_clone().unwrap(), 4096, 5000).unwrap()).unwrap();
        assert_eq!((region.kind(), region.len(), region.frames().count()), (MemKind::Anon, 5000, 2));
        assert_eq!(byte(&memory, &region, 100), Ok(7));
        assert_eq!(byte(&memory, &region, 5000), Err(Fault::Gone));
        // Its owner takes it away: contained.
        File::from(fd).truncate(0).unwrap();
        assert_eq!(byte(&memory, &region, 100), Err(Fault::Media));
    }

    fn write_byte(fd: &OwnedFd, at: u64, byte: u8) {
        use std::os::unix::fs::FileExt;
        std::fs::File::from(fd.try_clone().unwrap()).write_all_at(&[byte], at).unwrap();
    }

    #[test]
    fn secret_memory_is_known_for_what_it_is() {
        let fd = memfd::secret(2 * FRAME_SIZE).unwrap();
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::shared(fd, 0, 2 * FRAME_SIZE).unwrap()).unwrap();
        assert_eq!(region.kind(), MemKind::Secret);
        assert_eq!(byte(&memory, &region, 8191), Ok(0));
    }

    #[test]
    fn a_device_is_not_taken_for_memory_of_the_kernel() {
        let device = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::shared(device.into(), 0, FRAME_SIZE).unwrap()).unwrap();
        assert_eq!((region.kind(), byte(&memory, &region, 0)), (MemKind::Foreign, Ok(0)));
    }

    /// What the other side stored is data, whether or not this side has looked at it.
    #[test]
    fn nothing_that_others_stored_is_taken_for_a_hole() {
        let memory = Memory::new().unwrap();
        for fd in [memfd::secret(2 * FRAME_SIZE), memfd::hugetlb(2 << 20)] {
            let Ok(fd) = fd else { continue };
            let shared = |fd: &OwnedFd| Backing::shared(fd.try_clone().unwrap(), 0, 2 * FRAME_SIZE);
            let (Ok(theirs), Ok(ours)) = (shared(&fd), shared(&fd)) else { continue };
            let (theirs, ours) = (memory.register(theirs).unwrap(), memory.register(ours).unwrap());
            let mut reader = memory.reader();
            let online = reader.online();
            online.kmap(theirs.range(0, 4).unwrap(), Access::Write).unwrap().writer().write(b"data").unwrap();
            assert_eq!(ours.extents().next(0, 4096), crate::Extent::Data(4096));
        }
    }

    #[test]
    fn what_is_not_there_is_refused_with_its_numbers() {
        let fd = || memfd::memfd(2 * FRAME_SIZE).unwrap();
        let refused = |offset, len| Backing::shared(fd(), offset, len).unwrap_err();
        assert!(matches!(refused(0, 8193), Error::NotShared { offset: 0, len: 8193, actual: 8192 }));
        assert!(matches!(refused(4096, u64::MAX), Error::NotShared { .. }));
        assert!(matches!(refused(0, 0), Error::Empty));
        assert!(matches!(refused(1, 4096), Error::Misaligned { what: "offset", value: 1, align: 4096 }));
        let read_only = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(Backing::shared(read_only.into(), 0, 4096).unwrap_err().errno(), Some(Errno::EACCES));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Backing::shared(socket.into(), 0, 4096).unwrap_err().errno(), Some(Errno::ENODEV));
    }
}
