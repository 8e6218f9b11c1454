// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a BTT's metadata holds, under checksums that are right or wrong: a check ends, stays inside the medium, changes
//! nothing, and comes to the same by one thread and by two.
#![no_main]

#[path = "../src/hostile_btt.rs"]
mod hostile_btt;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| hostile_btt::with(input, |image| match input.first() {
    // Threads take longer than all the rest.
    Some(first) if first & 0x40 != 0 => image.check_both_ways(),
    _ => drop(image.check()),
}));
