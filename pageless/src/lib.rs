// SPDX-License-Identifier: MIT OR Apache-2.0
//! I/O to memory that has no `struct page`, or that the kernel will not pin.
//!
//! Linux uses memory as an I/O buffer by pinning its pages. Memory that has none (PCI BARs, dma-bufs, guest memory kept out
//! of the page map) or refuses (secret memory) is `EFAULT` to `O_DIRECT`, io_uring and zero-copy sockets. Here every I/O path
//! names memory by frame number instead, nothing is kept per page, and each transfer says which way its bytes went.
//!
//! # The crates, as modules
//!
//! ```text
//!   open ── spec        names on a command line, opened            (this crate)
//!     │
//!   export  drivers     disks for other people's clients │ what makes something a disk
//!       \   /
//!       block           one I/O by frame number: Bio, Queue, Limits, Route
//!         │
//!        mem            frames, regions, the two ways to touch them
//!         │
//!        sys            system calls, no policy
//! ```
//!
//! # A first program
//!
//! Memory is made, registered and used as the buffer of a disk's I/O:
//!
//! ```
//! use pageless::block::{Bio, Queue, Route, Sector, open_checked};
//! use pageless::drivers::RamDisk;
//! use pageless::mem::{Backing, Memory};
//!
//! let memory = Memory::new()?;
//! let disk = RamDisk::new(&memory, memory.register(Backing::anon(1 << 20)?)?, "scratch");
//! let buffer = memory.register(Backing::memfd(64 << 10)?)?;
//!
//! let mut queue = open_checked(&disk)?;
//! let frames = buffer.range(0, 4096).expect("inside the buffer");
//! queue.submit(Bio::write(Sector(8), frames, 1)).map_err(|refused| refused.why)?;
//!
//! let mut done = Vec::new();
//! queue.poll(&mut done)?;
//! assert!(done[0].status.is_ok());
//! assert!(matches!(done[0].route, Route::Copy(_)), "the disk is memory, so the CPU moved the bytes");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to go on
//!
//! * What may be done with a kind of memory: [`mem::probe`], and the example `probe`.
//! * A file read into frames, the route printed: the example `read_file`.
//! * A driver of your own behind NBD: [`block::BlockDevice`], [`export::nbd`], and the example `custom_driver`.
//! * Names such as `pmem:/mnt/pm/disk.img,size=8G` for users of your program: [`spec`] and [`open`](mod@open).
//!
//! # What it is not
//!
//! Not a cache, not a file system, not async: queues are polled by the thread that opened them. It removes no `struct page`:
//! it makes memory usable for I/O that its owner keeps out of the page map.
#![forbid(unsafe_code)]

pub use pageless_block as block;
pub use pageless_drivers as drivers;
pub use pageless_export as export;
pub use pageless_mem as mem;
pub use pageless_sys as sys;

pub mod open;
pub mod spec;
