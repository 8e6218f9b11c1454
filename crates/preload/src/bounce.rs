// SPDX-License-Identifier: MIT OR Apache-2.0
//! The second try at a call that the kernel answered with `EFAULT`.
//!
//! # What is kept of the original
//! * **Who is helped.** Only O_DIRECT on a regular file or a block device. Everything else, and a pointer that is no
//!   memory, keeps the `EFAULT` it got.
//! * **Nothing twice.** A direct call that ends in `EFAULT` has left the file's size and position alone, whatever part
//!   of it had reached the medium: the file systems publish a new size only after a call that succeeded. So the second
//!   try starts at the start: it writes the same bytes to the same place. A short count is no `EFAULT`, and stays the
//!   program's business.
//! * **One call stays one call** where it shows: when the file's position moves, when a write appends, when it is to be
//!   atomic (`RWF_ATOMIC`). Up to [`WHOLE`], that is: beyond it another thread or process with the same position, or
//!   another appender, can come between two pieces, and memory is not doubled. Calls at an offset are cut from about 1
//!   MiB on. A cut is at a multiple of the block size, and a call ends at the first piece that is short or fails.
//! * **Errors** are the kernel's for the slot, alignment included ([`crate::layout`]); `RWF_*` flags go along.

use crate::counters::{self, Counter};
use crate::kernel::{self, Caller, Direction, Errno};
use crate::layout::{self, Cursor, Piece, Segment};
use crate::pool::{Cutting, Slot, SlotSegments};

const REGULAR: u32 = 0o100_000;
const BLOCK: u32 = 0o060_000;
const O_DIRECT: usize = 0o40_000;
const O_APPEND: usize = 0o2_000;
const RWF_APPEND: i32 = 0x10;
const RWF_ATOMIC: i32 = 0x40;

/// The most that is moved as one call where that shows: 64 MiB.
const WHOLE: usize = 64 << 20;

/// The memory of a call.
#[derive(Debug, Copy, Clone)]
pub(crate) enum Memory {
    One(Segment),
    /// An array of iovecs in the program's memory.
    Array {
        addr: usize,
        count: usize,
    },
}

/// Where in the file.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Position {
    /// At the file's own position, which moves.
    Current,
    At(isize),
}

/// A call as the program made it.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Call {
    pub(crate) direction: Direction,
    pub(crate) file: i32,
    pub(crate) memory: Memory,
    pub(crate) position: Position,
    /// `RWF_*`
    pub(crate) flags: i32,
}

/// Makes the call again through a slot. `None`: the kernel's `EFAULT` stands.
pub(crate) fn bounce(call: &Call, caller: Caller) -> Option<Result<usize, Errno>> {
    let answer = again(call, caller);
    match answer {
        Some(Ok(bytes)) => {
            let (calls, moved) = match call.direction {
                Direction::Read => (Counter::Reads, Counter::ReadBytes),
                Direction::Write => (Counter::Writes, Counter::WriteBytes),
            };
            counters::add(calls, 1);
            counters::add(moved, bytes);
        }
        None => counters::add(Counter::PassedOn, 1),
        Some(Err(_)) => {}
    }
    answer
}

fn again(call: &Call, caller: Caller) -> Option<Result<usize, Errno>> {
    let mut cutting = cutting(call)?;
    let mut room = match call.memory {
        Memory::One(segment) => {
            if segment.len > WHOLE {
                cutting = Cutting::Allowed;
            }
            (segment.addr % layout::PAGE).checked_add(segment.len)?
        }
        // To be seen when the iovecs are here.
        Memory::Array { .. } => 0,
    };
    let mut bounce = Bounce::new(call, caller, room, cutting)?;
    let fits = |bounce: &Bounce<'_>| layout::room(bounce.segments()) <= bounce.slot.payload();
    if !fits(&bounce) {
        room = layout::room(bounce.segments());
        if bounce.total > WHOLE {
            cutting = Cutting::Allowed;
        }
        if layout::chunk(bounce.segments(), Cursor::START, bounce.slot.payload(), bounce.total) == 0 {
            // Segments too many and too small to end a piece at a whole block.
            cutting = Cutting::Forbidden;
        }
        if cutting == Cutting::Forbidden || matches!(call.memory, Memory::Array { .. }) {
            drop(bounce);
            bounce = Bounce::new(call, caller, room, cutting)?;
        }
    }
    if cutting == Cutting::Forbidden && !fits(&bounce) {
        // The program changed its iovecs in the meantime.
        return None;
    }
    match bounce.run() {
        Err(Errno::EFAULT) => None,
        result => Some(result),
    }
}

