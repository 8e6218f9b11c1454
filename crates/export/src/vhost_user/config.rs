// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Offer`]: what a front-end is told of a device, worked out once from its limits.

use pageless_block::{BlockDevice, Limits, Sector};
use zerocopy::IntoBytes;

use super::request::MAX_RANGES;
use super::wire::{BlkConfig, F_LOG_ALL, F_PROTOCOL_FEATURES, MAX_CONFIG, ProtocolFeatures};

bitflags::bitflags! {
    /// Feature bits of virtio and virtio-blk (virtio 1.3, 6 and 5.2.3).
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Offered: u64 {
        const SIZE_MAX = 1 << 1;
        const SEG_MAX = 1 << 2;
        const RO = 1 << 5;
        const BLK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const CONFIG_WCE = 1 << 11;
        const MQ = 1 << 12;
        const DISCARD = 1 << 13;
        const WRITE_ZEROES = 1 << 14;
        const LOG_ALL = F_LOG_ALL;
        const INDIRECT_DESC = 1 << 28;
        const EVENT_IDX = 1 << 29;
        const PROTOCOL_FEATURES = F_PROTOCOL_FEATURES;
        const VERSION_1 = 1 << 32;
    }
}

/// Segments of data in a request: what a ring of 128 holds beside header and status, for drivers without indirect tables.
const SEG_MAX: u32 = 126;

/// Bytes of a segment.
const SIZE_MAX: u32 = 4 << 20;

/// What is offered of a device.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Feature bits.
    pub(crate) features: Offered,
    /// What the socket can do.
    pub(crate) protocol: ProtocolFeatures,
    /// Rings.
    pub(crate) queues: u16,
    config: BlkConfig,
}

impl Offer {
    /// For so many rings.
    pub(crate) fn of(device: &dyn BlockDevice, queues: u16) -> Offer {
        let limits = device.limits();
        let read_only = limits.read_only;
        let mut features = Offered::all();
        features.set(Offered::RO, read_only);
        // Where there is nothing to flush there is no cache to switch either.
        features.set(Offered::FLUSH | Offered::CONFIG_WCE, limits.flush);
        features.set(Offered::DISCARD, limits.discard && !read_only);
        features.set(Offered::WRITE_ZEROES, limits.write_zeroes && !read_only);
        features.set(Offered::MQ, queues > 1);
        Offer { features, protocol: ProtocolFeatures::all(), queues, config: config(device.capacity(), limits, queues) }
    }

    /// `len` bytes of the configuration space from `offset` on, with zeroes behind its end; `None` for more than a message
    /// carries.
    pub(crate) fn config(&self, writeback: bool, offset: u32, len: u32) -> Option<Vec<u8>> {
        let mut space = [0; MAX_CONFIG as usize];
        let config = BlkConfig { writeback: writeback.into(), ..self.config };
        space[..size_of::<BlkConfig>()].copy_from_slice(config.as_bytes());
        let start = offset as usize;
        let end = start.checked_add(len as usize)?;
        space.get(start..end).map(<[u8]>::to_vec)
    }
}

fn config(capacity: u64, limits: &Limits, queues: u16) -> BlkConfig {
    let block = limits.block_size;
    let most = |bytes: u64| u32::try_from(bytes / Sector::SIZE).unwrap_or(u32::MAX);
    let blocks = |bytes: u32| bytes / block;
    let unmap = most(limits.max_unmap) / (block >> 9) * (block >> 9);
    BlkConfig {
        capacity: (capacity / Sector::SIZE).into(),
        // A segment is cut where it must be: this keeps a request so short that whoever serves it can be spoken to meanwhile.
        size_max: SIZE_MAX.into(),
        seg_max: SEG_MAX.into(),
        cylinders: 0.into(),
        heads: 0,
        sectors: 0,
        blk_size: block.into(),
        physical_block_exp: u8::try_from(limits.physical_block.max(block).ilog2() - block.ilog2()).unwrap_or(0),
        alignment_offset: 0,
        min_io_size: u16::try_from(blocks(limits.physical_block.max(block))).unwrap_or(1).into(),
        opt_io_size: blocks(limits.optimal_io.max(block)).into(),
        writeback: 1,
        unused: 0,
        num_queues: queues.into(),
        max_discard_sectors: unmap.into(),
        max_discard_seg: MAX_RANGES.into(),
        discard_sector_alignment: (limits.discard_granularity.max(block) >> 9).into(),
        max_write_zeroes_sectors: unmap.into(),
        max_write_zeroes_seg: MAX_RANGES.into(),
        write_zeroes_may_unmap: limits.discard.into(),
        unused1: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhost_user::read_only::ReadOnly;
    use pageless_drivers::NullDisk;
    use pageless_mem::Memory;
    use std::sync::Arc;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn virtio_5_2_4_the_layout_is_that_of_the_specification() {
        let device = NullDisk::new(&Memory::new().unwrap(), 1 << 30);
        let offer = Offer::of(&device, 4);
        let config = offer.config(true, 0, 256).unwrap();
        assert_eq!(config.len(), 256, "as many as were asked for");
        assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), 1 << 21);
        let limits = device.limits();
        assert_eq!(word(&config, 12), SEG_MAX);
        assert_eq!(word(&config, 20), limits.block_size);
        assert_eq!((config[32], config[34], config[35]), (1, 4, 0));
        assert_eq!(word(&config, 40), MAX_RANGES);
        assert!(config[60..].iter().all(|byte| *byte == 0));
        assert_eq!(offer.config(false, 32, 1).unwrap(), [0]);
        assert_eq!(offer.config(true, 20, 8).unwrap(), config[20..28]);
        assert_eq!(offer.config(true, 256, 0).unwrap(), [0; 0]);
        assert_eq!((offer.config(true, 1, 256), offer.config(true, u32::MAX, 2)), (None, None));
    }

    #[test]
    fn what_a_device_cannot_do_is_not_offered() {
        let device: Arc<dyn BlockDevice> = Arc::new(NullDisk::new(&Memory::new().unwrap(), 1 << 20));
        let one = Offer::of(&*device, 1).features;
        let read_only = Offer::of(&*ReadOnly::of(device), 2).features;
        assert!(!one.intersects(Offered::MQ | Offered::RO) && read_only.contains(Offered::MQ | Offered::RO));
        assert!(!read_only.intersects(Offered::DISCARD | Offered::WRITE_ZEROES));
    }
}
