// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls without a libc between: no errno, no cancellation, no lock, so they may be made from a signal handler, in a
//! vfork child and before any constructor ran.
//!
//! Functions here that take an address of the program's take a [`Caller`] with it: see its contract.

#![allow(unsafe_code, reason = "the system call instruction")]

use core::arch::asm;

/// The kernel's reason for a refusal.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const EIO: Errno = Errno(5);
    pub(crate) const EFAULT: Errno = Errno(14);
    pub(crate) const EINVAL: Errno = Errno(22);
}

/// Proof that a call of the program is running, and with it that the kernel may read or write whatever memory that call
/// names.
///
/// # Caller contract
/// The program handed the address to the kernel itself, through the function that we stand before. We hand the same
/// addresses to the kernel, for the same direction, and before that function returns: nothing happens to memory that
/// the program did not ask for. The addresses are never followed by our own loads and stores, so a wrong one is
/// `EFAULT` and not a crash.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Caller(());

impl Caller {
    /// # Safety
    /// Only at the C edge, inside a function the program called, for that call's arguments and until it returns.
    pub(crate) unsafe fn of_this_call() -> Caller {
        Caller(())
    }
}

const READ: usize = 0;
const WRITE: usize = 1;
const FSTAT: usize = 5;
const LSEEK: usize = 8;
const MMAP: usize = 9;
const MUNMAP: usize = 11;
const PREAD64: usize = 17;
const PWRITE64: usize = 18;
const SCHED_YIELD: usize = 24;
const MADVISE: usize = 28;
const CLOSE: usize = 3;
const OPEN: usize = 2;
const GETPID: usize = 39;
const FCNTL: usize = 72;
const FTRUNCATE: usize = 77;
const GETRLIMIT: usize = 97;
const IO_GETEVENTS: usize = 208;
const IO_PGETEVENTS: usize = 333;
const MEMFD_CREATE: usize = 319;
const PREADV2: usize = 327;
const PWRITEV2: usize = 328;

/// Any system call.
///
/// # Safety
/// What the call does to memory must be allowed.
unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the x86-64 system call convention; what the kernel may touch is the caller's proof.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// The last page of the address space holds errno values.
fn check(result: isize) -> Result<usize, Errno> {
    match usize::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno(i32::try_from(result.wrapping_neg()).unwrap_or(0))),
    }
}

/// A call that changes no memory of this process but, where it says so, memory at an address of the caller's choice.
///
/// # Safety
/// As for [`syscall`].
unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: passed on.
    check(unsafe { syscall(number, args) })
}

/// A descriptor or a small flag as the kernel takes it: sign-extended.
fn int(value: i32) -> usize {
    value as isize as usize
}

#[expect(clippy::cast_possible_truncation, reason = "a descriptor is an int")]
fn fd(value: usize) -> i32 {
    value as i32
}

/// What `fstat` says, as far as it matters here.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) mode: u32,
    pub(crate) size: u64,
}

/// What a descriptor refers to.
pub(crate) fn stat(file: i32) -> Result<Stat, Errno> {
    // struct stat of x86-64: 144 bytes; st_dev, st_ino, st_nlink, st_mode and st_uid, st_gid, st_rdev, st_size.
    let mut words = [0u64; 18];
    // SAFETY: the kernel fills 144 bytes, and that is the array.
    unsafe { call(FSTAT, [int(file), (&raw mut words) as usize, 0, 0, 0, 0]) }?;
    let [dev, ino, _nlink, mode, _gid, _rdev, size, ..] = words;
    Ok(Stat { dev, ino, mode: (mode & 0xffff_ffff) as u32, size })
}

/// The status flags of an open file.
pub(crate) fn status_flags(file: i32) -> Result<usize, Errno> {
    const F_GETFL: usize = 3;
    // SAFETY: touches no memory.
    unsafe { call(FCNTL, [int(file), F_GETFL, 0, 0, 0, 0]) }
}

