// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Route`]: which way the bytes of one I/O went, and why. [`decide`] chooses it, and nothing else does;
//! [`RouteCounters`] counts.

mod counters;
mod decide;

use pageless_sys::Errno;
use std::fmt;

use crate::Status;

pub use counters::{RouteCounters, RouteTotals, Went};
pub use decide::{Align, Decision, Pins, Reach, Shape, decide};

/// Which way the bytes went. Every completion names it: nothing copies silently.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// No bytes moved: a flush, a discard, a refusal.
    None,
    /// The kernel or the device reached the frames themselves.
    Direct,
    /// The device reached the frames through a dma-buf.
    DmaBuf,
    /// Through a bounce slot: moved by the device once and by the CPU once.
    Bounce(Why),
    /// Moved by the CPU.
    Copy(Why),
    /// There is no way: no byte was moved.
    Refuse(Why),
}

/// Why bytes did not go direct, or not at all.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// The device is memory: a CPU copy is its I/O.
    MemoryDisk,
    /// There is nothing to fetch: the answer is zeroes.
    Zeroes,
    /// The kernel refused to pin the frames for `O_DIRECT`.
    Unpinnable(Errno),
    /// Frames, offset or length are not aligned as direct I/O needs them.
    Misaligned,
    /// The file system or the file does not do `O_DIRECT`.
    NoDirectIo,
    /// The user asked for it.
    Requested,
    /// The memory is a destination that may not be written.
    ReadOnly,
    /// Neither the device nor the CPU reaches the frames.
    OutOfReach,
}

impl Route {
    /// The word for it in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Route::None => "none",
            Route::Direct => "direct",
            Route::DmaBuf => "dma-buf",
            Route::Bounce(_) => "bounce",
            Route::Copy(_) => "copy",
            Route::Refuse(_) => "refuse",
        }
    }

    /// Why it was not direct.
    pub const fn why(self) -> Option<Why> {
        match self {
            Route::None | Route::Direct | Route::DmaBuf => None,
            Route::Bounce(why) | Route::Copy(why) | Route::Refuse(why) => Some(why),
        }
    }

    /// How far from direct: a request that went several ways is reported by its farthest.
    const fn rank(self) -> u8 {
        match self {
            Route::None => 0,
            Route::Direct => 1,
            Route::DmaBuf => 2,
            Route::Bounce(_) => 3,
            Route::Copy(_) => 4,
            Route::Refuse(_) => 5,
        }
    }

    /// The farther from direct of the two; this one where they are equally far.
    #[must_use]
    pub fn worst(self, other: Route) -> Route {
        if other.rank() > self.rank() { other } else { self }
    }
}

impl Why {
    /// What a request that was refused for this ends with.
    pub const fn status(self) -> Status {
        match self {
            Why::ReadOnly => Status::ReadOnly,
            Why::MemoryDisk
            | Why::Zeroes
            | Why::Unpinnable(_)
            | Why::Misaligned
            | Why::NoDirectIo
            | Why::Requested
            | Why::OutOfReach => Status::Unsupported,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.why() {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::MemoryDisk => f.write_str("the device is memory"),
            Why::Zeroes => f.write_str("zeroes, nothing to fetch"),
            Why::Unpinnable(errno) => write!(f, "O_DIRECT: {errno}"),
            Why::Misaligned => f.write_str("not aligned for direct I/O"),
            Why::NoDirectIo => f.write_str("the file refuses O_DIRECT"),
            Why::Requested => f.write_str("as asked"),
            Why::ReadOnly => f.write_str("the memory may only be read"),
            Why::OutOfReach => f.write_str("out of reach of device and CPU"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_route_wins_and_keeps_its_reason() {
        let bounce = Route::Bounce(Why::Misaligned);
        let copy = Route::Copy(Why::MemoryDisk);
        assert_eq!(Route::Direct.worst(Route::None), Route::Direct);
        assert_eq!(Route::None.worst(bounce), bounce);
        assert_eq!(copy.worst(bounce), copy);
        assert_eq!(copy.worst(Route::Refuse(Why::ReadOnly)), Route::Refuse(Why::ReadOnly));
        assert_eq!(bounce.worst(Route::Bounce(Why::Requested)), bounce);
    }

    #[test]
    fn a_reason_is_part_of_the_text() {
        let text = Route::Bounce(Why::Unpinnable(Errno::EFAULT)).to_string();
        assert!(text.starts_with("bounce (O_DIRECT: EFAULT"), "{text}");
        assert_eq!(Route::Direct.to_string(), "direct");
    }
}
