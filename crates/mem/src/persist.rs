// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes a store durable, and doing it.
//!
//! # Words
//! *Written back* is what has left the CPU caches on its way to the medium, *durable* what is there after the power was off.
//! The [`FlushDomain`] of a region says what lies between the two, and how that is known.
//!
//! # Ordering contract
//! Non-temporal stores and cache-line write-backs are followed by one [`fence`] by the storing thread before its
//! completions are published. That makes the data visible in order and covers it by a FLUSH from any other queue.
//! FLUSH and FUA then add what the medium still needs: nothing, or `fdatasync`/`msync` for a page cache. A hole that was
//! punched is the file system's, and needs `fdatasync` wherever there is one.
//!
//! # Doing it
//! | | writes back | fence | page cache |
//! |---|---|---|---|
//! | [`copy`](fn@crate::copy), [`Kmap::write_back`](crate::Kmap::write_back), [`Cell::store_back`](crate::cell::Cell::store_back) | yes | yours, one for a batch | not synced |
//! | [`Region::write_back`] | yes | yours: [`Region::drain`] | `msync` |
//! | [`copy_persist`], [`Region::persist`], [`Flusher::persist`] | yes | yes | `msync` |
//! | [`Flusher::flush`] | what copies and `store_back` stored is | yes | `fdatasync` |
//! | [`Region::deep_flush`] | as above | as above | and the platform's own buffers, where the kernel can |

mod domain;
mod flusher;

use pageless_sys::Error as SysError;
use pageless_sys::cpu::WriteBack;

use crate::bad;
use crate::copy;
use crate::cursor::{MemReader, MemWriter};
use crate::error::CopyError;
use crate::region::Inner;
use crate::{Error, Fault, Region};

pub use crate::copy::fence;
pub use domain::{FlushDomain, Mapped, PersistenceDomain, Reason};
pub(crate) use flusher::FlushErrors;
pub use flusher::Flusher;

/// What makes a store to a region durable.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Durability {
    /// Nothing does: ordinary RAM.
    Volatile,
    /// A fence: the power-fail domain includes the CPU caches (eADR).
    Fence,
    /// Cache-line write-back (or a non-temporal store) and a fence.
    Clwb,
    /// `msync`/`fdatasync`: a page cache.
    Msync,
}

/// What becomes of what a copy stores.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Stores {
    /// It stays in the caches, where somebody may read it.
    Cached,
    /// Nobody reads it soon: much of it goes past the caches.
    Streaming,
    /// As that, and lines that are in the caches are written back.
    WrittenBack(WriteBack),
}

/// What a deep flush had to do.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum DeepFlush {
    /// The kernel flushed the buffers of this many nvdimm regions.
    Flushed(u32),
    /// The kernel offers none for this memory: there are no buffers that the platform would not flush itself when the power
    /// goes, or nothing is known of them. Nothing was done.
    NothingToDo,
}

/// Moves as many bytes as both sides have, as [`copy`](fn@crate::copy) does, and makes them durable: one call for what is stored alone. A batch
/// does better with `copy` and one [`fence`].
///
/// Where that is `msync`, it is done in the caller's online section, and whoever revokes memory waits for the medium meanwhile.
///
/// # Errors
/// As of [`copy`](fn@crate::copy); what is counted as moved is durable. A failed `msync` has moved nothing that counts, and every
/// [`Flusher`] is told.
#[inline]
pub fn copy_persist(from: &mut MemReader<'_>, to: &mut MemWriter<'_>) -> Result<usize, CopyError> {
    let Stores::WrittenBack(lines) = to.stores else { return copy_and_sync(from, to) };
    let result = copy::copy_back(from, to, lines);
    fence();
    result
}

#[inline(never)]
fn copy_and_sync(from: &mut MemReader<'_>, to: &mut MemWriter<'_>) -> Result<usize, CopyError> {
    let place = to.place();
    let result = copy::copy(from, to);
    fence();
    if let Some((region, offset)) = place
        && region.backing.durability() == Durability::Msync
    {
        let moved = result.unwrap_or_else(|error| error.moved);
        persist(region, offset, moved as u64).map_err(|fault| CopyError { moved: 0, fault })?;
    }
    result
}

/// Writes cache lines of a region back, where its stores need that. They lie in a window; durable after the next [`fence`].
#[inline]
pub(crate) fn write_back(region: &Inner, addr: usize, offset: u64, len: usize) -> Result<(), Fault> {
    if region.backing.durability() != Durability::Clwb {
        return Ok(());
    }
    copy::write_back(addr, len, region.backing.lines()).map_err(|fault| {
        bad::note(region, offset + (fault.address() & !63).saturating_sub(addr) as u64, fault.source());
        Fault::Media
    })
}

