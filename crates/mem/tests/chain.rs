// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that are not ours go where they went before: each case runs in a child of its own.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use pageless_mem::Memory;

const SIGABRT: i32 = 6;
const SIGBUS: i32 = 7;

/// Runs `name` of this file in a child with containment installed.
fn child(name: &str) -> Output {
    let test = std::env::current_exe().unwrap();
    Command::new(test).args(["--exact", name, "--nocapture"]).env("PAGELESS_CHILD", "1").output().unwrap()
}

fn in_child() -> bool {
    std::env::var_os("PAGELESS_CHILD").is_some()
}

#[test]
fn a_stack_overflow_is_still_reported_by_std() {
    if in_child() {
        let _memory = Memory::new().unwrap();
        #[expect(unconditional_recursion, reason = "overflows the stack, on purpose")]
        fn recurse(depth: &[u8; 4096]) -> u8 {
            black_box(recurse(black_box(&[depth[0]; 4096])))
        }
        recurse(&[0; 4096]);
    }
    let output = child("a_stack_overflow_is_still_reported_by_std");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has overflowed its stack"), "{said}");
    assert_eq!(output.status.signal(), Some(SIGABRT));
}

#[test]
fn a_signal_sent_by_a_process_still_ends_us() {
    if in_child() {
        let _memory = Memory::new().unwrap();
        // std's own handler, to which ours passes the first, answers it by restoring the default action. Sent until then,
        // not twice: what is sent while one waits for its thread to run is not one more.
        for _ in 0..300 {
            Command::new("kill").args(["-BUS", &std::process::id().to_string()]).status().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        return;
    }
    let output = child("a_signal_sent_by_a_process_still_ends_us");
    assert_eq!(output.status.signal(), Some(SIGBUS));
}
