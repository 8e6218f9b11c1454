// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless btt check`.

use pageless::mem::Memory;
use pageless::sys::signal::block_termination;
use serde::Serialize;

use super::error::{BttError, counted};
use super::scan::{self, FindingJson, Scanned, Watched};
use crate::cli::BttCheckArgs;
use crate::failure::Failure;
use crate::output;

/// A check for programs.
#[derive(Debug, Serialize)]
pub(super) struct CheckJson {
    path: String,
    placement: u64,
    version: String,
    arenas: usize,
    consistent: bool,
    unfinished: u64,
    repairable: u64,
    damage: u64,
    findings: Vec<FindingJson>,
    more_findings: u64,
}

impl CheckJson {
    pub(super) fn new(path: &std::path::Path, scanned: &Scanned) -> CheckJson {
        let Scanned { report, findings, more } = scanned;
        CheckJson {
            path: path.display().to_string(),
            placement: report.found.placement.offset(),
            version: report.found.placement.version().to_string(),
            arenas: report.arenas.len(),
            consistent: report.counts.consistent(),
            unfinished: report.counts.unfinished,
            repairable: report.counts.repairable,
            damage: report.counts.damage,
            findings: findings.iter().map(FindingJson::from).collect(),
            more_findings: *more,
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &BttCheckArgs) -> Result<(), Failure> {
    let signals = block_termination()?;
    let memory = Memory::new()?;
    let mut medium = scan::medium(&memory, &args.place, true)?;
    let scanned = scan::scan(&mut medium, &args.place, Watched::new(&signals, args.json))?;
    let path = &args.place.path;
    if args.json {
        output::json(&CheckJson::new(path, &scanned))?;
    } else {
        output::text(&scanned.listed(path))?;
    }
    let counts = scanned.report.counts;
    if !counts.consistent() {
        return Err(BttError::Inconsistent { path: path.clone(), counts, repairing: false }.into());
    }
    if !args.json {
        output::text(&match counts.unfinished {
            0 => format!("{}: consistent\n", path.display()),
            _ => format!("{}: consistent; {}, finished when it is opened\n", path.display(), counted(&counts)),
        })?;
    }
    Ok(())
}
