// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Narrow`]: a device that takes less at once than it could.

use pageless_block::{
    Bio, BlockDevice, Completion, DirectAccess, Error, ExtentMap, Limits, Op, Queue, Refused, RefusedWhy,
};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// A device with tighter limits, which holds its submitters to them, and a queue as shallow as wished. It is how the
/// splitting of `Checked` meets drivers that would need none.
#[derive(Debug)]
pub struct Narrow<D> {
    inner: D,
    limits: Limits,
    depth: usize,
}

impl<D: BlockDevice> Narrow<D> {
    /// `inner` under other limits, which must be no wider than its own.
    pub fn new(inner: D, depth: usize, change: impl FnOnce(&mut Limits)) -> Narrow<D> {
        let mut limits = inner.limits().clone();
        change(&mut limits);
        Narrow { inner, limits, depth }
    }
}

impl<D: BlockDevice> BlockDevice for Narrow<D> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        let inner = self.inner.open_queue()?;
        Ok(Box::new(NarrowQueue { inner, limits: self.limits.clone(), depth: self.depth, tags: VecDeque::new() }))
    }

    fn dax(&self) -> Option<Box<dyn DirectAccess>> {
        self.inner.dax()
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        self.inner.extents()
    }
}

#[derive(Debug)]
struct NarrowQueue {
    inner: Box<dyn Queue>,
    limits: Limits,
    depth: usize,
    tags: VecDeque<u64>,
}

impl Queue for NarrowQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        let limits = &self.limits;
        let longest = if bio.op.has_data() { limits.max_bytes } else { limits.max_unmap };
        assert!(bio.len <= longest, "{bio:?} is longer than {longest}");
        let segments = bio.data.as_slice().len();
        assert!(segments <= limits.max_segments as usize, "{bio:?} has {segments} ranges");
        assert!(!bio.wants_fua() || limits.fua, "{bio:?} asks for FUA");
        assert!(bio.op != Op::Flush || limits.flush, "{bio:?} on a device without");
        assert!(!self.tags.contains(&bio.tag), "{bio:?}: the tag is in flight already");
        if self.inner.in_flight() >= self.depth {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        let tag = bio.tag;
        self.inner.submit(bio)?;
        self.tags.push_back(tag);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let from = out.len();
        let polled = self.inner.poll(out);
        self.tags.retain(|tag| !out[from..].iter().any(|completion| completion.tag == *tag));
        polled
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}
