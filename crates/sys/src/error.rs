// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::Errno;

/// A system call that failed, and why.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{call}: {errno}")]
    Call {
        /// The system call, with its operation where that matters.
        call: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A number does not fit what the call can take.
    #[error("{call}: {value} is more than the call can take")]
    TooLarge {
        /// The system call.
        call: &'static str,
        /// The number that does not fit.
        value: u64,
    },
}

impl Error {
    /// The errno, `EINVAL` for numbers that never reached the kernel.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Call { errno, .. } => *errno,
            Error::TooLarge { .. } => Errno::EINVAL,
        }
    }
}

/// Names the call in the error of a rustix or std result.
pub(crate) trait Named<T> {
    fn named(self, call: &'static str) -> Result<T, Error>;
}

impl<T> Named<T> for Result<T, rustix::io::Errno> {
    fn named(self, call: &'static str) -> Result<T, Error> {
        self.map_err(|errno| Error::Call { call, errno: errno.into() })
    }
}

impl<T> Named<T> for std::io::Result<T> {
    fn named(self, call: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Call { call, errno: Errno::from_io(&error) })
    }
}

/// The result of a raw libc call: `-1` means "see errno".
pub(crate) fn check(call: &'static str, result: i64) -> Result<i64, Error> {
    if result == -1 {
        return Err(Error::Call { call, errno: Errno::last() });
    }
    Ok(result)
}

/// The result of a raw libc call that counts bytes.
pub(crate) fn check_len(call: &'static str, result: isize) -> Result<usize, Error> {
    usize::try_from(result).map_err(|_| Error::Call { call, errno: Errno::last() })
}

pub(crate) fn to_usize(call: &'static str, value: u64) -> Result<usize, Error> {
    usize::try_from(value).ok().filter(|v| *v <= isize::MAX as usize).ok_or(Error::TooLarge { call, value })
}
