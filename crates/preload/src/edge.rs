// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C edge: the functions that programs call in the place of libc's, and the constructor.
//!
//! Each asks the function it stands before, libc's or whoever's is next, so that cancellation points stay cancellation
//! points and other preloaded libraries stay in use. Only a -1 with `EFAULT` leads further. errno is written only where
//! this library has an answer of its own that is an error; after a bounce that worked it is the `EFAULT` of the first try,
//! as a call that works may leave it.

#![allow(unsafe_code, reason = "functions that C calls, and that call C")]

use core::ffi::{CStr, c_char, c_int, c_void};
use core::hint::black_box;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::bounce::{Call, Memory, Position, bounce};
use crate::counters::{self, Counter};
use crate::kernel::{self, Caller, Direction, Errno, number};
use crate::layout::Segment;
use crate::pool;

mod aio;
mod files;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
    fn getenv(name: *const c_char) -> *const c_char;
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    const RTLD_NEXT: *mut c_void = usize::MAX as *mut c_void;
    for (name, next) in NAMES.iter().zip(&NEXT) {
        // SAFETY: a terminated name.
        let found = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) };
        if !found.is_null() {
            next.store(found.cast(), Ordering::Release);
        }
    }
    let find = |name: &CStr| {
        // SAFETY: a terminated name.
        unsafe { dlsym(RTLD_NEXT, name.as_ptr()) as usize }
    };
    aio::resolve(find);
    files::resolve(find);
    // What was not found is none of the program's errors.
    // SAFETY: takes nothing; the string it returns is not used.
    unsafe { dlerror() };
    // SAFETY: a terminated name; the program's threads do not run yet.
    let path = unsafe { getenv(counters::names::VARIABLE.as_ptr()) };
    if !path.is_null() {
        // SAFETY: environment strings are terminated and stay while the constructor runs.
        counters::attach(unsafe { CStr::from_ptr(path) });
        counters::add(Counter::Programs, 1);
    }
    pool::prepare();
}

/// The result as libc returns it.
fn answer(result: Result<usize, Errno>) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(errno) => {
            // SAFETY: no argument to get wrong.
            let location = unsafe { __errno_location() };
            // SAFETY: libc's own, valid in every thread.
            unsafe { location.write(errno.0) };
            -1
        }
    }
}

/// What the program gets for a call that failed.
#[cold]
#[inline(never)]
fn failed(call: impl FnOnce() -> Call) -> isize {
    // SAFETY: no argument to get wrong.
    let location = unsafe { __errno_location() };
    // SAFETY: libc's own, valid in every thread.
    if unsafe { location.read() } != Errno::EFAULT.0 {
        return -1;
    }
    // SAFETY: made from the arguments of the function that the program called and that has not returned yet.
    let caller = unsafe { Caller::of_this_call() };
    match bounce(&call(), caller) {
        Some(result) => answer(result),
        // errno may have been used in between.
        None => answer(Err(Errno::EFAULT)),
    }
}

/// Defines functions that stand before libc's: `name(arguments) = system call [its arguments] => the call for a second try`.
macro_rules! interpose {
    ($($index:literal $name:ident ($($arg:ident: $type:ty),*) = $number:ident [$($raw:expr),*] => $call:expr;)*) => {
        /// The functions, by the index of their originals.
        const NAMES: [&CStr; [$($index),*].len()] = [$({
            // SAFETY: the literal ends with the only zero in it.
            unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
        }),*];

        /// The next definitions of the functions: bare system calls until the constructor ran, and where there is none.
        static NEXT: [AtomicPtr<()>; NAMES.len()] = [$(AtomicPtr::new(bare::$name as *mut ())),*];

        mod bare {
            use super::*;
            $(
                pub(super) unsafe extern "C" fn $name($($arg: $type),*) -> isize {
                    let mut words = [0usize; 6];
                    for (word, value) in words.iter_mut().zip([$($raw as usize),*]) {
                        *word = value;
                    }
                    // SAFETY: the program's own arguments.
                    answer(unsafe { kernel::original(number::$number, words) })
                }
            )*
        }

        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> isize {
                // Wanted again only if it fails: stored, they cost less than in registers saved and restored.
                let kept = ($($arg,)*);
                black_box(&kept);
                let next = NEXT[$index].load(Ordering::Relaxed);
                // SAFETY: the dynamic linker found this address for this name, or it is the bare one: that is its type.
                let next: unsafe extern "C" fn($($type),*) -> isize = unsafe { core::mem::transmute(next) };
                // SAFETY: the program's own arguments.
                let returned = unsafe { next($($arg),*) };
                if returned != -1 {
                    return returned;
                }
                failed(|| {
                    let ($($arg,)*) = kept;
                    $call
                })
            }
        )*
    };
}

