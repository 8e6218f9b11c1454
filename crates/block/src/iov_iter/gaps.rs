// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registering, on the spot, what a request needs of addresses that nobody registered.

use pageless_mem::{Access, AddrRun, FRAME_SIZE, Online, PhysRange, Reader, Region};

use super::{Extracted, IovIter, RegisterError, Source, UserIovec};
use crate::Limits;

impl IovIter<'_> {
    /// As [`extract`](IovIter::extract), with what is in no region registered first. `registrar` is asked for whole frames
    /// that no region has, at most once for each, outside of any online section: it owns the proof that they may be
    /// registered. What it made is in the [`Extracted`], to be dropped when the I/O is done.
    ///
    /// # Errors
    /// [`RegisterError`]; the iterator has not moved, and nothing stays registered.
    pub fn extract_or_register<E>(
        &mut self,
        reader: &mut Reader,
        limits: &Limits,
        access: Access,
        mut registrar: impl FnMut(UserIovec) -> Result<Region, E>,
    ) -> Result<Extracted, RegisterError<E>> {
        let gaps = self.gaps(&reader.online(), limits);
        let mut registered = Vec::with_capacity(gaps.len());
        for at in gaps {
            registered.push(registrar(at).map_err(|source| RegisterError::Registrar { at, source })?);
        }
        let (list, _none) = self.extract(&reader.online(), limits, access)?.into_parts();
        Ok(Extracted::new(list, registered))
    }

    /// The frames in no region among those of the next request, by address, each once.
    fn gaps(&self, online: &Online<'_>, limits: &Limits) -> Vec<UserIovec> {
        let Source::User(iovecs) = self.source else { return Vec::new() };
        let mut gaps = Vec::new();
        let (mut left, mut passed) = (self.request_bytes(limits), self.passed);
        let mut last = Last { run: None, runs: 0 };
        for iovec in iovecs.iter().skip(self.index) {
            while passed < iovec.len && left > 0 {
                let (addr, most) = (iovec.addr + passed, (iovec.len - passed).min(left));
                let (run, len) = match online.run_at(addr, most) {
                    AddrRun::Frames { range, .. } => (Run::Frames(range), range.len() as usize),
                    AddrRun::Gap(len) => (Run::Gap(UserIovec { addr, len }), len),
                };
                if !last.push(run, limits.max_segments) {
                    return frames_of(gaps);
                }
                if let Run::Gap(gap) = run {
                    gaps.push(gap);
                }
                passed += len;
                left -= len;
            }
            passed = 0;
        }
        frames_of(gaps)
    }
}

#[derive(Copy, Clone)]
enum Run {
    Frames(PhysRange),
    Gap(UserIovec),
}

/// Counts the ranges that runs will be, so that nothing is registered that the request has no room for.
struct Last {
    run: Option<Run>,
    runs: u32,
}

impl Last {
    fn push(&mut self, run: Run, most: u32) -> bool {
        let joined = match (self.run, run) {
            (Some(Run::Frames(last)), Run::Frames(next)) => last.merge(next).map(Run::Frames),
            (Some(Run::Gap(last)), Run::Gap(next)) if last.addr + last.len == next.addr => {
                Some(Run::Gap(UserIovec { addr: last.addr, len: last.len + next.len }))
            }
            _ => None,
        };
        if joined.is_none() {
            if self.runs >= most {
                return false;
            }
            self.runs += 1;
        }
        self.run = Some(joined.unwrap_or(run));
        true
    }
}

/// The whole frames of these bytes, those that touch as one. Regions are whole frames, so these are in none either.
fn frames_of(mut gaps: Vec<UserIovec>) -> Vec<UserIovec> {
    const FRAME: usize = 1 << FRAME_SIZE.trailing_zeros();
    gaps.sort_unstable_by_key(|gap| gap.addr);
    let mut frames: Vec<UserIovec> = Vec::with_capacity(gaps.len());
    for UserIovec { addr, len } in gaps {
        let start = addr / FRAME * FRAME;
        // The last frame of the address space has no end to be named; it is nobody's to register.
        let end = (addr + len).checked_next_multiple_of(FRAME).unwrap_or(usize::MAX);
        match frames.last_mut() {
            Some(last) if start <= last.addr + last.len => last.len = last.len.max(end - last.addr),
            _ => frames.push(UserIovec { addr: start, len: end - start }),
        }
    }
    frames
}
