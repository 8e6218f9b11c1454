// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Error`]: why an export cannot be started or goes wrong as a whole. What goes wrong for one client ends with it.

use std::net::SocketAddr;
use std::path::PathBuf;

use pageless_sys::Errno;

/// Why an export cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to serve.
    #[error("there is no export to serve")]
    NoExports,
    /// Two exports answer to one name.
    #[error("two exports are called \"{0}\"")]
    DuplicateName(String),
    /// Longer than the protocol allows.
    #[error("{what} of {length} bytes is longer than the protocol's {most}")]
    TooLong {
        /// A name or a description.
        what: &'static str,
        /// Its bytes.
        length: usize,
        /// The most.
        most: usize,
    },
    /// A size that cannot be announced.
    #[error("\"{name}\": block size {block} is more than the protocol's 65536")]
    BlockSize {
        /// The export.
        name: String,
        /// Its block size.
        block: u32,
    },
    /// A configured number that is zero or too large.
    #[error("{what} must be from 1 to {most}, not {value}")]
    Number {
        /// Which one.
        what: &'static str,
        /// What was given.
        value: usize,
        /// The most.
        most: usize,
    },
    /// Someone else serves on this socket.
    #[error("{}: a server is listening on this socket", .0.display())]
    LiveSocket(PathBuf),
    /// Something that is no socket has this name.
    #[error("{}: exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// A unix socket that cannot be made.
    #[error("{}: cannot {action}: {errno}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A path that the address of a unix socket has no room for.
    #[error("{}: a path of {len} bytes, and a unix socket takes {most}: put it in a shorter folder, or name it from the current one", path.display())]
    LongPath {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        len: usize,
        /// Bytes there may be.
        most: usize,
    },
    /// A TCP address that cannot be listened on.
    #[error("tcp:{address}: cannot listen: {errno}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        errno: Errno,
    },
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(Errno),
    /// A worker ended where none may.
    #[error("a worker thread panicked")]
    Panicked,
    /// A device that failed as a whole.
    #[error(transparent)]
    Block(#[from] pageless_block::Error),
    /// The flush at the end failed, or one before it that nobody was told of: acknowledged writes may not be durable.
    #[error("{device}: a flush failed while it was served: {status}; what was written last may be lost")]
    Flush {
        /// The device.
        device: String,
        /// What it said.
        status: pageless_block::Status,
    },
    /// No memory for payloads.
    #[error(transparent)]
    Memory(#[from] pageless_mem::Error),
    /// The kernel refused something else.
    #[error(transparent)]
    Sys(#[from] pageless_sys::Error),
}
