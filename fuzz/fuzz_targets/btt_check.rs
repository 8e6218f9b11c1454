// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a BTT's metadata holds, under checksums that are right or wrong: a check ends, stays inside the medium, and
//! changes nothing.
#![no_main]

#[path = "../src/hostile_btt.rs"]
mod hostile_btt;

use std::cell::RefCell;

use hostile_btt::Images;
use libfuzzer_sys::fuzz_target;

thread_local!(static IMAGES: RefCell<Images> = RefCell::new(Images::new()));

fuzz_target!(|input: &[u8]| IMAGES.with_borrow_mut(|images| {
    images.with(input, |image| drop(image.check()));
}));
