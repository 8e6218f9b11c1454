// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`TestFrames`]: a region that a test fills and looks at.

use crate::Error;
use pageless_block::ScatterList;
use pageless_mem::{Access, Backing, Memory, PhysRange, Reader, Region};

/// A region with the means to put bytes in and take them out.
#[derive(Debug)]
pub struct TestFrames {
    region: Region,
    reader: Reader,
}

impl TestFrames {
    /// `len` bytes of anonymous memory, a multiple of 4096.
    ///
    /// # Errors
    /// When the kernel does not give them.
    pub fn new(memory: &Memory, len: u64) -> Result<TestFrames, Error> {
        Ok(TestFrames::of(memory, memory.register(Backing::anon(len)?)?))
    }

    /// A region that is there already.
    pub fn of(memory: &Memory, region: Region) -> TestFrames {
        TestFrames { region, reader: memory.reader() }
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Bytes of the region.
    ///
    /// # Panics
    /// When they are not in it.
    pub fn range(&self, offset: u64, len: u32) -> PhysRange {
        match self.region.range(offset, u64::from(len)) {
            Some(range) => range,
            None => panic!("{len} bytes at {offset} are not in {}", self.region.describe()),
        }
    }

    /// The bytes a list names.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn get(&mut self, list: &ScatterList) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        for range in list {
            let online = self.reader.online();
            let window = online.kmap(range, Access::Read).map_err(Error::Frames)?;
            let start = bytes.len();
            bytes.resize(start + range.len() as usize, 0);
            window.reader().read(&mut bytes[start..]).map_err(|error| Error::Frames(error.fault))?;
        }
        Ok(bytes)
    }

    /// Puts bytes where a list says, as many as it names.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&mut self, list: &ScatterList, mut bytes: &[u8]) -> Result<(), Error> {
        for range in list {
            let online = self.reader.online();
            let window = online.kmap(range, Access::Write).map_err(Error::Frames)?;
            let (now, later) = bytes.split_at((range.len() as usize).min(bytes.len()));
            window.writer().write(now).map_err(|error| Error::Frames(error.fault))?;
            bytes = later;
        }
        Ok(())
    }
}
