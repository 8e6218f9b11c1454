// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Medium`]: the bytes of a region, copied in pieces.

use pageless_mem::{Access, Extent, Extents, Fault, Memory, Reader, Region};
use zerocopy::{FromBytes, IntoBytes};

use super::{CheckError, Watch};
use crate::btt::info::Uuid;

/// Bytes of one online section, which must stay short.
const STEP: u64 = 1 << 20;

/// A region that is looked at as a whole.
#[derive(Debug)]
pub struct Medium {
    memory: Memory,
    region: Region,
    reader: Reader,
    extents: Extents,
}

impl Medium {
    /// The region as a medium.
    pub fn new(memory: &Memory, region: Region) -> Medium {
        Medium { memory: memory.clone(), reader: memory.reader(), extents: region.extents(), region }
    }

    /// The same for another thread.
    #[must_use]
    pub fn another(&self) -> Medium {
        Medium::new(&self.memory, self.region.clone())
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.region.len()
    }

    /// Whether there are none, since the region is gone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it is registered.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The namespace that it is, which its BTT must name as its parent.
    pub fn namespace(&self) -> Option<Uuid> {
        self.region.namespace_uuid().map(Uuid)
    }

    /// Copies bytes from the medium.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), MediumError> {
        let mut done = 0;
        while done < buf.len() {
            let (at, left) = (offset + done as u64, (buf.len() - done) as u64);
            let failed = |fault, moved: usize| MediumError { offset: at + moved as u64, fault };
            let range = self.region.range(at, left.min(STEP)).ok_or_else(|| failed(Fault::Gone, 0))?;
            let len = range.len() as usize;
            let online = self.reader.online();
            let kmap = online.kmap(range, Access::Read).map_err(|fault| failed(fault, 0))?;
            kmap.reader().read(&mut buf[done..done + len]).map_err(|error| failed(error.fault, error.moved))?;
            done += len;
        }
        self.reader.confirm().map_err(|fault| MediumError { offset, fault })
    }

    /// One value that lies on the medium.
    pub fn get<T: FromBytes + IntoBytes>(&mut self, offset: u64) -> Result<T, MediumError> {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies bytes to the medium and makes them durable. An aligned word is one store.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), MediumError> {
        let failed = |fault| MediumError { offset, fault };
        let range = self.region.range(offset, bytes.len() as u64).ok_or_else(|| failed(Fault::Gone))?;
        {
            let online = self.reader.online();
            let kmap = online.kmap(range, Access::Write).map_err(failed)?;
            match (<[u8; 4]>::try_from(bytes), kmap.cell::<u32>(0)) {
                (Ok(word), Some(cell)) => cell.store(u32::from_le_bytes(word)).map_err(failed)?,
                _ => kmap.writer().write(bytes).map_err(|error| failed(error.fault))?,
            }
        }
        self.region.persist(offset, bytes.len() as u64).map_err(failed)?;
        self.reader.confirm().map_err(failed)
    }

    /// The first byte of all that is not zero. Whoever watches hears of the progress, and of nothing else.
    pub fn first_data(&mut self, watch: &mut dyn Watch) -> Result<Option<u64>, CheckError> {
        let (mut at, end, mut buf) = (0, self.len(), Vec::new());
        while at < end {
            match self.extent(at, end - at) {
                Extent::Hole(hole) => at += hole,
                Extent::Data(data) => {
                    buf.resize(usize::try_from(data.min(STEP)).unwrap_or(0), 0);
                    self.read(at, &mut buf)?;
                    if let Some(first) = buf.iter().position(|byte| *byte != 0) {
                        return Ok(Some(at + first as u64));
                    }
                    at += buf.len() as u64;
                }
            }
            if watch.progress(at, end).is_break() {
                return Err(CheckError::Stopped);
            }
        }
        Ok(None)
    }

    /// Whether the bytes from `offset` on are a hole, and for how long they are the same, at most `len`.
    pub fn extent(&mut self, offset: u64, len: u64) -> Extent {
        self.extents.next(offset, len)
    }
}

/// The medium could not be read or written.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the medium fails at byte {offset}: {fault:?}")]
pub struct MediumError {
    /// Where.
    pub offset: u64,
    /// How.
    pub fault: Fault,
}
