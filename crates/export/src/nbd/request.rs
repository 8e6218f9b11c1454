// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request: its 28 bytes taken apart, and judged against what the session agreed on.
//!
//! [`Request::parse`] fails only when the stream can no longer be followed. Everything else a client can get
//! wrong is a [`Refusal`], which is answered, and the stream goes on behind the payload.

use std::fmt;

use zerocopy::FromBytes;

use super::errno::Errno;
use super::wire::{self, CommandFlags, REQUEST_LEN, RequestHeader, TransmissionFlags, cmd};

/// A request as it came, not yet judged.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Raw command flags, known and unknown.
    pub flags: u16,
    /// Raw command number.
    pub kind: u16,
    /// The client's word for this request, handed back as it is.
    pub cookie: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// The stream does not hold a request here: the connection cannot go on.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request magic is {0:#010x}, not {magic:#010x}", magic = wire::REQUEST_MAGIC)]
pub struct BadMagic(pub u32);

/// A request found good.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answer with data.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes, at least one.
        length: u32,
        /// One content chunk only.
        whole: bool,
    },
    /// Store the payload.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes, at least one.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Finish what is in flight, then close.
    Disconnect,
    /// Make completed writes durable.
    Flush,
    /// Forget data.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes, at least one.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Expect reads of a range, which was checked to lie inside the export.
    Cache,
    /// Store zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes, at least one.
        length: u32,
        /// Durable before the reply.
        fua: bool,
        /// Leave the range allocated.
        allocate: bool,
        /// Fail rather than write them one by one.
        fast: bool,
    },
    /// Tell data from holes.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes, at least one.
        length: u32,
        /// One extent only.
        one: bool,
    },
}

/// What a session agreed on, as far as requests are judged by it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of the export.
    pub size: u64,
    /// What was announced, `SEND_DF` included.
    pub flags: TransmissionFlags,
    /// Offsets and lengths are multiples of this power of two.
    pub minimum: u32,
    /// The longest payload.
    pub maximum: u32,
    /// Replies to reads are chunks.
    pub structured: bool,
    /// `base:allocation` was selected for this export.
    pub block_status: bool,
}

/// Why a request is answered with an error.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The value on the wire.
    pub errno: Errno,
    /// The words beside it.
    pub why: Why,
}

/// The words of a [`Refusal`]; numbers are those of the request and of the export.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No such command.
    UnknownCommand(u16),
    /// A command that was not announced.
    NotOffered,
    /// Flags that do not belong to the command, or were not announced.
    BadFlags(u16),
    /// Past the end.
    Beyond {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u32,
        /// Bytes there are.
        size: u64,
    },
    /// Not a multiple of the minimum block size.
    Unaligned {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u32,
        /// The minimum block size.
        block: u32,
    },
    /// Longer than the announced maximum.
    TooLong {
        /// Bytes asked for.
        length: u32,
        /// Bytes allowed.
        maximum: u32,
    },
    /// A length of zero where something must be done, or not zero where it must be.
    BadLength,
    /// A write to a read-only export.
    ReadOnly,
    /// `BLOCK_STATUS` without a selected context.
    NoContext,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Why::UnknownCommand(kind) => write!(f, "unknown command {kind}"),
            Why::NotOffered => f.write_str("this export does not offer this command"),
            Why::BadFlags(flags) => write!(f, "flags {flags:#x} do not belong to this command here"),
            Why::Beyond { offset, length, size } => {
                write!(f, "offset {offset} + length {length} is past the end at {size}")
            }
            Why::Unaligned { offset, length, block } => {
                write!(f, "offset {offset}, length {length}: not multiples of {block}")
            }
            Why::TooLong { length, maximum } => write!(f, "length {length} is over the maximum of {maximum}"),
            Why::BadLength => f.write_str("wrong length for this command"),
            Why::ReadOnly => f.write_str("this export is read-only"),
            Why::NoContext => f.write_str("no metadata context was selected for this export"),
        }
    }
}

impl Request {
    /// Takes the 28 bytes of a request apart.
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Result<Request, BadMagic> {
        // Every bit pattern is a RequestHeader, and the length is the type's own.
        let header = RequestHeader::read_from_bytes(bytes).map_err(|_| BadMagic(0))?;
        let magic = header.magic.get();
        if magic != wire::REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        Ok(Request {
            flags: header.flags.get(),
            kind: header.kind.get(),
            cookie: header.cookie.get(),
            offset: header.offset.get(),
            length: header.length.get(),
        })
    }

    /// Bytes that follow the header in the stream, whatever [`check`](Request::check) thinks of it.
    pub fn payload(&self) -> u32 {
        if self.kind == cmd::WRITE { self.length } else { 0 }
    }

