// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames, regions, and the two ways to touch them.
//!
//! # Words
//! A *frame* is 4 KiB of memory with a number, its [`Pfn`], in this process's flat frame space. A *region* is a run of
//! frames that came into being together: a mapping, a file, a BAR. It is the only metadata there is; nothing is kept per
//! frame. A *window* ([`Kmap`]) is a short view of frames for the CPU. *In flight* is memory that the kernel or a device is
//! working on; it has an owner, [`Inflight`]. To be *online* is to hold the table of regions still.
//!
//! # Flow
//! ```
//! use pageless_mem::{Access, Backing, Memory};
//!
//! let memory = Memory::new()?;
//! let region = memory.register(Backing::anon(1 << 20)?)?; // a mapping and a table insert
//! let mut reader = memory.reader();                       // one per thread
//! let range = region.range(5000, 11).unwrap();            // frames: a name, not a grant
//! let online = reader.online();                           // regions stay while this lives
//! let window = online.kmap(range, Access::Write).unwrap();
//! window.writer().write(b"hello frame").unwrap();         // contained: a fault is an error, not a signal
//! let mut text = [0; 11];
//! window.reader().read(&mut text).unwrap();
//! assert_eq!(&text, b"hello frame");
//! # Ok::<(), pageless_mem::Error>(())
//! ```
//! The CPU goes through a [`Kmap`]; the kernel and devices go through [`io`], which is the only place an address leaves.
//!
//! # Types
//! [`Pfn`], [`FrameRange`] and [`PhysRange`] are numbers. [`Backing`] is memory made and mapped, [`Memory::register`] turns
//! it into a [`Region`]. [`RegionTable`] is the immutable snapshot that a [`Reader`] goes [`Online`] to read;
//! [`sync`] says why that needs no counting. [`copy()`](fn@copy) moves bytes and reports how many moved before a fault;
//! [`Cell`](cell::Cell)s are words that others write too; [`persist`] makes stores durable; [`Extents`] says where data is.
//!
//! # What it is not
//! It knows no block, sector, request, socket protocol or thread. With the feature `pmem-io` off, memory that is or may be
//! page-less cannot be represented, and costs nothing.

#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "tests count in small numbers"))]

mod backing;
mod bad;
mod caps;
pub mod cell;
mod control;
mod copy;
mod cursor;
#[cfg(feature = "pmem-io")]
mod device;
mod error;
mod extents;
mod fault;
mod holds;
pub mod io;
mod kmap;
mod medium;
mod memory;
pub mod persist;
mod pfn;
mod pin;
pub mod probe;
mod range_lock;
mod region;
mod revoke;
pub mod sync;
mod table;
#[cfg(feature = "testing")]
pub mod testing;

pub use backing::{Backing, FileOptions, FilePart};
pub use bad::{BadRange, BadSource};
pub use caps::Caps;
pub use control::Released;
pub use copy::{ABREAST, copy, copy_abreast, copy_ahead};
pub use cursor::{MemReader, MemWriter};
pub use error::{Busy, CopyError, Error, Fault, Holder};
pub use extents::{Extent, Extents};
pub use kmap::Kmap;
pub use memory::{Memory, Online, Reader};
pub use persist::{Durability, FlushDomain};
pub use pfn::{FRAME_SIZE, FRAME_SPACE, FrameRange, Pfn, PhysRange};
pub use pin::Inflight;
pub use range_lock::{RangeGuard, RangeLock, Taken};
pub use region::{MemKind, Pinned, Region};
pub use table::{AddrRun, RegionTable};

/// What is about to be done to memory.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Access {
    /// Loads.
    Read,
    /// Stores (and loads).
    Write,
}
