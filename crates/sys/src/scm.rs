// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes with descriptors beside them (`SCM_RIGHTS`, unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::error::Named;
use crate::{Errno, Error};

/// The most descriptors one message carries here.
pub const MAX_FDS: usize = 32;

/// Receives into `bytes` without waiting; 0 is the end of the stream. Descriptors that came beside them are appended to
/// `fds`, close-on-exec.
///
/// # Errors
/// What the kernel says, `EAGAIN` where nothing is there; `ETOOMANYREFS` where there were more than [`MAX_FDS`] descriptors,
/// of which none is kept.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags).named("recvmsg")?;
    let before = fds.len();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    // The buffer has room for one or two more, as it is aligned.
    if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() - before > MAX_FDS {
        fds.truncate(before);
        return Err(Error::Call { call: "recvmsg", errno: Errno::ETOOMANYREFS });
    }
    Ok(message.bytes)
}

/// Sends bytes, and descriptors beside the first of them, without waiting and without SIGPIPE; returns how many bytes the
/// socket took. The descriptors went if it took any.
///
/// # Errors
/// What the kernel says; `ETOOMANYREFS` for more than [`MAX_FDS`] descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && (fds.len() > MAX_FDS || !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(Error::Call { call: "sendmsg", errno: Errno::ETOOMANYREFS });
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).named("sendmsg")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn memfd(len: u64) -> OwnedFd {
        crate::memfd::memfd(len).unwrap()
    }

    fn open_files() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let files = [memfd(4096), memfd(8192)];
        assert_eq!(send(theirs.as_fd(), b"two", &[files[0].as_fd(), files[1].as_fd()]).unwrap(), 3);
        assert_eq!(send(theirs.as_fd(), b"none", &[]).unwrap(), 4);
        let (mut bytes, mut fds) = ([0; 16], Vec::new());
        // A receive ends where other descriptors begin.
        assert_eq!(receive(ours.as_fd(), &mut bytes, &mut fds).unwrap(), 3);
        let sizes: Vec<u64> = fds.drain(..).map(|fd| crate::file::File::from(fd).size().unwrap()).collect();
        assert_eq!((&bytes[..3], sizes), (&b"two"[..], vec![4096, 8192]));
        assert_eq!(receive(ours.as_fd(), &mut bytes, &mut fds).unwrap(), 4);
        assert_eq!((&bytes[..4], fds.len()), (&b"none"[..], 0));
        assert_eq!(receive(ours.as_fd(), &mut bytes, &mut fds).unwrap_err().errno(), Errno::EAGAIN);
        drop(theirs);
        assert_eq!(receive(ours.as_fd(), &mut bytes, &mut fds).unwrap(), 0);
    }

    #[test]
    fn too_many_descriptors_are_refused_on_both_sides_and_none_stays() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = memfd(4096);
        for count in [MAX_FDS + 1, 3 * MAX_FDS] {
            let many = vec![file.as_fd(); count];
            assert_eq!(send(theirs.as_fd(), b"x", &many).unwrap_err().errno(), Errno::ETOOMANYREFS);
            // Whoever means harm does not send with our limit.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3 * MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
            rustix::net::sendmsg(&theirs, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
            let (before, mut fds) = (open_files(), Vec::new());
            let refused = receive(ours.as_fd(), &mut [0; 16], &mut fds).unwrap_err();
            // Other tests of this process open and close files meanwhile, but not so many.
            assert!(fds.is_empty() && open_files() < before + MAX_FDS / 2);
            assert_eq!(refused.errno(), Errno::ETOOMANYREFS);
        }
    }
}
