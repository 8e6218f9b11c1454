// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control thread: gives back the memory of regions that were revoked, so that no queue's thread ever does.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pageless_sys::mmap::Reserved;

use crate::Error;
use crate::region::Inner;
use crate::sync::{Published, deadline_after};
use crate::table::RegionTable;

/// The way to the control thread, which is started when first needed and ends with the frame space.
#[derive(Debug)]
pub(crate) struct Control {
    published: Arc<Published<RegionTable>>,
    jobs: Mutex<Option<Sender<Job>>>,
}

/// A region that nobody reaches any more.
#[derive(Debug)]
struct Job(Arc<Inner>);

/// Addresses that stay taken until the readers of the revocation's time are gone. Neither pages nor a file are behind them.
#[derive(Debug)]
struct Grave {
    #[expect(dead_code, reason = "keeps the addresses taken")]
    addresses: Reserved,
    /// How many readers were made by then.
    readers: u64,
}

impl Control {
    pub(crate) fn new(published: Arc<Published<RegionTable>>) -> Control {
        Control { published, jobs: Mutex::new(None) }
    }

    /// Gives everything back, once.
    pub(crate) fn release(&self, region: &Arc<Inner>) -> Released {
        let released = region.released.clone();
        if !released.claim() {
            return released;
        }
        let job = Job(Arc::clone(region));
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = self.start();
        }
        let left = match &*jobs {
            Some(sender) => sender.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        drop(jobs);
        if let Some(job) = left {
            // Without a thread (none to be had, or a model checker that knows only its own) this one does it, and the region
            // keeps its addresses.
            job.seal();
        }
        released
    }

    fn start(&self) -> Option<Sender<Job>> {
        if cfg!(loom) {
            return None;
        }
        let (sender, jobs) = mpsc::channel();
        let published = Arc::clone(&self.published);
        let work = move || work(&jobs, &published);
        std::thread::Builder::new().name("pageless-mem".to_owned()).spawn(work).ok()?;
        Some(sender)
    }
}

/// Until the frame space and the last grave are gone.
fn work(jobs: &Receiver<Job>, published: &Published<RegionTable>) {
    /// How often graves are looked after.
    const ROUND: Duration = Duration::from_secs(1);
    let mut graves: Vec<Grave> = Vec::new();
    loop {
        let job = match graves.is_empty() {
            true => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => jobs.recv_timeout(ROUND),
        };
        match job {
            Ok(job) => graves.extend(job.bury(published)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if graves.is_empty() => return,
            // Its readers outlive the frame space.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(ROUND),
        }
        let oldest = published.oldest_reader();
        graves.retain(|grave| grave.readers > oldest);
    }
}

impl Job {
    fn seal(self) {
        self.0.released.tell(self.0.backing.seal(0));
    }

    fn bury(self, published: &Published<RegionTable>) -> Option<Grave> {
        let readers = published.readers_made();
        let outcome = self.0.backing.seal(0);
        // Before anybody is told: the region may be dropped then.
        let addresses = if outcome.is_ok() { self.0.backing.bury() } else { None };
        self.0.released.tell(outcome);
        addresses.map(|addresses| Grave { addresses, readers })
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
        let deadline = deadline_after(patience);
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
