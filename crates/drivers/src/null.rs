// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`NullDisk`]: nothing, of any size.

use pageless_block::{
    Bio, BlockDevice, Completion, Error, Extent, ExtentMap, Limits, Op, Queue, Reach, Refused, RefusedWhy, Route,
    Status, Why,
};
use pageless_mem::{Access, Fault, Memory, Reader, persist};
use std::os::fd::BorrowedFd;

/// Requests that wait for one poll, at most.
const DEPTH: usize = 256;

/// Bytes zeroed in one online section, at most: a revocation waits for its end.
const SECTION: u64 = 1 << 20;

/// Which way bytes go, whatever frames they go to: opening a window checks those.
const ROUTE: Route = Reach::of_memory(Why::Zeroes).best();

/// A disk that forgets what is written and reads as zeroes. It costs what the stack around it costs.
#[derive(Clone, Debug)]
pub struct NullDisk {
    memory: Memory,
    capacity: u64,
    limits: Limits,
}

impl NullDisk {
    /// A disk of `capacity` bytes, a multiple of 512, for the frames of `memory`.
    pub fn new(memory: &Memory, capacity: u64) -> NullDisk {
        let limits = Limits { flush: true, fua: true, discard: true, write_zeroes: true, ..Limits::default() };
        NullDisk { memory: memory.clone(), capacity, limits }
    }
}

impl BlockDevice for NullDisk {
    fn name(&self) -> &str {
        "null"
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(NullQueue { reader: self.memory.reader(), pending: Vec::new() }))
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        Some(Box::new(AllHole(self.capacity)))
    }
}

#[derive(Debug)]
struct AllHole(u64);

impl ExtentMap for AllHole {
    fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status> {
        match offset.checked_add(len) {
            Some(end) if len > 0 && end <= self.0 => Ok(Extent::Hole(len)),
            _ => Err(Status::OutOfRange),
        }
    }
}

#[derive(Debug)]
struct NullQueue {
    reader: Reader,
    pending: Vec<Bio>,
}

impl Queue for NullQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.pending.len() == DEPTH {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        self.pending.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let count = self.pending.len();
        for bio in self.pending.drain(..) {
            out.push(execute(&mut self.reader, &bio));
        }
        persist::fence();
        Ok(count)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

fn execute(reader: &mut Reader, bio: &Bio) -> Completion {
    let (route, result) = match bio.op {
        Op::Read => (ROUTE, zero(reader, bio)),
        _ => (Route::None, Ok(())),
    };
    let (status, done) = match result {
        Ok(()) => (Status::Ok, bio.len),
        Err((fault, done)) => (Status::from(fault), done),
    };
    Completion { tag: bio.tag, status, done, route }
}

/// Zeroes the frames, or says how far that went.
fn zero(reader: &mut Reader, bio: &Bio) -> Result<(), (Fault, u64)> {
    let mut frames = pageless_block::ListCursor::default();
    let mut done = 0;
    while let Some(range) = frames.take(&bio.data, SECTION) {
        let online = reader.online();
        let window = online.kmap(range, Access::Write).map_err(|fault| (fault, done))?;
        let zeroed = window.writer().zero(range.len() as usize);
        zeroed.map_err(|error| (error.fault, done + error.moved as u64))?;
        done += u64::from(range.len());
    }
    Ok(())
}
