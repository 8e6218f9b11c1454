// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless run`: a program nobody changed, with the preload library before its libc.
//!
//! Without `--stats` the program takes the place of this process. With it this process stays as the parent, to read the
//! counters when the program has ended, however it ended; then it ends the same way.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus};

use pageless::sys::process::{self, Inherited, Relay, Woken};

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::output;

mod counters;
mod elf;
mod error;
mod folder;
mod library;
mod program;

pub(crate) use error::RunError;

use counters::Counters;
use folder::Folder;
use program::Program;

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let [name, rest @ ..] = args.command.as_slice() else { return Err(RunError::NotFound(OsString::new()).into()) };
    let program = Program::find(name)?;
    for note in program.notes(rest) {
        output::aside(&format!("pageless: note: {note}\n"));
    }
    let folder = Folder::private()?;
    let library = library::write(&folder)?;
    let mut preload = library.into_os_string();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut command = Command::new(&program.path);
    command.arg0(name).args(rest).env("LD_PRELOAD", preload);
    Inherited::now()?.pass_on(&mut command);
    if args.stats || args.json {
        counted(command, &program, Counters::new(&folder)?, args.json)
    } else {
        let error = command.exec();
        Err(RunError::CannotRun { path: program.path, error }.into())
    }
}

/// Runs it as a child.
fn counted(mut command: Command, program: &Program, counters: Counters, json: bool) -> Result<ExitCode, Failure> {
    command.env(counters::VARIABLE, counters.path());
    let relay = Relay::new()?;
    let mut child = command.spawn().map_err(|error| RunError::CannotRun { path: program.path.clone(), error })?;
    let status = loop {
        // Asked first: the child may have ended before its signal was ours to read.
        if let Some(status) = child.try_wait().map_err(|error| RunError::Wait { error })? {
            break status;
        }
        match relay.wait()? {
            // What the program or its children send is meant for the group, which they are in, or for others than themselves.
            Woken::Sent { by, .. } if process::is_or_descends_from(by, child.id()) => {}
            Woken::Sent { signal, .. } => {
                // It may end at any time.
                let _ = process::send(child.id(), signal);
            }
            Woken::Child | Woken::Group => {}
        }
    };
    let said = counters.read().map_err(|error| error.to_string()).and_then(|report| {
        let line = || serde_json::to_string(&report).map(|line| line + "\n").map_err(|error| error.to_string());
        if json { line() } else { Ok(report.to_string()) }
    });
    // However the counting went, the program ended as it did.
    output::aside(&said.unwrap_or_else(|why| format!("pageless: {why}\n")));
    drop(counters);
    Ok(end_as(status))
}

/// Ends as the program ended: its exit code, or its signal.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        process::end_by(signal);
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(u8::MAX))
}
