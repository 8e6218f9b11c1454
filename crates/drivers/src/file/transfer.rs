// SPDX-License-Identifier: MIT OR Apache-2.0
//! The CPU's half of a bounce: between frames and a slot.

use pageless_block::{ScatterList, Status};
use pageless_mem::{Access, Fault, Online, PhysRange, Reader, copy};

/// Bytes that were moved before memory failed, and how it failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) moved: u64,
    pub(super) status: Status,
}

impl Broken {
    fn at(moved: u64, fault: Fault) -> Broken {
        Broken { moved, status: fault.into() }
    }
}

/// Copies a slot's bytes to frames that can hold them. Frames of a device that went away took nothing.
pub(super) fn out_of_slot(reader: &mut Reader, slot: PhysRange, frames: &ScatterList) -> Result<(), Broken> {
    from_slot(&reader.online(), slot, frames)?;
    reader.confirm().map_err(|fault| Broken::at(0, fault))
}

/// Copies frames to a slot that can hold them. Frames of a device that went away gave nothing that may be kept.
pub(super) fn into_slot(reader: &mut Reader, frames: &ScatterList, slot: PhysRange) -> Result<(), Broken> {
    to_slot(&reader.online(), frames, slot)?;
    reader.confirm().map_err(|fault| Broken::at(0, fault))
}

fn from_slot(online: &Online<'_>, slot: PhysRange, frames: &ScatterList) -> Result<(), Broken> {
    let slot = online.kmap(slot, Access::Read).map_err(|fault| Broken::at(0, fault))?;
    let mut from = slot.reader();
    let mut moved = 0;
    for range in frames {
        let window = online.kmap(range, Access::Write).map_err(|fault| Broken::at(moved, fault))?;
        let part = copy(&mut from, &mut window.writer());
        moved += part.map_err(|e| Broken::at(moved + e.moved as u64, e.fault))? as u64;
    }
    Ok(())
}

fn to_slot(online: &Online<'_>, frames: &ScatterList, slot: PhysRange) -> Result<(), Broken> {
    let slot = online.kmap(slot, Access::Write).map_err(|fault| Broken::at(0, fault))?;
    let mut to = slot.writer();
    let mut moved = 0;
    for range in frames {
        let window = online.kmap(range, Access::Read).map_err(|fault| Broken::at(moved, fault))?;
        let part = copy(&mut window.reader(), &mut to);
        moved += part.map_err(|e| Broken::at(moved + e.moved as u64, e.fault))? as u64;
    }
    Ok(())
}

/// Fills a slot with zeroes.
pub(super) fn zero_slot(reader: &mut Reader, slot: PhysRange) -> Result<(), Broken> {
    let online = reader.online();
    let window = online.kmap(slot, Access::Write).map_err(|fault| Broken::at(0, fault))?;
    let len = window.len();
    window.writer().zero(len).map_err(|e| Broken::at(e.moved as u64, e.fault))
}
