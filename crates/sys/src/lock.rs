// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks between processes on disk images: open-file-description locks, in the shape that qemu's tools take and honour.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use crate::Error;
use crate::error::check;

/// What the holder means to do.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Lock {
    /// Read; others may too.
    Shared,
    /// Write; nobody else may hold anything.
    Exclusive,
}

/// What a reader locks: that it reads (100), and that it lets nobody write (201) or resize (203). A whole-file lock
/// would keep qemu's own readers out (ADR 0002; bytes: qemu block/file-posix.c, `RAW_LOCK_PERM_BASE`).
const READER_BYTES: [i64; 3] = [100, 201, 203];

/// Takes the lock or fails at once with `EAGAIN`. It goes with the last descriptor of this open file.
pub fn lock_image(fd: BorrowedFd<'_>, lock: Lock) -> Result<(), Error> {
    match lock {
        Lock::Exclusive => lock_range(fd, libc::F_WRLCK, 0, 0),
        Lock::Shared => READER_BYTES.iter().try_for_each(|byte| lock_range(fd, libc::F_RDLCK, *byte, 1)),
    }
}

fn lock_range(fd: BorrowedFd<'_>, kind: i32, start: i64, len: i64) -> Result<(), Error> {
    // SAFETY: flock is plain data for which all zeroes is "whole file, from the start".
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "F_RDLCK and F_WRLCK are 0 and 1")]
    {
        range.l_type = kind as i16;
        range.l_whence = libc::SEEK_SET as i16;
    }
    (range.l_start, range.l_len) = (start, len);
    // SAFETY: the argument is a live flock, which the kernel reads.
    check("fcntl(F_OFD_SETLK)", unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) }.into())
        .map(drop)
}

/// The process that holds a lock on this file, found through `/proc/*/fdinfo` since the kernel reports -1 for
/// open-file-description locks. `None` when it is another user's or already gone.
pub fn holder(identity: (u64, u64)) -> Option<u32> {
    let (device, inode) = identity;
    let (major, minor) = (libc::major(device), libc::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| *pid != std::process::id() && holds(*pid, &wanted))
        .or_else(|| holds(std::process::id(), &wanted).then(std::process::id))
}

fn holds(pid: u32, wanted: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo")) else { return false };
    entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).any(|info| {
        let mut locks = info.lines().filter(|line| line.starts_with("lock:"));
        locks.any(|line| line.split_whitespace().any(|word| word == wanted))
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::Errno;
    use crate::file::{File, OpenOptions};

    #[test]
    fn a_second_writer_is_refused_and_the_holder_is_named() {
        let path = std::env::temp_dir().join(format!("pageless-lock-{}", std::process::id()));
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let first = File::open(&path, options).unwrap();
        let second = File::open(&path, options).unwrap();
        lock_image(first.as_fd(), Lock::Exclusive).unwrap();
        assert_eq!(lock_image(second.as_fd(), Lock::Shared).unwrap_err().errno(), Errno::EAGAIN);
        assert_eq!(holder(first.identity().unwrap()), Some(std::process::id()));
        drop(first);
        lock_image(second.as_fd(), Lock::Shared).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
