// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fmt;

/// The kernel's reason for a refusal. `Display` gives name, number and meaning: `EFAULT (14, Bad address)`.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! names {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: Errno = Errno(libc::$name);)*

            /// The symbolic name, where this list knows it.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $(libc::$name => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

names! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR
    EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EPIPE ERANGE EDEADLK ENOSYS ENODATA EOVERFLOW EILSEQ
    EOPNOTSUPP EADDRINUSE ECONNRESET ENOBUFS ETIMEDOUT ECONNREFUSED ECANCELED EREMOTEIO EDQUOT EHWPOISON ENAMETOOLONG
    ELOOP ENOTSOCK EMSGSIZE ETOOMANYREFS ECONNABORTED EADDRNOTAVAIL
}

impl Errno {
    /// Wraps a positive errno number.
    pub const fn from_raw(raw: i32) -> Errno {
        Errno(raw)
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The calling thread's last error.
    pub(crate) fn last() -> Errno {
        Errno::from_io(&std::io::Error::last_os_error())
    }

    /// The number in a standard-library error; `EIO` for one that did not come from the kernel.
    pub fn from_io(error: &std::io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Errno {
        Errno(errno.raw_os_error())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let meaning = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{} ({}, {meaning})", self.name().unwrap_or("errno"), self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_says_name_number_and_meaning() {
        assert_eq!(Errno::EFAULT.to_string(), "EFAULT (14, Bad address)");
        assert_eq!(Errno::from_raw(4095).name(), None);
    }
}
