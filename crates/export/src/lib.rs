// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks for other people's clients.
//!
//! # Words
//! An *export* is a block device under a name. A *client* is whoever speaks the export's protocol to us; it is not
//! trusted with anything but the bytes of its export. A *worker* is a thread that owns connections, and a queue of
//! each device.
//!
//! # Flow
//! ```text
//! client ─► socket ─► requests ─► bios ─► a device's queue
//!        ◄─ socket ◄─ replies  ◄─ completions, or the medium's own frames
//! ```
//! No step hands a request to another thread, takes a lock or, once warm, allocates.
//!
//! # Types
//! [`nbd::Server`] serves [`nbd::Export`]s over the Network Block Device protocol; [`nbd::ServerConfig`] says which,
//! where and with how much. [`vhost_user::Server`] serves a device to a virtual machine, with a worker for each of its rings.
//!
//! # What it is not
//! It has no cache and no queue of its own: a request is at the device, in the output, or not yet received. It does
//! not encrypt, and does not know who a client is: the socket's file permissions do.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "tests count in small numbers"))]

mod counter;
mod error;
mod flush;
pub mod nbd;
mod slab;
mod unix_socket;
pub mod vhost_user;
mod worker;

pub use error::Error;
