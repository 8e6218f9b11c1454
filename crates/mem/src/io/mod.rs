// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one door by which addresses of regions reach the kernel.
//!
//! [`Ring`] is for I/O that goes on after the call: it owns an [`Inflight`](crate::Inflight) per operation until the
//! completion is reaped. [`send`] and [`recv`] are for sockets: the kernel is done with the memory when they return, so
//! being online is enough and a blocked peer holds nothing.

pub(crate) mod attempt;
mod ring;
mod socket;

pub use ring::{Done, Full, Ring};
pub use socket::{MAX_PARTS, Part, Scratch, SocketError, recv, send};
