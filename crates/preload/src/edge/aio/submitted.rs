// SPDX-License-Identifier: MIT OR Apache-2.0
//! What libaio's requests said when they were submitted.
//!
//! The kernel copies a request in `io_submit`: from then on the program may use its iocb and its iovecs for something
//! else, and close the file. So what is to be made again is noted here first, and found again by the event's context,
//! iocb and `data`.
//!
//! # When there is no note
//! The event keeps its `EFAULT`: where more than one request with the same context, iocb and `data` is under way (an
//! event does not say whose it is), with more than [`SEGMENTS`] iovecs, when [`PLACES`] near its own are taken, when the
//! descriptor is another file by now, or when the program entered the kernel without us. Events that passed us by leave
//! a note behind, which can only make later ones doubtful.
//!
//! # When there is a signal
//! Iocbs and iovecs are noted before the kernel has them, since their events may be fetched while `io_submit` runs: there is
//! no `EFAULT` to wait for first. They are read by our own loads, from pages that the kernel could read when each was first
//! seen. So where a program has unmapped such a page since, or another thread unmaps it during the call, `SIGSEGV` takes the
//! place of `EFAULT`. `process_vm_readv` would tell, for two system calls or more in each `io_submit` of every program.
//!
//! # Lock-free
//! An entry belongs to whoever put [`BUSY`] into its state. A forked child has none of its parent's contexts, and finds
//! zeroes here: nothing noted.

#![allow(unsafe_code, reason = "the table lies in a mapping of its own, and iocbs in the program's memory")]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::super::files;
use crate::kernel::{self, InChild, Stat};
use crate::layout::{PAGE, Segment};

/// Requests that can be under way at once: the kernel lets a machine have 65536 by default.
const ENTRIES: usize = 8192;
/// An entry is among this many from where its hash says.
const PLACES: usize = 32;
/// The most iovecs of a request.
pub(super) const SEGMENTS: usize = 56;

const FREE: u64 = 0;
const BUSY: u64 = 1;

/// Words of an entry.
const CONTEXT: usize = 0;
const DATA: usize = 1;
const DOUBTFUL: usize = 2;
/// Of a place, not of its entry: once a request whose hash says this place has found it taken. None of them is elsewhere before.
const CROWDED: usize = 3;
const FLAGS: usize = 4;
const OPERATION: usize = 5;
const BUFFER: usize = 6;
const BYTES: usize = 7;
const OFFSET: usize = 8;
const DEV: usize = 9;
const INO: usize = 10;
const CHANGED: usize = 11;
const IOVECS: usize = 13;
const WORDS: usize = IOVECS + 2 * SEGMENTS;

/// The address of the table; 0 before the first request.
static TABLE: AtomicUsize = AtomicUsize::new(0);

/// `FREE`, `BUSY` or the address of the iocb, apart from the rest so that looking takes few cache lines.
#[repr(C)]
struct Table {
    states: [AtomicU64; ENTRIES],
    entries: [[AtomicU64; WORDS]; ENTRIES],
}

/// The table, made if need be.
fn table() -> Option<&'static Table> {
    let mut at = TABLE.load(Ordering::Acquire);
    if at == 0 {
        let made = kernel::map(-1, size_of::<Table>()).ok()?;
        let wiped = kernel::advise(made, size_of::<Table>(), InChild::Zeroes).is_ok();
        let seen = if wiped { TABLE.compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire) } else { Err(0) };
        at = match seen {
            Ok(_) => made,
            Err(other) => {
                // SAFETY: nobody else knows this mapping.
                unsafe { kernel::unmap(made, size_of::<Table>()) };
                other
            }
        };
    }
    if at == 0 {
        return None;
    }
    // SAFETY: mapped above, never unmapped, zeroes when new and in a child: valid for atomics.
    Some(unsafe { &*(at as *const Table) })
}

impl Table {
    fn word(&self, index: usize, word: usize) -> u64 {
        self.entries[index % ENTRIES][word % WORDS].load(Ordering::Relaxed)
    }

    fn set(&self, index: usize, word: usize, value: u64) {
        self.entries[index % ENTRIES][word % WORDS].store(value, Ordering::Relaxed);
    }

    fn state(&self, index: usize) -> &AtomicU64 {
        &self.states[index % ENTRIES]
    }

    fn is_of(&self, index: usize, context: usize, data: u64) -> bool {
        self.word(index, CONTEXT) == context as u64 && self.word(index, DATA) == data
    }
}

