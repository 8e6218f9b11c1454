// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a repair overwrites is kept first, as a hex dump that `xxd -r FILE MEDIUM` puts back.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pageless::drivers::btt::check::Change;

/// Names tried, where some are taken by earlier repairs.
const NAMES: u32 = 1000;

/// Writes the bytes that are there into a new file and makes it durable; where that is. `wanted`: there and nowhere else.
pub(super) fn keep(medium: &Path, wanted: Option<&Path>, changes: &[Change]) -> Result<PathBuf, (PathBuf, io::Error)> {
    let text = dump(changes);
    if let Some(path) = wanted {
        return write(path, &text).map(|()| path.to_owned()).map_err(|error| (path.to_owned(), error));
    }
    let mut last = None;
    for number in 0..NAMES {
        let path = beside(medium, number);
        match write(&path, &text) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some((path, error)),
            Err(error) => return Err((path, error)),
        }
    }
    Err(last.unwrap_or_else(|| (beside(medium, 0), io::ErrorKind::AlreadyExists.into())))
}

/// Beside a file; for a device, which lies in no folder for files, in the current one.
fn beside(medium: &Path, number: u32) -> PathBuf {
    let name = medium.file_name().unwrap_or_default().to_string_lossy();
    let name = if number == 0 { format!("{name}.btt-undo") } else { format!("{name}.btt-undo.{number}") };
    if medium.is_file() { medium.with_file_name(name) } else { name.into() }
}

fn dump(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        for (row, bytes) in change.old.chunks(16).enumerate() {
            let _ = write!(text, "{:08x}:", change.offset + row as u64 * 16);
            for (at, byte) in bytes.iter().enumerate() {
                let _ = write!(text, "{}{byte:02x}", if at % 2 == 0 { " " } else { "" });
            }
            text.push('\n');
        }
    }
    text
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    if written.is_err() {
        // Half of it would be taken for all of it.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder)?.sync_all() {
        // Not every file system knows how to.
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}
