// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a BTT's metadata holds, under checksums that are right or wrong: a check ends, stays inside the medium, and
//! changes nothing.
#![no_main]

#[path = "../src/hostile_btt.rs"]
mod hostile_btt;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| hostile_btt::with(input, |image| drop(image.check())));
