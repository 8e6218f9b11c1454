// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages for memory that was made for this copy, before the clock starts: what the kernel takes to make them (for secret
//! memory, which it removes from its own map, tens of microseconds each) is not the speed of the transfer.

use std::time::{Duration, Instant};

use pageless::mem::{Access, Durability, Fault, PhysRange, Reader};
use pageless::sys::signal::{SignalFd, Termination};

use super::plan::Plan;
use super::{CopyError, Job};

/// Bytes touched in one section, which must stay short; a signal waits no longer than that.
const STEP: u64 = 1 << 20;

/// How that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// It took this long; no time where there was nothing to do.
    In(Duration),
    /// A signal came.
    Stopped(Termination),
}

/// Touches every frame of a fresh destination that data will go to.
pub(super) fn make_ready(job: &Job<'_>, signals: &SignalFd) -> Result<Ready, CopyError> {
    let began = Instant::now();
    let fresh = job.dst.region.as_ref().filter(|region| job.dst.fresh && region.durability() == Durability::Volatile);
    let Some(region) = fresh else { return Ok(Ready::In(Duration::ZERO)) };
    let mut plan = Plan::new(&*job.src.device, job.bytes, job.unit(), true);
    let mut reader = job.memory.reader();
    while let Some(piece) = plan.next(STEP).map_err(|status| job.failed(true, plan.position(), status))? {
        if let Some(signal) = signals.take() {
            return Ok(Ready::Stopped(signal));
        }
        if !piece.hole
            && let Some(frames) = region.range(piece.offset, piece.len)
        {
            touch(&mut reader, frames).map_err(|fault| job.failed(false, piece.offset, fault.into()))?;
        }
    }
    Ok(Ready::In(began.elapsed()))
}

/// Stores a zero to each frame of memory that is all zeroes.
fn touch(reader: &mut Reader, frames: PhysRange) -> Result<(), Fault> {
    let online = reader.online();
    let window = online.kmap(frames, Access::Write)?;
    let mut writer = window.writer();
    while writer.remaining() > 0 {
        writer.zero(1).map_err(|error| error.fault)?;
        writer.skip(writer.remaining().min(4095));
    }
    Ok(())
}
