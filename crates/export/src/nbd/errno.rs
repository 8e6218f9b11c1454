// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device's answer is said in NBD: the one match from [`Status`] to an error value.

use pageless_block::Status;

/// The error values of the protocol ("Error values" in its specification).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// `NBD_EPERM`: a write to a read-only export.
    Perm = 1,
    /// `NBD_EIO`.
    Io = 5,
    /// `NBD_EINVAL`: the request makes no sense here.
    Inval = 22,
    /// `NBD_ENOSPC`: past the end of the export, or no space behind it.
    NoSpc = 28,
    /// `NBD_EOVERFLOW`: longer than we do in one request.
    Overflow = 75,
    /// `NBD_ENOTSUP`: not fast.
    NotSup = 95,
    /// `NBD_ESHUTDOWN`: the server is going away.
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The error a failed status becomes; `None` is success.
    pub fn of(status: Status) -> Option<Errno> {
        match status {
            Status::Ok => None,
            Status::IoErr | Status::Media | Status::Gone => Some(Errno::Io),
            Status::NoSpace => Some(Errno::NoSpc),
            Status::ReadOnly => Some(Errno::Perm),
            Status::Unsupported => Some(Errno::NotSup),
            Status::OutOfRange => Some(Errno::Inval),
            Status::Aborted => Some(Errno::Shutdown),
        }
    }
}
