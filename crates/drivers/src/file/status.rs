// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an errno of the kernel means to whoever submitted the bio.

use pageless_block::{Op, Status};
use pageless_sys::Errno;

/// The status for an operation that the kernel ended with `errno`.
pub(crate) fn of(errno: Errno, op: Op) -> Status {
    match errno {
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Status::NoSpace,
        // what the block layer says for a medium error and a failed checksum
        Errno::ENODATA | Errno::EILSEQ => Status::Media,
        Errno::EIO if op == Op::Read => Status::Media,
        Errno::EROFS | Errno::EPERM => Status::ReadOnly,
        Errno::ENODEV | Errno::ENXIO => Status::Gone,
        Errno::ECANCELED => Status::Aborted,
        errno if unsupported(errno) => Status::Unsupported,
        _ => Status::IoErr,
    }
}

/// "Ask me again."
pub(super) fn again(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EINTR)
}

/// This file does not do that at all.
pub(super) fn unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_is_the_medium_for_reads_only() {
        assert_eq!(of(Errno::EIO, Op::Read), Status::Media);
        assert_eq!(of(Errno::EIO, Op::Write), Status::IoErr);
        assert_eq!(of(Errno::EIO, Op::Flush), Status::IoErr);
    }

    #[test]
    fn space_and_checksums_keep_their_meaning() {
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG] {
            assert_eq!(of(errno, Op::Write), Status::NoSpace);
        }
        assert_eq!(of(Errno::EILSEQ, Op::Read), Status::Media);
        assert_eq!(of(Errno::EOPNOTSUPP, Op::Discard), Status::Unsupported);
        assert_eq!(of(Errno::EBADF, Op::Read), Status::IoErr);
    }
}
