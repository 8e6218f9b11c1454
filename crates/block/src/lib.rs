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
//! # Types
//! * [`Op`], [`Flags`], [`Sector`], [`ScatterList`] make a [`Bio`].
//! * [`Status`] and [`Route`] are closed and `Copy`; each wire maps them by one exhaustive match.
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
