// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contained faults: what they mean, and what can be done about them (I7).
//!
//! A load that faults is [`Fault::Media`]. A store that faults may stand before a hole of a file: the block is asked
//! for; no space is [`Fault::NoSpace`], success is worth one more try, and anything else is [`Fault::Media`].
//!
//! What no signal reports is not caught here: the tail of a file's last page after a truncation, a file that shrinks and
//! grows again, a removed device that reads as zeroes or ones.

use pageless_sys::file::FallocMode;

use crate::cursor::MemReader;
use crate::pfn::FRAME_SIZE;
use crate::region::Inner;
use crate::table::Resolved;
use crate::{Access, Error, Fault};

/// Puts the copy routines under containment, once per process.
#[expect(unsafe_code, reason = "vouches for the fault table of the copy routines")]
pub(crate) fn install() -> Result<(), Error> {
    static ROUTINES: &[&[pageless_sys::fault::FaultRange]] =
        &[crate::copy::FAULT_RANGES, crate::copy::AHEAD_FAULT_RANGES, crate::cell::FAULT_RANGES];
    // SAFETY: each landing pad of `copy` and `cell` belongs to the routine of its range and computes its result from registers
    // that hold at every instruction of the range; r8 is free in all of them.
    unsafe { pageless_sys::fault::install(ROUTINES) }.map_err(Error::Sys)
}

/// Asks for the block at byte `offset` of a region's file. `Ok`: the store is worth one more try.
pub(crate) fn fill_hole(region: &Inner, offset: u64) -> Result<(), Fault> {
    let media = || {
        region.note_bad(offset);
        Fault::Media
    };
    let file = region.backing.file_behind().filter(|_| region.backing.fillable()).ok_or_else(media)?;
    let frame = region.backing.in_file(offset / FRAME_SIZE * FRAME_SIZE);
    file.fallocate(FallocMode::Allocate, frame, FRAME_SIZE).map_err(|error| match Fault::from_medium(error.errno()) {
        Fault::NoSpace => Fault::NoSpace,
        _ => media(),
    })
}

/// Looks at every frame of a range as the access would, changing nothing: a load that faults is the medium's, a frame
/// of a file that is about to be written is asked for. `Ok` when nothing is wrong (any more).
pub(crate) fn touch(range: Resolved<'_>, access: Access) -> Result<(), Fault> {
    let mut at = 0;
    while at < range.len {
        let offset = range.offset + at as u64;
        if access == Access::Write && range.region.backing.fillable() {
            fill_hole(range.region, offset)?;
        }
        let mut byte = [0];
        let mut reader = MemReader::new(range.addr + at, 1, range.region, offset);
        reader.read(&mut byte).map_err(|error| error.fault)?;
        at += 4096 - (range.addr + at) % 4096;
    }
    Ok(())
}
