// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever 28 bytes a client sends: what is let through lies inside the export and within the announced sizes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pageless_export::nbd::request::{Command, Request, Rules};
use pageless_export::nbd::wire::{MAX_PAYLOAD, REQUEST_LEN, TransmissionFlags};

fuzz_target!(|bytes: [u8; REQUEST_LEN]| {
    let Ok(request) = Request::parse(&bytes) else { return };
    for structured in [false, true] {
        let flags = TransmissionFlags::all() - TransmissionFlags::READ_ONLY;
        let size = 1 << 30;
        let rules = Rules { size, flags, minimum: 512, maximum: MAX_PAYLOAD, structured, block_status: structured };
        let inside = |offset: u64, length: u32| {
            assert!(length > 0 && offset.checked_add(length.into()).is_some_and(|end| end <= size));
            assert!(offset % 512 == 0 && length % 512 == 0);
        };
        match request.check(&rules) {
            Ok(Command::Read { offset, length, .. } | Command::Write { offset, length, .. }) => {
                inside(offset, length);
                assert!(length <= MAX_PAYLOAD);
            }
            Ok(Command::Trim { offset, length, .. } | Command::WriteZeroes { offset, length, .. }) => {
                inside(offset, length);
            }
            Ok(Command::BlockStatus { offset, length, .. }) => {
                assert!(structured);
                inside(offset, length);
            }
            Ok(Command::Disconnect | Command::Flush | Command::Cache) => {}
            Err(refusal) => assert!(!refusal.why.to_string().is_empty()),
        }
    }
});
