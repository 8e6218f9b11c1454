// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FrontEnd`]: one connection. It receives a message at a time, and no more of the stream than that, so that descriptors are
//! those of the message they came with.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pageless_sys::epoll::{Epoll, Interest, Ready};
use pageless_sys::{Errno, scm};
use zerocopy::{FromBytes, IntoBytes};

use super::message::{Message, MessageError};
use super::session::{Answer, Session, SessionError};
use super::wire::{Header, MAX_PAYLOAD, MAX_REGIONS, NEED_REPLY, REPLY, VERSION};

/// How long a front-end may take to fetch an answer, or to send the rest of a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a front-end is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Left {
    /// It closed the connection, or the server stops.
    #[error("it hung up")]
    HungUp,
    /// What it sent is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// What it sent cannot be followed, and it did not ask to be told.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It passes more descriptors with a message than any has.
    #[error("a message with {0} descriptors, and {MAX_REGIONS} is the most that any has")]
    Descriptors(usize),
    /// The socket failed, or it stopped in the middle of a message.
    #[error(transparent)]
    Socket(#[from] pageless_sys::Error),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct FrontEnd {
    socket: UnixStream,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    ready: Epoll,
    /// To wait until an answer fits.
    writable: Epoll,
}

const SOCKET: u64 = 0;
const STOP: u64 = 1;

impl FrontEnd {
    /// Of a connection that was just accepted; `stop` becomes readable when the server is to end.
    pub(crate) fn new(socket: UnixStream, stop: BorrowedFd<'_>) -> Result<FrontEnd, pageless_sys::Error> {
        let (ready, writable) = (Epoll::new(2)?, Epoll::new(2)?);
        ready.add(&socket, SOCKET, Interest::Read)?;
        ready.add(stop, STOP, Interest::Read)?;
        writable.add(&socket, SOCKET, Interest::Write)?;
        writable.add(stop, STOP, Interest::Read)?;
        Ok(FrontEnd { socket, bytes: Vec::with_capacity(MAX_PAYLOAD), fds: Vec::new(), ready, writable })
    }

    /// Serves it until it goes, or the server stops.
    pub(crate) fn serve(mut self, session: &mut Session<'_>) -> Left {
        loop {
            if let Err(left) = self.message(session) {
                return left;
            }
        }
    }

    /// Deals with the next message.
    fn message(&mut self, session: &mut Session<'_>) -> Result<(), Left> {
        // One that never pauses is asked to here.
        wait(&mut self.ready, Instant::now(), None)?;
        self.bytes.clear();
        self.fds.clear();
        self.fill(size_of::<Header>())?;
        let Ok(header) = Header::read_from_bytes(&self.bytes) else { return Err(Left::HungUp) };
        let payload = header.payload()?;
        self.bytes.clear();
        self.fill(payload)?;
        let message = Message::parse(header.request, &self.bytes, std::mem::take(&mut self.fds)).map_err(Left::from);
        let asked = header.flags & NEED_REPLY != 0 && session.acknowledges();
        match message.and_then(|message| Ok(session.handle(message)?)) {
            Ok(Some(answer)) => self.answer(header.request, answer),
            Ok(None) if asked => self.answer(header.request, 0_u64.as_bytes().to_vec().into()),
            Ok(None) => Ok(()),
            Err(_) if asked => self.answer(header.request, 1_u64.as_bytes().to_vec().into()),
            Err(left) => Err(left),
        }
    }

