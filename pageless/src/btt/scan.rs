// SPDX-License-Identifier: MIT OR Apache-2.0
//! A check with a progress bar and a Ctrl-C, and what it found, ready to be printed.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use indicatif::ProgressBar;
use pageless::drivers::btt::check::medium::Medium;
use pageless::drivers::btt::check::{self, CheckError, CheckOptions, Finding, Report, Watch, Worth};
use pageless::drivers::btt::layout::Placement;
use pageless::mem::Memory;
use pageless::open::{Options, open_medium};
use pageless::spec::Human;
use pageless::sys::signal::{SignalFd, Termination};
use serde::Serialize;

use super::error::BttError;
use crate::cli::BttPlace;
use crate::failure::Failure;
use crate::output;

/// Findings kept to be shown; more of them are only counted.
const SHOWN: usize = 1000;

/// What a check told.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) report: Report,
    /// The first findings.
    pub(super) findings: Vec<Finding>,
    /// How many more there were.
    pub(super) more: u64,
}

/// Opens what a command names.
pub(super) fn medium(memory: &Memory, place: &BttPlace, read_only: bool) -> Result<Medium, Failure> {
    let region = open_medium(memory, &place.path, Options { read_only, size_if_made: None })?;
    Ok(Medium::new(memory, region))
}

/// What is known of it.
pub(super) fn options(place: &BttPlace) -> CheckOptions {
    CheckOptions {
        placement: place.layout.map(Placement::from),
        parent_uuid: place.parent_uuid,
        ..CheckOptions::default()
    }
}

/// How a command is watched while it looks at everything.
#[derive(Copy, Clone)]
pub(super) struct Watched<'w> {
    pub(super) signals: &'w SignalFd,
    /// No progress is shown.
    pub(super) quiet: bool,
    /// What is said of the medium when a signal ends it.
    pub(super) left: &'w str,
}

impl<'w> Watched<'w> {
    /// As long as nothing was stored.
    pub(super) fn new(signals: &'w SignalFd, quiet: bool) -> Watched<'w> {
        Watched { signals, quiet, left: "nothing was changed" }
    }
}

/// Checks everything.
pub(super) fn scan(medium: &mut Medium, place: &BttPlace, watched: Watched<'_>) -> Result<Scanned, Failure> {
    let mut watcher = Watcher::new("checking", watched);
    let checked = check::check(medium, options(place), &mut watcher);
    let report = watcher.ended(&place.path, checked, " of the map")?;
    Ok(Scanned { report, findings: watcher.findings, more: watcher.more })
}

/// Looks for a byte that is not zero.
pub(super) fn first_data(medium: &mut Medium, path: &Path, watched: Watched<'_>) -> Result<Option<u64>, Failure> {
    let mut watcher = Watcher::new("looking for data", watched);
    let looked = medium.first_data(&mut watcher);
    watcher.ended(path, looked, "")
}

/// Shows how far it is, keeps what is found, and ends at a Ctrl-C.
struct Watcher<'s> {
    bar: ProgressBar,
    watched: Watched<'s>,
    stopped: Option<Termination>,
    done: (u64, u64),
    findings: Vec<Finding>,
    more: u64,
}

impl<'s> Watcher<'s> {
    fn new(doing: &'static str, watched: Watched<'s>) -> Watcher<'s> {
        let bar = output::progress(doing, 0, watched.quiet);
        Watcher { bar, watched, stopped: None, done: (0, 0), findings: Vec::new(), more: 0 }
    }

    /// What came of it, which is `of` something.
    fn ended<T>(&self, path: &Path, result: Result<T, CheckError>, of: &str) -> Result<T, Failure> {
        self.bar.finish_and_clear();
        let (done, all) = self.done;
        match (result, self.stopped) {
            (Err(CheckError::Stopped), Some(signal)) => Err(Failure::Stopped {
                signal,
                what: format!("checked {} of {}{of}", Human(done), Human(all)),
                left: Some(self.watched.left.into()),
            }),
            (Err(error), _) => Err(BttError::Check { path: path.to_owned(), error }.into()),
            (Ok(value), _) => Ok(value),
        }
    }
}

impl Watch for Watcher<'_> {
    fn found(&mut self, finding: &Finding) {
        if self.findings.len() < SHOWN {
            self.findings.push(*finding);
        } else {
            self.more += 1;
        }
    }

    fn progress(&mut self, done: u64, of: u64) -> ControlFlow<()> {
        self.done = (done, of);
        self.bar.set_length(of);
        self.bar.set_position(done);
        self.stopped = self.watched.signals.take();
        if self.stopped.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A finding for programs.
#[derive(Debug, Serialize)]
pub(super) struct FindingJson {
    arena: u32,
    offset: u64,
    kind: &'static str,
    worth: &'static str,
    what: String,
}

impl From<&Finding> for FindingJson {
    fn from(finding: &Finding) -> FindingJson {
        FindingJson {
            arena: finding.arena,
            offset: finding.offset,
            kind: finding.problem.name(),
            worth: worth(finding.problem.worth()),
            what: finding.problem.to_string(),
        }
    }
}

fn worth(worth: Worth) -> &'static str {
    match worth {
        Worth::Unfinished => "unfinished",
        Worth::Repairable => "repairable",
        Worth::Damage => "damage",
    }
}

impl Scanned {
    /// The findings for people, one each line.
    pub(super) fn listed(&self, path: &Path) -> String {
        let mut text = format!("{}: {}\n", path.display(), headline(&self.report));
        for finding in &self.findings {
            let _ = writeln!(text, "  {:<10}  {finding}", worth(finding.problem.worth()));
        }
        if self.more > 0 {
            let _ = writeln!(text, "  and {} more", self.more);
        }
        text
    }
}

/// `BTT 1.1 at byte 4096, 1 arena, 3831 blocks of 4096 bytes`.
pub(super) fn headline(report: &Report) -> String {
    let placement = report.found.placement;
    let pool = if placement == Placement::Pmemblk { " of a PMDK pool" } else { "" };
    let arenas = match report.arenas.len() {
        1 => "1 arena".into(),
        count => format!("{count} arenas"),
    };
    let blocks: u64 = report.arenas.iter().map(|arena| u64::from(arena.info.geometry.external_nlba())).sum();
    let size = match report.arenas.first() {
        Some(arena) => format!(", {blocks} blocks of {} bytes", arena.info.geometry.lba_size().bytes()),
        None => String::new(),
    };
    format!("BTT {} at byte {}{pool}, {arenas}{size}", placement.version(), placement.offset())
}
