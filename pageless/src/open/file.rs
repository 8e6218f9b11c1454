// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file behind `file:` and `pmem:`: there with the right size, or made.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use pageless_drivers::file::FileError;
use pageless_sys::Errno;

use super::error::Problem;
use super::{Options, program};

/// A file this process made. Removed again when dropped, unless it is [kept](Made::keep).
#[derive(Debug)]
pub struct Made {
    path: PathBuf,
    keep: bool,
}

impl Made {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the file where it is.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.keep {
            // Nobody is left to tell; whoever gave up on the file says what became of it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Sees to it that `path` is a file of `asked` bytes in whole `unit`s: looks at the one that is there, or makes it,
/// sparse, at the size `asked` or else at the one the options give. For reading only, and in `/dev`, nothing is made.
pub(super) fn prepare(path: &Path, asked: Option<u64>, options: Options, unit: u64) -> Result<Option<Made>, Problem> {
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match asked.or(options.size_if_made) {
                // A name among the devices is one of theirs: who has it would find a file there.
                Some(size) if !options.read_only && !among_devices(path) => make(path, size, unit).map(Some),
                _ => Err(Problem::NotFound { path: path.into(), errno: Errno::from_io(&error) }),
            };
        }
        Err(error) => return Err(refused("open", path, &error)),
    };
    if there.file_type().is_block_device() {
        // Its size is the device's to say, once it is open.
        return Ok(None);
    }
    if !there.is_file() {
        return Err(Problem::NotAFile { path: path.into() });
    }
    fits(path, there.len(), asked, unit).map(|()| None)
}

/// Whether a path is one of a device, there or not: `/dev` has other file systems below it, such as `/dev/shm`.
pub(super) fn among_devices(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|there| there.dev());
    path.starts_with("/dev") && path.parent().is_some_and(|folder| device(folder) == device(Path::new("/dev")))
}

/// Whether a file of `have` bytes is what was asked for.
pub(super) fn fits(path: &Path, have: u64, asked: Option<u64>, unit: u64) -> Result<(), Problem> {
    let path = || path.to_owned();
    match asked {
        Some(asked) if asked != have => Err(Problem::OtherSize { path: path(), have, asked }),
        _ if have == 0 => Err(Problem::Empty { path: path() }),
        _ if !have.is_multiple_of(unit) => Err(Problem::NotMultiple { path: path(), size: have, unit }),
        _ => Ok(()),
    }
}

/// Why the file driver could not use a file, in words for a user. One that was `made` for it is gone by the time they
/// are read.
pub(super) fn unusable(error: FileError, made: bool) -> Problem {
    match error {
        FileError::PartBlock { path, size, block } if made => Problem::PartMade { path, size, unit: block.into() },
        FileError::Missing { path } => Problem::NotFound { path, errno: Errno::ENOENT },
        FileError::Open { path, errno } => Problem::Refused { doing: "open", path, errno },
        FileError::NotADisk { path } => Problem::NotAFile { path },
        FileError::Locked { path, holder } => Problem::Locked { path, pid: holder, program: holder.and_then(program) },
        FileError::Empty { path } => Problem::Empty { path },
        FileError::TooSmall { path, size, asked } => Problem::OtherSize { path, have: size, asked },
        FileError::PartBlock { path, size, block } => Problem::NotMultiple { path, size, unit: block.into() },
        FileError::Call { path, source } => Problem::Refused { doing: "use", path, errno: source.errno() },
        other => Problem::File(other),
    }
}

