// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots: aligned memory that the kernel does pin, in a memfd, so that bytes move between a slot and the program's
//! memory by `pread` and `pwrite` on that memfd with the program's pointer.
//!
//! # Whose pool it is
//! A pool belongs to an *address space*, not to a process:
//!
//! * A vfork child runs in its parent's address space. It finds the same pool and takes slots from the same bitmap,
//!   which is atomic, so neither gets the other's slot.
//! * A forked child has an address space of its own. The pages that say where the pool is, and what of it is taken,
//!   read as zeroes there (`MADV_WIPEONFORK`), so the child makes its own at its first bounce and never shares a slot
//!   with its parent; the parent's slots are not even mapped there (`MADV_DONTFORK`). A child that was forked by a
//!   signal handler in the middle of a bounce, and comes back to it, finds that out before it next uses the slot
//!   ([`Slot::is_ours`]), and gets `EFAULT`.
//!
//! # Programs that close what they did not open
//! Daemons do, and the number may be given to one of their files next: each time before a slot is used the descriptor
//! is compared (device, inode) with what the pool was made of. A pool that lost its descriptor is abandoned, not
//! unmapped: another thread may be in it.
//!
//! # Never blocks
//! Taking a slot is one compare-and-swap. When all are taken (64 threads, or nested signal handlers, or a thread
//! cancelled in the middle) a call makes a slot for itself; if the kernel refuses that too, it looks again a bounded
//! number of times, and then the kernel's `EFAULT` stands.

#![allow(unsafe_code, reason = "the pool's words and arrays lie in mappings that it makes itself")]

use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use crate::counters::{self, Counter};
use crate::kernel::{self, Caller, Direction, Errno, InChild, Stat};
use crate::layout::{PAGE, Segment, Segments};

/// Bytes of one slot. Calls take as many adjacent ones as they need.
const SLOT: usize = 256 << 10;
const SLOTS: usize = 32;
/// Slots that a call takes at most when it may be cut: 1 MiB of bytes in cache rather than more outside.
const CUT: usize = 4;
/// With each slot go two arrays: the program's iovecs as they were when the call began, and the device's.
const MAX_SEGMENTS: usize = 1024;
const IOVEC: usize = 16;
const DEVICE_IOVECS: usize = MAX_SEGMENTS * IOVEC;
const ARRAYS: usize = 2 * DEVICE_IOVECS;
/// The pool's own words, then the arrays of each slot.
const OWN: usize = PAGE + SLOTS * ARRAYS;
const POOL: usize = SLOTS * SLOT;
const LOOKS: u32 = 1000;

/// The address of the page that says where this address space's pool is; 0 before the first use.
static HOME: AtomicUsize = AtomicUsize::new(0);

/// What a pool is: the start of its own words, which read as zeroes in a forked child.
#[repr(C)]
struct Header {
    /// The address of the slots; 0 in a child.
    slots: AtomicUsize,
    file: AtomicI32,
    dev: AtomicU64,
    ino: AtomicU64,
    /// One bit for each slot that is taken.
    taken: AtomicU64,
}

/// What an address space knows of its pool. Reads as zeroes in a forked child.
#[repr(C)]
struct Home {
    /// The address of the pool, 0 for none.
    pool: AtomicUsize,
    /// Which address space this is: no child has its parent's.
    space: AtomicUsize,
}

/// The page of [`HOME`], made if need be.
fn home() -> Option<&'static Home> {
    let mut at = HOME.load(Ordering::Acquire);
    if at == 0 {
        let made = kernel::map(-1, PAGE).ok()?;
        // Without this advice a child would find its parent's pool, so there is none then.
        let wiped = kernel::advise(made, PAGE, InChild::Zeroes).is_ok();
        let seen = if wiped { HOME.compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire) } else { Err(0) };
        at = match seen {
            Ok(_) => made,
            Err(other) => {
                // SAFETY: nobody else knows this mapping.
                unsafe { kernel::unmap(made, PAGE) };
                other
            }
        };
    }
    if at == 0 {
        return None;
    }
    // SAFETY: a page mapped above and never unmapped, in children as well, where it reads as zeroes: valid for these
    // atomics.
    Some(unsafe { &*(at as *const Home) })
}

