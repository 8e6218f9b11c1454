// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`decide`]: the one place where it is decided which way the bytes of a range go.

use pageless_mem::{Access, Caps, PhysRange, Pinned};

use super::{Route, Why};

/// What a device can do with frames. A driver states it once.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// How frames must be aligned to be the buffer of the device's own transfer, or why they never are.
    pub direct: Result<Align, Why>,
    /// Which pins such a transfer needs.
    pub pins: Pins,
    /// How they must be aligned where the device takes dma-bufs.
    pub dma_buf: Option<Align>,
    /// There are slots that the device transfers to and from, for a CPU to copy from and to.
    pub bounce: bool,
    /// A CPU can do the transfer.
    pub copy: bool,
}

/// How a transfer must be aligned; powers of two.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Align {
    /// Where the bytes of a range start.
    pub memory: u32,
    /// Their number; also where they go on the device.
    pub block: u32,
}

/// For how long the kernel pins the frames of a transfer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    /// For one operation: `O_DIRECT`.
    Short,
    /// Until they are let go: fixed buffers, device mappings.
    Long,
}

/// What is to be done to which bytes of memory.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Where they start in the frame space.
    pub start: u64,
    /// How many there are.
    pub len: u32,
    /// A read from the device is [`Access::Write`].
    pub access: Access,
}

/// Which way the bytes of a range go.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The frames are the buffer. Where nobody knows yet whether they can be pinned, this finds out.
    Direct,
    /// The device is given the dma-buf.
    DmaBuf,
    /// Through a slot.
    Bounce(Why),
    /// By the CPU.
    Copy(Why),
    /// Not at all.
    Refuse(Why),
}

impl Reach {
    /// A device that is memory, or as good as: a CPU copy is its I/O, for this reason.
    pub const fn of_memory(why: Why) -> Reach {
        Reach { direct: Err(why), pins: Pins::Short, dma_buf: None, bounce: false, copy: true }
    }

    /// The route of frames that everything may be done with, aligned for everything. What a device reports that treats all
    /// frames alike, where whoever opens the window on them checks them.
    pub const fn best(&self) -> Route {
        decide(Caps::PAGES, self, Shape { start: 0, len: 1 << 31, access: Access::Read }).route()
    }
}

impl Shape {
    /// The shape of a range.
    #[inline]
    pub fn of(range: PhysRange, access: Access) -> Shape {
        Shape { start: range.byte_address(), len: range.len(), access }
    }

    /// A part of a vector must start where memory may, and hold whole blocks.
    #[inline]
    const fn fits(self, align: Align) -> bool {
        self.start & (align.memory as u64 - 1) == 0 && self.len & (align.block - 1) == 0
    }
}

impl Decision {
    /// What a completion reports.
    #[inline]
    pub const fn route(self) -> Route {
        match self {
            Decision::Direct => Route::Direct,
            Decision::DmaBuf => Route::DmaBuf,
            Decision::Bounce(why) => Route::Bounce(why),
            Decision::Copy(why) => Route::Copy(why),
            Decision::Refuse(why) => Route::Refuse(why),
        }
    }
}

/// Which way bytes of this shape go, in memory that may be used so, to or from a device that reaches so far: direct, by
/// dma-buf, bounced, copied, refused, the first of these that can be. The reason is why it was not direct.
#[inline]
pub const fn decide(caps: Caps, reach: &Reach, shape: Shape) -> Decision {
    if matches!(shape.access, Access::Write) && !caps.writable {
        return Decision::Refuse(Why::ReadOnly);
    }
    let pin = match reach.pins {
        Pins::Short => caps.short_pin,
        Pins::Long => caps.long_pin,
    };
    let why = match (reach.direct, pin) {
        (Err(why), _) => why,
        (Ok(align), _) if !shape.fits(align) => Why::Misaligned,
        (Ok(_), Pinned::Refused(errno)) => Why::Unpinnable(errno),
        (Ok(_), Pinned::Ok | Pinned::Unknown) => return Decision::Direct,
    };
    match reach.dma_buf {
        Some(align) if caps.dma_buf && shape.fits(align) => Decision::DmaBuf,
        _ if !caps.cpu_map => Decision::Refuse(Why::OutOfReach),
        _ if reach.bounce => Decision::Bounce(why),
        _ if reach.copy => Decision::Copy(why),
        _ => Decision::Refuse(why),
    }
}

#[cfg(test)]
mod tests;
