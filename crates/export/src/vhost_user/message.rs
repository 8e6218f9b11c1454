// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Message`]: one message of a front-end, taken apart and judged by itself.
//!
//! What needs knowing what came before is judged by the [`session`](super::session).

use std::os::fd::OwnedFd;

use zerocopy::FromBytes;

use super::wire::{
    self, ConfigHead, Header, Inflight, Log, MAX_CONFIG, MAX_PAYLOAD, MAX_REGIONS, MemRegion, MemTableHead, NO_FD,
    OneMemRegion, RING_MASK, VringAddr, VringState, request as id,
};

/// What a front-end says.
#[derive(Debug)]
pub(crate) enum Message {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    GetMaxMemSlots,
    SetMemTable(Vec<(MemRegion, OwnedFd)>),
    AddMemRegion(MemRegion, OwnedFd),
    RemoveMemRegion(MemRegion),
    SetLogBase(Log, OwnedFd),
    /// Signalled when something was logged; nobody need be.
    SetLogFd,
    SetVringNum(VringState),
    SetVringAddr(VringAddr),
    SetVringBase(VringState),
    GetVringBase(VringState),
    /// `None`: the ring is polled.
    SetVringKick(u8, Option<OwnedFd>),
    SetVringCall(u8, Option<OwnedFd>),
    SetVringErr(u8, Option<OwnedFd>),
    SetVringEnable(VringState),
    GetConfig(ConfigHead),
    SetConfig(ConfigHead, Vec<u8>),
    /// With the bytes that it takes on the wire of this front-end, which are those of the answer.
    GetInflightFd(Inflight, usize),
    SetInflightFd(Inflight, OwnedFd),
    ResetDevice,
}

/// Why a message is none.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// Not of this protocol.
    #[error("message {request} has version {version}, and 1 is what there is")]
    Version {
        /// Its number.
        request: u32,
        /// Its version.
        version: u32,
    },
    /// An answer to nothing.
    #[error("message {0} is a reply, and nothing was asked")]
    Reply(u32),
    /// Longer than any.
    #[error("message {request} has {size} bytes of payload, and {MAX_PAYLOAD} is the most that any has")]
    TooLong {
        /// Its number.
        request: u32,
        /// Bytes it says follow.
        size: u32,
    },
    /// No such message, or one that was not offered.
    #[error("message {0} was not offered")]
    Unknown(u32),
    /// A payload of another message.
    #[error("message {request} has {size} bytes of payload, not {wanted}")]
    Size {
        /// Its number.
        request: u32,
        /// Bytes that came.
        size: usize,
        /// What it takes, at least.
        wanted: usize,
    },
    /// Descriptors that do not belong, or are missing.
    #[error("message {request} came with {came} descriptors, not {wanted}")]
    Descriptors {
        /// Its number.
        request: u32,
        /// How many came.
        came: usize,
        /// How many it takes.
        wanted: usize,
    },
    /// More entries than a memory table has.
    #[error("a memory table of {0} entries, and {MAX_REGIONS} is the most")]
    Table(u32),
    /// More of the configuration space than a message carries.
    #[error("{size} bytes of configuration at {offset}, and {MAX_CONFIG} is the end")]
    Config {
        /// First byte.
        offset: u32,
        /// Bytes.
        size: u32,
    },
}

impl Header {
    /// Judges the head, and says how many bytes follow.
    pub(crate) fn payload(&self) -> Result<usize, MessageError> {
        let Header { request, flags, size } = *self;
        match flags & wire::VERSION_MASK {
            wire::VERSION => {}
            version => return Err(MessageError::Version { request, version }),
        }
        if flags & wire::REPLY != 0 {
            return Err(MessageError::Reply(request));
        }
        usize::try_from(size).ok().filter(|size| *size <= MAX_PAYLOAD).ok_or(MessageError::TooLong { request, size })
    }
}

/// The descriptors of a message, each to be taken once.
struct Fds {
    request: u32,
    fds: Vec<OwnedFd>,
}

impl Fds {
    fn exactly(self, wanted: usize) -> Result<Vec<OwnedFd>, MessageError> {
        let came = self.fds.len();
        if came == wanted { Ok(self.fds) } else { Err(self.wrong(wanted)) }
    }

    fn wrong(&self, wanted: usize) -> MessageError {
        MessageError::Descriptors { request: self.request, came: self.fds.len(), wanted }
    }

    fn none(self) -> Result<(), MessageError> {
        self.exactly(0).map(drop)
    }

    fn one(mut self) -> Result<OwnedFd, MessageError> {
        match self.fds.pop() {
            Some(fd) if self.fds.is_empty() => Ok(fd),
            Some(_) => Err(MessageError::Descriptors { request: self.request, came: self.fds.len() + 1, wanted: 1 }),
            None => Err(self.wrong(1)),
        }
    }
}

