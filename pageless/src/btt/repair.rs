// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless btt repair`: the plan; with `--apply`, what is there is kept, the plan is done, and everything is checked again.

use std::fmt::Write as _;

use pageless::drivers::btt::check::{Change, repair};
use pageless::mem::Memory;
use pageless::sys::signal::block_termination;
use serde::Serialize;

use super::check::CheckJson;
use super::error::{BttError, counted};
use super::scan::Watched;
use super::{scan, undo};
use crate::cli::BttRepairArgs;
use crate::failure::Failure;
use crate::output;

/// A repair for programs.
#[derive(Debug, Serialize)]
struct RepairJson {
    #[serde(flatten)]
    check: CheckJson,
    changes: Vec<ChangeJson>,
    applied: bool,
    undo: Option<String>,
}

/// A change for programs.
#[derive(Debug, Serialize)]
struct ChangeJson {
    offset: u64,
    bytes: usize,
    what: &'static str,
}

impl From<&Change> for ChangeJson {
    fn from(change: &Change) -> ChangeJson {
        ChangeJson { offset: change.offset, bytes: change.new.len(), what: change.what }
    }
}

/// Runs the command.
pub(super) fn run(args: &BttRepairArgs) -> Result<(), Failure> {
    let signals = block_termination()?;
    let memory = Memory::new()?;
    let path = &args.place.path;
    let mut medium = scan::medium(&memory, &args.place, !args.apply)?;
    let watched = Watched::new(&signals, args.json);
    let mut scanned = scan::scan(&mut medium, &args.place, watched)?;
    let changes = std::mem::take(&mut scanned.report.changes);
    if !args.json {
        output::text(&scanned.listed(path))?;
        output::text(&planned(&changes, args.apply))?;
    }
    let mut kept = None;
    if args.apply && !changes.is_empty() {
        let undo =
            undo::keep(path, args.undo.as_deref(), &changes).map_err(|(undo, error)| BttError::Undo { undo, error })?;
        if !args.json {
            // Before anything is changed, so that it is known whatever happens.
            output::text(&format!(
                "  what is overwritten is in {0}; `xxd -r {0} {1}` puts it back\n",
                undo.display(),
                path.display()
            ))?;
        }
        let failed = |error| BttError::Repair { path: path.clone(), error, undo: undo.clone() };
        repair::apply(&mut medium, &changes).map_err(failed)?;
        let left = format!("the changes are made; the bytes that were there are in {}", undo.display());
        kept = Some(undo);
        scanned = scan::scan(&mut medium, &args.place, Watched { left: &left, ..watched })?;
        if !args.json {
            output::text(&format!("after the repair, {}", scanned.listed(path)))?;
        }
    }
    let counts = scanned.report.counts;
    if args.json {
        output::json(&RepairJson {
            check: CheckJson::new(path, &scanned),
            changes: changes.iter().map(ChangeJson::from).collect(),
            applied: kept.is_some(),
            undo: kept.map(|path| path.display().to_string()),
        })?;
    }
    if !counts.consistent() {
        return Err(BttError::Inconsistent { path: path.clone(), counts, repairing: true }.into());
    }
    if !args.json {
        let left = if counts.unfinished == 0 { String::new() } else { format!("; {}", counted(&counts)) };
        output::text(&format!("{}: consistent{left}\n", path.display()))?;
    }
    Ok(())
}

fn planned(changes: &[Change], apply: bool) -> String {
    let mut text = String::new();
    match (changes.len(), apply) {
        (0, _) => text.push_str("nothing to change\n"),
        (_, true) => text.push_str("changes:\n"),
        (_, false) => text.push_str("changes that --apply would make:\n"),
    }
    for change in changes {
        let ChangeJson { offset, bytes, what } = change.into();
        let _ = writeln!(text, "  byte {offset}, {bytes} bytes: {what}");
    }
    text
}