/// Whether this is a large asynchronous request to a block device, of which the kernel says `EIO` when it means
/// `EFAULT`; the same call made synchronously tells.
pub(crate) fn says_eio_for_efault(call: &Call, caller: Caller) -> bool {
    if direct_io(call.file).is_none_or(|(_, kind)| kind != BLOCK) {
        return false;
    }
    let one;
    let memory = match call.memory {
        Memory::One(Segment { addr, len }) => {
            one = [addr, len];
            ((&raw const one) as usize, 1)
        }
        Memory::Array { addr, count } => (addr, count),
    };
    let Position::At(position) = call.position else { return false };
    kernel::transfer_theirs(call.direction, call.file, memory, position, call.flags, caller) == Err(Errno::EFAULT)
}

/// The status flags of an open O_DIRECT file, and its type; `None` for a file that is none of our business.
fn direct_io(file: i32) -> Option<(usize, u32)> {
    const S_IFMT: u32 = 0o170_000;
    let status = kernel::status_flags(file).ok().filter(|flags| flags & O_DIRECT != 0)?;
    let kind = kernel::stat(file).ok()?.mode & S_IFMT;
    (kind == REGULAR || kind == BLOCK).then_some((status, kind))
}

/// Whether the call may be cut; `None` for a file that is none of our business.
fn cutting(call: &Call) -> Option<Cutting> {
    let (status, _) = direct_io(call.file)?;
    let appends = status & O_APPEND != 0 || call.flags & (RWF_APPEND | RWF_ATOMIC) != 0;
    let whole = call.position == Position::Current || (call.direction == Direction::Write && appends);
    Some(if whole { Cutting::Forbidden } else { Cutting::Allowed })
}

/// A call under way in its slot.
struct Bounce<'a> {
    call: &'a Call,
    caller: Caller,
    slot: Slot,
    /// Of the iovecs in the slot.
    count: usize,
    /// Bytes asked for.
    total: usize,
}

impl<'a> Bounce<'a> {
    fn new(call: &'a Call, caller: Caller, room: usize, cutting: Cutting) -> Option<Bounce<'a>> {
        let slot = Slot::take(room, cutting)?;
        let count = match call.memory {
            Memory::One(segment) => slot.one_segment(segment).map(|()| 1),
            Memory::Array { addr, count } => slot.load_segments(addr, count, caller).map(|()| count),
        };
        let mut bounce = Bounce { call, caller, slot, count: count.ok()?, total: 0 };
        // No call of no bytes is EFAULT: nothing to be read here means that this is a child without the slot.
        bounce.total = layout::total(bounce.segments()).filter(|total| *total > 0)?;
        Some(bounce)
    }

    fn segments(&self) -> SlotSegments<'_> {
        self.slot.segments(self.count)
    }

    /// Moves the whole call, chunk by chunk.
    fn run(&self) -> Result<usize, Errno> {
        let (mut cursor, mut done) = (Cursor::START, 0);
        while done < self.total {
            let chunk = layout::chunk(self.segments(), cursor, self.slot.payload(), self.total - done);
            if chunk == 0 {
                return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
            }
            let moved = match self.chunk(cursor, chunk, done) {
                Ok(moved) => moved,
                Err(errno) => return if done > 0 { Ok(done) } else { Err(errno) },
            };
            done += moved;
            if moved < chunk {
                break;
            }
            cursor = cursor.advance(self.segments(), moved);
        }
        Ok(done)
    }

    /// Moves `bytes` bytes, `done` bytes into the call.
    fn chunk(&self, from: Cursor, bytes: usize, done: usize) -> Result<usize, Errno> {
        let (call, slot) = (self.call, &self.slot);
        let pieces = || layout::pieces(self.segments(), from, slot.payload(), bytes);
        let mut count = 0;
        for piece in pieces() {
            slot.aim(count, piece.at, piece.len)?;
            count += 1;
            let writes = call.direction == Direction::Write;
            if writes && slot.fill(piece.at, piece.addr, piece.len, self.caller) != Ok(piece.len) {
                return Err(Errno::EFAULT);
            }
        }
        let position = match call.position {
            Position::Current => -1,
            Position::At(start) => start.saturating_add_unsigned(done),
        };
        let moved = slot.transfer(call.direction, call.file, count, position, call.flags)?;
        if call.direction == Direction::Read {
            self.deliver(pieces(), moved)?;
        }
        Ok(moved)
    }

    /// Hands `moved` bytes to the program.
    fn deliver(&self, pieces: impl Iterator<Item = Piece>, moved: usize) -> Result<(), Errno> {
        let mut left = moved;
        for piece in pieces {
            let len = piece.len.min(left);
            if self.slot.empty(piece.at, piece.addr, len, self.caller) != Ok(len) {
                break;
            }
            left -= len;
        }
        if left == 0 {
            return Ok(());
        }
        // A child that came back here shares the position with its parent, which has moved it rightly.
        if self.call.position == Position::Current && self.slot.is_ours() {
            // The kernel leaves the position alone when it cannot deliver.
            let _ = kernel::seek_by(self.call.file, 0isize.saturating_sub_unsigned(moved));
        }
        Err(Errno::EFAULT)
    }
}
