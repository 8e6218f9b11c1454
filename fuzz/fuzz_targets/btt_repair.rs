// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a BTT's metadata holds: a repair stores info blocks and map entries and nothing else, leaves nothing that could be
//! repaired, and makes nothing worse.
#![no_main]

#[path = "../src/hostile_btt.rs"]
mod hostile_btt;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| hostile_btt::with(input, hostile_btt::Image::check_and_repair));