    /// Judges the request.
    pub fn check(&self, rules: &Rules) -> Result<Command, Refusal> {
        let Request { offset, length, .. } = *self;
        let offered = |flag| if rules.flags.contains(flag) { Ok(()) } else { refuse(Errno::Inval, Why::NotOffered) };
        match self.kind {
            cmd::READ => {
                let flags = self.flags(rules, CommandFlags::DF)?;
                if length > rules.maximum {
                    let errno = if rules.structured { Errno::Overflow } else { Errno::Inval };
                    return refuse(errno, Why::TooLong { length, maximum: rules.maximum });
                }
                self.inside(rules, Errno::Inval)?;
                Ok(Command::Read { offset, length, whole: flags.contains(CommandFlags::DF) })
            }
            cmd::WRITE => {
                self.writable(rules)?;
                let flags = self.flags(rules, CommandFlags::empty())?;
                if length > rules.maximum {
                    return refuse(Errno::Inval, Why::TooLong { length, maximum: rules.maximum });
                }
                self.inside(rules, Errno::NoSpc)?;
                Ok(Command::Write { offset, length, fua: flags.contains(CommandFlags::FUA) })
            }
            cmd::DISC => Ok(Command::Disconnect),
            cmd::FLUSH => {
                offered(TransmissionFlags::SEND_FLUSH)?;
                self.flags(rules, CommandFlags::empty())?;
                if offset != 0 || length != 0 {
                    return refuse(Errno::Inval, Why::BadLength);
                }
                Ok(Command::Flush)
            }
            cmd::TRIM => {
                self.writable(rules)?;
                offered(TransmissionFlags::SEND_TRIM)?;
                let flags = self.flags(rules, CommandFlags::empty())?;
                self.inside(rules, Errno::Inval)?;
                Ok(Command::Trim { offset, length, fua: flags.contains(CommandFlags::FUA) })
            }
            cmd::CACHE => {
                self.flags(rules, CommandFlags::empty())?;
                self.inside(rules, Errno::Inval)?;
                Ok(Command::Cache)
            }
            cmd::WRITE_ZEROES => {
                self.writable(rules)?;
                offered(TransmissionFlags::SEND_WRITE_ZEROES)?;
                let flags = self.flags(rules, CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO)?;
                self.inside(rules, Errno::NoSpc)?;
                Ok(Command::WriteZeroes {
                    offset,
                    length,
                    fua: flags.contains(CommandFlags::FUA),
                    allocate: flags.contains(CommandFlags::NO_HOLE),
                    fast: flags.contains(CommandFlags::FAST_ZERO),
                })
            }
            cmd::BLOCK_STATUS => {
                if !rules.block_status {
                    return refuse(Errno::Inval, Why::NoContext);
                }
                let flags = self.flags(rules, CommandFlags::REQ_ONE)?;
                self.inside(rules, Errno::Inval)?;
                Ok(Command::BlockStatus { offset, length, one: flags.contains(CommandFlags::REQ_ONE) })
            }
            kind => refuse(Errno::Inval, Why::UnknownCommand(kind)),
        }
    }

    /// The flags, if each belongs to the command (`own`) and was announced. FUA belongs to every command.
    fn flags(&self, rules: &Rules, own: CommandFlags) -> Result<CommandFlags, Refusal> {
        let mut allowed = own;
        allowed.set(CommandFlags::FUA, rules.flags.contains(TransmissionFlags::SEND_FUA));
        if !rules.flags.contains(TransmissionFlags::SEND_DF) {
            allowed.remove(CommandFlags::DF);
        }
        if !rules.flags.contains(TransmissionFlags::SEND_FAST_ZERO) {
            allowed.remove(CommandFlags::FAST_ZERO);
        }
        match CommandFlags::from_bits(self.flags) {
            Some(flags) if allowed.contains(flags) => Ok(flags),
            _ => refuse(Errno::Inval, Why::BadFlags(self.flags)),
        }
    }

    fn writable(&self, rules: &Rules) -> Result<(), Refusal> {
        if rules.flags.contains(TransmissionFlags::READ_ONLY) {
            return refuse(Errno::Perm, Why::ReadOnly);
        }
        Ok(())
    }

    fn inside(&self, rules: &Rules, beyond: Errno) -> Result<(), Refusal> {
        let Request { offset, length, .. } = *self;
        if length == 0 {
            return refuse(Errno::Inval, Why::BadLength);
        }
        let block = rules.minimum;
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > rules.size) {
            return refuse(beyond, Why::Beyond { offset, length, size: rules.size });
        }
        if (offset | u64::from(length)) & u64::from(block - 1) != 0 {
            return refuse(Errno::Inval, Why::Unaligned { offset, length, block });
        }
        Ok(())
    }
}

fn refuse<T>(errno: Errno, why: Why) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

#[cfg(test)]
mod tests;
