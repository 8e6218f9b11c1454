// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FileQueue`]: bios that were accepted. How they get into the ring is in [`start`](super::start), what comes out of it
//! in [`finish`](super::finish).

use super::FileDiskOptions;
use super::bounce::{CHUNK, Pool};
use super::job::Jobs;
use super::open::Opened;
use super::sticky::{FlushErrors, Seen};
use pageless_block::{Bio, Completion, Error, Queue, Refused, RefusedWhy};
use pageless_mem::io::{Done, Ring};
use pageless_mem::{Memory, Reader, persist};
use pageless_sys::file::File;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes copied while the disk waits for them.
const FIRST_BURST: u64 = 256 << 10;

/// The queue of a file: one ring, one pool, one thread.
///
/// Everything happens in `poll`; after it returns, whatever is accepted is in the ring or waits for something that is, or
/// the event is readable. It returns in the middle of a batch when a burst of copying ended a bio: the owner's next bio
/// then reaches the disk before the rest of the batch is copied.
#[derive(Debug)]
pub(super) struct FileQueue {
    // First, so that it is dropped first: that waits for what still moves into the slots.
    pub(super) ring: Ring,
    pub(super) pool: Pool,
    pub(super) reader: Reader,
    pub(super) file: Arc<File>,
    pub(super) disk: Arc<Opened>,
    pub(super) errors: Arc<FlushErrors>,
    pub(super) seen: Seen,
    pub(super) jobs: Jobs,
    /// What goes into the ring next.
    pub(super) ready: VecDeque<Token>,
    /// Jobs with chunks to start, in order of arrival: the first one takes the slots that become free.
    pub(super) bouncing: VecDeque<u32>,
    /// Bytes copied from slots since the last submission.
    pub(super) copied: u64,
    /// The CPU stored into frames since the last fence.
    pub(super) stored: bool,
    /// What came out of the ring and was not looked at yet.
    backlog: VecDeque<Done>,
    reaped: Vec<Done>,
    depth: usize,
}

/// The name of one operation in the ring: a job, and the slot of one of its chunks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) job: u32,
    pub(super) slot: Option<u32>,
}

impl Token {
    pub(super) fn job(job: u32) -> Token {
        Token { job, slot: None }
    }

    pub(super) fn pack(self) -> u64 {
        u64::from(self.job) << 32 | self.slot.map_or(0, |slot| u64::from(slot) + 1)
    }

    pub(super) fn unpack(token: u64) -> Token {
        let [job, slot] =
            [token >> 32, token & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        Token { job, slot: slot.checked_sub(1) }
    }
}

impl FileQueue {
    pub(super) fn open(
        memory: &Memory,
        disk: &Arc<Opened>,
        errors: &Arc<FlushErrors>,
        options: &FileDiskOptions,
    ) -> Result<FileQueue, Error> {
        let depth = options.queue_depth.clamp(1, 4096);
        Ok(FileQueue {
            ring: Ring::new(depth)?,
            pool: Pool::new(memory, options.bounce_bytes)?,
            reader: memory.reader(),
            file: Arc::new(disk.for_queue()?),
            disk: Arc::clone(disk),
            errors: Arc::clone(errors),
            seen: errors.opener(),
            jobs: Jobs::default(),
            ready: VecDeque::new(),
            bouncing: VecDeque::new(),
            copied: 0,
            stored: false,
            backlog: VecDeque::new(),
            reaped: Vec::new(),
            depth: depth as usize,
        })
    }

    /// Goes on until nothing is left to start and nothing came back, or a burst ended a bio.
    fn work(&mut self, out: &mut Vec<Completion>) -> Result<(), Error> {
        let before = out.len();
        if !self.backlog.is_empty() {
            // What the owner made of the last burst, before the next one is copied.
            self.start(out);
            self.ring.submit()?;
        }
        loop {
            self.ring.reap(&mut self.reaped);
            self.backlog.extend(self.reaped.drain(..));
            self.copied = 0;
            let burst = self.burst();
            while self.copied < burst
                && let Some(done) = self.backlog.pop_front()
            {
                self.finish(done, out);
            }
            let started = self.start(out);
            self.ring.submit()?;
            // A burst of copies that all failed leaves nothing in flight to wake the owner for the bios behind them.
            let awake = started || self.ring.pending() == 0;
            let more = !self.backlog.is_empty() || (awake && !self.bouncing.is_empty());
            if more && out.len() > before {
                // The owner has something to do, and to submit, while the disk is busy with this burst.
                self.ring.signal();
                return Ok(());
            }
            if !more && !started {
                return Ok(());
            }
        }
    }

    /// Bytes copied by the CPU before what they filled, or set free, is handed to the kernel: few while the disk has
    /// nothing to do.
    pub(super) fn burst(&self) -> u64 {
        if self.ring.pending() == 0 { FIRST_BURST } else { CHUNK.into() }
    }
}

impl Queue for FileQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.jobs.len() >= self.depth {
            return Err(Refused { bio, why: RefusedWhy::Full });
        }
        let id = self.jobs.insert(bio);
        self.ready.push_back(Token::job(id));
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let before = out.len();
        let result = self.work(out);
        if std::mem::take(&mut self.stored) {
            persist::fence();
        }
        result.map(|()| out.len() - before)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.event())
    }

    fn in_flight(&self) -> usize {
        self.jobs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_job_and_slot() {
        for token in [Token::job(0), Token::job(u32::MAX), Token { job: 7, slot: Some(0) }] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
