// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks between processes: open-file-description locks on the whole file, the kind qemu's tools take and honour.

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

/// Takes the lock or fails at once with `EAGAIN`. It goes with the last descriptor of this open file.
pub fn lock_whole(fd: BorrowedFd<'_>, lock: Lock) -> Result<(), Error> {
    // SAFETY: flock is plain data for which all zeroes is "whole file, from the start".
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    #[expect(clippy::cast_possible_truncation, reason = "F_RDLCK and F_WRLCK are 0 and 1")]
    {
        range.l_type = match lock {
            Lock::Shared => libc::F_RDLCK,
            Lock::Exclusive => libc::F_WRLCK,
        } as i16;
        range.l_whence = libc::SEEK_SET as i16;
    }
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
        lock_whole(first.as_fd(), Lock::Exclusive).unwrap();
        assert_eq!(lock_whole(second.as_fd(), Lock::Shared).unwrap_err().errno(), Errno::EAGAIN);
        assert_eq!(holder(first.identity().unwrap()), Some(std::process::id()));
        drop(first);
        lock_whole(second.as_fd(), Lock::Shared).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
