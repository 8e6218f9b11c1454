// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Run`]: the binary in a folder of its own, its output line by line.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{eventually, ok};

/// A server run in a folder of its own, its output line by line.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Run {
    pub(crate) fn start(dir: &str, args: &[&str]) -> Run {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pageless"))
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Run { child, out }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("UTF-8");
        line.trim_end().to_owned()
    }

    /// Sends a signal; exit code, the rest of stdout, all of stderr.
    pub(crate) fn stop(mut self, signal: &str) -> (Option<i32>, String, String) {
        ok("kill", &[signal, &self.child.id().to_string()]);
        let status = eventually("it ends", || self.child.try_wait().expect("wait"));
        let (mut rest, mut errors) = (String::new(), String::new());
        self.out.read_to_string(&mut rest).expect("UTF-8");
        self.child.stderr.take().expect("piped").read_to_string(&mut errors).expect("UTF-8");
        (status.code(), rest, errors)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