/// The same of the line that an aligned word lies in.
#[inline]
pub(crate) fn write_back_word(region: &Inner, addr: usize, offset: u64, len: usize) -> Result<(), Fault> {
    if region.backing.durability() != Durability::Clwb {
        return Ok(());
    }
    copy::write_back_word(addr, len, region.backing.lines()).map_err(|fault| not_written_back(region, offset, fault))
}

#[cold]
#[inline(never)]
fn not_written_back(region: &Inner, offset: u64, fault: copy::Outcome) -> Fault {
    bad::note(region, offset, fault.source());
    Fault::Media
}

/// Makes bytes of a region durable.
pub(crate) fn persist(region: &Inner, offset: u64, len: u64) -> Result<(), Fault> {
    let result = start(region, offset, len);
    fence();
    result
}

/// All of it but the fence.
fn start(region: &Inner, offset: u64, len: u64) -> Result<(), Fault> {
    let end = offset.checked_add(len).filter(|end| *end <= region.len()).ok_or(Fault::Gone)?;
    let (Ok(start), Ok(bytes)) = (usize::try_from(offset), usize::try_from(end - offset)) else {
        return Err(Fault::Gone);
    };
    let result = match region.backing.durability() {
        Durability::Volatile => Ok(()),
        Durability::Fence => sync_punches(region),
        Durability::Clwb => {
            // Others may have acknowledged what lies there.
            let written = write_back(region, region.addr() + start, offset, bytes);
            written.inspect_err(|_| region.flush_errors.note()).and_then(|()| sync_punches(region))
        }
        Durability::Msync => {
            fence();
            region.flush_errors.sync(|| region.backing.sync_range(start, bytes).map_err(Fault::from_medium)).0
        }
    };
    // Revoked meanwhile: what was synced may have been nothing.
    if region.len() < end { Err(Fault::Gone) } else { result }
}

/// Makes holes durable where no fence does.
fn sync_punches(region: &Inner) -> Result<(), Fault> {
    if region.owes_sync() { region.flush_errors.sync(|| region.sync_punches()).0 } else { Ok(()) }
}

impl Region {
    /// What makes a store to this memory durable.
    pub fn durability(&self) -> Durability {
        self.inner().backing.durability()
    }

    /// Makes these bytes durable. `NoSpace` and `Media` as the medium says.
    pub fn persist(&self, offset: u64, len: u64) -> Result<(), Fault> {
        persist(self.inner(), offset, len)
    }

    /// [`Region::persist`] but for the fence: durable after this thread's next [`Region::drain`], which a batch shares. Where
    /// that is `msync`, it is done here and there is nothing left to drain.
    pub fn write_back(&self, offset: u64, len: u64) -> Result<(), Fault> {
        start(self.inner(), offset, len)
    }

    /// Waits until what this thread wrote back is durable: the [`fence`] of a batch.
    #[inline]
    pub fn drain(&self) {
        fence();
    }

    /// Has the platform's own buffers flushed too (`deep_flush` of the nvdimm regions behind this memory), in which what is
    /// durable may still lie: they are flushed when the power goes, unless that goes wrong. What is not written back yet is
    /// not covered. Says honestly where there is nothing of the sort.
    ///
    /// # Errors
    /// [`Error::Path`] names what refused: `EACCES` for anybody but root. A failure of the medium is counted, and every
    /// [`Flusher`] is told.
    pub fn deep_flush(&self) -> Result<DeepFlush, Error> {
        fence();
        let Some(medium) = self.inner().backing.medium() else { return Ok(DeepFlush::NothingToDo) };
        match medium.deep_flush() {
            Ok(0) => Ok(DeepFlush::NothingToDo),
            Ok(regions) => Ok(DeepFlush::Flushed(regions)),
            Err((path, errno)) => {
                if Fault::from_medium(errno) == Fault::Media && errno != pageless_sys::Errno::EACCES {
                    self.inner().flush_errors.note();
                }
                Err(Error::Path { path, source: SysError::Call { call: "write(deep_flush)", errno } })
            }
        }
    }

    /// The kernel stored these bytes through the frames (a receive, a read): makes such stores equal to ours, so that a
    /// FLUSH covers them. Costs nothing where stores need no write-back.
    pub fn stored(&self, offset: u64, len: u64) -> Result<(), Fault> {
        if self.durability() == Durability::Clwb { self.persist(offset, len) } else { Ok(()) }
    }

    /// One user's way to FLUSH, which remembers which failures it was told.
    pub fn flusher(&self) -> Flusher {
        Flusher::new(std::sync::Arc::clone(self.inner()))
    }
}

#[cfg(test)]
mod tests;
