// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listening sockets, and the thread that deals their connections out to the workers.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pageless_sys::Errno;
use pageless_sys::epoll::{Epoll, Interest};

use super::service::Shared;
use super::socket::Socket;
use crate::Error;
use crate::unix_socket::UnixSocket;
use crate::worker::Inbox;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A TCP address; port 0 takes a free one.
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixSocket),
    Tcp { listener: TcpListener, address: SocketAddr },
}

impl Listener {
    pub(crate) fn open(listen: &Listen) -> Result<Listener, Error> {
        match listen {
            Listen::Unix(path) => UnixSocket::open(path).map(Listener::Unix),
            Listen::Tcp(address) => {
                let open = || {
                    let listener = TcpListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    let address = listener.local_addr()?;
                    Ok(Listener::Tcp { listener, address })
                };
                open().map_err(|error| Error::Tcp { address: *address, errno: Errno::from_io(&error) })
            }
        }
    }

    /// Where it really listens.
    pub(crate) fn address(&self) -> Listen {
        match self {
            Listener::Unix(socket) => Listen::Unix(socket.path().into()),
            Listener::Tcp { address, .. } => Listen::Tcp(*address),
        }
    }

    fn accept(&self) -> io::Result<Socket> {
        let socket = match self {
            Listener::Unix(socket) => Socket::Unix(socket.accept()?),
            Listener::Tcp { listener, .. } => Socket::Tcp(listener.accept()?.0),
        };
        socket.prepare()?;
        Ok(socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(socket) => socket.as_fd(),
            Listener::Tcp { listener, .. } => listener.as_fd(),
        }
    }
}

/// Accepts connections and deals them out.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) workers: Vec<Arc<Inbox<Socket>>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) most: usize,
    /// Signalled when it is time to stop.
    pub(crate) stop: Arc<Inbox<()>>,
}

/// How long to wait when the system has no descriptors or memory for a connection.
const BACK_OFF: Duration = Duration::from_millis(100);

impl Acceptor {
    /// Accepts until told to stop.
    pub(crate) fn run(self) -> Result<(), Error> {
        let (mut all, mut stop) = (Epoll::new(16)?, Epoll::new(1)?);
        stop.add(&*self.stop, 0, Interest::Read)?;
        all.add(&*self.stop, u64::MAX, Interest::Read)?;
        for (token, listener) in (0..).zip(&self.listeners) {
            all.add(listener, token, Interest::Read)?;
        }
        let mut ready = Vec::new();
        let mut next = 0;
        while !self.shared.stopping.load(Ordering::Acquire) {
            ready.clear();
            all.wait(None, &mut ready)?;
            let mut short = false;
            for event in &ready {
                let index = usize::try_from(event.token).unwrap_or(usize::MAX);
                let Some(listener) = self.listeners.get(index) else { continue };
                short |= !self.drain(listener, &mut next);
            }
            if short {
                // The listeners stay readable: wait on the stop event alone.
                ready.clear();
                stop.wait(Some(BACK_OFF), &mut ready)?;
            }
        }
        Ok(())
    }

    /// Accepts what waits. False: the system is short of something.
    fn drain(&self, listener: &Listener, next: &mut usize) -> bool {
        loop {
            let socket = match listener.accept() {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) => match Errno::from_io(&error) {
                    Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => return false,
                    // That connection is gone already; there may be others.
                    _ => continue,
                },
            };
            if self.shared.live.fetch_add(1, Ordering::Relaxed) >= self.most {
                // One too many: it is told by being closed.
                self.shared.live.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            self.workers[*next % self.workers.len()].put(socket);
            *next = next.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests;
