// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "hands the address of one frame to the calls that are tried on it")]
//! Single tries of what the kernel takes, each on one allocated frame and without changing it.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use pageless_sys::file::File;
use pageless_sys::socket::{self, IoVec};
use pageless_sys::uring::Ring;
use pageless_sys::{Errno, Error};

use crate::Inflight;

/// `O_DIRECT` write *from* the frame to an unnamed file in `directory`, which must be on a file system that has it.
/// `None` when it has not.
pub(crate) fn direct_write(frame: &Inflight, directory: &Path) -> Option<Result<(), Errno>> {
    let file = File::unnamed(directory, true).ok()?;
    // SAFETY: `frame` keeps the run mapped; the kernel only reads it.
    match unsafe { file.write_from(run(frame), 0) } {
        Ok(_) => Some(Ok(())),
        Err(error) if error.errno() == Errno::EFAULT => Some(Err(Errno::EFAULT)),
        Err(error) if error.errno() == Errno::EOPNOTSUPP => Some(Err(Errno::EOPNOTSUPP)),
        Err(_) => None, // the file system's trouble, not the memory's
    }
}

/// Registration as an io_uring fixed buffer: a long-term pin.
pub(crate) fn register(frame: &Inflight) -> Result<(), Errno> {
    let ring = Ring::new(1).map_err(|error| error.errno())?;
    // SAFETY: `frame` outlives `ring`, which is dropped at the end of this function.
    unsafe { ring.register(&[run(frame)]) }.map_err(|error| error.errno())?;
    ring.unregister().map_err(|error| error.errno())
}

/// A copying send on a unix socket.
pub(crate) fn send(frame: &Inflight) -> Result<(), Errno> {
    let (here, _there) = UnixStream::pair().map_err(|error| Errno::from_io(&error))?;
    // SAFETY: `frame` keeps the run mapped; the kernel only reads it.
    unsafe { socket::send(here.as_fd(), &[run(frame)]) }.map(drop).map_err(|error| error.errno())
}

/// A pinning send (`MSG_ZEROCOPY`) on a loopback TCP connection.
pub(crate) fn send_zerocopy(frame: &Inflight) -> Result<(), Errno> {
    let io = |error: std::io::Error| Errno::from_io(&error);
    let sys = |error: Error| error.errno();
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io)?;
    let here = TcpStream::connect(listener.local_addr().map_err(io)?).map_err(io)?;
    let (there, _) = listener.accept().map_err(io)?;
    socket::set_zerocopy(here.as_fd()).map_err(sys)?;
    // SAFETY: the kernel only reads the run. On loopback it copies what it pinned as soon as it is received, which
    // the read below waits for, before `frame` can go.
    let sent = unsafe { socket::send_zerocopy(here.as_fd(), run(frame)) }.map_err(sys)?;
    let mut received = vec![0; sent];
    std::io::Read::read_exact(&mut &there, &mut received).map_err(io)
}

fn run(frame: &Inflight) -> IoVec {
    frame.runs().first().copied().unwrap_or(IoVec { addr: 0, len: 0 })
}
