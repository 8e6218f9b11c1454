// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices over frames.
//!
//! # Words
//! A *driver* makes something a [`BlockDevice`](pageless_block::BlockDevice). It assumes valid bios:
//! [`Checked`](pageless_block::Checked) has seen them before, and no driver carries defensive code of its own. A *memory
//! disk* is a disk whose medium is a region.
//!
//! # Flow
//! ```text
//! ram, pmem   kmap the medium, kmap the frames, copy; look ahead to the next request meanwhile
//! file        O_DIRECT on the frames, else through a pool of bounce slots
//! null        zero the frames, or nothing
//! ```
//!
//! # Types
//! * [`RamDisk`] and [`PmemDisk`]: a region as a disk, volatile or not. They are one [`MemoryDisk`], since the region knows
//!   what durability takes.
//! * [`FileDisk`](file::FileDisk): a regular file or block device as a disk, through io_uring.
//! * [`DaxFile`](dax_file::DaxFile): a mapped file whose bytes have frames, and which can be cut, punched, collapsed and
//!   closed under load; `O_DIRECT` between it and other files.
//! * [`NullDisk`]: forgets and reads as zeroes.
//!
//! # What it is not
//! It registers no memory that a disk is made of: whoever makes a memory disk brings the
//! [`Region`](pageless_mem::Region). It knows no export and no wire.
#![forbid(unsafe_code)]

pub mod btt;
pub mod dax_file;
pub mod file;
mod memory_disk;
pub mod null;
pub mod pmem;
pub mod ram;

pub use memory_disk::MemoryDisk;
pub use null::NullDisk;
pub use pmem::PmemDisk;
pub use ram::RamDisk;
