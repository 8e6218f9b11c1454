// SPDX-License-Identifier: MIT OR Apache-2.0
//! C programs beside the tests, secret memory for programs not ours, and block devices to try them on.

#![allow(dead_code, reason = "each test program uses its own part of this module")]

use std::process::{Command, Output, Stdio};

use crate::common::{Scratch, have, note, ok, run, said};

pub(crate) const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

/// A program of `pageless/tests/programs`, compiled for this test.
pub(crate) struct Program {
    _scratch: Scratch,
    name: String,
    path: String,
}

impl Program {
    pub(crate) fn build(name: &str) -> Option<Program> {
        if !have(&["gcc", "timeout"]) {
            return None;
        }
        let source = format!("{}/tests/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let scratch = Scratch::disk();
        let path = scratch.path(name);
        let libraries: &[&str] = if name == "aio" { &["-laio"] } else { &["-lpthread"] };
        let mut args = vec!["-O1", "-Wall", "-Wextra", "-Werror", "-o", &path, &source];
        args.extend(libraries);
        let out = run("gcc", &args);
        if said(&out).contains("libaio.h: No such file") {
            crate::common::skip("libaio-dev");
            return None;
        }
        assert!(out.status.success(), "{}", said(&out));
        Some(Program { _scratch: scratch, name: name.to_owned(), path })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

/// What is counted of a case, by the report for machines.
pub(crate) fn counted(program: &Program, memory: &str, file: &str, case: &str) -> serde_json::Value {
    let out = run(PAGELESS, &["run", "--json", "--", program.path(), memory, file, case]);
    assert!(out.status.success(), "{case}: {}", said(&out));
    report(&String::from_utf8_lossy(&out.stderr))
}

/// The last line of stderr, as JSON.
pub(crate) fn report(stderr: &str) -> serde_json::Value {
    let line = stderr.lines().last().expect("a report");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// A file, and a library to preload that makes secret memory of what is mapped from it.
pub(crate) struct SecretMemory {
    _scratch: Scratch,
    preloaded: String,
    file: String,
}

impl SecretMemory {
    pub(crate) fn for_others() -> Option<SecretMemory> {
        if !have(&["gcc"]) {
            return None;
        }
        let scratch = Scratch::disk();
        let (preloaded, file) = (scratch.path("secret_memory.so"), scratch.sparse("memory", 2 << 20));
        let source = format!("{}/tests/programs/secret_memory.c", env!("CARGO_MANIFEST_DIR"));
        ok("gcc", &["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", &preloaded, &source]);
        Some(SecretMemory { _scratch: scratch, preloaded, file })
    }

    pub(crate) fn path(&self) -> &str {
        &self.file
    }

    /// Runs a tool to its end in which the file is secret memory.
    pub(crate) fn run(&self, tool: &str, args: &[&str]) -> Output {
        Command::new("timeout")
            .args(["-k", "5", "120", tool])
            .args(args)
            .env("LD_PRELOAD", &self.preloaded)
            .env("SECRET_MEMORY_OF", &self.file)
            .stdin(Stdio::null())
            .output()
            .expect("timeout(1) of coreutils runs")
    }
}

/// A block device over a file, with O_DIRECT.
pub(crate) struct LoopDevice(String);

impl LoopDevice {
    pub(crate) fn over(image: &str) -> Option<LoopDevice> {
        let out = run("losetup", &["--find", "--show", "--direct-io=on", image]);
        if !out.status.success() {
            note(&format!("skipped: kernel lacks loop devices (guest/run-fio covers it): {}", said(&out).trim()));
            return None;
        }
        Some(LoopDevice(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }

    pub(crate) fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        ok("losetup", &["--detach", &self.0]);
    }
}
