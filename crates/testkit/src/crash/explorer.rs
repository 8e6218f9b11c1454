// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Explorer`]: records what a device does, cuts the power in every way, and looks what recovery makes of it.

use super::contract::{Allowed, Contract};
use super::look::{Looked, touched};
use super::medium::{Medium, to_usize};
use super::random::Random;
use super::states::{State, States};
use super::trace::{Cut, Failure};
use super::workload::{Value, Workload};
use super::{Config, Counts, CrashTarget, Points, smallest};
use crate::{Error, TestFrames};
use pageless_block::BlockDevice;
use pageless_mem::testing::record::{Event, Recording, What, record};
use pageless_mem::{Backing, Durability, Memory};
use std::collections::HashSet;
use std::rc::Rc;

/// Bytes of the frames that blocks are read into.
pub(super) const FRAMES: u64 = 256 << 10;

/// Recordings of which it is checked that they lack nothing.
const WHOLE: u64 = 4;

/// One medium with one device, cut off from power again and again.
pub struct Explorer<'t> {
    pub(super) target: &'t dyn CrashTarget,
    pub(super) config: Config,
    pub(super) memory: Memory,
    /// The medium's bytes: between two states they are what is durable.
    pub(super) bytes: TestFrames,
    pub(super) recording: Recording,
    pub(super) frames: TestFrames,
    pub(super) medium: Medium,
    /// Every state of the medium so far.
    seen: HashSet<u128>,
    /// The same, each with what it had to hold.
    judged: HashSet<u128>,
    random: Random,
    pub(super) counts: Counts,
    /// Recordings explored.
    recordings: u64,
}

/// What a state is held against.
#[derive(Clone)]
pub(super) struct Promise {
    pub(super) allowed: Rc<Allowed>,
    /// The device may say that it is none: it is being created.
    pub(super) may_refuse: bool,
    /// Two states that are equal, promise included, are looked at once.
    key: u128,
}

/// What is promised at each point of a recording.
type PromiseAt<'a> = &'a dyn Fn(usize) -> Promise;

