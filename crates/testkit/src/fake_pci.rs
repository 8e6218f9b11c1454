// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FakeFunction`]: a folder that looks like a PCI function in sysfs, so that a host without one to spare can lose it.

use crate::Error;
use crate::regions::TempPath;
use pageless_mem::{Backing, Memory, Region};
use std::fs;
use std::path::PathBuf;

/// A function with one BAR, which is a file. Unlike a real one the kernel pins it.
#[derive(Debug)]
pub struct FakeFunction {
    folder: TempPath,
}

impl FakeFunction {
    /// A function whose BAR holds these bytes, whole frames of them.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(bar: &[u8]) -> std::io::Result<FakeFunction> {
        let function = FakeFunction { folder: TempPath::within(&std::env::temp_dir()) };
        fs::create_dir(function.folder.path())?;
        fs::write(function.config(), [0xf4, 0x1a, 0x10, 0x11])?;
        fs::write(function.bar(), bar)?;
        Ok(function)
    }

    /// Its BAR as memory.
    ///
    /// # Errors
    /// Those of [`Backing::bar`].
    pub fn region(&self, memory: &Memory) -> Result<Region, Error> {
        Ok(memory.register(Backing::bar(&self.bar())?)?)
    }

    /// What the BAR holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn content(&self) -> std::io::Result<Vec<u8>> {
        fs::read(self.bar())
    }

    /// Pulls the function out: configuration reads find nobody. Its BAR stays mapped, and says nothing of it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn unplug(&self) -> std::io::Result<()> {
        fs::write(self.config(), [0xff; 4])
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    fn bar(&self) -> PathBuf {
        self.folder.path().join("resource2")
    }
}

impl Drop for FakeFunction {
    fn drop(&mut self) {
        // What is left behind is a folder in the place for temporary files.
        let _ = fs::remove_dir_all(self.folder.path());
    }
}
