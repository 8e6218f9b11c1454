// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Job`]: an accepted bio and how far it has come; [`Jobs`]: those of one queue.

use pageless_block::{Bio, Completion, Route, Status};
use pageless_mem::PhysRange;

/// Attempts that the kernel may answer with "try again" before it is taken for an error.
const ATTEMPTS: u8 = 100;

/// A bio that was accepted and not yet completed.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) bio: Bio,
    /// The worst route that any of its bytes took so far.
    pub(super) route: Route,
    /// Bytes from its start that are done.
    pub(super) done: u64,
    pub(super) stage: Stage,
    again: u8,
}

/// What the job is waiting for, or does next.
#[derive(Debug)]
pub(super) enum Stage {
    /// To be looked at.
    New,
    /// One operation on the frames themselves.
    Direct {
        /// Where in the bio it ends.
        to: u64,
        /// The one range in it whose region has no verdict yet.
        suspect: Option<PhysRange>,
    },
    /// Chunks on their way through slots.
    Bounce(Bounce),
    /// A `fallocate`.
    Allocation,
    /// An `fdatasync`: of a flush, or after an allocation that must be durable.
    Sync,
}

/// A bio in pieces.
#[derive(Debug)]
pub(super) struct Bounce {
    /// Where the next chunk starts.
    pub(super) next: u64,
    /// Chunks in slots.
    pub(super) live: u32,
    /// The first byte that could not be moved, and why.
    pub(super) failed: Option<(u64, Status)>,
    /// A range that the kernel would not pin, to be remembered if the CPU can reach it.
    pub(super) suspect: Option<PhysRange>,
}

impl Job {
    fn new(bio: Bio) -> Job {
        Job { bio, route: Route::None, done: 0, stage: Stage::New, again: 0 }
    }

    /// Whether the kernel may be asked once more.
    pub(super) fn may_retry(&mut self) -> bool {
        self.again = self.again.saturating_add(1);
        self.again <= ATTEMPTS
    }

    /// The byte of the disk at byte `offset` of the bio.
    pub(super) fn disk(&self, offset: u64) -> u64 {
        self.bio.sector.bytes() + offset
    }

    pub(super) fn bounce(&mut self) -> Option<&mut Bounce> {
        match &mut self.stage {
            Stage::Bounce(bounce) => Some(bounce),
            _ => None,
        }
    }

    fn completion(&self, status: Status) -> Completion {
        let done = if status.is_ok() { self.bio.len } else { self.done };
        Completion { tag: self.bio.tag, status, done, route: self.route }
    }
}

impl Bounce {
    /// Starts at `from`.
    pub(super) fn new(from: u64, suspect: Option<PhysRange>) -> Bounce {
        Bounce { next: from, live: 0, failed: None, suspect }
    }

    /// Notes that byte `at` could not be moved. The failure nearest to the start counts.
    pub(super) fn fail(&mut self, at: u64, status: Status) {
        if self.failed.is_none_or(|(first, _)| at < first) {
            self.failed = Some((at, status));
        }
    }

    /// Whether there is another chunk to start.
    pub(super) fn has_more(&self, len: u64) -> bool {
        self.failed.is_none() && self.next < len
    }
}

/// Where to go on after an operation that started at `from` and should have reached `to` moved `moved` bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is done.
    Complete,
    /// From here: whole blocks only, since that is what direct I/O can start at.
    Resume(u64),
    /// Not one more block came: the file ends here.
    Stuck(u64),
}

impl Progress {
    pub(super) fn after(from: u64, to: u64, moved: u32, block: u32) -> Progress {
        let reached = from + u64::from(moved);
        let whole = reached - reached % u64::from(block);
        match reached {
            _ if reached >= to => Progress::Complete,
            _ if whole > from => Progress::Resume(whole),
            _ => Progress::Stuck(reached),
        }
    }
}

/// The jobs of a queue, by number. A number is used again after its job completed, never before.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: Vec<Option<Job>>,
    free: Vec<u32>,
}

impl Jobs {
    pub(super) fn len(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, bio: Bio) -> u32 {
        let job = Some(Job::new(bio));
        match self.free.pop() {
            Some(id) => {
                self.jobs[id as usize] = job;
                id
            }
            None => {
                self.jobs.push(job);
                u32::try_from(self.jobs.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    pub(super) fn get(&mut self, id: u32) -> Option<&mut Job> {
        self.jobs.get_mut(id as usize)?.as_mut()
    }

    /// Ends a job.
    pub(super) fn complete(&mut self, id: u32, status: Status) -> Option<Completion> {
        let job = self.jobs.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(job.completion(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_result_goes_on_at_a_whole_block_or_stops() {
        assert_eq!(Progress::after(0, 4096, 4096, 512), Progress::Complete);
        assert_eq!(Progress::after(512, 4096, 1024, 512), Progress::Resume(1536));
        assert_eq!(Progress::after(0, 4096, 1000, 512), Progress::Resume(512));
        assert_eq!(Progress::after(512, 4096, 488, 512), Progress::Stuck(1000));
        assert_eq!(Progress::after(512, 4096, 0, 512), Progress::Stuck(512));
    }

    #[test]
    fn the_failure_nearest_to_the_start_counts() {
        let mut bounce = Bounce::new(0, None);
        assert!(bounce.has_more(10) && !bounce.has_more(0));
        bounce.fail(8, Status::IoErr);
        bounce.fail(4, Status::Media);
        bounce.fail(6, Status::Gone);
        assert_eq!(bounce.failed, Some((4, Status::Media)));
        assert!(!bounce.has_more(10));
    }

    #[test]
    fn a_number_is_free_again_only_after_its_completion() {
        let mut jobs = Jobs::default();
        let first = jobs.insert(Bio::flush(1));
        let second = jobs.insert(Bio::flush(2));
        assert_ne!(first, second);
        assert_eq!(jobs.complete(first, Status::Ok).unwrap().tag, 1);
        assert!(jobs.complete(first, Status::Ok).is_none());
        assert_eq!((jobs.insert(Bio::flush(3)), jobs.len()), (first, 2));
    }

    #[test]
    fn asking_again_has_an_end() {
        let mut jobs = Jobs::default();
        let id = jobs.insert(Bio::flush(1));
        assert_eq!((0..1000).filter(|_| jobs.get(id).unwrap().may_retry()).count(), usize::from(ATTEMPTS));
    }
}
