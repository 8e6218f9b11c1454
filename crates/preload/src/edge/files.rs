// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which file a descriptor is, without asking the kernel each time: it is asked once, and again after the program
//! closed or replaced that descriptor. A descriptor that changed behind our back (`fclose`, `syscall(2)`) is noticed when
//! the file is wanted, for then the kernel is asked anyway; the program gets its `EFAULT` once, and the next is right.

#![allow(unsafe_code, reason = "functions that C calls")]
#![expect(clippy::cast_possible_truncation, reason = "descriptors are ints, and errors -1")]

use core::ffi::{CStr, c_int, c_uint};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use super::answer;
use crate::kernel::{self, Stat, number};

const KNOWN: usize = 256;

/// What is known, by the low bits of the descriptor.
static FILES: [File; KNOWN] = [const { File::new() }; KNOWN];

/// The functions that ours stand before, found once by the constructor.
static NEXT: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

/// A sequence lock that nobody waits for: who finds it odd or changed asks the kernel.
struct File {
    turn: AtomicU64,
    /// The descriptor plus one; 0 for none.
    file: AtomicU64,
    words: [AtomicU64; 4],
}

impl File {
    const fn new() -> File {
        File { turn: AtomicU64::new(0), file: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; 4] }
    }

    fn forget(&self) {
        self.turn.fetch_add(2, Ordering::AcqRel);
        self.file.store(0, Ordering::Release);
    }
}

#[expect(clippy::cast_sign_loss, reason = "a number as good as another, for a table")]
fn place(file: c_int) -> (&'static File, u64) {
    (&FILES[file as usize % KNOWN], u64::from(file as u32) + 1)
}

/// Which file this is.
pub(super) fn identity(file: c_int) -> Option<Stat> {
    let (place, name) = place(file);
    let turn = place.turn.load(Ordering::Acquire);
    if turn % 2 == 0 && place.file.load(Ordering::Relaxed) == name {
        let [dev, ino, seconds, nanoseconds] = [0, 1, 2, 3].map(|n| place.words[n].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if place.turn.load(Ordering::Relaxed) == turn && place.file.load(Ordering::Relaxed) == name {
            return Some(Stat { dev, ino, mode: 0, size: 0, changed: (seconds, nanoseconds) });
        }
    }
    let stat = kernel::stat(file).ok()?;
    let mine = turn + 1;
    if turn % 2 == 0 && place.turn.compare_exchange(turn, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        place.file.store(name, Ordering::Relaxed);
        for (word, value) in place.words.iter().zip([stat.dev, stat.ino, stat.changed.0, stat.changed.1]) {
            word.store(value, Ordering::Relaxed);
        }
        if place.turn.compare_exchange(mine, mine + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // Closed in between: what was asked may be old.
            place.file.store(0, Ordering::Release);
            place.turn.fetch_add(1, Ordering::AcqRel);
        }
    }
    Some(stat)
}

/// It is to be asked again.
pub(super) fn forget(file: c_int) {
    let (place, name) = place(file);
    // One under way to be known counts as well.
    if place.file.load(Ordering::Relaxed) == name || place.turn.load(Ordering::Relaxed) % 2 == 1 {
        place.forget();
    }
}

/// Finds the next definitions.
pub(super) fn resolve(find: impl Fn(&CStr) -> usize) {
    for (name, next) in [c"close", c"dup2", c"dup3", c"close_range"].into_iter().zip(&NEXT) {
        next.store(find(name), Ordering::Release);
    }
}

/// Asks the next definition, or without one the kernel.
macro_rules! next {
    ($index:literal, $number:ident, $($arg:ident: $type:ty),*) => {{
        let next = NEXT[$index].load(Ordering::Relaxed);
        if next == 0 {
            let mut words = [0usize; 6];
            for (word, value) in words.iter_mut().zip([$($arg as usize),*]) {
                *word = value;
            }
            // SAFETY: the program's own arguments, none of them an address.
            answer(unsafe { kernel::original(number::$number, words) }) as c_int
        } else {
            // SAFETY: the dynamic linker found this address for this name, and that is its type.
            let next: unsafe extern "C" fn($($type),*) -> c_int = unsafe { core::mem::transmute(next) };
            // SAFETY: the program's own arguments.
            unsafe { next($($arg),*) }
        }
    }};
}

// Forgotten first: once it is closed another thread may be given its number.

#[unsafe(no_mangle)]
unsafe extern "C" fn close(file: c_int) -> c_int {
    forget(file);
    next!(0, CLOSE, file: c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup2(file: c_int, new: c_int) -> c_int {
    forget(new);
    next!(1, DUP2, file: c_int, new: c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn dup3(file: c_int, new: c_int, flags: c_int) -> c_int {
    forget(new);
    next!(2, DUP3, file: c_int, new: c_int, flags: c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    FILES.iter().for_each(File::forget);
    next!(3, CLOSE_RANGE, first: c_uint, last: c_uint, flags: c_int)
}
