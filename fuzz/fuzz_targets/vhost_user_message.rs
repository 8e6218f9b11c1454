// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a front-end says, in whatever order: no panic, and nothing of it stays when it goes.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pageless_block::BlockDevice;
use pageless_drivers::NullDisk;
use pageless_export::vhost_user::fuzzing::Speaker;
use pageless_mem::Memory;

static RIG: LazyLock<(Memory, Speaker)> = LazyLock::new(|| {
    let memory = Memory::new().expect("memory");
    let device: Arc<dyn BlockDevice> = Arc::new(NullDisk::new(&memory, 1 << 20));
    let speaker = Speaker::new(&device, &memory).expect("workers");
    (memory, speaker)
});

fuzz_target!(|bytes: &[u8]| {
    let (memory, speaker) = &*RIG;
    let before = memory.regions();
    speaker.say(bytes);
    assert_eq!(memory.regions(), before);
});
