// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks for virtual machines: vhost-user-blk.
#![allow(dead_code, reason = "the front-end's side is not connected yet")]

mod chain;
mod counters;
mod dirty;
mod engine;
mod guest_map;
mod inflight;
#[cfg(all(test, loom))]
mod loom;
mod request;
mod ring;
mod running;
#[cfg(test)]
mod testing;
mod words;
mod worker;

pub use counters::Totals;
pub use worker::Polling;
