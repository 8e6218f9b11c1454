// SPDX-License-Identifier: MIT OR Apache-2.0
//! libaio: the functions that fetch events. The kernel tells of memory it cannot pin in the `res` of an event;
//! `io_submit` took the request and says nothing, so it is left alone. An event names its iocb, and that says what was
//! asked.
//!
//! libaio's own return `-errno`, so these do too. Where a program loads libaio later than us they are bare system
//! calls, as libaio's are but for a look at the ring. The names carry no version: the linker lets a definition without
//! one answer for `LIBAIO_0.1` to `LIBAIO_0.5`.
//!
//! A block device says `EIO` for a request of more than 256 pages that it could not pin. There the same call is made
//! once more, this time synchronously, and only if that is `EFAULT` it is bounced: an error of the medium stays one.
//!
//! The iocb is read when its event is fetched, and the I/O is made then and there: like libaio's users everywhere, the
//! program has to leave the iocb and the file open until then. An iocb that no longer fits its event (another `data`,
//! an unknown operation, no memory at all) keeps its `EFAULT`.

#![allow(unsafe_code, reason = "functions that C calls")]

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::bounce::{Call, Memory, Position, bounce, says_eio_for_efault};
use crate::counters::{self, Counter};
use crate::kernel::{self, Caller, Direction, Errno, number};
use crate::layout::Segment;
use crate::pool::{Cutting, Slot};

/// `struct io_event`: what the program gave as `data`, its iocb, and two results.
#[repr(C)]
struct Event {
    data: u64,
    iocb: u64,
    res: i64,
    _res2: i64,
}

/// libaio's own, if it was there when the constructor ran: they look into the ring before they enter the kernel.
static NEXT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

type GetEvents = unsafe extern "C" fn(usize, isize, isize, *mut Event, usize) -> c_int;
type PGetEvents = unsafe extern "C" fn(usize, isize, isize, *mut Event, usize, usize) -> c_int;

/// Finds libaio's.
pub(super) fn resolve(find: impl Fn(&CStr) -> usize) {
    for (name, next) in [c"io_getevents", c"io_pgetevents"].into_iter().zip(&NEXT) {
        next.store(find(name), Ordering::Release);
    }
}

/// libaio's way to say it, taken apart.
fn taken_apart(got: c_int) -> Result<usize, Errno> {
    usize::try_from(got).map_err(|_| Errno(got.wrapping_neg()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn io_getevents(
    context: usize,
    least: isize,
    most: isize,
    events: *mut Event,
    timeout: usize,
) -> c_int {
    let next = NEXT[0].load(Ordering::Relaxed);
    let got = if next == 0 {
        let args = [context, least as usize, most as usize, events as usize, timeout, 0];
        // SAFETY: the program's own arguments.
        unsafe { kernel::original(number::IO_GETEVENTS, args) }
    } else {
        // SAFETY: the dynamic linker found this address for this name, and that is its type.
        let next: GetEvents = unsafe { core::mem::transmute(next) };
        // SAFETY: the program's own arguments.
        taken_apart(unsafe { next(context, least, most, events, timeout) })
    };
    // SAFETY: the kernel filled in this many events.
    unsafe { finish(got, events) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn io_pgetevents(
    context: usize,
    least: isize,
    most: isize,
    events: *mut Event,
    timeout: usize,
    mask: usize,
) -> c_int {
    let next = NEXT[1].load(Ordering::Relaxed);
    let got = if next == 0 {
        // The kernel takes the mask with its size behind it.
        let sized = [mask, 8];
        let args = [context, least as usize, most as usize, events as usize, timeout, (&raw const sized) as usize];
        // SAFETY: the program's own arguments, and the pair above.
        unsafe { kernel::original(number::IO_PGETEVENTS, args) }
    } else {
        // SAFETY: the dynamic linker found this address for this name, and that is its type.
        let next: PGetEvents = unsafe { core::mem::transmute(next) };
        // SAFETY: the program's own arguments.
        taken_apart(unsafe { next(context, least, most, events, timeout, mask) })
    };
    // SAFETY: the kernel filled in this many events.
    unsafe { finish(got, events) }
}

/// Makes those requests again that ended with `EFAULT`.
///
/// # Safety
/// `got` events lie at `events`.
unsafe fn finish(got: Result<usize, Errno>, events: *mut Event) -> c_int {
    let count = match got {
        Ok(count) => count,
        Err(errno) => return -errno.0,
    };
    for n in 0..count {
        // SAFETY: one of those events.
        let event = unsafe { events.add(n) };
        // SAFETY: as above; the program owns them again, and it is in our call.
        let res = unsafe { (*event).res };
        if res == -i64::from(Errno::EFAULT.0) || res == -i64::from(Errno::EIO.0) {
            // SAFETY: as above.
            let event = unsafe { &mut *event };
            retry(event);
        }
    }
    c_int::try_from(count).unwrap_or(c_int::MAX)
}

#[cold]
fn retry(event: &mut Event) {
    // SAFETY: the program submitted this iocb, and asks for its result in the call that we are in.
    let caller = unsafe { Caller::of_this_call() };
    let Some(call) = call_of(event, caller) else { return };
    if event.res == -i64::from(Errno::EIO.0) && !says_eio_for_efault(&call, caller) {
        return;
    }
    match bounce(&call, caller) {
        Some(Ok(bytes)) => {
            event.res = i64::try_from(bytes).unwrap_or(i64::MAX);
            counters::add(Counter::Events, 1);
        }
        Some(Err(errno)) => event.res = -i64::from(errno.0),
        None => {}
    }
}

/// What the iocb asks for.
#[expect(
    clippy::cast_possible_truncation,
    reason = "fields are cut out of 64-bit words, and addresses have 64 bits here"
)]
fn call_of(event: &Event, caller: Caller) -> Option<Call> {
    let slot = Slot::take(0, Cutting::Allowed)?;
    // struct iocb: data; key and rw_flags; opcode, priority and descriptor; buf; nbytes; offset; reserved; flags and resfd.
    let [data, key_and_flags, operation, buf, len, offset, ..] =
        slot.load_words::<8>(event.iocb as usize, caller).ok()?;
    if data != event.data {
        return None;
    }
    let (addr, len) = (buf as usize, len as usize);
    let array = Memory::Array { addr, count: len };
    let (direction, memory) = match operation as u16 {
        0 => (Direction::Read, Memory::One(Segment { addr, len })),
        1 => (Direction::Write, Memory::One(Segment { addr, len })),
        7 => (Direction::Read, array),
        8 => (Direction::Write, array),
        _ => return None,
    };
    let position = Position::At(offset as isize);
    Some(Call { direction, file: (operation >> 32) as i32, memory, position, flags: (key_and_flags >> 32) as i32 })
}
