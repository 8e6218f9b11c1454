// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "breaks memory on purpose, forks, and tries addresses on the kernel")]
//! What tests do to regions on purpose. Behind the feature `testing`, which nothing that is shipped turns on.

pub mod record;

use std::path::Path;
use std::time::Duration;

use pageless_sys::file::{File, OpenOptions};
use pageless_sys::socket::IoVec;
use pageless_sys::{fork, userfault};

use crate::backing::Store;
use crate::{Access, Error, FRAME_SIZE, Fault, PhysRange, Region, cell};

pub use pageless_sys::fork::Child;
pub use record::{Recording, record};

/// Breaks the frame at byte `offset` as a memory error would: `UFFDIO_POISON`. What a file holds there is left alone.
///
/// # Errors
/// `EINVAL` where the kernel has no poison (it came with Linux 6.6), `ENOSYS` or `EPERM` where it has no userfaultfd for us.
pub fn poison(region: &Region, offset: u64) -> Result<(), Error> {
    let range = region.range(offset / FRAME_SIZE * FRAME_SIZE, FRAME_SIZE).ok_or(Error::Empty)?;
    let addr = address(region, range);
    match region.inner().backing.store() {
        // The page leaves the page table, where there is no room for poison beside it.
        Store::Anonymous(mapping) | Store::File { mapping, .. } => {
            mapping.discard(addr - mapping.addr(), range.len() as usize)?;
        }
        Store::Foreign(_) => {}
    }
    // SAFETY: the region is mapped while it lives, and its bytes are reached by contained accesses only.
    Ok(unsafe { userfault::poison(addr) }?)
}

/// Mends what [`poison`] broke, behind the region's back: who touches it now finds what was there before.
///
/// # Errors
/// The kernel's.
pub fn heal(region: &Region, offset: u64) -> Result<(), Error> {
    let frame = offset / FRAME_SIZE * FRAME_SIZE;
    let start = usize::try_from(frame).unwrap_or(usize::MAX);
    match region.inner().backing.store() {
        Store::Anonymous(mapping) | Store::File { mapping, .. } => {
            Ok(mapping.discard(start, usize::try_from(FRAME_SIZE).unwrap_or(0))?)
        }
        Store::Foreign(_) => Err(Error::Empty),
    }
}

/// As if a sync of the region had failed that was somebody else's: everybody is told of it once.
pub fn fail_sync(region: &Region) {
    region.inner().flush_errors.note();
}

/// What the device of the region, which is [`Backing::of_device`](crate::Backing::of_device), says whenever it is asked whether
/// what was moved can be trusted: one answer a time, and `Ok` after the last. [`Fault::Gone`] stays until it is told anew.
pub fn device_says(region: &Region, answers: impl IntoIterator<Item = Result<(), Fault>>) {
    if let Some(device) = region.inner().backing.device() {
        device.script(answers);
    }
}

/// What the kernel says to plain `O_DIRECT` between these frames and the start of a file, as any program would ask for it.
/// [`Access::Read`]: a write to the file, from the frames.
///
/// # Errors
/// The kernel's, or why the file could not be opened.
pub fn direct_io(region: &Region, range: PhysRange, path: &Path, access: Access) -> Result<usize, Error> {
    let file = File::open(path, OpenOptions { direct: true, ..OpenOptions::default() })?;
    let run = IoVec { addr: address(region, range), len: range.len() as usize };
    Ok(match access {
        // SAFETY: the region is mapped while it lives; the kernel only reads it.
        Access::Read => unsafe { file.write_from(run, 0) },
        // SAFETY: the region is mapped while it lives, and nobody has a reference to its bytes.
        Access::Write => unsafe { file.read_into(run, 0) },
    }?)
}

/// What a child saw of the memory.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Seen {
    /// None of its pages.
    Nothing,
    /// Some.
    Part,
    /// All.
    All,
}

/// A child that stores to every page of the region, changing nothing, stays for `stay`, and says what it could reach.
///
/// # Errors
/// When the kernel does not fork.
pub fn fork_and_touch(region: &Region, stay: Duration) -> Result<Child, Error> {
    let addr = region.inner().addr();
    let pages = (addr..addr + usize::try_from(region.len()).unwrap_or(0)).step_by(4096);
    let work = || {
        let (mut all, mut none) = (true, true);
        for page in pages {
            let reached = cell::touch(page);
            (all, none) = (all && reached, none && !reached);
        }
        std::thread::sleep(stay);
        match (none, all) {
            (true, _) => 0,
            (_, true) => 2,
            _ => 1,
        }
    };
    // SAFETY: contained stores and a sleep, neither of which allocates or locks.
    Ok(unsafe { fork::fork(work) }?)
}

/// Waits for such a child; `None` when it ended in another way.
///
/// # Errors
/// When the kernel does not know it.
pub fn seen(child: Child) -> Result<Option<Seen>, Error> {
    Ok(match child.wait()? {
        Some(0) => Some(Seen::Nothing),
        Some(1) => Some(Seen::Part),
        Some(2) => Some(Seen::All),
        _ => None,
    })
}

fn address(region: &Region, range: PhysRange) -> usize {
    let offset = range.byte_address() - region.frames().start().number() * FRAME_SIZE;
    region.inner().addr() + usize::try_from(offset).unwrap_or(0)
}
