// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`CrashTarget`]: a device that is explored.

use pageless_block::BlockDevice;
use pageless_mem::{Memory, Region};

/// What a device makes of a region, which the explorer knows as a [`BlockDevice`] and nothing else.
pub trait CrashTarget {
    /// Makes the medium one that [`recover`](Self::recover) takes. It may hold anything before.
    ///
    /// # Errors
    /// When the device cannot.
    fn create(&self, memory: &Memory, region: &Region) -> Result<(), String>;

    /// Opens the device, as the first thing that is done after power came back.
    ///
    /// # Errors
    /// Why it does not open: a violation of the contract, but while it is being created.
    fn recover(&self, memory: &Memory, region: &Region) -> Result<Box<dyn BlockDevice>, String>;

    /// Whether what is left on the medium is consistent, beyond what can be read through the device.
    ///
    /// # Errors
    /// What is not.
    fn check(&self, _memory: &Memory, _region: &Region) -> Result<(), String> {
        Ok(())
    }

    /// What lies at a byte of the medium, for people who read a trace.
    fn place(&self, _offset: u64) -> String {
        String::new()
    }
}
