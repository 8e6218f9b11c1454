// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a client is told of one export, worked out once from the device's limits.

use std::sync::Arc;

use pageless_block::BlockDevice;

use super::wire::{MAX_PAYLOAD, TransmissionFlags};

/// A disk to serve.
#[derive(Clone, Debug)]
pub struct Export {
    /// The name clients ask for; the first export also answers to the empty name.
    pub name: String,
    /// A sentence for people, may be empty.
    pub description: String,
    /// The disk itself.
    pub device: Arc<dyn BlockDevice>,
    /// Refuse writes even if the device would take them.
    pub read_only: bool,
}

impl Export {
    /// What is announced of it.
    pub fn terms(&self) -> Terms {
        let limits = self.device.limits();
        let mut flags =
            TransmissionFlags::HAS_FLAGS | TransmissionFlags::CAN_MULTI_CONN | TransmissionFlags::SEND_CACHE;
        let read_only = self.read_only || limits.read_only;
        flags.set(TransmissionFlags::READ_ONLY, read_only);
        flags.set(TransmissionFlags::SEND_FLUSH, limits.flush);
        // Where a device has only flush, its checked queue makes FUA of it.
        flags.set(TransmissionFlags::SEND_FUA, limits.fua || limits.flush);
        flags.set(TransmissionFlags::ROTATIONAL, limits.rotational);
        flags.set(TransmissionFlags::SEND_TRIM, limits.discard && !read_only);
        let zeroes = TransmissionFlags::SEND_WRITE_ZEROES | TransmissionFlags::SEND_FAST_ZERO;
        flags.set(zeroes, limits.write_zeroes && !read_only);
        let minimum = limits.block_size.clamp(1, 1 << 16);
        Terms {
            name: self.name.clone(),
            description: self.description.clone(),
            size: self.device.capacity(),
            flags,
            minimum,
            preferred: limits.optimal_io.max(limits.physical_block).clamp(4096, 1 << 20).next_power_of_two(),
            maximum: MAX_PAYLOAD,
        }
    }
}

/// What a client is told of an export.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Canonical name.
    pub name: String,
    /// A sentence for people.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// What it can do; `SEND_DF` is added to a session that agreed on structured replies.
    pub flags: TransmissionFlags,
    /// Offsets and lengths are multiples of this power of two.
    pub minimum: u32,
    /// Requests are best multiples of this power of two.
    pub preferred: u32,
    /// The longest payload.
    pub maximum: u32,
}
