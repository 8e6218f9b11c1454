// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`UnixSocket`]: a name in the file system at which clients connect.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use pageless_sys::Errno;

use crate::Error;

/// Bytes of a path: `sun_path` (unix(7)) without the zero at its end.
const LONGEST: usize = 107;

/// A unix socket that listens. Its file goes with it.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl UnixSocket {
    /// Listens at this path, without waiting for anybody. A socket that nobody listens on any more is replaced.
    pub(crate) fn open(path: &Path) -> Result<UnixSocket, Error> {
        let failed =
            |action| move |error: io::Error| Error::Unix { path: path.into(), action, errno: Errno::from_io(&error) };
        // Of which the standard library makes an error without a number.
        if path.as_os_str().len() > LONGEST {
            return Err(Error::LongPath { path: path.into(), len: path.as_os_str().len(), most: LONGEST });
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(failed("listen"))?;
        listener.set_nonblocking(true).map_err(failed("listen"))?;
        let file = path.symlink_metadata().map_err(failed("look up"))?;
        Ok(UnixSocket { listener, path: path.into(), inode: (file.dev(), file.ino()) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, `WouldBlock` where there is none.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(socket, _)| socket)
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|file| (file.dev(), file.ino()) == self.inode) {
            // If it cannot be removed, the next server will find it stale.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that no server listens on.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |action, error: &io::Error| Error::Unix { path: path.into(), action, errno: Errno::from_io(error) };
    let file = path.symlink_metadata().map_err(|error| failed("look up", &error))?;
    if !file.file_type().is_socket() {
        return Err(Error::NotASocket(path.into()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::LiveSocket(path.into())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| failed("replace", &error))
        }
        Err(error) => Err(failed("connect to see whether it is in use", &error)),
    }
}
