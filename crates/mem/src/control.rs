// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control thread: gives back the memory of regions that were revoked, so that no queue's thread ever does.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;
use crate::region::Inner;
use crate::sync::{Living, Published};
use crate::table::RegionTable;

/// The way to the control thread, which is started when first needed and ends with the frame space.
#[derive(Debug)]
pub(crate) struct Control {
    published: Arc<Published<RegionTable>>,
    jobs: Mutex<Option<Sender<Job>>>,
}

/// Memory that nobody reaches any more.
#[derive(Debug)]
struct Job {
    region: Arc<Inner>,
    from: u64,
}

/// Addresses that stay taken until the readers of the revocation's time are gone.
#[derive(Debug)]
struct Grave {
    #[expect(dead_code, reason = "keeps the addresses taken")]
    region: Arc<Inner>,
    readers: Living,
}

impl Control {
    pub(crate) fn new(published: Arc<Published<RegionTable>>) -> Control {
        Control { published, jobs: Mutex::new(None) }
    }

    /// Gives everything back, once.
    pub(crate) fn release(&self, region: &Arc<Inner>) -> Released {
        let released = region.released.clone();
        if released.claim() {
            self.seal(region, 0);
        }
        released
    }

    /// Gives back what lies from byte `from` on.
    pub(crate) fn seal(&self, region: &Arc<Inner>, from: u64) {
        let job = Job { region: Arc::clone(region), from };
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = self.start();
        }
        // Without a thread (none to be had, or a model checker that knows only its own) this one does it.
        let left = match &*jobs {
            Some(sender) => sender.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = left {
            job.run();
        }
    }

    fn start(&self) -> Option<Sender<Job>> {
        if cfg!(loom) {
            return None;
        }
        let (sender, jobs) = mpsc::channel::<Job>();
        let published = Arc::clone(&self.published);
        let work = move || {
            let mut graves: Vec<Grave> = Vec::new();
            while let Some(job) = next(&jobs, !graves.is_empty()) {
                graves.retain(|grave| grave.readers.any());
                if let Some(job) = job {
                    job.run();
                    graves.push(Grave { region: job.region, readers: published.living() });
                }
            }
        };
        std::thread::Builder::new().name("pageless-mem".to_owned()).spawn(work).ok()?;
        Some(sender)
    }
}

/// The next job, or nothing where there are graves to be looked after. `None`: the frame space is gone.
fn next(jobs: &mpsc::Receiver<Job>, graves: bool) -> Option<Option<Job>> {
    /// How often graves are looked after.
    const ROUND: Duration = Duration::from_secs(1);
    if !graves {
        return jobs.recv().ok().map(Some);
    }
    match jobs.recv_timeout(ROUND) {
        Ok(job) => Some(Some(job)),
        Err(mpsc::RecvTimeoutError::Timeout) => Some(None),
        Err(mpsc::RecvTimeoutError::Disconnected) => None,
    }
}

impl Job {
    fn run(&self) {
        let outcome = self.region.backing.seal(self.from);
        if self.from == 0 {
            self.region.released.tell(outcome);
        }
    }
}

/// Tells when the memory of a revoked region was given back.
#[derive(Debug, Clone, Default)]
pub struct Released(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    claimed: bool,
    outcome: Option<Result<(), pageless_sys::Error>>,
}

impl Released {
    /// Waits until pages and file were let go; false when that takes longer.
    ///
    /// # Errors
    /// What the kernel refused: then some memory stays with the process, out of everybody's reach.
    pub fn wait(&self, patience: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + patience;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = state.outcome {
                return outcome.map(|()| true).map_err(Error::Sys);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            state = self.0.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// True for the first caller.
    fn claim(&self) -> bool {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        !std::mem::replace(&mut state.claimed, true)
    }

    fn tell(&self, outcome: Result<(), pageless_sys::Error>) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).outcome = Some(outcome);
        self.0.told.notify_all();
    }
}