/// Moves the file position by this much.
pub(crate) fn seek_by(file: i32, by: isize) -> Result<usize, Errno> {
    const SEEK_CUR: usize = 1;
    // SAFETY: touches no memory.
    unsafe { call(LSEEK, [int(file), by as usize, SEEK_CUR, 0, 0, 0]) }
}

pub(crate) fn close(file: i32) {
    // SAFETY: touches no memory. A failure means that the descriptor was not there.
    let _ = unsafe { call(CLOSE, [int(file), 0, 0, 0, 0, 0]) };
}

/// Opens a file for reading and writing.
pub(crate) fn open(path: &core::ffi::CStr) -> Result<i32, Errno> {
    const O_RDWR_CLOEXEC_NOFOLLOW: usize = 0o2 | 0o2_000_000 | 0o400_000;
    // SAFETY: a terminated string, only read.
    unsafe { call(OPEN, [path.as_ptr() as usize, O_RDWR_CLOEXEC_NOFOLLOW, 0, 0, 0, 0]) }.map(fd)
}

/// The process id.
pub(crate) fn process() -> usize {
    // SAFETY: touches no memory.
    unsafe { call(GETPID, [0; 6]) }.unwrap_or(0)
}

pub(crate) fn yield_now() {
    // SAFETY: touches no memory.
    let _ = unsafe { call(SCHED_YIELD, [0; 6]) };
}

/// The soft limit on something, in its unit.
pub(crate) fn limit(resource: usize) -> u64 {
    let mut limits = [0u64; 2];
    // SAFETY: struct rlimit is two 64-bit words.
    match unsafe { call(GETRLIMIT, [resource, (&raw mut limits) as usize, 0, 0, 0, 0]) } {
        Ok(_) => limits[0],
        Err(_) => 0,
    }
}

/// `RLIMIT_FSIZE`: growing a file past it is answered with SIGXFSZ, memfds included.
pub(crate) const FILE_SIZE: usize = 1;
/// `RLIMIT_NOFILE`.
pub(crate) const OPEN_FILES: usize = 7;

/// An unnamed file in memory, with no right to execute where the kernel knows that.
pub(crate) fn memfd(len: usize) -> Result<i32, Errno> {
    const CLOEXEC: usize = 1;
    const NOEXEC_SEAL: usize = 8;
    let name = c"pageless-slots".as_ptr() as usize;
    // SAFETY: a terminated string, only read.
    let made = unsafe { call(MEMFD_CREATE, [name, CLOEXEC | NOEXEC_SEAL, 0, 0, 0, 0]) };
    let made = match made {
        // Kernels before 6.3 do not know the flag.
        // SAFETY: as above.
        Err(Errno::EINVAL) => unsafe { call(MEMFD_CREATE, [name, CLOEXEC, 0, 0, 0, 0]) },
        other => other,
    };
    let file = made.map(fd)?;
    // SAFETY: touches no memory.
    let sized = unsafe { call(FTRUNCATE, [int(file), len, 0, 0, 0, 0]) };
    sized.map(|_| file).inspect_err(|_| close(file))
}

/// The same file under a number of at least `least`, the old number closed; the old number where that cannot be.
pub(crate) fn move_up(file: i32, least: usize) -> i32 {
    const F_DUPFD_CLOEXEC: usize = 1030;
    // SAFETY: touches no memory.
    match unsafe { call(FCNTL, [int(file), F_DUPFD_CLOEXEC, least, 0, 0, 0]) } {
        Ok(high) => {
            close(file);
            fd(high)
        }
        Err(_) => file,
    }
}

/// Maps a file shared, or with -1 private memory without one.
pub(crate) fn map(file: i32, len: usize) -> Result<usize, Errno> {
    const READ_WRITE: usize = 3;
    let flags = if file < 0 { 0x22 } else { 0x01 };
    // SAFETY: the kernel picks addresses that nobody uses.
    unsafe { call(MMAP, [0, len, READ_WRITE, flags, int(file), 0]) }
}

