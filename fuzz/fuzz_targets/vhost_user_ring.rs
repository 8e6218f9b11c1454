// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever lies in a ring: it is walked as `virtio-queue` walks it, or refused where the specification forbids it.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use pageless_export::vhost_user::fuzzing::ring::{AVAIL, FREE, LEN, SIZE, TABLE, USED, Walked, Walker};

#[path = "../../crates/export/src/vhost_user/fuzzing/ring/twin.rs"]
mod twin;

thread_local! {
    static TWIN: RefCell<twin::Twin> = RefCell::new(twin::Twin::new());
}

fuzz_target!(|input: &[u8]| {
    TWIN.with_borrow_mut(|twin| twin.compare(input));
});
