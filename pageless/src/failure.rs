// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a command ends when it does not end well: one message, one exit code.

use std::fmt;
use std::process::ExitCode;

use pageless::open::OpenError;
use pageless::spec::{Human, SpecError};
use pageless::sys::signal::Termination;
use pageless::{mem, sys};

use crate::btt::BttError;
use crate::copy::CopyError;
use crate::run::RunError;
use crate::serve::ServeError;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A spec or listen address that is none.
    Spec(SpecError),
    /// Another argument that cannot be.
    Argument { name: &'static str, text: String, why: String },
    /// `help` about something there is not.
    NoTopic { word: String, known: Vec<String> },
    /// A copy onto itself.
    SamePlace { src: String, dst: String },
    /// A destination that cannot hold the source.
    TooSmall { src: String, bytes: u64, dst: String, room: u64 },
    /// A destination whose blocks do not end where the source does.
    PartBlock { src: String, bytes: u64, dst: String, block: u32 },
    /// Something that is no memory where memory is wanted.
    NotMemory { text: String },
    /// A spec that could not be opened.
    Open(OpenError),
    /// A copy that failed.
    Copy { error: CopyError, left: Option<String> },
    /// A server that could not serve.
    Serve(ServeError),
    /// A program that could not be run.
    Run(RunError),
    /// A BTT that is not as it should be.
    Btt(BttError),
    /// A signal ended it.
    Stopped { signal: Termination, what: String, left: Option<String> },
    /// The kernel refused something no argument is to blame for.
    Sys(sys::Error),
    /// Our own memory.
    Memory(mem::Error),
    /// The report could not be printed.
    Output(std::io::Error),
}

impl Failure {
    /// Whether the reader of stdout has seen enough, as `head` does: nothing to complain about.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// 2 for arguments that can never work, 128 + signal for a signal, what shells use for a program that `run` cannot start, 1 for everything that went wrong.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Spec(_)
            | Failure::Argument { .. }
            | Failure::NoTopic { .. }
            | Failure::SamePlace { .. }
            | Failure::NotMemory { .. } => 2,
            Failure::Run(error) => error.code(),
            Failure::Stopped { signal: Termination::HangUp, .. } => 129,
            Failure::Stopped { signal: Termination::Interrupt, .. } => 130,
            Failure::Stopped { signal: Termination::Terminate, .. } => 143,
            _ => 1,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Spec(error) => write!(f, "{error}"),
            Failure::Argument { name, text, why } => write!(f, "{name} {text}: {why}"),
            Failure::NoTopic { word, known } if known.is_empty() => write!(f, "no help about `{word}`"),
            Failure::NoTopic { word, known } => {
                write!(f, "no help about `{word}`\n  help: there is help about {}", known.join(", "))
            }
            Failure::SamePlace { src, dst } => write!(
                f,
                "{src} and {dst} are the same place\n  help: a copy would overwrite what it reads; name another destination"
            ),
            Failure::TooSmall { src, bytes, dst, room } => write!(
                f,
                "{dst} holds {room} bytes ({}), {src} has {bytes} ({})\n  help: give a destination at least that large",
                Human(*room),
                Human(*bytes)
            ),
            Failure::PartBlock { src, bytes, dst, block } => write!(
                f,
                "{src} has {bytes} bytes, {dst} is written in blocks of {block}, and the last one would be no whole one\n  \
                 help: pad the source with zeroes to {} bytes (a file: truncate -s %{block} FILE), or give a destination \
                 of smaller blocks",
                bytes.next_multiple_of(u64::from(*block))
            ),
            Failure::NotMemory { text } => write!(
                f,
                "{text} is a disk without memory of its own; there is nothing to probe\n  help: name memory, such as \
                 ram:16M, or map the file: pmem:PATH (`pageless help specs` shows every kind)"
            ),
            Failure::Open(error) => write!(f, "{error}"),
            Failure::Copy { error, left } => {
                write!(f, "{error}")?;
                left.iter().try_for_each(|left| write!(f, "\n  {left}"))?;
                error.remedy().iter().try_for_each(|remedy| write!(f, "\n  help: {remedy}"))
            }
            Failure::Serve(error) => write!(f, "{error}"),
            Failure::Run(error) => write!(f, "{error}"),
            Failure::Btt(error) => write!(f, "{error}"),
            Failure::Stopped { what, left, .. } => {
                write!(f, "stopped: {what}")?;
                left.iter().try_for_each(|left| write!(f, "\n  {left}"))
            }
            Failure::Sys(error) => write!(f, "{error}"),
            Failure::Memory(error) => write!(f, "{error}"),
            Failure::Output(error) => write!(f, "cannot print: {error}"),
        }
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Failure {
        Failure::Spec(error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        Failure::Open(error)
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Failure {
        Failure::Copy { error, left: None }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        Failure::Serve(error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        Failure::Run(error)
    }
}

impl From<BttError> for Failure {
    fn from(error: BttError) -> Failure {
        Failure::Btt(error)
    }
}

impl From<sys::Error> for Failure {
    fn from(error: sys::Error) -> Failure {
        Failure::Sys(error)
    }
}

impl From<mem::Error> for Failure {
    fn from(error: mem::Error) -> Failure {
        Failure::Memory(error)
    }
}
