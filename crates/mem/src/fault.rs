// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(unsafe_code, reason = "finds the fault table and vouches for it")]
//! Contained faults: what they mean, and what can be done about them (I7).
//!
//! A load that faults is [`Fault::Media`]. A store that faults may stand before a hole of a file: the block is asked
//! for; no space is [`Fault::NoSpace`], success is worth one more try, and anything else is [`Fault::Media`].
//!
//! What no signal reports is not caught here: the tail of a file's last page after a truncation, a file that shrinks and
//! grows again, a removed device that reads as zeroes or ones.

use pageless_sys::fault::FaultRange;
use pageless_sys::file::FallocMode;

use crate::bad::{self, BadSource};
use crate::cursor::MemReader;
use crate::pfn::FRAME_SIZE;
use crate::region::Inner;
use crate::table::Resolved;
use crate::{Access, Error, Fault};

/// Notes, in assembly, that the instructions from label `$at` to label `$past` may fault and that it then goes on at label
/// `$landing`, with the fault address in r8: what [`pageless_sys::fault`] says. The table is a section of which each copy of
/// inlined assembly has its own part, and `R` keeps the linker from dropping parts to which no symbol leads.
macro_rules! may_fault {
    ($at:expr, $past:expr, $landing:expr) => {
        concat!(
            ".pushsection pageless_faults,\"aR\",@progbits\n",
            ".balign 4\n",
            ".long ",
            $at,
            " - .\n",
            ".long ",
            $past,
            " - .\n",
            ".long ",
            $landing,
            " - .\n",
            ".popsection"
        )
    };
}

pub(crate) use may_fault;

/// The table of what [`may_fault`] noted.
fn table() -> &'static [FaultRange] {
    let (start, end): (*const FaultRange, *const FaultRange);
    // SAFETY: computes two addresses that the linker defines, for this program or library alone.
    unsafe {
        std::arch::asm!(
            ".hidden __start_pageless_faults",
            ".hidden __stop_pageless_faults",
            "lea {start}, [rip + __start_pageless_faults]",
            "lea {end}, [rip + __stop_pageless_faults]",
            start = out(reg) start,
            end = out(reg) end,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    let ranges = (end.addr() - start.addr()) / size_of::<FaultRange>();
    // SAFETY: between the two lies what `may_fault` wrote, three words each, and never changes.
    unsafe { std::slice::from_raw_parts(start, ranges) }
}

/// Puts the code that touches region memory under containment, once per process.
pub(crate) fn install() -> Result<(), Error> {
    // SAFETY: each landing pad of `copy` and `cell` belongs to the code of its range and computes its result from registers
    // that hold at every instruction of the range; r8 is free in all of them.
    unsafe { pageless_sys::fault::install(table()) }.map_err(Error::Sys)
}

/// A store faulted at byte `offset` of a region, and `left` bytes of it are to come. `Ok`: it is worth one more try.
///
/// A frame that is known to be bad is only ever overwritten whole: see the module `bad`.
pub(crate) fn mend(region: &Inner, offset: u64, left: u64, source: BadSource) -> Result<(), Fault> {
    if source == BadSource::Poison {
        bad::note(region, offset, source);
    }
    if !bad::is_shut(region, offset) {
        return fill_hole(region, offset);
    }
    let whole = FRAME_SIZE.min(region.len().saturating_sub(offset));
    if offset.is_multiple_of(FRAME_SIZE) && left >= whole { bad::clear(region, offset) } else { Err(Fault::Media) }
}

/// Asks for the block at byte `offset` of a region's file. `Ok`: the store is worth one more try.
pub(crate) fn fill_hole(region: &Inner, offset: u64) -> Result<(), Fault> {
    let media = || {
        bad::note(region, offset, BadSource::Fault);
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
        if access == Access::Write && range.region.backing.fillable() && !bad::is_shut(range.region, offset) {
            fill_hole(range.region, offset)?;
        }
        let mut byte = [0];
        let mut reader = MemReader::new(range.addr + at, 1, range.region, offset);
        reader.read(&mut byte).map_err(|error| error.fault)?;
        at += 4096 - (range.addr + at) % 4096;
    }
    Ok(())
}
