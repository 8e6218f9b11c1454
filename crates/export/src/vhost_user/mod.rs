// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks for virtual machines: vhost-user-blk.
//!
//! # Words
//! A *front-end* is a virtual machine's monitor. It passes the guest's memory by descriptor, and says where in it the *rings*
//! are: split virtqueues (virtio 1.3, 2.7) of virtio-blk requests (5.2). A *slot* is an entry of its memory table.
//!
//! # Flow
//! ```text
//! front-end ─► socket ─► control thread: Message ─► Session ──orders──► Worker, one for each ring:
//! guest ─► ring ─► Chain of GuestAddr ─► GuestMap ─► frames ─► Bio ─► the device's queue
//!       ◄─ used ◄─ status, dirty log, in-flight record ◄─ completions
//! ```
//! * Messages are judged by themselves (`message`), then by what came before (`session`); any order of them is safe.
//! * Rings, records and logs are words of shared memory, read once and checked; a ring that makes no sense is broken for that
//!   guest, and a request that makes none fails alone.
//! * Data goes between the device and the guest's frames: nothing has a CPU address on the way.
//! * Each slot is a region, of whatever kind its descriptor is. Slots that go away fail the requests that name them.
//! * What is in flight is recorded where it outlives the server: the next one does it again, and the guest sees it once.
//!
//! # What it is not
//! It has no packed rings, no memory that a monitor faults in (postcopy), and serves one front-end at a time.

mod backlog;
mod chain;
mod config;
mod counters;
mod dirty;
mod engine;
mod front_end;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest_map;
mod inflight;
#[cfg(all(test, loom))]
mod loom;
mod message;
mod notice;
mod read_only;
mod request;
mod ring;
mod running;
mod server;
mod session;
#[cfg(test)]
mod testing;
mod wire;
mod words;
mod worker;

pub use counters::Totals;
pub use notice::Notice;
pub use server::{MAX_QUEUES, Server, ServerConfig};
pub use worker::Polling;