/// # Safety
/// The range is a mapping of ours that nobody uses any more.
pub(crate) unsafe fn unmap(addr: usize, len: usize) {
    // SAFETY: passed on.
    let _ = unsafe { call(MUNMAP, [addr, len, 0, 0, 0, 0]) };
}

/// What a forked child is to find at a mapping.
#[derive(Debug, Copy, Clone)]
pub(crate) enum InChild {
    /// Zeroes (`MADV_WIPEONFORK`).
    Zeroes = 18,
    /// Nothing (`MADV_DONTFORK`).
    Nothing = 10,
}

pub(crate) fn advise(addr: usize, len: usize, what: InChild) -> Result<usize, Errno> {
    // SAFETY: both kinds of advice change nothing in this process.
    unsafe { call(MADVISE, [addr, len, what as usize, 0, 0, 0]) }
}

/// Reads from a file into memory of our own.
///
/// # Safety
/// `len` bytes at `addr` are ours to write.
pub(crate) unsafe fn read_at(file: i32, offset: usize, addr: usize, len: usize) -> Result<usize, Errno> {
    // SAFETY: passed on.
    unsafe { call(PREAD64, [int(file), addr, len, offset, 0, 0]) }
}

/// Copies from a file to the program's memory; the count is exact.
pub(crate) fn copy_to(file: i32, offset: usize, addr: usize, len: usize, _: Caller) -> Result<usize, Errno> {
    // SAFETY: the caller contract allows the kernel to write there.
    unsafe { call(PREAD64, [int(file), addr, len, offset, 0, 0]) }
}

/// Copies from the program's memory to a file; the count is exact.
pub(crate) fn copy_from(file: i32, offset: usize, addr: usize, len: usize, _: Caller) -> Result<usize, Errno> {
    // SAFETY: the kernel only reads there.
    unsafe { call(PWRITE64, [int(file), addr, len, offset, 0, 0]) }
}

/// Which way bytes go, seen from the file.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// `preadv2` or `pwritev2`; `position` -1 is the file's own.
///
/// # Safety
/// `iov` is an array of `count` iovecs, each of which names memory that the kernel may read or write.
pub(crate) unsafe fn transfer(
    direction: Direction,
    file: i32,
    iov: usize,
    count: usize,
    position: isize,
    flags: i32,
) -> Result<usize, Errno> {
    let number = match direction {
        Direction::Read => PREADV2,
        Direction::Write => PWRITEV2,
    };
    // The offset is one word on 64-bit kernels; the high half is ignored.
    // SAFETY: passed on.
    unsafe { call(number, [int(file), iov, count, position as usize, 0, int(flags)]) }
}

/// `preadv2` or `pwritev2` with the program's own memory.
pub(crate) fn transfer_theirs(
    direction: Direction,
    file: i32,
    memory: (usize, usize),
    position: isize,
    flags: i32,
    _: Caller,
) -> Result<usize, Errno> {
    // SAFETY: the caller contract allows the kernel to use what the iovecs name; it checks the array itself.
    unsafe { transfer(direction, file, memory.0, memory.1, position, flags) }
}

/// One of the calls that we stand before, made without libc because its own is not known (yet).
///
/// # Safety
/// The arguments are those of the program's own call.
pub(crate) unsafe fn original(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: passed on.
    unsafe { call(number, args) }
}

/// Numbers for [`original`].
pub(crate) mod number {
    pub(crate) const READ: usize = super::READ;
    pub(crate) const WRITE: usize = super::WRITE;
    pub(crate) const PREAD: usize = super::PREAD64;
    pub(crate) const PWRITE: usize = super::PWRITE64;
    pub(crate) const READV: usize = 19;
    pub(crate) const WRITEV: usize = 20;
    pub(crate) const PREADV: usize = 295;
    pub(crate) const PWRITEV: usize = 296;
    pub(crate) const PREADV2: usize = super::PREADV2;
    pub(crate) const PWRITEV2: usize = super::PWRITEV2;
    pub(crate) const IO_GETEVENTS: usize = super::IO_GETEVENTS;
    pub(crate) const IO_PGETEVENTS: usize = super::IO_PGETEVENTS;
}
