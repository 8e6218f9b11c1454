// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Checked`]: the one layer that checks and splits, so that drivers carry no defensive code.

mod parents;

use crate::split::Bounds;
use crate::{Bio, BlockDevice, Completion, Error, Limits, Op, Queue, Refused, RefusedWhy};
use parents::{Next, Parents, is_child};
use std::os::fd::BorrowedFd;

/// A queue that takes any bio and gives its driver only valid ones.
///
/// * Bounds, capabilities, alignment to blocks, the list's length and the tag are checked; what fails is
///   refused with the numbers.
/// * What is longer than [`Limits::max_bytes`] or [`Limits::max_unmap`], or has more than
///   [`Limits::max_segments`] ranges, goes to the driver in pieces and comes back as one completion:
///   `done` counts the bytes before the first piece that failed, `status` is that piece's, `route` the one
///   farthest from direct.
/// * FUA on a device that has only flush is the request and then a flush.
///
/// A bio that needs none of that passes through with its own tag: no entry is made and nothing is allocated.
#[derive(Debug)]
pub struct Checked {
    inner: Box<dyn Queue>,
    limits: Limits,
    bounds: Bounds,
    capacity: u64,
    parents: Parents,
}

/// Opens a queue of `device` that checks what it is given.
///
/// # Errors
/// When the device cannot open one, or states limits that no device can have.
pub fn open_checked(device: &dyn BlockDevice) -> Result<Checked, Error> {
    Checked::new(device.open_queue()?, device)
}

impl Checked {
    /// Puts the checks of `device` in front of one of its queues.
    ///
    /// # Errors
    /// [`Error::Limits`] when the device states limits that no device can have.
    pub fn new(inner: Box<dyn Queue>, device: &dyn BlockDevice) -> Result<Checked, Error> {
        let limits = device.limits().clone();
        let capacity = device.capacity();
        limits.validate(capacity)?;
        Ok(Checked { inner, bounds: Bounds::new(&limits), limits, capacity, parents: Parents::default() })
    }

    #[inline]
    fn check(&self, bio: &Bio) -> Result<(), RefusedWhy> {
        if is_child(bio.tag) {
            return Err(RefusedWhy::Tag(bio.tag));
        }
        self.check_capabilities(bio)?;
        let wanted = if bio.op.has_data() { bio.len } else { 0 };
        if bio.op != Op::Flush {
            self.check_place(bio)?;
        }
        if bio.data.len_bytes() != wanted {
            return Err(RefusedWhy::BadList { listed: bio.data.len_bytes(), wanted });
        }
        Ok(())
    }

    #[inline]
    fn check_capabilities(&self, bio: &Bio) -> Result<(), RefusedWhy> {
        let limits = &self.limits;
        if bio.op.modifies() && limits.read_only {
            return Err(RefusedWhy::ReadOnly);
        }
        let exists = match bio.op {
            Op::Read | Op::Write => true,
            Op::Flush => limits.flush,
            Op::Discard => limits.discard,
            Op::WriteZeroes => limits.write_zeroes,
        };
        if !exists {
            return Err(RefusedWhy::Unsupported(bio.op));
        }
        if bio.wants_fua() && !limits.fua && !limits.flush {
            return Err(RefusedWhy::NoFua);
        }
        Ok(())
    }

    #[inline]
    fn check_place(&self, bio: &Bio) -> Result<(), RefusedWhy> {
        let (offset, len) = (bio.sector.bytes(), bio.len);
        if len == 0 {
            return Err(RefusedWhy::Empty(bio.op));
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.capacity => {}
            _ => {
                return Err(RefusedWhy::OutOfRange { offset, len, capacity: self.capacity });
            }
        }
        let block_size = self.limits.block_size;
        if (offset | len) & (u64::from(block_size) - 1) != 0 {
            return Err(RefusedWhy::Misaligned { offset, len, block_size });
        }
        Ok(())
    }

    /// The way of a bio that the driver cannot take as it is.
    #[cold]
    #[allow(
        clippy::result_large_err,
        reason = "a refused bio goes back to its owner by value; boxing it would allocate"
    )]
    fn submit_in_pieces(&mut self, bio: Bio, flush_after: bool) -> Result<(), Refused> {
        if !self.bounds.fits(&bio) && !self.bounds.splits(&bio) {
            let why =
                RefusedWhy::Fragmented { block_size: self.limits.block_size, max_segments: self.limits.max_segments };
            return Err(Refused::new(bio, why));
        }
        if self.parents.full() {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        self.parents.add(bio, flush_after);
        self.feed();
        Ok(())
    }

    /// Gives the driver pieces until it takes no more, and says whether it took any.
    fn feed(&mut self) -> bool {
        let mut fed = false;
        while let Next::Submit { bio, undo } = self.parents.next(&self.bounds) {
            match self.inner.submit(bio) {
                Ok(()) => fed = true,
                Err(refused) => {
                    let retry = refused.why == RefusedWhy::Full;
                    self.parents.refused(undo, refused.why.status(), retry);
                    if retry {
                        break;
                    }
                }
            }
        }
        fed
    }
}

impl Queue for Checked {
    #[inline]
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if let Err(why) = self.check(&bio) {
            return Err(Refused::new(bio, why));
        }
        // Pieces that wait were accepted before this bio, and a full driver takes neither.
        if self.parents.waiting() {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        let flush_after = bio.wants_fua() && !self.limits.fua;
        if flush_after || !self.bounds.fits(&bio) {
            return self.submit_in_pieces(bio, flush_after);
        }
        #[allow(clippy::result_large_err, reason = "as above")]
        bio.pass(|bio| self.inner.submit(bio))
    }

    #[inline]
    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        if self.parents.is_empty() {
            return self.inner.poll(out);
        }
        let start = out.len();
        let polled = loop {
            let new = out.len();
            let polled = self.inner.poll(out);
            self.parents.gather(out, new)?;
            // What had to wait for room may have it now, and the driver may be done with it at once.
            if polled.is_err() || !self.feed() {
                break polled;
            }
        };
        self.parents.take_ended(out);
        polled?;
        Ok(out.len() - start)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() - self.parents.pieces() + self.parents.len()
    }
}

#[cfg(test)]
mod tests;
