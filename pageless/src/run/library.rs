// SPDX-License-Identifier: MIT OR Apache-2.0
//! The preload library: carried in this binary, written where a dynamic linker can read it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Folder, RunError};

/// What build.rs compiled from `crates/preload`.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libpageless_preload.so"));

/// The library as a file in the folder. It stays there: programs that were started with it start others with it, at any
/// time. One that is there already is used if it is the same to the byte; two runs at once both write, and one renames
/// last.
pub(crate) fn write(folder: &Folder) -> Result<PathBuf, RunError> {
    let path = folder.file(&format!("preload-{:016x}.so", hash(LIBRARY)));
    if is_library(&path) {
        return Ok(path);
    }
    let new = folder.new_file("new");
    let written = put(&new).and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        RunError::File { path: path.clone(), what: "cannot write the preload library", error }
    })?;
    Ok(path)
}

fn put(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o500).open(path)?;
    file.write_all(LIBRARY)
}

/// The folder is ours alone, so what lies in it is ours; but it may be half of something, or somebody tried something out.
fn is_library(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o777 == 0o500)
        && fs::read(path).is_ok_and(|bytes| bytes == LIBRARY)
}

/// FNV-1a: a name for the contents, which are compared before they are used.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