/// Which address space this is, so that a slot can tell that it was left behind.
fn space() -> usize {
    let Some(home) = home() else { return 0 };
    match home.space.load(Ordering::Acquire) {
        // A process id no parent shares with its child.
        0 => match home.space.compare_exchange(0, kernel::process(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => home.space.load(Ordering::Acquire),
            Err(other) => other,
        },
        known => known,
    }
}

/// A pool by the address of its header. Pools are never unmapped in the address space that they were made in.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
struct Pool(usize);

impl Pool {
    /// The pool of this address space, if its descriptor is still what it was; else a new one.
    fn current() -> Option<Pool> {
        let home = home()?;
        let found = home.pool.load(Ordering::Acquire);
        if found != 0 && Pool(found).has_its_file() {
            return Some(Pool(found));
        }
        let made = Pool::make()?;
        match home.pool.compare_exchange(found, made.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(made),
            Err(other) => {
                made.discard();
                Some(Pool(other)).filter(|pool| pool.0 != 0 && pool.has_its_file())
            }
        }
    }

    /// Of a pool that nobody else knows.
    fn discard(self) {
        let header = self.header();
        discard(header.file.load(Ordering::Relaxed), header.slots.load(Ordering::Relaxed), POOL);
        // SAFETY: as above, and `header` is not used any more.
        unsafe { kernel::unmap(self.0, OWN) };
    }

    fn make() -> Option<Pool> {
        let (file, stat, slots) = file_and_mapping(POOL)?;
        let Some(own) = own_words(OWN) else {
            discard(file, slots, POOL);
            return None;
        };
        let pool = Pool(own);
        let header = pool.header();
        header.slots.store(slots, Ordering::Relaxed);
        header.file.store(file, Ordering::Relaxed);
        header.dev.store(stat.dev, Ordering::Relaxed);
        header.ino.store(stat.ino, Ordering::Relaxed);
        Some(pool)
    }

    fn header(self) -> &'static Header {
        // SAFETY: memory that `make` mapped, which reads as zeroes when new and in a child: valid for these atomics. It is
        // unmapped only while nobody else knows it.
        unsafe { &*(self.0 as *const Header) }
    }

    fn has_its_file(self) -> bool {
        let header = self.header();
        let (dev, ino) = (header.dev.load(Ordering::Relaxed), header.ino.load(Ordering::Relaxed));
        kernel::stat(header.file.load(Ordering::Relaxed)).is_ok_and(|now| now.dev == dev && now.ino == ino)
    }

    /// `count` adjacent slots that nobody has.
    fn take(self, count: usize) -> Option<Slot> {
        // First, so that in a child which was forked in between nothing that follows passes for the child's.
        let space = space();
        let taken = &self.header().taken;
        let mut seen = taken.load(Ordering::Relaxed);
        let ones = u64::MAX.checked_shr(u32::try_from(64 - count).ok()?)?;
        loop {
            let first = (0..=SLOTS.checked_sub(count)?).find(|at| seen & (ones << at) == 0)?;
            let mask = ones << first;
            match taken.compare_exchange_weak(seen, seen | mask, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    let (offset, len) = (first * SLOT, count * SLOT);
                    let header = self.header();
                    let addr = header.slots.load(Ordering::Relaxed) + offset;
                    let arrays = self.0 + PAGE + first * ARRAYS;
                    let file = header.file.load(Ordering::Relaxed);
                    return Some(Slot { arrays, addr, file, offset, len, space, from: From::Pool(self, mask) });
                }
                Err(now) => seen = now,
            }
        }
    }
}

/// A memfd of this size out of the way of the program's own descriptors, and a shared mapping of it that children do
/// not have.
fn file_and_mapping(len: usize) -> Option<(i32, Stat, usize)> {
    // Past this limit growing a file is a signal.
    if kernel::limit(kernel::FILE_SIZE) < len as u64 {
        return None;
    }
    let limit = usize::try_from(kernel::limit(kernel::OPEN_FILES)).unwrap_or(usize::MAX);
    let file = kernel::move_up(kernel::memfd(len).ok()?, limit.saturating_sub(16).min(1000));
    let made = kernel::stat(file).and_then(|stat| kernel::map(file, len).map(|addr| (file, stat, addr)));
    let (file, stat, addr) = made.inspect_err(|_| kernel::close(file)).ok()?;
    if kernel::advise(addr, len, InChild::Nothing).is_err() {
        discard(file, addr, len);
        return None;
    }
    Some((file, stat, addr))
}

