// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "hands the address of one frame to the calls that are tried on it")]
//! Single tries of what the kernel takes, each on one allocated frame and without changing it.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use pageless_sys::file::File;
use pageless_sys::socket::{self, IoVec};
use pageless_sys::uring::Ring;
use pageless_sys::{Errno, Error};

use crate::Inflight;

/// The outcome of a try: `None` when something other than the memory kept it from being tried.
type Tried = Option<Result<(), Errno>>;

/// `O_DIRECT` write *from* the frame to an unnamed file in `directory`, which must be on a file system that really has
/// it: those in memory take the flag and copy.
pub(crate) fn direct_write(frame: &Inflight, directory: &Path) -> Tried {
    let file = File::unnamed(directory, true).ok().filter(|file| !file.memory_fs())?;
    // SAFETY: `frame` keeps the run mapped; the kernel only reads it.
    judged(unsafe { file.write_from(run(frame), 0) }.map(drop))
}

/// Registration as an io_uring fixed buffer: a long-term pin.
pub(crate) fn register(frame: &Inflight) -> Tried {
    let ring = Ring::new(1).ok()?;
    // SAFETY: `frame` outlives `ring`, which is dropped at the end of this function.
    let registered = unsafe { ring.register(&[run(frame)]) };
    judged(registered.and_then(|()| ring.unregister()))
}

/// A copying send on a unix socket.
pub(crate) fn send(frame: &Inflight) -> Tried {
    let (here, _there) = UnixStream::pair().ok()?;
    // SAFETY: `frame` keeps the run mapped; the kernel only reads it.
    judged(unsafe { socket::send(here.as_fd(), &[run(frame)]) }.map(drop))
}

/// A pinning send (`MSG_ZEROCOPY`) on a loopback TCP connection.
pub(crate) fn send_zerocopy(frame: &Inflight) -> Tried {
    let listener = TcpListener::bind("127.0.0.1:0").ok()?;
    let here = TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let (there, peer) = listener.accept().ok()?;
    if here.local_addr().ok()? != peer {
        return None; // somebody else was quicker to connect
    }
    there.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket::set_zerocopy(here.as_fd()).ok()?;
    // SAFETY: the kernel only reads the run, and its own references keep the pages for as long as it does.
    let sent = match unsafe { socket::send_zerocopy(here.as_fd(), run(frame)) } {
        Ok(sent) => sent,
        Err(error) => return judged(Err(error)),
    };
    std::io::Read::read_exact(&mut &there, &mut vec![0; sent]).ok().map(Ok)
}

/// The answers with which the kernel refuses memory; any other is about something else.
fn judged(result: Result<(), Error>) -> Tried {
    match result {
        Ok(()) => Some(Ok(())),
        Err(error) if matches!(error.errno(), Errno::EFAULT | Errno::EOPNOTSUPP) => Some(Err(error.errno())),
        Err(_) => None,
    }
}

fn run(frame: &Inflight) -> IoVec {
    frame.runs().first().copied().unwrap_or(IoVec { addr: 0, len: 0 })
}
