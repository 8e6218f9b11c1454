// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Socket`]: a client's connection, of either family.

use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Bytes the kernel may hold for a client that is slow to read.
    const SEND_BUFFER: usize = 1 << 20;

    /// Sets up what we want of a connection that was just accepted.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        // Either wish may be denied; the connection then works as well, slower.
        match self {
            Socket::Unix(stream) => {
                stream.set_nonblocking(true)?;
                let _ = pageless_sys::socket::set_send_buffer(stream.as_fd(), Socket::SEND_BUFFER);
            }
            Socket::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let _ = pageless_sys::socket::set_nodelay(stream.as_fd());
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => (&*stream).read(buf),
            Socket::Tcp(stream) => (&*stream).read(buf),
        }
    }
}
