// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of the built binary share: a server to start and stop, foreign tools to run, and places to put files.
//!
//! A test that needs a tool asks [`have`] first. Without the tool it prints `skipped: needs X` past the capture of the test
//! runner and returns; under `PAGELESS_REQUIRE=1` it fails instead.

#![allow(dead_code, reason = "each test program uses its own part of this module")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) mod disks;
/// Part of `testkit`, which a build of this package does not depend on: it would turn on `pageless-mem/testing` in the binary that
/// these tests are about.
#[path = "../../../crates/testkit/src/front_end.rs"]
#[allow(unreachable_pub, clippy::unwrap_used, reason = "it is public in its own crate")]
pub(crate) mod front_end;
pub(crate) mod load;
pub(crate) mod nbd;
pub(crate) mod qsd;
pub(crate) mod run;
pub(crate) mod server;

/// How long anything may take before a test calls it stuck. Generous: nothing is measured against it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// How often the long tests repeat: `PAGELESS_ROUNDS`, 1 unless told.
pub(crate) fn rounds() -> u32 {
    std::env::var("PAGELESS_ROUNDS").map_or(1, |n| n.parse().expect("PAGELESS_ROUNDS is a number"))
}

/// Prints past the capture of the test runner, so that a skipped test is seen.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Skips visibly, or fails when the environment says that everything needed is here.
pub(crate) fn skip(needs: &str) {
    assert!(
        std::env::var_os("PAGELESS_REQUIRE").is_none_or(|v| v != "1"),
        "PAGELESS_REQUIRE=1 and this test needs {needs}"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    note(&format!("skipped: needs {needs} ({test})"));
}

/// Skips visibly what this container does not allow: no installation would help, so requiring does not either.
pub(crate) fn skip_here(needs: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    note(&format!("skipped: this machine lacks {needs} ({test})"));
}

/// Skips visibly what this kernel lacks, and what the guest test of that name proves instead: CI fails where that did not pass.
pub(crate) fn skip_kernel(needs: &str, guest: &str) {
    let there = format!("{}/../{}.sh", env!("CARGO_MANIFEST_DIR"), guest.replace("guest/", "guest/tests/"));
    assert!(std::path::Path::new(&there).is_file(), "there is no {guest}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    note(&format!("skipped: kernel lacks {needs} ({guest} covers it): {test}"));
}

/// Whether these tools can be run; says so when one cannot.
pub(crate) fn have(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &&&str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let missing: Vec<&str> = tools.iter().filter(|t| !there(t)).copied().collect();
    if !missing.is_empty() {
        skip(&missing.join(" "));
    }
    missing.is_empty()
}

/// Runs a tool to its end, or fails the test when it does not come to one.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(tool: &str, args: &[S]) -> Output {
    let seconds = DEADLINE.as_secs().to_string();
    let out = Command::new("timeout")
        .args(["-k", "5", &seconds, tool])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("timeout(1) of coreutils runs");
    assert_ne!(out.status.code(), Some(124), "{} did not end in {seconds} s\n{}", shown(tool, args), said(&out));
    out
}

/// Runs a tool that must succeed and returns what it printed.
pub(crate) fn ok<S: AsRef<std::ffi::OsStr>>(tool: &str, args: &[S]) -> String {
    let out = run(tool, args);
    assert!(out.status.success(), "{}: {}\n{}", shown(tool, args), out.status, said(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Runs a tool that must fail of its own accord and returns everything it printed.
pub(crate) fn fails<S: AsRef<std::ffi::OsStr>>(tool: &str, args: &[S]) -> String {
    let out = run(tool, args);
    let code = out.status.code();
    assert!(code.is_some_and(|c| c != 0), "{} should have failed: {}\n{}", shown(tool, args), out.status, said(&out));
    said(&out)
}

fn shown<S: AsRef<std::ffi::OsStr>>(tool: &str, args: &[S]) -> String {
    let args: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy()).collect();
    format!("`{tool} {}`", args.join(" "))
}

/// Both outputs of a command in one string.
pub(crate) fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Waits until `look` yields something; fails with `what` when the deadline passes.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What `look` says once it has said the same for a while.
pub(crate) fn settled<T: PartialEq>(mut look: impl FnMut() -> T) -> T {
    let mut last = look();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(200));
        let now = look();
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// A folder of one test, removed with everything in it when the test ends.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// On the file system the build lives on: a real disk, as a rule.
    pub(crate) fn disk() -> Scratch {
        Scratch::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// On tmpfs.
    pub(crate) fn shm() -> Scratch {
        Scratch::below(Path::new("/dev/shm"))
    }

    /// With a path short enough for a unix socket.
    pub(crate) fn short() -> Scratch {
        Scratch::below(&std::env::temp_dir())
    }

    fn below(parent: &Path) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("pageless-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        Scratch(dir)
    }

    /// The path of a file in the folder, which need not exist.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("scratch paths are UTF-8").to_owned()
    }

    /// A new file with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
        path
    }

    /// A new file of this size, all of it a hole.
    pub(crate) fn sparse(&self, name: &str, len: u64) -> String {
        let path = self.path(name);
        fs::File::create(&path).and_then(|f| f.set_len(len)).unwrap_or_else(|e| panic!("{path}: {e}"));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that repeat nowhere, so that a block in the wrong place is seen.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A disk image with data at its start, in its middle (unaligned) and at its very end, and holes between.
pub(crate) fn patchy(len: usize, seed: u64) -> Vec<u8> {
    let mut image = vec![0; len];
    for (at, n) in [(0, len / 8), (len / 2 - 700, 5000), (len - 4096 - 512, 4096 + 512)] {
        image[at..at + n].copy_from_slice(&noise(n, seed + at as u64));
    }
    image
}

/// Fails with the place of the first difference rather than with megabytes of bytes.
pub(crate) fn same(what: &str, got: &[u8], want: &[u8]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let differs = got.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{what}: first difference at this byte");
}
