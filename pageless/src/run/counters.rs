// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was bounced: a file that the preload library counts in, in every process of the program.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pageless::spec::Human;
use serde::Serialize;

use super::{Folder, RunError};

#[path = "../../../crates/preload/src/counters/names.rs"]
mod names;

use names::Counter;

/// The variable that tells the library of the file.
pub(crate) const VARIABLE: &str = match names::VARIABLE.to_str() {
    Ok(name) => name,
    Err(_) => panic!("the name is ASCII"),
};

/// The file, removed when dropped.
#[derive(Debug)]
pub(crate) struct Counters(PathBuf);

impl Counters {
    pub(crate) fn new(folder: &Folder) -> Result<Counters, RunError> {
        let path = folder.file(&format!("counters-{}", std::process::id()));
        // Left by a run that was killed, with this process's number.
        let _ = fs::remove_file(&path);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = made.and_then(|mut file| file.write_all(&[0; names::FILE_BYTES]));
        match written {
            Ok(()) => Ok(Counters(path)),
            Err(error) => Err(RunError::File { path, what: "cannot make the file to count in", error }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> Result<Report, RunError> {
        let bytes = fs::read(&self.0).map_err(|error| RunError::File {
            path: self.0.clone(),
            what: "cannot read what was counted",
            error,
        })?;
        let count = |counter: Counter| {
            let word = bytes.chunks_exact(8).nth(counter as usize).and_then(|word| word.try_into().ok());
            word.map_or(0, u64::from_ne_bytes)
        };
        Ok(Report {
            programs: count(Counter::Programs),
            reads: count(Counter::Reads),
            read_bytes: count(Counter::ReadBytes),
            writes: count(Counter::Writes),
            write_bytes: count(Counter::WriteBytes),
            libaio: count(Counter::Events),
            efault_kept: count(Counter::PassedOn),
            own_slots: count(Counter::Temporary),
            slot_waits: count(Counter::Waits),
        })
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What was counted, by the names of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    programs: u64,
    reads: u64,
    read_bytes: u64,
    writes: u64,
    write_bytes: u64,
    libaio: u64,
    efault_kept: u64,
    own_slots: u64,
    slot_waits: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs = self.programs;
        if programs == 0 {
            writeln!(f, "pageless: the preload library was not loaded: nothing could be bounced")?;
            return Ok(());
        }
        let plural = if programs == 1 { "" } else { "s" };
        writeln!(f, "pageless: bounced in {programs} program{plural}")?;
        writeln!(f, "  reads   {} ({} calls)", Human(self.read_bytes), self.reads)?;
        writeln!(f, "  writes  {} ({} calls)", Human(self.write_bytes), self.writes)?;
        writeln!(f, "  of these calls {} were libaio's; {} kept their EFAULT", self.libaio, self.efault_kept)?;
        if self.own_slots > 0 {
            writeln!(
                f,
                "  {} calls had to make a slot of their own, {} waited for one",
                self.own_slots, self.slot_waits
            )?;
        }
        Ok(())
    }
}
