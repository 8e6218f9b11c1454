// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a mapped file that is changed for long costs in descriptors. Alone in its process, whose descriptors it counts.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "dax_file/rig.rs"]
mod rig;

use pageless_drivers::dax_file::DaxFile;
use pageless_mem::Memory;
use rig::{LONG, file, places};
use std::time::{Duration, Instant};
use std::{fs, thread};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn parts_that_are_gone_keep_no_descriptor_whoever_is_idle() {
    const ROUNDS: u64 = 600;
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, _) = place.file(&[1; 8192]);
        let file = file(&memory, &path);
        let mut idle = memory.reader();
        drop(idle.online());
        let before = descriptors();
        for round in 0..ROUNDS {
            file.truncate(round % 2 * 5000, LONG).unwrap();
            file.grow(8192 + round, LONG).unwrap();
        }
        // The parts of the file keep theirs; the control thread gives back the others, as soon as it gets to that.
        let most = before + DaxFile::MAX_PARTS;
        let deadline = Instant::now() + LONG;
        while descriptors() > most {
            assert!(Instant::now() < deadline, "{before} descriptors, and {} after {ROUNDS} rounds", descriptors());
            thread::sleep(Duration::from_millis(10));
        }
        drop(idle);
    }
}