interpose! {
    0 read(fd: c_int, buf: usize, len: usize) = READ [fd, buf, len]
        => one(Direction::Read, fd, buf, len, Position::Current);
    1 write(fd: c_int, buf: usize, len: usize) = WRITE [fd, buf, len]
        => one(Direction::Write, fd, buf, len, Position::Current);
    2 pread(fd: c_int, buf: usize, len: usize, at: isize) = PREAD [fd, buf, len, at]
        => one(Direction::Read, fd, buf, len, Position::At(at));
    3 pread64(fd: c_int, buf: usize, len: usize, at: isize) = PREAD [fd, buf, len, at]
        => one(Direction::Read, fd, buf, len, Position::At(at));
    4 pwrite(fd: c_int, buf: usize, len: usize, at: isize) = PWRITE [fd, buf, len, at]
        => one(Direction::Write, fd, buf, len, Position::At(at));
    5 pwrite64(fd: c_int, buf: usize, len: usize, at: isize) = PWRITE [fd, buf, len, at]
        => one(Direction::Write, fd, buf, len, Position::At(at));
    6 readv(fd: c_int, iov: usize, count: c_int) = READV [fd, iov, count]
        => many(Direction::Read, fd, iov, count, Position::Current, 0);
    7 writev(fd: c_int, iov: usize, count: c_int) = WRITEV [fd, iov, count]
        => many(Direction::Write, fd, iov, count, Position::Current, 0);
    8 preadv(fd: c_int, iov: usize, count: c_int, at: isize) = PREADV [fd, iov, count, at]
        => many(Direction::Read, fd, iov, count, Position::At(at), 0);
    9 preadv64(fd: c_int, iov: usize, count: c_int, at: isize) = PREADV [fd, iov, count, at]
        => many(Direction::Read, fd, iov, count, Position::At(at), 0);
    10 pwritev(fd: c_int, iov: usize, count: c_int, at: isize) = PWRITEV [fd, iov, count, at]
        => many(Direction::Write, fd, iov, count, Position::At(at), 0);
    11 pwritev64(fd: c_int, iov: usize, count: c_int, at: isize) = PWRITEV [fd, iov, count, at]
        => many(Direction::Write, fd, iov, count, Position::At(at), 0);
    12 preadv2(fd: c_int, iov: usize, count: c_int, at: isize, flags: c_int) = PREADV2 [fd, iov, count, at, 0, flags]
        => many(Direction::Read, fd, iov, count, or_current(at), flags);
    13 preadv64v2(fd: c_int, iov: usize, count: c_int, at: isize, flags: c_int) = PREADV2 [fd, iov, count, at, 0, flags]
        => many(Direction::Read, fd, iov, count, or_current(at), flags);
    14 pwritev2(fd: c_int, iov: usize, count: c_int, at: isize, flags: c_int) = PWRITEV2 [fd, iov, count, at, 0, flags]
        => many(Direction::Write, fd, iov, count, or_current(at), flags);
    15 pwritev64v2(fd: c_int, iov: usize, count: c_int, at: isize, flags: c_int) = PWRITEV2 [fd, iov, count, at, 0, flags]
        => many(Direction::Write, fd, iov, count, or_current(at), flags);
    // What _FORTIFY_SOURCE makes of them where the size of the buffer is known; the original aborts on an overflow.
    16 __read_chk(fd: c_int, buf: usize, len: usize, _size: usize) = READ [fd, buf, len]
        => one(Direction::Read, fd, buf, len, Position::Current);
    17 __pread_chk(fd: c_int, buf: usize, len: usize, at: isize, _size: usize) = PREAD [fd, buf, len, at]
        => one(Direction::Read, fd, buf, len, Position::At(at));
    18 __pread64_chk(fd: c_int, buf: usize, len: usize, at: isize, _size: usize) = PREAD [fd, buf, len, at]
        => one(Direction::Read, fd, buf, len, Position::At(at));
    // glibc's other names.
    19 __read(fd: c_int, buf: usize, len: usize) = READ [fd, buf, len]
        => one(Direction::Read, fd, buf, len, Position::Current);
    20 __write(fd: c_int, buf: usize, len: usize) = WRITE [fd, buf, len]
        => one(Direction::Write, fd, buf, len, Position::Current);
    21 __pread64(fd: c_int, buf: usize, len: usize, at: isize) = PREAD [fd, buf, len, at]
        => one(Direction::Read, fd, buf, len, Position::At(at));
    22 __pwrite64(fd: c_int, buf: usize, len: usize, at: isize) = PWRITE [fd, buf, len, at]
        => one(Direction::Write, fd, buf, len, Position::At(at));
}

fn one(direction: Direction, file: c_int, addr: usize, len: usize, position: Position) -> Call {
    Call { direction, file, memory: Memory::One(Segment { addr, len }), position, flags: 0 }
}

fn many(direction: Direction, file: c_int, addr: usize, count: c_int, position: Position, flags: c_int) -> Call {
    // The kernel refused a negative count before anything was EFAULT.
    let count = usize::try_from(count).unwrap_or(0);
    Call { direction, file, memory: Memory::Array { addr, count }, position, flags }
}

/// -1 is the file's own position to `preadv2` and `pwritev2`.
fn or_current(at: isize) -> Position {
    if at == -1 { Position::Current } else { Position::At(at) }
}