/// Where the hash says.
fn own_place(iocb: u64) -> usize {
    // The high bits of a product depend on all of the factor's.
    (iocb.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51) as usize % ENTRIES
}

fn places(iocb: u64) -> impl Iterator<Item = usize> {
    let own = own_place(iocb);
    (own..own + PLACES).map(|index| index % ENTRIES)
}

/// The notes of one `io_submit`.
pub(super) struct Notes {
    entries: [u16; Notes::MOST],
    count: usize,
}

/// No entry.
const NONE: u16 = u16::MAX;

impl Notes {
    /// Requests that are noted at a time.
    pub(super) const MOST: usize = 128;

    pub(super) fn new() -> Notes {
        Notes { entries: [NONE; Notes::MOST], count: 0 }
    }

    /// Notes the requests of an array of iocb pointers; before the kernel has them, for then another thread may fetch
    /// their events, and free them.
    #[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits here")]
    pub(super) fn take(&mut self, context: usize, list: usize, count: usize) {
        let Some(table) = table() else { return };
        for n in 0..count.min(Notes::MOST) {
            let Some([iocb]) = words_at(list.wrapping_add(8 * n)) else { return };
            let Some(words) = words_at(iocb as usize) else { return };
            self.entries[n] = Notes::note(table, context, iocb, words).unwrap_or(NONE);
            self.count = n + 1;
        }
    }

    /// struct iocb: data; key and rw_flags; opcode, priority and descriptor; buf; nbytes; offset; reserved; flags and resfd.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fields are cut out of 64-bit words, addresses have 64 bits here, and entries 13"
    )]
    fn note(table: &Table, context: usize, iocb: u64, words: [u64; 8]) -> Option<u16> {
        let [data, flags, operation, buffer, bytes, offset, ..] = words;
        let stat = files::identity((operation >> 32) as i32)?;
        let segments = match operation as u16 {
            0 | 1 => 0,
            7 | 8 => usize::try_from(bytes).ok().filter(|count| *count <= SEGMENTS)?,
            _ => return None,
        };
        let own = own_place(iocb);
        let index = places(iocb).find(|index| {
            let state = table.state(*index);
            let taken = state.load(Ordering::Relaxed) == FREE
                && state.compare_exchange(FREE, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if !taken && *index == own {
                table.set(own, CROWDED, 1);
            }
            taken
        })?;
        let request = [
            (CONTEXT, context as u64),
            (DATA, data),
            (DOUBTFUL, 0),
            (FLAGS, flags),
            (OPERATION, operation),
            (BUFFER, buffer),
            (BYTES, bytes),
            (OFFSET, offset),
            (DEV, stat.dev),
            (INO, stat.ino),
            (CHANGED, stat.changed.0),
            (CHANGED + 1, stat.changed.1),
        ];
        for (word, value) in request {
            table.set(index, word, value);
        }
        for n in 0..segments {
            let Some([addr, len]) = words_at((buffer as usize).wrapping_add(16 * n)) else {
                table.state(index).store(FREE, Ordering::Release);
                return None;
            };
            table.set(index, IOVECS + 2 * n, addr);
            table.set(index, IOVECS + 2 * n + 1, len);
        }
        table.state(index).store(iocb, Ordering::Release);
        Some(index as u16)
    }

    /// Forgets all but the first `accepted`: the kernel did not take them.
    pub(super) fn keep(&self, accepted: usize) {
        let Some(table) = table() else { return };
        for index in self.entries.iter().take(self.count).skip(accepted).filter(|index| **index != NONE) {
            table.state((*index).into()).store(FREE, Ordering::Release);
        }
    }
}

/// Pages of the program's memory that were seen to be there.
static PAGES: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

/// Words of the program's memory that the kernel is about to read. Of a page not seen before it is asked whether it is
/// there, so that the answer to a wrong pointer is the kernel's, and not a signal of ours. It is not asked each time, for
/// that would be felt: see "When there is a signal" above.
fn words_at<const N: usize>(addr: usize) -> Option<[u64; N]> {
    for end in [addr, addr.checked_add(8 * N - 1)?] {
        let page = end / PAGE;
        let seen = &PAGES[page % PAGES.len()];
        if page == 0 || seen.load(Ordering::Relaxed) != page {
            if !kernel::is_readable(page * PAGE) {
                return None;
            }
            seen.store(page, Ordering::Relaxed);
        }
    }
    // SAFETY: the kernel has read these pages, and the program has handed them to a call that is not over.
    Some(unsafe { (addr as *const [u64; N]).read_unaligned() })
}

