// SPDX-License-Identifier: MIT OR Apache-2.0
//! libaio: the functions that hand requests in, and those that fetch events. The kernel tells of memory it cannot pin in
//! the `res` of an event; what was asked is what [`submitted`] noted when it was asked.
//!
//! libaio's own return `-errno`, so these do too. Where a program loads libaio later than us they are bare system
//! calls, as libaio's are but for a look at the ring. The names carry no version: the linker lets a definition without
//! one answer for `LIBAIO_0.1` to `LIBAIO_0.5`; programs linked with `io_getevents` of `LIBAIO_0.1` (before 2002), which
//! has no `min_nr`, are not covered. `io_cancel` needs nothing: the event of a request that was cancelled is fetched like
//! others.
//!
//! `io_submit` itself answers `EFAULT` only for an iocb or an array of iovecs that is no memory: that stands.
//!
//! A block device says `EIO` for a request of more than 256 pages that it could not pin. There the same call is made
//! once more, this time synchronously, and only if that is `EFAULT` it is bounced: an error of the medium stays one.
//!
//! The I/O is made when the event is fetched, so the program has to leave the file open until then: one that is another
//! by then keeps its `EFAULT`.

#![allow(unsafe_code, reason = "functions that C calls")]

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::bounce::{Call, Memory, Position, bounce, says_eio_for_efault};
use crate::counters::{self, Counter};
use crate::kernel::{self, Caller, Direction, Errno, number};
use crate::layout::Segment;

mod submitted;

use submitted::{Notes, Request};

/// `struct io_event`: what the program gave as `data`, its iocb, and two results.
#[repr(C)]
struct Event {
    data: u64,
    iocb: u64,
    res: i64,
    _res2: i64,
}

/// libaio's own, if it was there when the constructor ran: they look into the ring before they enter the kernel.
static NEXT: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

type Submit = unsafe extern "C" fn(usize, isize, usize) -> c_int;
type Destroy = unsafe extern "C" fn(usize) -> c_int;
type GetEvents = unsafe extern "C" fn(usize, isize, isize, *mut Event, usize) -> c_int;
type PGetEvents = unsafe extern "C" fn(usize, isize, isize, *mut Event, usize, usize) -> c_int;

/// Finds libaio's.
pub(super) fn resolve(find: impl Fn(&CStr) -> usize) {
    for (name, next) in [c"io_getevents", c"io_pgetevents", c"io_submit", c"io_destroy"].into_iter().zip(&NEXT) {
        next.store(find(name), Ordering::Release);
    }
}

/// libaio's way to say it, taken apart.
fn taken_apart(got: c_int) -> Result<usize, Errno> {
    usize::try_from(got).map_err(|_| Errno(got.wrapping_neg()))
}

/// What libaio returns.
fn put_together(result: Result<usize, Errno>) -> c_int {
    match result {
        Ok(value) => c_int::try_from(value).unwrap_or(c_int::MAX),
        Err(errno) => -errno.0,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn io_submit(context: usize, count: isize, list: usize) -> c_int {
    const MOST: isize = Notes::MOST as isize;
    let mut done = 0;
    loop {
        // In parts, as the kernel is free to take them.
        let (part, list) = ((count - done).min(MOST), list.wrapping_add(8 * done as usize));
        let mut notes = Notes::new();
        notes.take(context, list, usize::try_from(part).unwrap_or(0));
        let next = NEXT[2].load(Ordering::Relaxed);
        let got = if next == 0 {
            // SAFETY: the program's own arguments, or a part of them.
            put_together(unsafe { kernel::original(number::IO_SUBMIT, [context, part as usize, list, 0, 0, 0]) })
        } else {
            // SAFETY: the dynamic linker found this address for this name, and that is its type.
            let next: Submit = unsafe { core::mem::transmute(next) };
            // SAFETY: the program's own arguments, or a part of them.
            unsafe { next(context, part, list) }
        };
        let accepted = usize::try_from(got).unwrap_or(0);
        if accepted as isize != part {
            notes.keep(accepted);
        }
        if got < 0 && done == 0 {
            return got;
        }
        done += accepted as isize;
        if accepted as isize != part || done >= count {
            return c_int::try_from(done).unwrap_or(c_int::MAX);
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn io_destroy(context: usize) -> c_int {
    // Before its number can be another's. Nobody can fetch its events any more.
    submitted::forget_all(context);
    let next = NEXT[3].load(Ordering::Relaxed);
    if next == 0 {
        // SAFETY: the program's own argument.
        return put_together(unsafe { kernel::original(number::IO_DESTROY, [context, 0, 0, 0, 0, 0]) });
    }
    // SAFETY: the dynamic linker found this address for this name, and that is its type.
    let next: Destroy = unsafe { core::mem::transmute(next) };
    // SAFETY: the program's own argument.
    unsafe { next(context) }
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
    unsafe { finish(context, got, events) }
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
    unsafe { finish(context, got, events) }
}

/// Makes those requests again that ended with `EFAULT`.
///
/// # Safety
/// `got` events lie at `events`.
unsafe fn finish(context: usize, got: Result<usize, Errno>, events: *mut Event) -> c_int {
    let count = match got {
        Ok(count) => count,
        Err(errno) => return -errno.0,
    };
    for n in 0..count {
        // SAFETY: one of those events.
        let event = unsafe { events.add(n) };
        // SAFETY: as above; the program owns them again, and it is in our call.
        let event = unsafe { &mut *event };
        let of = submitted::Event { context, iocb: event.iocb, data: event.data };
        if event.res == -i64::from(Errno::EFAULT.0) || event.res == -i64::from(Errno::EIO.0) {
            retry(of, &mut event.res);
        } else {
            submitted::forget(of);
        }
    }
    c_int::try_from(count).unwrap_or(c_int::MAX)
}

#[cold]
#[inline(never)]
fn retry(event: submitted::Event, res: &mut i64) {
    let is_efault = *res == -i64::from(Errno::EFAULT.0);
    // SAFETY: the program submitted this request, and asks for its result in the call that we are in.
    let caller = unsafe { Caller::of_this_call() };
    let request = submitted::recall(event).filter(Request::has_its_file);
    let Some(call) = request.as_ref().and_then(call_of) else {
        if is_efault {
            counters::add(Counter::PassedOn, 1);
        }
        return;
    };
    if !is_efault && !request.as_ref().is_some_and(Request::is_large) {
        return;
    }
    if !is_efault && !says_eio_for_efault(&call, caller) {
        return;
    }
    match bounce(&call, caller) {
        Some(Ok(bytes)) => {
            *res = i64::try_from(bytes).unwrap_or(i64::MAX);
            counters::add(Counter::Events, 1);
        }
        Some(Err(errno)) => *res = -i64::from(errno.0),
        None => {}
    }
}

/// What the request asks for; good as long as it is, for it may name its segments.
fn call_of(request: &Request) -> Option<Call> {
    let one = Memory::One(Segment { addr: request.buffer, len: request.len });
    let array = Memory::Array { addr: (&raw const request.segments) as usize, count: request.len };
    let (direction, memory) = match request.operation {
        0 => (Direction::Read, one),
        1 => (Direction::Write, one),
        7 => (Direction::Read, array),
        8 => (Direction::Write, array),
        _ => return None,
    };
    let position = Position::At(request.offset);
    Some(Call { direction, file: request.file, memory, position, flags: request.flags })
}
