// SPDX-License-Identifier: MIT OR Apache-2.0
//! One I/O by frame number.
//!
//! # Words
//! A *device* is a disk; a *queue* is one thread's way to it; a *bio* is one I/O. The memory of a bio is a
//! list of [`PhysRange`](pageless_mem::PhysRange)s: frame numbers, never addresses or slices. How bytes went is a *route*.
//!
//! # Flow
//! A submitter opens a [`Checked`] queue on a [`BlockDevice`] and moves [`Bio`]s into it. `Checked` refuses what
//! the device's [`Limits`] do not allow, cuts what is too long, and gives the driver's own [`Queue`] the rest.
//! [`Queue::poll`] brings back one [`Completion`] for each, in any order:
//!
//! ```text
//! submitter ──Bio──► Checked ──Bio, or pieces──► driver's Queue ──► medium
//!           ◄──────── Completion{tag, status, done, route} ◄──────
//!           ◄─ Refused{bio, why}   (never begun)
//! ```
//!
//! Where memory is given as addresses, an [`IovIter`] names its frames first, a request at a time:
//!
//! ```
//! use pageless_block::{Bio, IovIter, Limits, Sector, UserIovec};
//! use pageless_mem::{Access, Backing, Memory};
//! use pageless_sys::mmap::Mapping;
//! use std::sync::Arc;
//!
//! let memory = Memory::new()?;
//! let mapping = Arc::new(Mapping::anonymous(64 << 10)?);              // this program's, which goes on using it
//! let region = memory.register(Backing::lent(&mapping, 0, 64 << 10, true)?)?;
//! let iovecs = [(100, 412), (5000, 8192)].map(|(at, len)| UserIovec { addr: mapping.addr() + at, len });
//!
//! let mut iter = IovIter::user(&iovecs)?;                             // refuses what no I/O can be
//! iter.check_disjoint()?;                                             // as a destination must be
//! let limits = Limits { max_bytes: 4096, ..Limits::default() };
//! let mut reader = memory.reader();
//! let extracted = iter.extract(&reader.online(), &limits, Access::Write)?;
//! assert_eq!((extracted.list().len_bytes(), iter.len()), (4096, 4508)); // whole blocks; the rest is the next request's
//! let bio = Bio::read(Sector(0), extracted.into_parts().0, 1);
//! assert_eq!(bio.len, 4096);
//!
//! drop(region);                                                       // frames are named, not held:
//! assert!(reader.online().pin(bio.data.as_slice(), Access::Write).is_err()); // who does the I/O finds them gone
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Which way bytes go is [`decide`]d in one place, range by range, from what may be done with the memory
//! ([`Caps`](pageless_mem::Caps)), what the device can [`Reach`], and the [`Shape`] of the bytes.
//!
//! # Types
//! * [`Op`], [`Flags`], [`Sector`], [`ScatterList`] make a [`Bio`].
//! * [`IovIter`] over [`UserIovec`]s or frames; [`Extracted`] says how each part is to be [`Release`]d.
//! * [`Status`] and [`Route`] are closed and `Copy`; each wire maps them by one exhaustive match. [`RouteCounters`] count.
//! * [`BlockDevice`] and [`Queue`] are what a driver is; [`DirectAccess`] and [`ExtentMap`] are what it may be besides.
//! * [`Error`] is for a device or queue that cannot go on.
//!
//! # What it is not
//! No cache, no scheduler, no merging of bios, no thread. Nothing here reads or writes the memory a bio names:
//! drivers do, through `pageless_mem`.
#![forbid(unsafe_code)]

mod bio;
mod checked;
mod dax;
mod device;
mod error;
mod iov_iter;
mod limits;
mod route;
mod sector;
mod sglist;
mod split;
mod status;

pub use bio::{Bio, Flags, Op};
pub use checked::{Checked, open_checked};
pub use dax::{Direct, DirectAccess, Extent, ExtentMap};
pub use device::{BlockDevice, Completion, Queue, Refused, RefusedWhy};
pub use error::Error;
pub use iov_iter::{Extracted, IovError, IovIter, MAX_IOVECS, RegisterError, Release, UserIovec};
pub use limits::Limits;
pub use route::{Align, Decision, Pins, Reach, Route, RouteCounters, RouteTotals, Shape, Went, Why, decide};
pub use sector::Sector;
pub use sglist::{ListCursor, ScatterList};
pub use status::Status;