/// Whose event it is.
#[derive(Debug, Copy, Clone)]
pub(super) struct Event {
    pub(super) context: usize,
    pub(super) iocb: u64,
    pub(super) data: u64,
}

/// A request as it was submitted.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) operation: u16,
    pub(super) flags: i32,
    pub(super) file: i32,
    pub(super) buffer: usize,
    pub(super) len: usize,
    pub(super) offset: isize,
    pub(super) segments: [Segment; SEGMENTS],
    stat: Stat,
}

impl Request {
    /// Whether it has more than 256 pages.
    pub(super) fn is_large(&self) -> bool {
        const FIRST_VECTORED: u16 = 7;
        let pages = |addr: usize, len: usize| (addr % PAGE).saturating_add(len).div_ceil(PAGE);
        if self.operation < FIRST_VECTORED {
            return pages(self.buffer, self.len) > 256;
        }
        let segments = self.segments.iter().take(self.len);
        segments.fold(0usize, |sum, s| sum.saturating_add(pages(s.addr, s.len))) > 256
    }

    /// Whether the descriptor is the file that it was: the same inode, and not a later file that was given its number.
    pub(super) fn has_its_file(&self) -> bool {
        let Ok(now) = kernel::stat(self.file) else { return false };
        let is_older = |born| born <= self.stat.changed || now.changed < born; // or the clock was set back
        let same = now.dev == self.stat.dev && now.ino == self.stat.ino && kernel::born(self.file).is_none_or(is_older);
        if !same {
            files::forget(self.file);
        }
        same
    }
}

/// An event was fetched: its note goes. `None` where there was none, or several.
fn claim(event: Event) -> Option<(&'static Table, usize)> {
    let table = table()?;
    loop {
        let mine = |index: &usize| {
            table.state(*index).load(Ordering::Acquire) == event.iocb && table.is_of(*index, event.context, event.data)
        };
        let own = own_place(event.iocb);
        let (index, several) = if table.word(own, CROWDED) == 0 {
            (Some(own).filter(mine)?, false)
        } else {
            let mut found = places(event.iocb).filter(mine);
            let (index, several) = (found.next()?, found.next().is_some());
            if several {
                // Before one goes: whoever then sees a single one has to see this.
                places(event.iocb).filter(mine).for_each(|index| table.set(index, DOUBTFUL, 1));
            }
            (index, several)
        };
        let state = table.state(index);
        if state.compare_exchange(event.iocb, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        if !table.is_of(index, event.context, event.data) {
            // Another one took this place in between.
            state.store(event.iocb, Ordering::Release);
            continue;
        }
        if several || table.word(index, DOUBTFUL) != 0 {
            state.store(FREE, Ordering::Release);
            return None;
        }
        return Some((table, index));
    }
}

/// Forgets a request whose event needs no more.
pub(super) fn forget(event: Event) {
    if let Some((table, index)) = claim(event) {
        table.state(index).store(FREE, Ordering::Release);
    }
}

/// What was noted of a request, and forgets it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "fields are cut out of 64-bit words, and addresses have 64 bits here"
)]
pub(super) fn recall(event: Event) -> Option<Request> {
    let (table, index) = claim(event)?;
    let word = |word| table.word(index, word);
    let request = Request {
        operation: word(OPERATION) as u16,
        flags: (word(FLAGS) >> 32) as i32,
        file: (word(OPERATION) >> 32) as i32,
        buffer: word(BUFFER) as usize,
        len: word(BYTES) as usize,
        offset: word(OFFSET) as isize,
        segments: core::array::from_fn(|n| Segment {
            addr: word(IOVECS + 2 * n) as usize,
            len: word(IOVECS + 2 * n + 1) as usize,
        }),
        stat: Stat { dev: word(DEV), ino: word(INO), mode: 0, size: 0, changed: (word(CHANGED), word(CHANGED + 1)) },
    };
    table.state(index).store(FREE, Ordering::Release);
    Some(request)
}

/// Forgets the requests of a context.
pub(super) fn forget_all(context: usize) {
    let Some(table) = table() else { return };
    for index in 0..ENTRIES {
        let state = table.state(index);
        let iocb = state.load(Ordering::Acquire);
        if iocb != FREE
            && iocb != BUSY
            && table.word(index, CONTEXT) == context as u64
            && state.compare_exchange(iocb, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            let gone = table.word(index, CONTEXT) == context as u64;
            state.store(if gone { FREE } else { iocb }, Ordering::Release);
        }
    }
}
