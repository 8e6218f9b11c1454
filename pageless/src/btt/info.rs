// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless btt info`: what the info blocks say.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use pageless::drivers::btt::check::medium::Medium;
use pageless::drivers::btt::check::{self, CheckOptions, Finding, FoundArena, Report, Watch};
use pageless::drivers::btt::info::ArenaState;
use pageless::mem::Memory;
use pageless::spec::Human;
use serde::Serialize;

use super::error::BttError;
use super::scan;
use crate::cli::BttCheckArgs;
use crate::failure::Failure;
use crate::output;

/// What is told of a BTT.
#[derive(Debug, Serialize)]
struct InfoJson {
    path: String,
    placement: u64,
    version: String,
    bytes: u64,
    arenas: Vec<ArenaJson>,
}

/// What is told of an arena, by the names of the specification. Offsets are from the arena's first byte.
#[derive(Debug, Serialize)]
struct ArenaJson {
    start: u64,
    size: u64,
    uuid: String,
    parent_uuid: String,
    error_flag: bool,
    external_lbasize: u32,
    external_nlba: u32,
    internal_lbasize: u32,
    internal_nlba: u32,
    nfree: u32,
    nextoff: u64,
    dataoff: u64,
    mapoff: u64,
    flogoff: u64,
    info2off: u64,
}

impl From<&FoundArena> for ArenaJson {
    fn from(arena: &FoundArena) -> ArenaJson {
        let (info, geometry) = (&arena.info, &arena.info.geometry);
        ArenaJson {
            start: arena.start,
            size: geometry.size(),
            uuid: info.identity.uuid.to_string(),
            parent_uuid: info.identity.parent_uuid.to_string(),
            error_flag: info.state == ArenaState::Error,
            external_lbasize: geometry.lba_size().bytes(),
            external_nlba: geometry.external_nlba(),
            internal_lbasize: geometry.internal_lbasize(),
            internal_nlba: geometry.internal_nlba(),
            nfree: geometry.nfree(),
            nextoff: geometry.nextoff().unwrap_or(0),
            dataoff: geometry.dataoff(),
            mapoff: geometry.mapoff(),
            flogoff: geometry.flogoff(),
            info2off: geometry.info2off(),
        }
    }
}

/// Keeps the findings, of which there are few without a look at maps.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Watch for Findings {
    fn found(&mut self, finding: &Finding) {
        self.0.push(*finding);
    }

    fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Runs the command.
pub(super) fn run(args: &BttCheckArgs) -> Result<(), Failure> {
    let memory = Memory::new()?;
    let mut medium = scan::medium(&memory, &args.place, true)?;
    show(&mut medium, &args.place.path, scan::options(&args.place), args.json)
}

/// Prints what the info blocks say.
pub(super) fn show(medium: &mut Medium, path: &Path, options: CheckOptions, json: bool) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let report = check::look(medium, options, &mut findings)
        .map_err(|error| BttError::Check { path: path.to_owned(), error })?;
    for finding in &findings.0 {
        output::aside(&format!("pageless: {}: {finding}\n", path.display()));
    }
    if json {
        output::json(&InfoJson {
            path: path.display().to_string(),
            placement: report.found.placement.offset(),
            version: report.found.placement.version().to_string(),
            bytes: capacity(&report),
            arenas: report.arenas.iter().map(ArenaJson::from).collect(),
        })?;
    } else {
        output::text(&format!("{}: {}", path.display(), text(&report)))?;
    }
    let counts = report.counts;
    if counts.consistent() {
        Ok(())
    } else {
        Err(BttError::Inconsistent { path: path.to_owned(), counts, repairing: false }.into())
    }
}

/// Bytes that a user of the disk has.
fn capacity(report: &Report) -> u64 {
    let bytes = |arena: &FoundArena| {
        let geometry = arena.info.geometry;
        u64::from(geometry.external_nlba()) * u64::from(geometry.lba_size().block())
    };
    report.arenas.iter().map(bytes).sum()
}

fn text(report: &Report) -> String {
    let mut text = format!("{}, a disk of {}\n", scan::headline(report), Human(capacity(report)));
    for arena in &report.arenas {
        let found = ArenaJson::from(arena);
        let _ = writeln!(text, "arena {} at byte {}, {}", arena.number, found.start, Human(found.size));
        for (name, value) in [
            ("uuid", found.uuid),
            ("parent_uuid", found.parent_uuid),
            ("flags", if found.error_flag { "error: read-only".into() } else { "none".into() }),
            ("external_lbasize", found.external_lbasize.to_string()),
            ("external_nlba", found.external_nlba.to_string()),
            ("internal_lbasize", found.internal_lbasize.to_string()),
            ("internal_nlba", found.internal_nlba.to_string()),
            ("nfree", found.nfree.to_string()),
            ("nextoff", format!("{:#x}", found.nextoff)),
            ("dataoff", format!("{:#x}", found.dataoff)),
            ("mapoff", format!("{:#x}", found.mapoff)),
            ("flogoff", format!("{:#x}", found.flogoff)),
            ("info2off", format!("{:#x}", found.info2off)),
        ] {
            let _ = writeln!(text, "  {name:<18}{value}");
        }
    }
    text
}
