// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless btt`: what is done to a block translation table while nobody uses it.

mod check;
mod create;
mod error;
mod info;
mod repair;
mod scan;
mod undo;

pub(crate) use self::error::BttError;
use crate::cli::BttCommand;
use crate::failure::Failure;

/// Runs the command.
pub(crate) fn run(command: &BttCommand) -> Result<(), Failure> {
    match command {
        BttCommand::Create(args) => create::run(args),
        BttCommand::Info(args) => info::run(args),
        BttCommand::Check(args) => check::run(args),
        BttCommand::Repair(args) => repair::run(args),
    }
}
