// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Status`]: how an I/O ended.

use pageless_mem::Fault;
use std::fmt;

/// How an I/O ended. Closed and `Copy`: each wire (NBD, virtio, ublk) maps it by one exhaustive match.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// All of it was done.
    Ok,
    /// The device failed in no nameable way.
    IoErr,
    /// These bytes cannot be read from, or stored to, the medium.
    Media,
    /// The medium has no room for it.
    NoSpace,
    /// It would modify what may not be modified.
    ReadOnly,
    /// The device cannot do this.
    Unsupported,
    /// It names bytes the device does not have.
    OutOfRange,
    /// The frames or the device went away.
    Gone,
    /// It was given up before it was done.
    Aborted,
}

impl Status {
    /// Whether all of it was done.
    #[inline]
    pub const fn is_ok(self) -> bool {
        matches!(self, Status::Ok)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        match fault {
            Fault::Gone => Status::Gone,
            Fault::ReadOnly => Status::ReadOnly,
            Fault::Media => Status::Media,
            Fault::NoSpace => Status::NoSpace,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Ok => "ok",
            Status::IoErr => "I/O error",
            Status::Media => "media error",
            Status::NoSpace => "no space",
            Status::ReadOnly => "read-only",
            Status::Unsupported => "not supported",
            Status::OutOfRange => "out of range",
            Status::Gone => "gone",
            Status::Aborted => "aborted",
        })
    }
}
