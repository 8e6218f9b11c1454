// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block translation table: sectors that no power failure tears, on memory that tears anything above 8 bytes.
//!
//! # Words
//! A *medium* is the memory that holds a BTT, cut into *arenas* of at most 512 GiB, each with its own metadata. An
//! *external* block is what a user of the disk sees, numbered per arena by its *LBA*; an *internal* block is where its
//! bytes lie. There are `nfree` more of these than of the others, one for each *lane*: a write goes to a free block
//! first, and then changes the *map* in one store. The *flog* (free list and log in one) is what a reader of the
//! medium finishes an interrupted write by.
//!
//! # Flow
//! ```text
//! arena    info block │ data: internal blocks │ map: one word per LBA │ flog: one pair per lane │ info block again
//!
//! a write  1. data -> free block of the lane       fence
//!          2. flog: {lba, old block, new block},   fence, then the sequence number that makes it current
//!          3. map[lba] = new block                 fence; the old block is the lane's free one from now on
//! ```
//! A cut before 2 leaves the old block, a cut after 2 is finished from the flog, by whoever opens the medium.
//!
//! # Types
//! * [`layout`]: where arenas begin, and how a new one is cut: [`Placement`](layout::Placement),
//!   [`Geometry`](layout::Geometry).
//! * [`info`]: the block that says what an arena is, [`InfoBlock`](info::InfoBlock), and what passed every check,
//!   [`Info`](info::Info). A hostile medium is checked there once; arithmetic on an `Info` cannot overflow or leave the arena.
//! * [`map`]: one word of the map, [`MapEntry`](map::MapEntry).
//! * [`flog`]: what a lane did last, [`FlogEntry`](flog::FlogEntry), and which of two is current.
//! * [`BttDisk`]: the disk. [`CreateOptions`] and [`OpenOptions`] say how it is to be, [`Promise`] what its sectors are safe
//!   from, [`Trouble`] what is wrong with its medium.
//! * [`check()`](check::check): everything that is wrong with a medium, and what can be repaired without a guess.
//!
//! # What it is not
//! A format of ours: it is that of Linux (`drivers/nvdimm/btt.c`), of the UEFI specification (section "Block Translation
//! Table") and of PMDK 1.12's `libpmemblk`, bit for bit. The modules of the format know bytes and no memory.

mod arena;
pub mod check;
mod claims;
mod commit;
mod create;
mod device;
mod error;
mod first_change;
pub mod flog;
pub mod info;
mod io;
mod lanes;
pub mod layout;
#[cfg(all(test, loom))]
mod loom;
pub mod map;
mod open;
mod places;
mod queue;
mod read;
mod read_table;
mod recover;
mod sync;
mod trouble;
mod write;
mod zero;

pub use create::CreateOptions;
pub use device::{BttDisk, Promise};
pub use error::BttError;
pub use open::{AccessMode, OpenOptions, Order};
pub use trouble::Trouble;