impl<'t> Explorer<'t> {
    /// A medium of `len` zeroes which becomes durable as `durability` says.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(
        target: &'t dyn CrashTarget,
        len: u64,
        durability: Durability,
        config: Config,
    ) -> Result<Explorer<'t>, Error> {
        let memory = Memory::new()?;
        let region = memory.register(Backing::memfd_as(len, durability)?)?;
        region.zero(0, len).map_err(Error::Frames)?;
        Ok(Explorer {
            target,
            recording: record(&region),
            bytes: TestFrames::of(&memory, region),
            frames: TestFrames::new(&memory, FRAMES)?,
            memory,
            medium: Medium::new(durability, vec![0; to_usize(len)]),
            seen: HashSet::new(),
            judged: HashSet::new(),
            random: Random::new(config.seed),
            counts: Counts::default(),
            config,
            recordings: 0,
        })
    }

    /// What was looked at so far.
    pub fn counts(&self) -> Counts {
        Counts { distinct: self.seen.len(), ..self.counts }
    }

    /// Creates the device, with the power cut in every way, and [prepares](Self::prepare) it.
    ///
    /// # Errors
    /// The cut after which something is wrong.
    pub fn create(&mut self) -> Result<(), Box<Failure>> {
        let events = self.creation()?;
        let (nothing, last) = (Rc::new(Allowed::new()), events.len());
        let promise = |point: usize| {
            let may_refuse = point < last;
            Promise { allowed: Rc::clone(&nothing), may_refuse, key: u128::from(may_refuse) << 64 }
        };
        // Most of what is stored then is zeroes, of which there are many.
        self.explore(&events, &promise, (self.config.per_point / 4).max(8))?;
        self.prepare()
    }

    /// Creates the device and writes the blocks that workloads use, with the power on.
    ///
    /// # Errors
    /// When that does not end well.
    pub fn prepare(&mut self) -> Result<(), Box<Failure>> {
        let events = self.creation()?;
        self.adopt(&events);
        let region = self.bytes.region().clone();
        let filled = self.target.recover(&self.memory, &region).map_err(Error::Target).and_then(|device| {
            let blocks: Vec<u64> = (0..self.config.blocks).collect();
            self.write(&*device, &blocks, Value::Before)
        });
        let events = self.restored(filled)?;
        self.adopt(&events);
        Ok(())
    }

    fn creation(&mut self) -> Result<Vec<Event>, Box<Failure>> {
        let region = self.bytes.region().clone();
        self.recording.take();
        let created = self.target.create(&self.memory, &region).map_err(Error::Target);
        self.restored(created)
    }

    /// Does a workload with the power cut in every way. `tamper` may change what was recorded: what a device with a bug
    /// would have done.
    ///
    /// # Errors
    /// The shortest workload and the smallest cut found after which something is wrong.
    pub fn try_workload(&mut self, workload: &Workload, tamper: Tamper<'_>) -> Result<(), Box<Failure>> {
        match self.once(workload, tamper) {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_about_a_cut() => Err(smallest(self, workload, tamper, failure)),
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn once(&mut self, workload: &Workload, tamper: Tamper<'_>) -> Result<(), Box<Failure>> {
        let mut events = self.record(workload)?;
        tamper(&mut events);
        self.try_events(workload, &events)
    }

    /// What a workload does to the medium, which is as before when this returns.
    ///
    /// # Errors
    /// When it does not end well even with the power on.
    pub fn record(&mut self, workload: &Workload) -> Result<Vec<Event>, Box<Failure>> {
        self.record_with(workload, |device, memory, recording| workload.run(device, memory, recording))
    }

    /// What one thread of a workload does when it is alone. Two such recordings, mixed, are what threads do that know
    /// nothing of each other.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_thread(&mut self, workload: &Workload, thread: usize) -> Result<Vec<Event>, Box<Failure>> {
        self.record_with(workload, |device, memory, recording| workload.run_thread(thread, device, memory, recording))
    }

    fn record_with(
        &mut self,
        workload: &Workload,
        run: impl FnOnce(&dyn BlockDevice, &Memory, &Recording) -> Result<(), Error>,
    ) -> Result<Vec<Event>, Box<Failure>> {
        let region = self.bytes.region().clone();
        self.recording.take();
        let recovered = self.target.recover(&self.memory, &region).map_err(Error::Target);
        let done = recovered.and_then(|device| run(&*device, &self.memory, &self.recording));
        self.restored(done).map_err(|failure| Box::new(Failure { ops: workload.ops.clone(), ..*failure }))
    }

    /// Explores what a workload did, or is said to have done.
    ///
    /// # Errors
    /// The cut after which something is wrong.
    pub fn try_events(&mut self, workload: &Workload, events: &[Event]) -> Result<(), Box<Failure>> {
        self.recordings += 1;
        let contract = Contract::of(&workload.ops, events);
        let number = self.recordings;
        let promise = |point: usize| Promise {
            allowed: Rc::new(contract.allowed(point)),
            may_refuse: false,
            key: u128::from(number) << 32 | Contract::stage(events, point) as u128,
        };
        self.explore(events, &promise, self.config.per_point).map_err(|mut failure| {
            let point = failure.cuts.first().map_or(events.len(), |cut| cut.point);
            failure.progress = (0..workload.ops.len()).map(|op| contract.progress(op, point)).collect();
            failure.ops.clone_from(&workload.ops);
            failure
        })
    }

    /// Forgets which states were judged, so that a failure is found again.
    pub(super) fn forget_judged(&mut self) {
        self.judged.clear();
    }

    /// What was recorded, with the medium put back.
    fn restored(&mut self, done: Result<(), Error>) -> Result<Vec<Event>, Box<Failure>> {
        let events = self.recording.take();
        let whole = if self.recordings < WHOLE { self.nothing_missed(&events) } else { Ok(()) };
        self.put_back(touched(&events, self.medium.granule()));
        done.and(whole).map(|()| events).map_err(|error| Box::new(Failure::of(error.to_string())))
    }

    /// Makes durable whatever these events stored.
    fn adopt(&mut self, events: &[Event]) {
        let moment = self.medium.moment();
        self.medium.forget_pending();
        events.iter().for_each(|event| self.medium.step(event));
        self.medium.commit_all();
        self.medium.forget_pending();
        self.put_back(self.medium.since(moment).collect());
    }

    fn explore(&mut self, events: &[Event], promise: PromiseAt<'_>, most: usize) -> Result<(), Box<Failure>> {
        let moment = self.medium.moment();
        let paused = self.medium.forget_pending();
        let result = self.walk(events, promise, self.config.depth, most);
        let changed = self.medium.rewind(moment, paused);
        self.put_back(changed.into_iter().collect());
        result
    }

    /// Goes through a recording and cuts the power at every point.
    fn walk(&mut self, events: &[Event], promise: PromiseAt<'_>, depth: u32, most: usize) -> Result<(), Box<Failure>> {
        for point in 0..=events.len() {
            if self.is_point(events, point) {
                self.cut(events, point, &promise(point), depth, most)?;
            }
            if let Some(event) = events.get(point) {
                let moment = self.medium.moment();
                self.medium.step(event);
                self.put_back(self.medium.since(moment).collect());
            }
        }
        Ok(())
    }

    fn is_point(&self, events: &[Event], point: usize) -> bool {
        match self.config.points {
            _ if point == events.len() => true,
            // A write-back alone changes nothing that may be lost.
            Points::Events => {
                point == 0 || !matches!(events[point - 1].what, What::WriteBack { .. } | What::SyncStart { .. })
            }
            Points::Fences => matches!(events[point].what, What::Fence | What::SyncEnd | What::Mark(_)),
        }
    }

    fn cut(
        &mut self,
        events: &[Event],
        point: usize,
        promise: &Promise,
        depth: u32,
        most: usize,
    ) -> Result<(), Box<Failure>> {
        self.counts.points += 1;
        let states = States::of(&mut self.medium);
        let mut random = self.random.clone();
        let chosen = states.choose(&mut self.medium, most, &mut random);
        self.random = random;
        for state in chosen {
            let verdict = self.try_state(&state, promise, depth).map_err(|mut failure| {
                let cut = Cut::new(self.target, events, point, &state, false, &mut self.medium);
                failure.cuts.insert(0, cut);
                failure
            })?;
            let Err(message) = verdict else { continue };
            // The same failure with less to look at.
            let mut same = |state: &State| matches!(self.look(state, promise), Looked { verdict: Err(_), .. });
            let (state, all) = smallest::fewest_granules(&state, &states.everything(), &mut same);
            let message = self.look(&state, promise).verdict.err().unwrap_or(message);
            return Err(Box::new(self.failure(events, point, &state, all, message)));
        }
        Ok(())
    }

    fn failure(&mut self, events: &[Event], point: usize, state: &State, all: bool, message: String) -> Failure {
        let cut = Cut::new(self.target, events, point, state, all, &mut self.medium);
        Failure { cuts: vec![cut], ..Failure::of(message) }
    }

    /// Looks at a state unless it was looked at before, and cuts the power during its recovery. The outer error is
    /// about the second cut.
    fn try_state(&mut self, state: &State, promise: &Promise, depth: u32) -> Result<Result<(), String>, Box<Failure>> {
        let hash = state
            .iter()
            .fold(self.medium.hash(), |hash, (offset, held)| self.medium.hash_with(hash, *offset, &held.content));
        if !self.judged.insert(hash ^ promise.key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)) {
            return Ok(Ok(()));
        }
        self.seen.insert(hash);
        self.counts.judged += 1;
        let Looked { verdict, recovery } = self.look(state, promise);
        if verdict.is_err() || depth == 0 || !recovery.iter().any(|event| matches!(event.what, What::Store { .. })) {
            return Ok(verdict);
        }
        self.counts.recoveries_cut += 1;
        let moment = self.medium.moment();
        let paused = self.medium.forget_pending();
        state.iter().for_each(|(offset, held)| self.medium.put(*offset, &held.content));
        self.put_back(self.medium.since(moment).collect());
        let most = (self.config.per_point / 8).max(8);
        let again = self.walk(&recovery, &|_| promise.clone(), depth - 1, most);
        let changed = self.medium.rewind(moment, paused);
        self.put_back(changed.into_iter().collect());
        again.map(|()| verdict)
    }
}

impl std::fmt::Debug for Explorer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explorer").field("config", &self.config).field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// What changes a recording before it is explored.
pub type Tamper<'a> = &'a dyn Fn(&mut Vec<Event>);

/// The device is as it is.
pub fn honest(_: &mut Vec<Event>) {}
