// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings: runs of our own virtual addresses, unmapped when dropped.

use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

use crate::Error;
use crate::error::{Named, check, to_usize};

const HUGE: usize = 2 << 20;

/// A mapped run of addresses. It hands out its address as a number; using that number is the caller's proof.
#[derive(Debug)]
pub struct Mapping {
    addr: usize,
    len: usize,
    /// Its addresses are somebody else's to give back.
    buried: AtomicBool,
}

/// Addresses that stay taken, with nothing behind them, until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    addr: usize,
    len: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        unmap(self.addr, self.len);
    }
}

/// What the CPU may do with a mapping.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Protection {
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

impl Protection {
    fn flags(self) -> ProtFlags {
        match self {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        }
    }
}

impl Mapping {
    /// Private anonymous memory, reserved but not allocated, aligned for huge pages where it is large enough.
    pub fn anonymous(len: u64) -> Result<Mapping, Error> {
        let len = to_usize("mmap", len)?;
        if !len.is_multiple_of(4096) {
            return Err(Error::Call { call: "mmap", errno: crate::Errno::EINVAL });
        }
        let slack = if len >= HUGE { HUGE } else { 0 };
        let total = len.checked_add(slack).ok_or(Error::TooLarge { call: "mmap", value: len as u64 })?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose addresses nobody uses; nothing existing is replaced.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), total, ProtFlags::READ | ProtFlags::WRITE, flags) }
                .named("mmap")? as usize;
        let addr = if slack == 0 { start } else { start.next_multiple_of(HUGE) };
        unmap(start, addr - start);
        unmap(addr + len, start + total - (addr + len));
        Ok(Mapping { addr, len, buried: AtomicBool::new(false) })
    }

    /// A shared mapping of `fd` at `offset`.
    pub fn shared(fd: BorrowedFd<'_>, offset: u64, len: u64, protection: Protection) -> Result<Mapping, Error> {
        Mapping::of_file(fd, offset, len, protection, MapFlags::SHARED)
    }

    /// A shared mapping whose stores need no `fsync` once flushed from the CPU caches (`MAP_SYNC`, mmap(2)).
    /// Refused with `EOPNOTSUPP` by everything that is not persistent memory.
    pub fn shared_sync(fd: BorrowedFd<'_>, offset: u64, len: u64, protection: Protection) -> Result<Mapping, Error> {
        Mapping::of_file(fd, offset, len, protection, MapFlags::SHARED_VALIDATE | MapFlags::SYNC)
    }

    fn of_file(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        protection: Protection,
        flags: MapFlags,
    ) -> Result<Mapping, Error> {
        let len = to_usize("mmap", len)?;
        // SAFETY: a null hint lets the kernel choose addresses nobody uses; nothing existing is replaced.
        let addr = unsafe { rustix::mm::mmap(ptr::null_mut(), len, protection.flags(), flags, fd, offset) }
            .named("mmap")? as usize;
        Ok(Mapping { addr, len, buried: AtomicBool::new(false) })
    }

    /// The first address.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a mapping of no bytes; the kernel makes none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks for huge pages (`MADV_HUGEPAGE`).
    pub fn advise_huge(&self) -> Result<(), Error> {
        self.advise("madvise(MADV_HUGEPAGE)", 0, self.len, Advice::LinuxHugepage)
    }

    /// Keeps the mapping out of children (`MADV_DONTFORK`), so that a fork never copies a page under I/O.
    pub fn dont_fork(&self) -> Result<(), Error> {
        self.advise("madvise(MADV_DONTFORK)", 0, self.len, Advice::LinuxDontFork)
    }

    /// Gives back the pages of `[offset, offset + len)`. Private anonymous memory reads as zeroes afterwards, a shared file
    /// as the file.
    pub fn discard(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.advise("madvise(MADV_DONTNEED)", offset, len, Advice::LinuxDontNeed)
    }

    /// Writes the dirty pages of `[offset, offset + len)`, widened to whole pages, to the medium and waits.
    pub fn sync(&self, offset: usize, len: usize) -> Result<(), Error> {
        let (start, len) = self.pages("msync", offset, len)?;
        // SAFETY: the range lies in this mapping; msync changes no byte of it.
        unsafe { rustix::mm::msync(start as *mut _, len, MsyncFlags::SYNC) }.named("msync")
    }

    /// Closes whole pages to the CPU and to the kernel, which then stop before them; what is behind them is left alone. Refused with
    /// `EINVAL` for less than the mapping's own pages.
    pub fn shut(&self, offset: usize, len: usize) -> Result<(), Error> {
        self.protect(offset, len, ProtFlags::empty())
    }

    /// Undoes [`shut`](Mapping::shut), where the mapping was not [sealed](Mapping::seal) meanwhile: its caller sees to that.
    pub fn reopen(&self, offset: usize, len: usize, writable: bool) -> Result<(), Error> {
        let protection = if writable { Protection::ReadWrite } else { Protection::Read };
        self.protect(offset, len, protection.flags())
    }

    fn protect(&self, offset: usize, len: usize, flags: ProtFlags) -> Result<(), Error> {
        let (start, len) = self.pages("mprotect", offset, len)?;
        let flags = rustix::mm::MprotectFlags::from_bits_retain(flags.bits());
        // SAFETY: the range lies in this mapping, whose bytes are reached by contained copies and by calls that may fail.
        unsafe { rustix::mm::mprotect(start as *mut _, len, flags) }.named("mprotect")
    }

    /// Parts the addresses from this mapping, which was [sealed](Mapping::seal) whole: they can stay taken for longer than it
    /// lives. `None` when that was done before.
    pub fn bury(&self) -> Option<Reserved> {
        let first = !self.buried.swap(true, Ordering::AcqRel);
        first.then_some(Reserved { addr: self.addr, len: self.len })
    }

    /// Gives up the memory from byte `from` on, widened inwards to whole pages: its addresses stay taken, and trap
    /// whoever uses them. Takes as long as there are pages to give back.
    pub fn seal(&self, from: usize) -> Result<(), Error> {
        /// Bytes given back at a time where there are pages: whoever maps memory meanwhile waits for one piece at most.
        const PIECE: usize = 64 << 20;
        /// A piece that took no longer had next to none.
        const EMPTY: Duration = Duration::from_micros(50);
        let start = from.min(self.len).next_multiple_of(4096);
        if start >= self.len {
            return Ok(());
        }
        let (mut at, mut piece) = (start, PIECE);
        while at < self.len {
            let (len, begin) = (piece.min(self.len - at), Instant::now());
            // What refuses this (locked memory, memory without pages) is unmapped whole below.
            if self.discard(at, len).is_err() {
                break;
            }
            at += len;
            // Steps over what nobody touched in strides: terabytes of it take as many calls as there are doublings.
            piece = if begin.elapsed() < EMPTY { piece.saturating_mul(2) } else { PIECE };
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: replaces part of this mapping, whose bytes are reached by contained copies only; callers know that no
        // I/O on that part is in flight.
        unsafe {
            rustix::mm::mmap_anonymous((self.addr + start) as *mut _, self.len - start, ProtFlags::empty(), flags)
        }
        .named("mmap(PROT_NONE)")
        .map(drop)
    }

    fn advise(&self, call: &'static str, offset: usize, len: usize, advice: Advice) -> Result<(), Error> {
        let (start, len) = self.pages(call, offset, len)?;
        // SAFETY: the range lies in this mapping, whose bytes are reached by contained copies only, so pages may
        // come and go under it.
        unsafe { rustix::mm::madvise(start as *mut _, len, advice) }.named(call)
    }

    fn pages(&self, call: &'static str, offset: usize, len: usize) -> Result<(usize, usize), Error> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let end = end.ok_or(Error::TooLarge { call, value: offset as u64 })?;
        let start = offset & !4095;
        Ok((self.addr + start, end - start))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !*self.buried.get_mut() {
            unmap(self.addr, self.len);
        }
    }
}

fn unmap(addr: usize, len: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: callers pass addresses that they mapped themselves and that nobody uses any more.
    let result = unsafe { libc::munmap(addr as *mut _, len) };
    debug_assert_eq!(check("munmap", result.into()), Ok(0));
}
