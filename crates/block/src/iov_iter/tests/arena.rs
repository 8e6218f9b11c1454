// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run of addresses, parts of which are registered.

use std::sync::Arc;

use pageless_mem::{Access, Backing, Error, Memory, PhysRange, Reader, Region};
use pageless_sys::mmap::Mapping;

use crate::iov_iter::UserIovec;

pub(super) const FRAME: usize = 4096;

/// What some frames of an arena are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Nobodys,
    Writable,
    ReadOnly,
}

/// A mapping of which parts are regions, next to each other in the address space and never in the frame space.
pub(super) struct Arena {
    pub(super) memory: Memory,
    pub(super) mapping: Arc<Mapping>,
    /// Each region and its first offset in the arena.
    pub(super) regions: Vec<(usize, Region)>,
}

impl Arena {
    pub(super) fn new(parts: &[(usize, Part)]) -> Arena {
        let frames: usize = parts.iter().map(|(frames, _)| frames).sum();
        let mapping = Arc::new(Mapping::anonymous((frames * FRAME) as u64).unwrap());
        let mut arena = Arena { memory: Memory::new().unwrap(), mapping, regions: Vec::new() };
        let mut at = 0;
        for &(frames, part) in parts {
            let len = frames * FRAME;
            if part != Part::Nobodys {
                let region = arena.register(at, len, part == Part::Writable).unwrap();
                arena.regions.push((at, region));
            }
            at += len;
        }
        arena
    }

    pub(super) fn register(&self, offset: usize, len: usize, writable: bool) -> Result<Region, Error> {
        self.memory.register(Backing::lent(&self.mapping, offset, len as u64, writable)?)
    }

    /// Registers what an iterator asks for.
    pub(super) fn registrar(&self) -> impl FnMut(UserIovec) -> Result<Region, Error> {
        |at| self.register(at.addr - self.mapping.addr(), at.len, true)
    }

    pub(super) fn reader(&self) -> Reader {
        self.memory.reader()
    }

    pub(super) fn len(&self) -> usize {
        self.mapping.len()
    }

    pub(super) fn iovec(&self, offset: usize, len: usize) -> UserIovec {
        UserIovec { addr: self.mapping.addr() + offset, len }
    }

    /// The region of the byte at `offset`, and where in the frame space it is.
    pub(super) fn frame_byte(&self, offset: usize) -> Option<(&Region, u64)> {
        self.regions.iter().find_map(|(at, region)| {
            let within = offset.checked_sub(*at)? as u64;
            (within < region.len()).then(|| (region, region.frames().start().number() * FRAME as u64 + within))
        })
    }

    /// The offsets that ranges name, byte by byte; of `more` regions too, each with its offset.
    pub(super) fn offsets(&self, ranges: &[PhysRange], more: &[(usize, Region)]) -> Vec<usize> {
        let byte = |byte: u64| {
            let mut all = self.regions.iter().chain(more);
            all.find_map(|(at, region)| {
                let within = byte.checked_sub(region.frames().start().number() * FRAME as u64)?;
                (within < region.len()).then(|| at + usize::try_from(within).unwrap())
            })
        };
        let bytes = ranges.iter().flat_map(|range| (0..u64::from(range.len())).map(|i| range.byte_address() + i));
        bytes.map(|at| byte(at).expect("in a region")).collect()
    }

    /// Stores bytes at an offset that is in a writable region.
    pub(super) fn store(&self, offset: usize, bytes: &[u8]) {
        let (at, region) = self.regions.iter().rfind(|(at, _)| *at <= offset).unwrap();
        let range = region.range((offset - at) as u64, bytes.len() as u64).unwrap();
        self.reader().online().kmap(range, Access::Write).unwrap().writer().write(bytes).unwrap();
    }
}
