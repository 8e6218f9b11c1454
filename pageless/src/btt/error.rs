// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a BTT is not what was hoped, and what would help.

use std::path::{Path, PathBuf};

use pageless::drivers::btt;
use pageless::drivers::btt::check::find::FindError;
use pageless::drivers::btt::check::repair::RepairError;
use pageless::drivers::btt::check::{CheckError, Counts};
use pageless::mem::persist::FlushDomain;

/// How a `btt` command ends badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BttError {
    /// No BTT was found, or the medium failed.
    #[error("{}: {error}{}", path.display(), remedy(path, error))]
    Check {
        /// The medium.
        path: PathBuf,
        /// Why.
        error: CheckError,
    },
    /// It was checked, and is not as it should be.
    #[error("{} is inconsistent: {}{}", path.display(), counted(counts), next_step(path, counts, *repairing))]
    Inconsistent {
        /// The medium.
        path: PathBuf,
        /// What was found.
        counts: Counts,
        /// A repair has done, or would do, what can be done.
        repairing: bool,
    },
    /// Something is there.
    #[error("{} holds {what}; nothing was changed\n  help: --force overwrites it", path.display())]
    Occupied {
        /// The medium.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// What a BTT is for cannot be had there.
    #[error(
        "{}: nothing there outlives power ({domain}); nothing was changed\n  help: name a file on a disk or on persistent memory, or say --volatile",
        path.display()
    )]
    Volatile {
        /// The medium.
        path: PathBuf,
        /// What it is.
        domain: FlushDomain,
    },
    /// A new one could not be made.
    #[error("{}: {error}", path.display())]
    Create {
        /// The medium.
        path: PathBuf,
        /// Why.
        error: btt::BttError,
    },
    /// The repair could not be done.
    #[error("{}: {error}\n  the bytes that were there are in {}", path.display(), undo.display())]
    Repair {
        /// The medium.
        path: PathBuf,
        /// Why.
        error: RepairError,
        /// What is kept.
        undo: PathBuf,
    },
    /// What is to be changed could not be kept.
    #[error("cannot write {}: {error}; nothing was changed\n  help: name another place: --undo FILE", undo.display())]
    Undo {
        /// Where.
        undo: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Findings in words.
pub(crate) fn counted(counts: &Counts) -> String {
    let Counts { unfinished, repairable, damage } = counts;
    let mut words = Vec::new();
    for (count, one, many) in [
        (*repairable, "repairable finding", "repairable findings"),
        (*damage, "finding that cannot be repaired", "findings that cannot be repaired"),
        (*unfinished, "unfinished write", "unfinished writes"),
    ] {
        match count {
            0 => {}
            1 => words.push(format!("1 {one}")),
            count => words.push(format!("{count} {many}")),
        }
    }
    words.join(", ")
}

fn next_step(path: &Path, counts: &Counts, repairing: bool) -> String {
    match (counts.repairable, repairing) {
        (0, false) => "\n  help: copy what can be read (pageless copy), and make the BTT anew".into(),
        (_, false) => format!("\n  help: pageless btt repair {} shows what can be made right", path.display()),
        (0, true) => "\n  what is left cannot be repaired without a guess".into(),
        (_, true) => "\n  help: --apply makes the changes above".into(),
    }
}

fn remedy(path: &Path, error: &CheckError) -> String {
    match error {
        CheckError::Find(FindError::None { .. }) => {
            format!("\n  help: pageless btt create {} makes one", path.display())
        }
        CheckError::Find(FindError::Ambiguous) => "\n  help: say which: --layout 1.1 or --layout 2.0".into(),
        CheckError::Find(FindError::NotAPool) => "\n  help: leave --layout out to have it found".into(),
        _ => String::new(),
    }
}
