// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a disk could not be served, or not to a clean end.

use std::fmt;
use std::path::{Path, PathBuf};

use pageless::block::Status;
use pageless::export;
use pageless::export::nbd::Listen;
use pageless::sys::Errno;

/// Why a disk could not be served, or not to a clean end.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// A host that is none.
    Host { argument: String, host: String, why: String },
    /// An address that cannot be listened at.
    Listen { argument: String, error: export::Error },
    /// A path that virtual machines cannot connect to.
    VhostUser { path: PathBuf, error: export::Error },
    /// Something else that must be there before clients are.
    Start(export::Error),
    /// Acknowledged writes that may not be durable.
    Flush { device: String, status: Status },
    /// Something else that went wrong while serving, or at the end of it.
    Stop(export::Error),
}

impl ServeError {
    /// A failed start, with the argument it is about.
    pub(super) fn start(error: export::Error, listen: &[(String, Listen)]) -> ServeError {
        let about = |place: &Listen| match (&error, place) {
            (export::Error::LiveSocket(path) | export::Error::NotASocket(path), Listen::Unix(wanted)) => path == wanted,
            (export::Error::Unix { path, .. }, Listen::Unix(wanted)) => path == wanted,
            (export::Error::Tcp { address, .. }, Listen::Tcp(wanted)) => address == wanted,
            _ => false,
        };
        match listen.iter().find(|(_, place)| about(place)) {
            Some((argument, _)) => ServeError::Listen { argument: argument.clone(), error },
            None => ServeError::Start(error),
        }
    }

    /// A failed start of what virtual machines connect to.
    pub(super) fn start_vhost(error: export::Error, path: &Path) -> ServeError {
        use export::Error::{LiveSocket, NotASocket, Unix};
        match &error {
            LiveSocket(_) | NotASocket(_) | Unix { .. } => ServeError::VhostUser { path: path.to_owned(), error },
            _ => ServeError::Start(error),
        }
    }

    /// An end that was not clean.
    pub(super) fn stop(error: export::Error, device: &str) -> ServeError {
        match error {
            export::Error::Flush { status, .. } => ServeError::Flush { device: device.into(), status },
            error => ServeError::Stop(error),
        }
    }

    fn remedy(&self) -> Option<&'static str> {
        let error = match self {
            ServeError::Host { .. } => return Some("name a host that resolves, or an address such as 127.0.0.1"),
            ServeError::Listen { error, .. } | ServeError::VhostUser { error, .. } | ServeError::Start(error) => error,
            ServeError::Flush { .. } => {
                return Some("`dmesg` may say more; what clients wrote last may be lost: compare it with its source");
            }
            ServeError::Stop(_) => return None,
        };
        match error {
            export::Error::LiveSocket(_) => Some("stop that server first, or listen at another path"),
            export::Error::NotASocket(_) => Some("it is not removed; listen at another path"),
            export::Error::Unix { errno: Errno::ENOENT, .. } => Some("make its directory first"),
            export::Error::Unix { errno: Errno::EACCES | Errno::EPERM, .. } => {
                Some("listen in a directory that is yours")
            }
            export::Error::Tcp { errno: Errno::EADDRINUSE, .. } => {
                Some("`ss -ltnp` shows who listens there; port 0 takes a free one")
            }
            export::Error::Tcp { errno: Errno::EADDRNOTAVAIL, .. } => {
                Some("`ip address` shows this machine's addresses")
            }
            export::Error::Tcp { errno: Errno::EACCES | Errno::EPERM, .. } => {
                Some("ports below 1024 take root; use 10809")
            }
            export::Error::TooLong { .. } => Some("give a shorter --export NAME"),
            _ => None,
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Host { argument, host, why } => write!(f, "--nbd {argument}: cannot find {host}: {why}")?,
            ServeError::Listen { argument, error } => write!(f, "--nbd {argument}: {error}")?,
            ServeError::VhostUser { path, error } => write!(f, "--vhost-user {}: {error}", path.display())?,
            ServeError::Flush { device, status } => {
                write!(f, "{device}: a flush failed ({status}), so writes that were acknowledged may not be durable")?;
            }
            ServeError::Start(error) | ServeError::Stop(error) => write!(f, "{error}")?,
        }
        self.remedy().iter().try_for_each(|remedy| write!(f, "\n  help: {remedy}"))
    }
}