impl Message {
    /// Takes a message apart, of which the head was judged already.
    ///
    /// # Errors
    /// [`MessageError`]; descriptors that came are closed.
    pub(crate) fn parse(request: u32, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Message, MessageError> {
        let fds = Fds { request, fds };
        let empty = || plain::<[u8; 0]>(request, payload);
        let number = || plain::<u64>(request, payload);
        let state = || plain::<VringState>(request, payload);
        match request {
            id::SET_MEM_TABLE => return table(request, payload, fds),
            id::ADD_MEM_REG => {
                let OneMemRegion { region, .. } = plain(request, payload)?;
                return Ok(Message::AddMemRegion(region, fds.one()?));
            }
            // Some send the descriptor, some do not: the region is known by its addresses.
            id::REM_MEM_REG => {
                let OneMemRegion { region, .. } = plain(request, payload)?;
                return Ok(Message::RemoveMemRegion(region));
            }
            id::SET_LOG_BASE => return Ok(Message::SetLogBase(plain(request, payload)?, fds.one()?)),
            id::SET_LOG_FD => return Ok(Message::SetLogFd),
            id::SET_VRING_KICK => return ring_fd(number()?, fds).map(|(ring, fd)| Message::SetVringKick(ring, fd)),
            id::SET_VRING_CALL => return ring_fd(number()?, fds).map(|(ring, fd)| Message::SetVringCall(ring, fd)),
            id::SET_VRING_ERR => return ring_fd(number()?, fds).map(|(ring, fd)| Message::SetVringErr(ring, fd)),
            id::SET_INFLIGHT_FD => return Ok(Message::SetInflightFd(inflight(request, payload)?, fds.one()?)),
            _ => fds.none()?,
        }
        Ok(match request {
            id::GET_FEATURES => empty().map(|_| Message::GetFeatures)?,
            id::SET_FEATURES => Message::SetFeatures(number()?),
            id::SET_OWNER => empty().map(|_| Message::SetOwner)?,
            id::RESET_OWNER => empty().map(|_| Message::ResetOwner)?,
            id::GET_PROTOCOL_FEATURES => empty().map(|_| Message::GetProtocolFeatures)?,
            id::SET_PROTOCOL_FEATURES => Message::SetProtocolFeatures(number()?),
            id::GET_QUEUE_NUM => empty().map(|_| Message::GetQueueNum)?,
            id::GET_MAX_MEM_SLOTS => empty().map(|_| Message::GetMaxMemSlots)?,
            id::SET_VRING_NUM => Message::SetVringNum(state()?),
            id::SET_VRING_ADDR => Message::SetVringAddr(plain(request, payload)?),
            id::SET_VRING_BASE => Message::SetVringBase(state()?),
            id::GET_VRING_BASE => Message::GetVringBase(state()?),
            id::SET_VRING_ENABLE => Message::SetVringEnable(state()?),
            id::GET_CONFIG => Message::GetConfig(config(request, payload)?.0),
            id::SET_CONFIG => {
                let (head, bytes) = config(request, payload)?;
                Message::SetConfig(head, bytes.to_vec())
            }
            id::GET_INFLIGHT_FD => Message::GetInflightFd(inflight(request, payload)?, payload.len()),
            id::RESET_DEVICE => empty().map(|_| Message::ResetDevice)?,
            other => return Err(MessageError::Unknown(other)),
        })
    }
}

/// A payload that is all of one layout.
fn plain<T: FromBytes>(request: u32, payload: &[u8]) -> Result<T, MessageError> {
    let wrong = MessageError::Size { request, size: payload.len(), wanted: size_of::<T>() };
    T::read_from_bytes(payload).map_err(|_| wrong)
}

/// With or without the padding that the layout has at its end in C.
fn inflight(request: u32, payload: &[u8]) -> Result<Inflight, MessageError> {
    let mut padded = [0; size_of::<Inflight>()];
    let packed = padded.len() - size_of::<u32>();
    if payload.len() != padded.len() && payload.len() != packed {
        return Err(MessageError::Size { request, size: payload.len(), wanted: packed });
    }
    padded[..payload.len()].copy_from_slice(payload);
    plain(request, &padded)
}

/// A head, and as many bytes as it says: front-ends that ask send room for the answer.
fn config(request: u32, payload: &[u8]) -> Result<(ConfigHead, &[u8]), MessageError> {
    let short = |wanted| MessageError::Size { request, size: payload.len(), wanted };
    let (head, bytes) = ConfigHead::read_from_prefix(payload).map_err(|_| short(size_of::<ConfigHead>()))?;
    let ConfigHead { offset, size, .. } = head;
    // Who asks for more than there is gets an answer, which says so.
    if request == id::SET_CONFIG && offset.checked_add(size).is_none_or(|end| end > MAX_CONFIG) {
        return Err(MessageError::Config { offset, size });
    }
    let wanted = size as usize;
    if bytes.len() != wanted && !(request == id::GET_CONFIG && bytes.is_empty()) {
        return Err(short(size_of::<ConfigHead>() + wanted));
    }
    Ok((head, bytes))
}

fn ring_fd(payload: u64, fds: Fds) -> Result<(u8, Option<OwnedFd>), MessageError> {
    let ring = u8::try_from(payload & RING_MASK).unwrap_or(u8::MAX);
    let fd = if payload & NO_FD == 0 { Some(fds.one()?) } else { fds.none().map(|()| None)? };
    Ok((ring, fd))
}

fn table(request: u32, payload: &[u8], fds: Fds) -> Result<Message, MessageError> {
    let short = |wanted| MessageError::Size { request, size: payload.len(), wanted };
    let (head, entries) = MemTableHead::read_from_prefix(payload).map_err(|_| short(size_of::<MemTableHead>()))?;
    let count = head.count as usize;
    if count > MAX_REGIONS {
        return Err(MessageError::Table(head.count));
    }
    // Front-ends may send room for all eight.
    let bytes = count * size_of::<MemRegion>();
    if entries.len() < bytes {
        return Err(short(size_of::<MemTableHead>() + bytes));
    }
    let regions = entries[..bytes].chunks_exact(size_of::<MemRegion>()).map(|entry| plain(request, entry));
    let regions: Vec<MemRegion> = regions.collect::<Result<_, _>>()?;
    Ok(Message::SetMemTable(regions.into_iter().zip(fds.exactly(count)?).collect()))
}

#[cfg(test)]
mod tests;
