// SPDX-License-Identifier: MIT OR Apache-2.0
//! The crash explorer: what a device makes of every state that a power cut may leave.
//!
//! # Words
//! A *recording* is what shipped code did to a region: stores, write-backs, fences, syncs ([`mod@record`]). A *cut* ends it after
//! one of its events. A *granule* is what keeps its stores in order: a cache line, or a page of the page cache. A *state* is
//! what the medium holds after a cut: for each granule one of what it may. Of 8 aligned bytes power leaves all or none
//! (Intel SDM 3A, *Guaranteed Atomic Operations*, which persistent memory keeps across power).
//!
//! # Model
//! * **Plain stores** ([`Durability::Clwb`]) wait in their line, which may leave the cache at any moment: a line holds some
//!   prefix of what was stored to it, the next store perhaps in part, since string instructions store in no order
//!   (SDM 3A, *Fast-String Operation and Out-of-Order Stores*). Lines know nothing of each other.
//! * **Write-back and fence**: `CLWB` and `CLFLUSHOPT` are ordered by fences (SDM 2, *CLWB*; AMD APM 3, *CLWB*). What was in
//!   a line before the write-back is durable after the next fence of the same thread. A write-back without it, or a fence
//!   of another thread, promises nothing; nor does a `LOCK` that would order them too.
//! * **Non-temporal stores** are weakly ordered (SDM 1, *Caching of Temporal vs. Non-Temporal Data*): any of their units may be there, until a fence of the
//!   thread that made them.
//! * **[`Durability::Fence`]**: the caches are in the domain of power. A plain store is durable when it is visible, the
//!   last one perhaps in part; non-temporal ones wait in buffers for the fence as above.
//! * **[`Durability::Msync`]**: a page holds what it held at some moment, whichever other pages do; what was stored before a
//!   sync began is durable when it ended.
//! * **Holes** that the file system punches may come back, line by line, until a sync.
//!
//! Visibility is total: the recording is one order of all stores of all threads (TSO). What is not modelled: a store waiting
//! in the buffer of a processor while another thread writes its line back without having been told of it; torn sectors of a
//! page whose write was cut off; media errors.
//!
//! # Contract
//! What was acknowledged with FUA, or before a flush that was acknowledged, is there. Each atomic unit of each block is wholly
//! what it was or wholly what one of the writes not followed by a durable one made it. The device opens, its own
//! check is clean, and every so often all blocks are written and read once more.
//!
//! # Flow
//! ```text
//! create ─► record a workload ─► step through its events ─► at each: choose states ─► put one on the medium
//!    put back what is durable ◄─ check ◄─ read and judge ◄─ recover (recorded: its own stores are cut too)
//! ```
//! Only granules that differ are ever written, so that a state costs what recovery costs.

mod contract;
mod explorer;
mod look;
mod medium;
mod options;
mod random;
mod smallest;
mod states;
mod target;
mod trace;
mod workload;

pub use explorer::{Explorer, Tamper, honest};
pub use target::CrashTarget;
pub use trace::{Cut, Failure};
pub use workload::{CrashOp, Kind, Workload};

#[cfg(doc)]
use pageless_mem::{Durability, testing::record};
use smallest::smallest;

/// The variable that says how many states are looked at.
pub const STATES: &str = "PAGELESS_CRASH_STATES";

/// Where the power is cut.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Points {
    /// After every event.
    Events,
    /// Before every fence and whatever the test noted: what may be lost then includes what might have been before.
    Fences,
}

/// How long and how hard to try.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where what is random comes from.
    pub seed: u64,
    /// Distinct states of the medium that [`explore`] looks at.
    pub states: usize,
    /// States at one point of a recording, at most.
    pub per_point: usize,
    /// Where the power is cut.
    pub points: Points,
    /// How many recoveries after each other are cut short.
    pub depth: u32,
    /// Blocks of the device that workloads use, from the first on.
    pub blocks: u64,
    /// After every so many states all these blocks are written and read again; never if 0.
    pub write_after: usize,
}

/// As [`Config::of`] 20,000 states.
impl Default for Config {
    fn default() -> Config {
        Config::of(20_000)
    }
}

impl Config {
    /// As many states as [`STATES`] says, or else so many; the seed from `PAGELESS_SEED`, or always the same.
    pub fn of(states: usize) -> Config {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let states = number(STATES).and_then(|states| usize::try_from(states).ok()).unwrap_or(states);
        Config {
            seed: number(crate::conformance::SEED).unwrap_or(0x7061_6765),
            states,
            per_point: (states / 1000).clamp(60, 400),
            points: Points::Events,
            depth: 2,
            blocks: 6,
            write_after: 4,
        }
    }
}

/// What was looked at.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Distinct states of the medium.
    pub distinct: usize,
    /// States judged: one that is held against two promises counts twice.
    pub judged: usize,
    /// Points at which the power was cut.
    pub points: usize,
    /// Recoveries that were cut short in their turn.
    pub recoveries_cut: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { distinct, judged, points, recoveries_cut } = self;
        write!(f, "{distinct} distinct states, {judged} judged, at {points} points, {recoveries_cut} recoveries cut")
    }
}

/// Workloads done, at least: however few states are asked for, some of each kind are among them.
const ROUNDS: u64 = 6;

/// Creates the device and does random workloads, of one thread and of up to `threads`, until as many distinct states were
/// seen as the configuration says.
///
/// # Errors
/// The smallest failure found.
pub fn explore(explorer: &mut Explorer<'_>, threads: usize, kinds: &[Kind]) -> Result<Counts, Box<Failure>> {
    explorer.create()?;
    let (seed, wanted, blocks) = (explorer.config.seed, explorer.config.states, explorer.config.blocks);
    let mut round = 0;
    while explorer.counts().distinct < wanted || round < ROUNDS {
        let threads = if round % 2 == 0 { 1 } else { threads };
        let ops = 2 + usize::try_from(round % 7).unwrap_or(0);
        let workload = Workload::random(seed.wrapping_add(round), ops, threads, blocks, kinds);
        explorer.try_workload(&workload, &honest)?;
        round += 1;
    }
    Ok(explorer.counts())
}

#[cfg(test)]
mod tests;
