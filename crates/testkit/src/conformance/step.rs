// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Step`]: what is done to a device, and how lists of steps are made.

use pageless_block::{BlockDevice, Flags, Op};
use proptest::prelude::*;

/// What the steps must know of the device.
#[derive(Copy, Clone, Debug)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    read_only: bool,
}

impl Geometry {
    pub(super) fn of(device: &dyn BlockDevice) -> Geometry {
        let limits = device.limits();
        Geometry { blocks: device.capacity() / u64::from(limits.block_size), read_only: limits.read_only }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Submitted, and in flight until something waits.
    Io(Io),
    /// Until nothing is in flight.
    Wait,
    /// Must be refused.
    Bad(Bad),
}

#[derive(Clone, Debug)]
pub(super) struct Io {
    pub(super) op: Op,
    pub(super) block: u64,
    pub(super) blocks: u64,
    pub(super) flags: Flags,
    pub(super) shape: Shape,
    /// Makes the written bytes unlike others'.
    pub(super) fill: u8,
    /// Which of two queues.
    pub(super) queue: usize,
}

/// How the frames of a request lie in memory.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Where the first range starts, off a frame.
    pub(super) offset: u64,
    /// Lengths of the ranges, in turn; one range if there are none.
    pub(super) lengths: Vec<u32>,
    /// Bytes between ranges.
    pub(super) gap: u64,
    /// The last range lies lowest in memory.
    pub(super) backwards: bool,
}

/// What must be refused.
#[derive(Copy, Clone, Debug)]
pub(super) enum Bad {
    AtTheEnd,
    OverTheEnd,
    FarOut,
    HalfBlock,
    Nothing,
    ShortList,
    Tag,
}

pub(super) fn steps(geometry: Geometry, most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(geometry), 1..=most.max(1))
}

fn step(geometry: Geometry) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => io(geometry).prop_map(Step::Io),
        2 => Just(Step::Wait),
        1 => bad().prop_map(Step::Bad),
    ]
}

fn io(geometry: Geometry) -> impl Strategy<Value = Io> {
    let ops = match geometry.read_only {
        true => vec![Op::Read, Op::Read, Op::Flush],
        false => vec![Op::Read, Op::Read, Op::Write, Op::Write, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes],
    };
    let flags = (0u8..8).prop_map(Flags::from_bits_truncate);
    (prop::sample::select(ops), place(geometry.blocks), flags, shape(), any::<u8>(), 0usize..2).prop_map(
        |(op, (block, blocks), flags, shape, fill, queue)| Io { op, block, blocks, flags, shape, fill, queue },
    )
}

/// First block, last block, both, anywhere; one block, a page, about a page, long.
fn place(blocks: u64) -> impl Strategy<Value = (u64, u64)> {
    let length = prop_oneof![4 => Just(1), 4 => Just(8), 4 => 1..20u64, 2 => 100..300u64, 1 => 1..=blocks];
    (length, 0..blocks, 0u8..6).prop_map(move |(length, at, end)| {
        let length = length.min(blocks);
        let block = match end {
            0 => 0,
            1 => blocks - length,
            // Often over the same few blocks, so that steps meet each other's traces.
            2 | 3 => at % 64,
            _ => at,
        };
        (block.min(blocks - length), length)
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let length = prop_oneof![Just(64u32), Just(512), Just(4096), 64..700u32, 3000..9000u32];
    let offset = prop_oneof![3 => Just(0u64), 1 => Just(512), 2 => 1..4096u64];
    let gap = prop_oneof![Just(0u64), Just(64), 1..5000u64];
    (offset, prop::collection::vec(length, 0..5), gap, any::<bool>())
        .prop_map(|(offset, lengths, gap, backwards)| Shape { offset, lengths, gap, backwards })
}

fn bad() -> impl Strategy<Value = Bad> {
    prop::sample::select(vec![
        Bad::AtTheEnd,
        Bad::OverTheEnd,
        Bad::FarOut,
        Bad::HalfBlock,
        Bad::Nothing,
        Bad::ShortList,
        Bad::Tag,
    ])
}
