// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BlockDevice`] and [`Queue`]: what a driver is.

use crate::{Bio, DirectAccess, Error, ExtentMap, Limits, Op, Route, Status};
use std::fmt::Debug;
use std::os::fd::BorrowedFd;

/// A disk. Threads share it; each opens its own queue.
pub trait BlockDevice: Send + Sync + Debug {
    /// What messages and reports call it.
    fn name(&self) -> &str;

    /// Bytes, a multiple of the block size.
    fn capacity(&self) -> u64;

    /// What it takes in one request.
    fn limits(&self) -> &Limits;

    /// A queue for the calling thread. Drivers assume valid bios; [`open_checked`](crate::open_checked)
    /// opens a queue that takes any.
    ///
    /// # Errors
    /// When the driver cannot get what a queue needs.
    fn open_queue(&self) -> Result<Box<dyn Queue>, Error>;

    /// The medium as frames, if it is memory. One for each worker.
    fn dax(&self) -> Option<Box<dyn DirectAccess>> {
        None
    }

    /// Where data is and where holes are. `None`: all of it is data. One for each worker.
    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        None
    }
}

/// One thread's way to a device.
///
/// # Completion contract
/// Every bio that [`submit`](Queue::submit) accepts comes back exactly once from [`poll`](Queue::poll),
/// after its data is globally visible and, for a flush or FUA, durable. A bio that is refused was not
/// begun and comes back in the refusal. Dropping a queue waits for what is in flight and discards the
/// completions.
///
/// # Polling contract
/// After submitting and before sleeping on [`event`](Queue::event) the owner polls once: `submit` may only
/// queue. `Full` is refused only while something is in flight or waits to be polled.
pub trait Queue: Debug {
    /// Takes a bio, or hands it back.
    ///
    /// # Errors
    /// [`Refused`], with the bio and the reason.
    #[allow(
        clippy::result_large_err,
        reason = "a refused bio goes back to its owner by value; boxing it would allocate"
    )]
    fn submit(&mut self, bio: Bio) -> Result<(), Refused>;

    /// Executes or collects what is ready, without blocking, and says how many completions it appended.
    ///
    /// # Errors
    /// The queue is broken: nothing more will complete. What was appended before stands.
    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error>;

    /// Readable when `poll` would append something. `None`: `poll` finishes all that was submitted.
    fn event(&self) -> Option<BorrowedFd<'_>>;

    /// Bios accepted and not yet returned.
    fn in_flight(&self) -> usize;
}

/// How one bio went.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The bio's tag.
    pub tag: u64,
    /// How it ended.
    pub status: Status,
    /// Contiguous bytes from the start that were done; all of them when the status is `Ok`. A FUA request
    /// that moved its bytes but could not make them durable has done none.
    pub done: u64,
    /// Which way the bytes went.
    pub route: Route,
}

/// A bio that was not accepted.
#[derive(Debug)]
pub struct Refused {
    /// The bio as it was submitted.
    pub bio: Bio,
    /// Why.
    pub why: RefusedWhy,
}

impl Refused {
    /// Hands `bio` back.
    pub fn new(bio: Bio, why: RefusedWhy) -> Refused {
        Refused { bio, why }
    }
}

/// Why a bio was not accepted.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RefusedWhy {
    /// The queue takes no more now: poll and submit again.
    #[error("the queue is full")]
    Full,
    /// It reaches past the end of the device.
    #[error("{len} bytes at {offset} reach past the device's {capacity}")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes the device has.
        capacity: u64,
    },
    /// It does not start or end at a block.
    #[error("{len} bytes at {offset} are not whole blocks of {block_size}")]
    Misaligned {
        /// First byte.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes in a block.
        block_size: u32,
    },
    /// It would modify a read-only device.
    #[error("the device is read-only")]
    ReadOnly,
    /// The device has no such operation.
    #[error("the device has no {0}")]
    Unsupported(Op),
    /// It asks to be durable on a device that cannot say what is.
    #[error("the device has neither FUA nor flush")]
    NoFua,
    /// It asks for nothing.
    #[error("a {0} of no bytes")]
    Empty(Op),
    /// Its frames are not as long as it says it is, or it has frames that it has no use for.
    #[error("the list names {listed} bytes where {wanted} are wanted")]
    BadList {
        /// Bytes in the list.
        listed: u64,
        /// Bytes the operation needs.
        wanted: u64,
    },
    /// One block is spread over more ranges than the device takes in a request.
    #[error("a block of {block_size} bytes is spread over more than {max_segments} ranges")]
    Fragmented {
        /// Bytes in a block.
        block_size: u32,
        /// The most ranges in one request.
        max_segments: u32,
    },
    /// Bit 63 of the tag is set.
    #[error("tag {0:#x} has bit 63 set")]
    Tag(u64),
}

impl RefusedWhy {
    /// The status a submitter reports for it.
    pub fn status(self) -> Status {
        match self {
            RefusedWhy::Full => Status::Aborted,
            RefusedWhy::OutOfRange { .. } => Status::OutOfRange,
            RefusedWhy::ReadOnly => Status::ReadOnly,
            RefusedWhy::Misaligned { .. }
            | RefusedWhy::Unsupported(_)
            | RefusedWhy::NoFua
            | RefusedWhy::Empty(_)
            | RefusedWhy::BadList { .. }
            | RefusedWhy::Fragmented { .. }
            | RefusedWhy::Tag(_) => Status::Unsupported,
        }
    }
}
