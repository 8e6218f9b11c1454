// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was bounced: a file that the preload library counts in, in every process of the program.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
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

/// The file, removed when dropped. It is kept open: the program may remove it, or the folder that it is in.
#[derive(Debug)]
pub(crate) struct Counters {
    path: PathBuf,
    file: File,
}

impl Counters {
    pub(crate) fn new(folder: &Folder) -> Result<Counters, RunError> {
        let path = folder.new_file("counters");
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let written = made.and_then(|file| file.write_all_at(&[0; names::FILE_BYTES], 0).map(|()| file));
        match written {
            Ok(file) => Ok(Counters { path, file }),
            Err(error) => Err(RunError::File { path, what: "cannot make the file to count in", error }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> Result<Report, RunError> {
        let mut bytes = [0; names::FILE_BYTES];
        self.file.read_exact_at(&mut bytes, 0).map_err(|error| RunError::File {
            path: self.path.clone(),
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
        let _ = fs::remove_file(&self.path);
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
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
        writeln!(f, "pageless: bounced, in {} that the library was loaded into", count(programs, "program"))?;
        writeln!(f, "  read    {} by {}", Human(self.read_bytes), count(self.reads, "call"))?;
        writeln!(f, "  wrote   {} by {}", Human(self.write_bytes), count(self.writes, "call"))?;
        if self.libaio > 0 {
            writeln!(f, "  libaio  {} of these calls", self.libaio)?;
        }
        if self.efault_kept > 0 {
            writeln!(
                f,
                "  kept    the EFAULT of {}: no O_DIRECT, no file, or no memory",
                count(self.efault_kept, "call")
            )?;
        }
        if self.own_slots > 0 {
            writeln!(f, "  slots   {} made for one call, {} waited for", self.own_slots, self.slot_waits)?;
        }
        Ok(())
    }
}
