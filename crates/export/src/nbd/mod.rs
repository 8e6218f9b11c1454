// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network Block Device: disks for `nbd-client`, `qemu`, `nbdcopy` and everything else that speaks it.
//!
//! ```text
//! listener ─► acceptor thread ──deals connections──► worker threads, each with
//!                                                      Service     the loop: sockets, devices, sockets
//!   receive: one recv, many requests ────────────────► Engine      bios in work; slots their data lies in
//!   output:  many replies, one sendmsg ◄────────────── Output      what is owed, per connection
//! ```
//!
//! * Bytes in: [`handshake`] eats the haggling, [`request`] judges what follows; both are pure.
//! * Payloads of writes stay in the slot they were received into, which is the bio's data.
//! * Reads of a medium that is frames are answered from those frames: a head, then the frames, in one `sendmsg`.
//!   They are looked up anew at each send, so a client that does not read holds nothing.
//! * Reads of other devices are fetched into slots. A client that does not read loses them when slots are short,
//!   and they are fetched again when it does.
//! * What a client may have outstanding is bounded; above that its input waits in its own socket.

mod connection;
mod counters;
mod engine;
mod errno;
mod export;
pub mod handshake;
mod listener;
mod notice;
mod options;
mod output;
mod pool;
mod receive;
mod reply;
pub mod request;
mod server;
mod service;
mod socket;
mod status;
pub mod wire;

pub use counters::Totals;
pub use errno::Errno;
pub use export::{Export, Terms};
pub use listener::Listen;
pub use notice::Notice;
pub use server::{Server, ServerConfig};

#[cfg(test)]
mod tests;
