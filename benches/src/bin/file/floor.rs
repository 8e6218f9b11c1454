// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Floor`]: what any bounce costs here. Direct I/O into a pool and a copy of each request, by the shortest loop we know:
//! no bios, no jobs, no verdicts.

use crate::{Failure, Load};
use pageless_mem::io::{Done, Ring};
use pageless_mem::{Access, Backing, Fault, Memory, Reader, Region, copy};
use pageless_sys::file::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Bytes copied before what they set free goes to the disk again; fewer while it has nothing to do.
const BURST: u64 = 1 << 20;
const FIRST: u64 = 256 << 10;

pub(crate) struct Floor {
    ring: Ring,
    reader: Reader,
    file: Arc<File>,
    /// A place for each request in flight.
    pool: Region,
}

impl Floor {
    pub(crate) fn new(memory: &Memory, path: &Path, load: Load) -> Result<Floor, Failure> {
        let pool = memory.register(Backing::anon((load.depth * load.len).max(2 << 20))?)?;
        let mut ring = Ring::new(64)?;
        ring.register_bounce(&pool)?;
        let file = Arc::new(File::open(path, OpenOptions { direct: true, ..OpenOptions::default() })?);
        Ok(Floor { ring, reader: memory.reader(), file, pool })
    }

    /// As [`Load::run`], between the file and `frames` by way of the pool.
    pub(crate) fn run(&mut self, load: Load, frames: &Region) -> Result<f64, Failure> {
        let requests = load.requests();
        let mut place_of = vec![0; usize::try_from(requests)?];
        let mut free: Vec<u64> = (0..load.depth).rev().collect();
        let (mut sent, mut back) = (0, 0);
        let (mut done, mut arrived): (Vec<Done>, Vec<u64>) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        while back < requests {
            let mut burst = if self.ring.pending() == 0 { FIRST } else { BURST };
            while burst > 0 && (!free.is_empty() && sent < requests || !arrived.is_empty()) {
                if let Some(request) = arrived.pop() {
                    let place = place_of[usize::try_from(request)?];
                    if !load.write {
                        self.copy(load, frames, request, place)?;
                        burst = burst.saturating_sub(load.len);
                    }
                    free.push(place);
                    back += 1;
                }
                if let Some(place) = free.pop_if(|_| sent < requests) {
                    if load.write {
                        self.copy(load, frames, sent, place)?;
                        burst = burst.saturating_sub(load.len);
                    }
                    place_of[usize::try_from(sent)?] = place;
                    self.start(load, sent, place)?;
                    sent += 1;
                }
            }
            self.ring.submit()?;
            if arrived.is_empty() && self.ring.pending() > 0 && !(load.write && !free.is_empty() && sent < requests) {
                self.ring.wait()?;
            }
            self.ring.reap(&mut done);
            for Done { token, result, .. } in done.drain(..) {
                assert_eq!(u64::from(result.map_err(|errno| errno.to_string())?), load.len);
                arrived.push(token);
            }
            // First come, first copied.
            arrived.sort_unstable_by(|a, b| b.cmp(a));
        }
        load.megabytes_since(begin)
    }

    fn start(&mut self, load: Load, request: u64, place: u64) -> Result<(), Failure> {
        let range = self.pool.range(place * load.len, load.len).ok_or("pool too small")?;
        let access = if load.write { Access::Read } else { Access::Write };
        let inflight = self.reader.online().pin(&[range], access).map_err(said)?;
        let at = request * load.len;
        let pushed = match load.write {
            true => self.ring.write(&self.file, at, inflight, false, request),
            false => self.ring.read(&self.file, at, inflight, request),
        };
        pushed.map_err(|_full| "ring too small".into())
    }

    fn copy(&mut self, load: Load, frames: &Region, request: u64, place: u64) -> Result<(), Failure> {
        let slot = self.pool.range(place * load.len, load.len).ok_or("pool too small")?;
        let frames = load.frames(frames, request)?;
        let (from, to) = if load.write { (frames, slot) } else { (slot, frames) };
        let online = self.reader.online();
        let from = online.kmap(from, Access::Read).map_err(said)?;
        let to = online.kmap(to, Access::Write).map_err(said)?;
        let moved = copy(&mut from.reader(), &mut to.writer()).map_err(|broken| said(broken.fault))?;
        assert_eq!(moved as u64, load.len);
        Ok(())
    }
}

pub(crate) fn said(fault: Fault) -> Failure {
    format!("{fault:?}").into()
}