    /// Receives until there are so many bytes.
    fn fill(&mut self, wanted: usize) -> Result<(), Left> {
        let begun = Instant::now();
        let header = wanted == size_of::<Header>();
        self.bytes.resize(wanted, 0);
        let mut have = 0;
        while have < wanted {
            match scm::receive(self.socket.as_fd(), &mut self.bytes[have..], &mut self.fds) {
                Ok(0) => return Err(Left::HungUp),
                Ok(_) if self.fds.len() > MAX_REGIONS => return Err(Left::Descriptors(self.fds.len())),
                Ok(bytes) => have += bytes,
                Err(error) if error.errno() == Errno::EAGAIN || error.errno() == Errno::EINTR => {
                    // Between messages it may be silent for ever.
                    let limit = (have > 0 || !header).then_some(PATIENCE);
                    wait(&mut self.ready, begun, limit)?;
                }
                Err(error) if error.errno() == Errno::ECONNRESET => return Err(Left::HungUp),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: u32, answer: Answer) -> Result<(), Left> {
        let size = u32::try_from(answer.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Header { request, flags: VERSION | REPLY, size }.as_bytes().to_vec();
        bytes.extend_from_slice(&answer.payload);
        let mut fds: Vec<BorrowedFd<'_>> = answer.fd.iter().map(AsFd::as_fd).collect();
        let (begun, mut sent) = (Instant::now(), 0);
        while sent < bytes.len() {
            match scm::send(self.socket.as_fd(), &bytes[sent..], &fds) {
                Ok(count) => {
                    sent += count;
                    fds.clear();
                }
                Err(error) if error.errno() == Errno::EAGAIN || error.errno() == Errno::EINTR => {
                    wait(&mut self.writable, begun, Some(PATIENCE))?;
                }
                Err(error) if error.errno() == Errno::EPIPE => return Err(Left::HungUp),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Waits for the socket, but not longer than allowed, and not when the server is to end.
fn wait(epoll: &mut Epoll, begun: Instant, limit: Option<Duration>) -> Result<(), Left> {
    let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    if left == Some(Duration::ZERO) {
        return Err(pageless_sys::Error::Call { call: "recvmsg", errno: Errno::ETIMEDOUT }.into());
    }
    let mut ready: Vec<Ready> = Vec::new();
    epoll.wait(left, &mut ready)?;
    if ready.iter().any(|ready| ready.token == STOP) { Err(Left::HungUp) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use pageless_block::BlockDevice;
    use pageless_drivers::NullDisk;
    use pageless_mem::Memory;
    use pageless_sys::eventfd::EventFd;

    use super::*;
    use crate::vhost_user::config::Offer;

    fn offer() -> (Memory, Offer) {
        let memory = Memory::new().unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(NullDisk::new(&memory, 1 << 20));
        let offer = Offer::of(&*device, 1);
        (memory, offer)
    }

    #[test]
    fn a_front_end_that_never_pauses_does_not_keep_the_server() {
        let (memory, offer) = offer();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stop = EventFd::new().unwrap();
        // SET_OWNER, which nobody answers.
        theirs.write_all(&[3_u32, 1, 0].map(u32::to_ne_bytes).concat().repeat(9)).unwrap();
        stop.signal();
        let mut rest = ours.try_clone().unwrap();
        let front_end = FrontEnd::new(ours, stop.as_fd()).unwrap();
        assert!(matches!(front_end.serve(&mut Session::new(&[], &offer, &memory)), Left::HungUp));
        drop(theirs);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut rest, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 9 * 12, "nothing more is done once it is to end");
    }

    #[test]
    fn a_message_that_is_none_is_refused_where_an_answer_is_wanted_and_ends_the_connection_where_not() {
        let (memory, offer) = offer();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let stop = EventFd::new().unwrap();
        // SET_PROTOCOL_FEATURES with REPLY_ACK; SET_VRING_NUM of half its length, once with NEED_REPLY and once without.
        for words in [&[16_u32, 1, 8, 1 << 3, 0][..], &[8, 1 | 8, 4, 0], &[8, 1, 4, 0]] {
            theirs.write_all(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>()).unwrap();
        }
        let front_end = FrontEnd::new(ours, stop.as_fd()).unwrap();
        let left = front_end.serve(&mut Session::new(&[], &offer, &memory));
        assert!(!matches!(left, Left::HungUp), "{left}");
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut theirs, &mut bytes).unwrap();
        assert_eq!(bytes, [8_u32, 1 | 4, 8, 1, 0].map(u32::to_ne_bytes).concat());
    }
}