/// Undoes [`file_and_mapping`].
fn discard(file: i32, addr: usize, len: usize) {
    kernel::close(file);
    // SAFETY: callers have told nobody of this mapping, or everybody is done with it.
    unsafe { kernel::unmap(addr, len) };
}

/// Memory for words and arrays that our own instructions touch. It is there in a forked child, as zeroes: one that
/// comes back into the middle of a bounce may touch it before it knows.
fn own_words(len: usize) -> Option<usize> {
    let addr = kernel::map(-1, len).ok()?;
    if kernel::advise(addr, len, InChild::Zeroes).is_err() {
        // SAFETY: nobody else knows this mapping.
        unsafe { kernel::unmap(addr, len) };
        return None;
    }
    Some(addr)
}

/// Makes the pool of this process before its program runs, and may have fewer rights.
pub(crate) fn prepare() {
    let _ = Pool::current();
}

#[derive(Debug)]
enum From {
    /// Bits of this pool's bitmap.
    Pool(Pool, u64),
    /// Made for one call, of this file.
    Kernel(Stat),
}

/// Memory for one call. Its payload starts at a page, and is touched by the kernel alone.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The address of two arrays of iovecs.
    arrays: usize,
    /// The payload: where it is mapped, and which part of which file it is.
    addr: usize,
    file: i32,
    offset: usize,
    len: usize,
    space: usize,
    from: From,
}

/// Whether a call may be moved in several pieces.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Cutting {
    Allowed,
    /// It must reach the kernel as one call, whatever its size.
    Forbidden,
}

impl Slot {
    /// A slot with this much payload, or where cutting is allowed with less.
    pub(crate) fn take(payload: usize, cutting: Cutting) -> Option<Slot> {
        let wanted = payload.div_ceil(SLOT).max(1);
        let (most, least) = match cutting {
            Cutting::Allowed => (wanted.min(CUT), 1),
            Cutting::Forbidden => (wanted, wanted),
        };
        let from_pool = || {
            let pool = Pool::current().filter(|_| most <= SLOTS)?;
            pool.take(most).or_else(|| pool.take(least))
        };
        if let Some(slot) = from_pool() {
            return Some(slot);
        }
        counters::add(Counter::Temporary, 1);
        if let Some(slot) = Slot::make(most * SLOT) {
            return Some(slot);
        }
        counters::add(Counter::Waits, 1);
        (0..LOOKS).find_map(|_| {
            kernel::yield_now();
            from_pool()
        })
    }

    fn make(len: usize) -> Option<Slot> {
        let space = space();
        let (file, stat, addr) = file_and_mapping(len)?;
        let Some(arrays) = own_words(ARRAYS) else {
            discard(file, addr, len);
            return None;
        };
        Some(Slot { arrays, addr, file, offset: 0, len, space, from: From::Kernel(stat) })
    }

    /// Bytes of payload.
    pub(crate) fn payload(&self) -> usize {
        self.len
    }

    /// Whether this is still the address space that the slot was taken in. Asked before each use: a signal handler may have
    /// forked between two of them, and its child come back here.
    pub(crate) fn is_ours(&self) -> bool {
        self.space != 0 && home().is_some_and(|home| home.space.load(Ordering::Acquire) == self.space)
    }

    /// Copies the program's array of iovecs here, once: what the program does to its own later changes nothing. The
    /// payload is lost, for the copy goes through it.
    pub(crate) fn load_segments(&self, addr: usize, count: usize, caller: Caller) -> Result<(), Errno> {
        if count > MAX_SEGMENTS {
            return Err(Errno::EFAULT);
        }
        self.load(addr, count * IOVEC, caller)
    }

    /// As if the program had given an array of this one.
    pub(crate) fn one_segment(&self, segment: Segment) -> Result<(), Errno> {
        self.set_words(0, segment)
    }

