// SPDX-License-Identifier: MIT OR Apache-2.0
//! The private folder that the dynamic linker of our programs reads from.

use std::env;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::RunError;

/// A folder that is ours alone (0700), where files may be executed, with a path that `LD_PRELOAD` can hold.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The first that will do: below the runtime folder of the user, then where temporary files live.
    pub(crate) fn private() -> Result<Folder, RunError> {
        let me = fs::metadata("/proc/self").map(|meta| meta.uid()).map_err(|error| RunError::File {
            path: "/proc/self".into(),
            what: "cannot tell who I am",
            error,
        })?;
        let named = ["XDG_RUNTIME_DIR", "TMPDIR"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let mut refused = Vec::new();
        for base in named.chain(["/tmp".into(), "/dev/shm".into()]).chain(home) {
            match Folder::below(&base, me) {
                Ok(folder) => return Ok(folder),
                Err(why) => refused.push(format!("{}: {why}", base.display())),
            }
        }
        Err(RunError::NoFolder(refused))
    }

    fn below(base: &Path, me: u32) -> Result<Folder, String> {
        let base = base.canonicalize().map_err(|error| error.to_string())?;
        if base.as_os_str().as_bytes().iter().any(|b| *b == b':' || b.is_ascii_whitespace()) {
            return Err("LD_PRELOAD cannot hold this path".into());
        }
        if let Some(why) = base.ancestors().find_map(|folder| others_can_replace(folder, me)) {
            return Err(why);
        }
        if is_noexec(&base) {
            return Err("mounted noexec".into());
        }
        let path = base.join(format!("pageless-{me}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.to_string()),
            _ => {}
        }
        // Somebody else may have been first in a folder that everybody may write to.
        let meta = path.symlink_metadata().map_err(|error| error.to_string())?;
        if !meta.is_dir() || meta.uid() != me || meta.mode() & 0o077 != 0 {
            return Err(format!("{} is not a folder of yours alone", path.display()));
        }
        Ok(Folder(path))
    }

    /// A path in it that nobody else has, not even a process with this one's number in another namespace.
    pub(crate) fn new_file(&self, name: &str) -> PathBuf {
        let random = RandomState::new().build_hasher().finish();
        self.file(&format!("{name}-{}-{random:016x}", std::process::id()))
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Why somebody else could put another folder in the place of what lies in this one.
fn others_can_replace(folder: &Path, me: u32) -> Option<String> {
    const STICKY: u32 = 0o1000;
    const ROOT: u32 = 0;
    let meta = match folder.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) => return Some(format!("{}: {error}", folder.display())),
    };
    if meta.uid() != me && meta.uid() != ROOT {
        return Some(format!("{} belongs to somebody else (user {})", folder.display(), meta.uid()));
    }
    let open = meta.mode() & 0o022 != 0 && meta.mode() & STICKY == 0;
    open.then(|| format!("{} can be written by others (mode {:o})", folder.display(), meta.mode() & 0o7777))
}

/// Whether the file system with this path lets nothing be executed, as far as can be told.
fn is_noexec(path: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    // "36 35 98:0 /root /mount/point options …": the last line with the longest mount point above the path counts.
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), options))
    });
    above.max_by_key(|(len, _)| *len).is_some_and(|(_, options)| options.split(',').any(|o| o == "noexec"))
}
