// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`conformance`]: random steps against a device and a model; what fails is shrunk.
//!
//! Two queues of the device are used at once, with many requests in flight to disjoint ranges; lists are scattered and
//! unaligned in memory; every byte around them is watched. Flushes, FUA, discards, zeroes with each flag and boundary
//! sizes are among the steps, and so are requests that must be refused. At the end the whole device is read through both
//! queues, through its extents and through its direct access.

mod look;
mod run;
mod step;

use pageless_block::BlockDevice;
use pageless_mem::Memory;
use proptest::test_runner::{Config as Proptest, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use run::Run;
use step::{Geometry, steps};

/// The variable that sets the seed.
pub const SEED: &str = "PAGELESS_SEED";

/// How long and how hard to try.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the random steps come from.
    pub seed: u64,
    /// How many lists of steps are run.
    pub rounds: u32,
    /// Steps in a list, at most.
    pub steps: usize,
    /// What is written is forgotten, and zeroes are read (`null:`).
    pub forgets: bool,
    /// Requests may fail, as long as they say exactly how far they got.
    pub failures: bool,
}

/// 48 rounds of up to 40 steps, from [`SEED`] or always the same seed.
impl Default for Config {
    fn default() -> Config {
        let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x7061_6765);
        Config { seed, rounds: 48, steps: 40, forgets: false, failures: false }
    }
}

/// Runs random steps against `device`, whose frames and those of the test are in `memory`. Whatever the device holds is
/// overwritten, unless it is read-only.
///
/// # Panics
/// When the device does not do what a disk does: with the seed and the shortest list of steps that shows it.
pub fn conformance(device: &dyn BlockDevice, memory: &Memory, config: &Config) {
    if let Err(why) = try_conformance(device, memory, config) {
        panic!("{} is no disk: {why}", device.name());
    }
}

/// As [`conformance`], without the panic.
///
/// # Errors
/// What went wrong, the seed, and the shortest list of steps that shows it.
pub fn try_conformance(device: &dyn BlockDevice, memory: &Memory, config: &Config) -> Result<(), String> {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&config.seed.to_le_bytes());
    let proptest =
        Proptest { cases: config.rounds, failure_persistence: None, max_shrink_iters: 1000, ..Proptest::default() };
    let mut runner = TestRunner::new_with_rng(proptest, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(&steps(Geometry::of(device), config.steps), |steps| {
        Run::all(device, memory, config, &steps).map_err(TestCaseError::fail)
    });
    result.map_err(|error| match error {
        TestError::Fail(why, steps) => {
            let list: String = steps.iter().map(|step| format!("  {step:?}\n")).collect();
            format!("{why}\n{SEED}={} and these steps show it:\n{list}", config.seed)
        }
        TestError::Abort(why) => why.to_string(),
    })
}

#[cfg(test)]
mod tests;