    /// The first `count` of the program's iovecs.
    pub(crate) fn segments(&self, count: usize) -> SlotSegments<'_> {
        SlotSegments { slot: self, count: count.min(MAX_SEGMENTS) }
    }

    /// Copies a structure of the program here, and returns its words.
    pub(crate) fn load_words<const N: usize>(&self, addr: usize, caller: Caller) -> Result<[u64; N], Errno> {
        self.load(addr, 8 * N, caller)?;
        Ok(core::array::from_fn(|n| self.word(8 * n)))
    }

    /// Copies the program's words to the first array. Two calls of the kernel, and no load of our own from an address
    /// of the program's.
    fn load(&self, addr: usize, bytes: usize, caller: Caller) -> Result<(), Errno> {
        if self.fill(0, addr, bytes, caller)? != bytes || bytes > DEVICE_IOVECS || !self.is_ours() {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the array is that long.
        match unsafe { kernel::read_at(self.file, self.offset, self.arrays, bytes) } {
            Ok(read) if read == bytes => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Makes iovec `index` of the device `len` bytes at `at` of the payload.
    pub(crate) fn aim(&self, index: usize, at: usize, len: usize) -> Result<(), Errno> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.payload()) && index < MAX_SEGMENTS;
        if !inside {
            return Err(Errno::EFAULT);
        }
        self.set_words(DEVICE_IOVECS + index * IOVEC, Segment { addr: self.addr + at, len })
    }

    /// One call on a file with the first `count` iovecs of the device.
    pub(crate) fn transfer(
        &self,
        direction: Direction,
        file: i32,
        count: usize,
        position: isize,
        flags: i32,
    ) -> Result<usize, Errno> {
        if count > MAX_SEGMENTS || !self.is_ours() {
            return Err(Errno::EFAULT);
        }
        // SAFETY: `aim` alone writes this array: each entry lies in the payload, or is nothing in a child.
        unsafe { kernel::transfer(direction, file, self.arrays + DEVICE_IOVECS, count, position, flags) }
    }

    /// Copies from the program's memory into the payload.
    pub(crate) fn fill(&self, at: usize, addr: usize, len: usize, caller: Caller) -> Result<usize, Errno> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || !self.is_ours() {
            return Err(Errno::EFAULT);
        }
        kernel::copy_from(self.file, self.offset + at, addr, len, caller)
    }

    /// Copies from the payload to the program's memory.
    pub(crate) fn empty(&self, at: usize, addr: usize, len: usize, caller: Caller) -> Result<usize, Errno> {
        if !self.is_ours() {
            return Err(Errno::EFAULT);
        }
        kernel::copy_to(self.file, self.offset + at, addr, len, caller)
    }

    fn set_words(&self, at: usize, segment: Segment) -> Result<(), Errno> {
        if !self.is_ours() {
            return Err(Errno::EFAULT);
        }
        let words = [segment.addr as u64, segment.len as u64];
        // SAFETY: callers pass the place of an iovec in the arrays, aligned; the kernel reads it too, hence volatile.
        unsafe { ((self.arrays + at) as *mut [u64; 2]).write_volatile(words) };
        Ok(())
    }

    fn word(&self, at: usize) -> u64 {
        if at + 8 > ARRAYS {
            return 0;
        }
        // SAFETY: an aligned word of the arrays; the kernel wrote it, hence volatile.
        unsafe { ((self.arrays + at) as *const u64).read_volatile() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        match self.from {
            From::Pool(pool, mask) => {
                pool.header().taken.fetch_and(!mask, Ordering::Release);
            }
            From::Kernel(made) => {
                if kernel::stat(self.file) == Ok(made) {
                    kernel::close(self.file);
                }
                // SAFETY: made for this call, which is over.
                unsafe { kernel::unmap(self.addr, self.len) };
                // SAFETY: as above.
                unsafe { kernel::unmap(self.arrays, ARRAYS) };
            }
        }
    }
}

/// The program's iovecs, as the slot keeps them.
#[derive(Debug, Copy, Clone)]
pub(crate) struct SlotSegments<'a> {
    slot: &'a Slot,
    count: usize,
}

impl Segments for SlotSegments<'_> {
    fn count(self) -> usize {
        self.count
    }

    #[expect(clippy::cast_possible_truncation, reason = "addresses have 64 bits here")]
    fn segment(self, index: usize) -> Segment {
        let at = index.min(MAX_SEGMENTS - 1) * IOVEC;
        Segment { addr: self.slot.word(at) as usize, len: self.slot.word(at + 8) as usize }
    }
}
