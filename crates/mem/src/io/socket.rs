// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "hands addresses in windows to sendmsg and recvmsg")]

use std::os::fd::BorrowedFd;

use pageless_sys::socket::{self, IoVec};
use pageless_sys::{Errno, Error};

use crate::memory::Online;
use crate::pfn::PhysRange;
use crate::{Access, Fault, fault};

/// Something to send.
#[derive(Debug, Copy, Clone)]
pub enum Part<'a> {
    /// Private bytes, such as a header.
    Bytes(&'a [u8]),
    /// Frames, straight from the region.
    Frames(PhysRange),
}

/// Parts of one call, at most.
pub const MAX_PARTS: usize = socket::MAX_RUNS;

/// Why nothing of a call was moved.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum SocketError {
    /// The socket has no room, or no bytes.
    WouldBlock,
    /// A part cannot be read (or written).
    Fault {
        /// Which.
        part: usize,
        /// Why.
        fault: Fault,
    },
    /// The socket failed.
    Errno(Errno),
}

/// Sends parts in order without waiting; returns how many bytes the socket took, which may end in mid-part.
/// At most [`MAX_PARTS`] parts are looked at.
pub fn send(
    online: &Online<'_>,
    socket: BorrowedFd<'_>,
    parts: &[Part<'_>],
    scratch: &mut Scratch,
) -> Result<usize, SocketError> {
    let parts = &parts[..parts.len().min(MAX_PARTS)];
    scratch.runs.clear();
    for (index, part) in parts.iter().enumerate() {
        scratch.runs.push(match part {
            Part::Bytes(bytes) => IoVec { addr: bytes.as_ptr() as usize, len: bytes.len() },
            Part::Frames(range) => run(online, index, *range, Access::Read)?,
        });
    }
    // SAFETY: private bytes are borrowed for the call; frames lie in windows of this online section. Both are mapped.
    let call = || unsafe { socket::send(socket, &scratch.runs) };
    let frames = parts.iter().enumerate().filter_map(|(index, part)| match part {
        Part::Frames(range) => Some((index, *range)),
        Part::Bytes(_) => None,
    });
    finish(online, frames, Access::Read, call)
}

/// Receives into ranges in order without waiting; 0 is the end of the stream.
pub fn recv(
    online: &Online<'_>,
    socket: BorrowedFd<'_>,
    into: &[PhysRange],
    scratch: &mut Scratch,
) -> Result<usize, SocketError> {
    let into = &into[..into.len().min(MAX_PARTS)];
    scratch.runs.clear();
    for (index, range) in into.iter().enumerate() {
        scratch.runs.push(run(online, index, *range, Access::Write)?);
    }
    // SAFETY: the runs lie in windows of this online section: mapped, and nobody's reference.
    let call = || unsafe { socket::receive(socket, &scratch.runs) };
    finish(online, into.iter().copied().enumerate(), Access::Write, call)
}

/// Room for a call's list, kept between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    runs: Vec<IoVec>,
}

fn run(online: &Online<'_>, part: usize, range: PhysRange, access: Access) -> Result<IoVec, SocketError> {
    let found = online.resolve(range, access).map_err(|fault| SocketError::Fault { part, fault })?;
    Ok(IoVec { addr: found.addr, len: found.len })
}

/// Makes the call, and once more where it met a hole that could be filled.
fn finish(
    online: &Online<'_>,
    frames: impl Iterator<Item = (usize, PhysRange)> + Clone,
    access: Access,
    call: impl Fn() -> Result<usize, Error>,
) -> Result<usize, SocketError> {
    match call().map_err(|error| error.errno()) {
        Err(Errno::EFAULT) => {}
        other => return other.map_err(plain),
    }
    find_fault(online, frames.clone(), access)?;
    // Nothing is wrong that can be seen. What still faults is the first part's: those before it would have been moved.
    call().map_err(|error| match error.errno() {
        Errno::EFAULT => {
            SocketError::Fault { part: frames.map(|(part, _)| part).next().unwrap_or(0), fault: Fault::Media }
        }
        errno => plain(errno),
    })
}

fn plain(errno: Errno) -> SocketError {
    match errno {
        Errno::EAGAIN | Errno::EINTR => SocketError::WouldBlock,
        errno => SocketError::Errno(errno),
    }
}

/// Finds the part that made the kernel answer `EFAULT`; `Ok` when there is none (any more).
#[cold]
fn find_fault(
    online: &Online<'_>,
    frames: impl Iterator<Item = (usize, PhysRange)>,
    access: Access,
) -> Result<(), SocketError> {
    for (part, range) in frames {
        let touched = online.resolve(range, access).and_then(|found| fault::touch(found, access));
        touched.map_err(|fault| SocketError::Fault { part, fault })?;
    }
    Ok(())
}
