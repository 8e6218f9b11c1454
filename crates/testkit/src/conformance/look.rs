// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last look at a device: all of it, through both queues, its extents and its direct access.

use super::run::{Outcome, Run, at};
use super::step::{Io, Shape};
use pageless_block::{Direct, Extent, Flags, Op, ScatterList, Status};

impl Run<'_> {
    /// Compares everything, every way there is.
    pub(super) fn look(&mut self) -> Outcome {
        let capacity = self.device.capacity();
        let step = (1 << 20) / self.block * self.block;
        for offset in (0..capacity).step_by(at(step)) {
            let len = (capacity - offset).min(step);
            let (block, blocks) = (offset / self.block, len / self.block);
            let queue = at(block) & 1;
            let io = Io { op: Op::Read, block, blocks, flags: Flags::empty(), shape: Shape::plain(), fill: 0, queue };
            self.start(io)?;
            self.wait()?;
        }
        self.look_at_extents(capacity)?;
        self.look_at_frames(capacity)
    }

    fn look_at_extents(&mut self, capacity: u64) -> Outcome {
        let Some(mut extents) = self.device.extents() else { return Ok(()) };
        if extents.next(capacity, 1) != Err(Status::OutOfRange) || extents.next(0, 0) != Err(Status::OutOfRange) {
            return Err("extents outside the device".to_owned());
        }
        let mut offset = 0;
        while offset < capacity {
            let extent = extents.next(offset, capacity - offset).map_err(|status| format!("extents: {status}"))?;
            let (Extent::Data(len) | Extent::Hole(len)) = extent;
            if len == 0 || len > capacity - offset {
                return Err(format!("{extent:?} at {offset} of {capacity}"));
            }
            if matches!(extent, Extent::Hole(_)) && !self.model.may_be_zero(at(offset), at(len)) {
                return Err(format!("{extent:?} at {offset} holds data"));
            }
            offset += len;
        }
        Ok(())
    }

    fn look_at_frames(&mut self, capacity: u64) -> Outcome {
        let Some(mut dax) = self.device.dax() else { return Ok(()) };
        if dax.access(capacity, 1) != Err(Status::OutOfRange) || dax.access(0, 0) != Err(Status::OutOfRange) {
            return Err("direct access outside the device".to_owned());
        }
        let mut offset = 0;
        while offset < capacity {
            let found =
                dax.access(offset, (capacity - offset).min(1 << 20)).map_err(|status| format!("dax: {status}"))?;
            let len = match found {
                Direct::Hole(len) => {
                    if !self.model.may_be_zero(at(offset), at(len)) {
                        return Err(format!("dax: {found:?} at {offset} holds data"));
                    }
                    len
                }
                Direct::Data(range) => {
                    let data = self.get(&ScatterList::from(range))?;
                    self.model.read(at(offset), &data).map_err(|mismatch| format!("dax: {mismatch}"))?;
                    u64::from(range.len())
                }
            };
            offset += len;
        }
        Ok(())
    }
}
