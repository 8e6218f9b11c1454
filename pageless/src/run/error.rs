// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a program could not be run.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a program could not be run.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error("{}: no such program\n  help: check the name, or give the whole path; `run` looks where PATH says", .0.display())]
    NotFound(OsString),
    #[error("{}: is no executable file\n  help: chmod +x it, or name the interpreter: pageless run -- sh {}", .0.display(), .0.display())]
    NotExecutable(PathBuf),
    #[error("{}: cannot run it: {error}", path.display())]
    CannotRun { path: PathBuf, error: io::Error },
    #[error("cannot wait for the program: {error}")]
    Wait { error: io::Error },
    #[error(
        "nowhere to write the preload library to\n{}  help: set XDG_RUNTIME_DIR to a folder of yours, with no colon or space in its \
         path, that is not mounted noexec",
        .0.iter().map(|line| format!("  {line}\n")).collect::<String>()
    )]
    NoFolder(Vec<String>),
    #[error("{}: {what}: {error}", path.display())]
    File { path: PathBuf, what: &'static str, error: io::Error },
}

impl RunError {
    /// As shells have it: 127 for a program that is not there, 126 for one that cannot be executed.
    pub(crate) fn code(&self) -> u8 {
        match self {
            RunError::NotFound(_) => 127,
            RunError::NotExecutable(_) | RunError::CannotRun { .. } => 126,
            _ => 125,
        }
    }
}
