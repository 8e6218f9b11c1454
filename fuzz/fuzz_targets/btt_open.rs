// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a BTT's metadata holds: it opens as a disk or is refused, every request to the disk ends, and use damages nothing that
//! was whole.
#![no_main]

#[path = "../src/hostile_btt.rs"]
mod hostile_btt;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| hostile_btt::with(input, hostile_btt::Image::open_and_use));
