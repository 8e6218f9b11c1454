// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program `pageless`: the command line over the library of the same name.
//!
//! [`cli`] says what can be typed, one module each does it ([`serve`], [`copy`], [`probe`], [`run`](mod@run), [`btt`], [`help`]), [`failure`] says how
//! a command ends badly, [`output`] what is printed where.
#![forbid(unsafe_code)]

mod bad;
mod btt;
mod cli;
mod copy;
mod failure;
mod help;
mod output;
mod probe;
mod report;
mod run;
mod serve;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, RegionCommand};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => return ended(run::run(&args)),
        Command::Serve(args) => serve::run(&args),
        Command::Copy(args) => copy::run(&args),
        Command::Region { command: RegionCommand::Probe(args) } => probe::run(&args),
        Command::Btt { command } => btt::run(&command),
        Command::Help { topic } => help::text(&topic).and_then(|text| output::text(&text)),
    };
    ended(result.map(|()| ExitCode::SUCCESS))
}

fn ended(result: Result<ExitCode, failure::Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(failure) => {
            if !failure.is_broken_pipe() {
                output::aside(&format!("pageless: {failure}\n"));
            }
            failure.code()
        }
    }
}