fn make(path: &Path, size: u64, unit: u64) -> Result<Made, Problem> {
    if !size.is_multiple_of(unit) {
        return Err(Problem::PartMade { path: path.into(), size, unit });
    }
    let failed = |error: &io::Error| match Errno::from_io(error) {
        errno @ (Errno::ENOSPC | Errno::EDQUOT) => {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let free = pageless_sys::file::free_space(dir).ok();
            Problem::NoSpace { path: path.into(), asked: size, errno, free }
        }
        errno @ Errno::ENOENT => Problem::NotFound { path: path.into(), errno },
        _ => refused("make", path, error),
    };
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| failed(&e))?;
    let made = Made { path: path.into(), keep: false };
    file.set_len(size).map_err(|e| failed(&e))?;
    // So that a later flush of the data is all it takes to find it again after a power failure.
    file.sync_all().map_err(|e| failed(&e))?;
    let dir = File::open(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    match dir.and_then(|dir| dir.sync_all()) {
        // Not every file system knows how to.
        Err(error) if Errno::from_io(&error) != Errno::EINVAL => Err(failed(&error)),
        _ => Ok(made),
    }
}

fn refused(doing: &'static str, path: &Path, error: &io::Error) -> Problem {
    Problem::Refused { doing, path: path.into(), errno: Errno::from_io(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To be written, and made of this size if it is not there.
    fn sized(size: u64) -> Options {
        Options { read_only: false, size_if_made: Some(size) }
    }

    fn dir() -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pageless-file-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn made_sparse_and_removed_unless_kept() {
        let dir = dir();
        let path = dir.join("made");
        let made = prepare(&path, None, sized(1 << 30), 512).unwrap().expect("made");
        let there = fs::metadata(&path).unwrap();
        assert_eq!(there.len(), 1 << 30);
        assert_eq!(std::os::unix::fs::MetadataExt::blocks(&there), 0);
        drop(made);
        assert!(!path.exists());
        prepare(&path, Some(4096), sized(8192), 512).unwrap().expect("made").keep();
        assert_eq!(fs::metadata(&path).unwrap().len(), 4096, "what is asked for comes first");
        assert!(prepare(&path, None, sized(8192), 512).unwrap().is_none(), "there already");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_not_made() {
        let dir = dir();
        let path = dir.join("none");
        let reading = Options { read_only: true, size_if_made: Some(8192) };
        for asked in [None, Some(4096)] {
            let missing = prepare(&path, asked, reading, 4096);
            assert!(matches!(missing, Err(Problem::NotFound { errno: Errno::ENOENT, .. })), "{missing:?}");
        }
        let part = prepare(&path, None, sized(1536), 4096);
        assert!(matches!(part, Err(Problem::PartMade { size: 1536, unit: 4096, .. })), "{part:?}");
        let device = Path::new("/dev/pageless-no-such");
        let among = prepare(device, Some(4096), sized(4096), 4096);
        assert!(matches!(among, Err(Problem::NotFound { errno: Errno::ENOENT, .. })), "{among:?}");
        assert!(!path.exists() && !device.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_there_must_fit() {
        let dir = dir();
        let path = dir.join("image");
        fs::write(&path, [0; 1536]).unwrap();
        assert!(prepare(&path, None, Options::default(), 512).unwrap().is_none());
        let wrong = |asked, unit| prepare(&path, asked, Options::default(), unit).expect_err("does not fit");
        assert!(matches!(wrong(None, 4096), Problem::NotMultiple { size: 1536, unit: 4096, .. }));
        assert!(matches!(wrong(Some(4096), 4096), Problem::OtherSize { have: 1536, asked: 4096, .. }));
        assert!(matches!(wrong(Some(512), 512), Problem::OtherSize { have: 1536, asked: 512, .. }));
        assert!(matches!(prepare(&dir, None, Options::default(), 512), Err(Problem::NotAFile { .. })));
        fs::write(&path, []).unwrap();
        assert!(matches!(wrong(None, 512), Problem::Empty { .. }));
        let none = dir.join("none");
        assert!(matches!(
            prepare(&none, None, Options::default(), 512),
            Err(Problem::NotFound { errno: Errno::ENOENT, .. })
        ));
        let below = path.join("x");
        assert!(matches!(
            prepare(&below, Some(512), Options::default(), 512),
            Err(Problem::Refused { errno: Errno::ENOTDIR, .. })
        ));
        fs::remove_dir_all(dir).unwrap();
    }
}
