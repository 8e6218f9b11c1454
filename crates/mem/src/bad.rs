// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BadList`]: which frames of a region are known to be bad, and keeping everybody off them (I7).
//!
//! A frame gets onto the list when a contained fault stops there, when the memory itself reported the fault
//! (`BUS_MCEERR_AR`), or when the kernel has it in the `badblocks` of the device under the mapping. The last two are
//! *shut*: the frame's addresses are closed (`PROT_NONE`), so that the CPU and the kernel stop at exactly that byte and the medium is
//! not touched again. So a region without bad frames pays nothing, and one with some pays at these frames alone. Where the
//! kernel does not close single frames (devdax of 2 MiB pages) the table refuses windows that have one of them.
//!
//! # Clearing contract
//! A store to a disk ([`MemWriter::streaming`](crate::MemWriter::streaming)) that overwrites a shut frame whole, in one copy, gives it new memory first, where the kernel can: private memory gets a
//! new page; of a file the block is written through the kernel, whose driver may clear the poison, and if that fails it
//! is punched out and written again. What the kernel's own list still holds afterwards stays shut. A store to part of a shut frame
//! is [`Fault::Media`](crate::Fault::Media): nobody knows the rest. devdax has no way to clear: `ndctl clear-errors`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pageless_sys::Errno;
use pageless_sys::fault::POISONED;
use pageless_sys::fiemap::{self, Placed};
use pageless_sys::file::{FallocMode, File, Run};
use pageless_sys::mmap::Mapping;

use crate::backing::Store;
use crate::pfn::FRAME_SIZE;
use crate::region::{Inner, Region};
use crate::{Error, Fault};

/// Runs remembered per region, at most. What is not remembered is found again by its faults.
const MAX_RUNS: usize = 1024;

/// How often the kernel's list is asked for anew because something was overwritten meanwhile.
const TRIES: u32 = 4;

/// Bytes of a frame.
const FRAME: usize = 4096;

/// How it is known that memory is bad.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum BadSource {
    /// A contained fault that was no report of broken memory: a file cut short by others, a page that could not be read in.
    /// It may be gone when somebody looks again, so nobody is kept from looking.
    Fault,
    /// The memory reported an error.
    Poison,
    /// The kernel's list of bad blocks of the device.
    Kernel,
}

impl BadSource {
    /// What a fault says that was contained with this [address](pageless_sys::fault).
    pub(crate) fn of(address: usize) -> BadSource {
        if address & POISONED != 0 { BadSource::Poison } else { BadSource::Fault }
    }
}

/// Whole frames that are bad.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct BadRange {
    /// First byte in the region.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// How that is known.
    pub source: BadSource,
}

impl BadRange {
    /// The parts of these that lie in none of the others. Both are by offset, and none of one overlaps another.
    pub fn beyond(these: &[BadRange], others: &[BadRange]) -> Vec<BadRange> {
        let mut parts = Vec::new();
        for range in these {
            let mut at = range.offset;
            for other in others.iter().take_while(|other| other.offset < range.end()) {
                if other.offset > at {
                    parts.push(BadRange { offset: at, len: other.offset - at, ..*range });
                }
                at = at.max(other.end());
            }
            if at < range.end() {
                parts.push(BadRange { offset: at, len: range.end() - at, ..*range });
            }
        }
        parts
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// What is known to be bad of one region.
#[derive(Debug, Default)]
pub(crate) struct BadList {
    known: Mutex<Known>,
    /// Some of it could not be shut: windows on it are refused by the table.
    gate: AtomicBool,
    /// The table knows that.
    gate_is_known: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// By offset, none touching another of the same source, none overlapping.
    runs: Vec<BadRange>,
    /// Some did not fit.
    more: bool,
    /// The kernel's list has some that did not fit, or could not be placed.
    more_listed: bool,
    /// How often something was taken off the list, or the kernel's was taken over.
    changes: u64,
}

impl Known {
    fn at(&self, offset: u64) -> Option<BadRange> {
        let after = self.runs.partition_point(|run| run.offset <= offset);
        self.runs[..after].last().copied().filter(|run| offset < run.end())
    }

    /// Takes `[start, end)` out of all runs.
    fn carve(&mut self, start: u64, end: u64) {
        let cut = |run: &BadRange| {
            let left = BadRange { len: start.saturating_sub(run.offset).min(run.len), ..*run };
            let right = run.offset.max(end);
            let right = BadRange { offset: right, len: run.end().saturating_sub(right), ..*run };
            [left, right].into_iter().filter(|part| part.len > 0)
        };
        self.runs = self.runs.iter().flat_map(cut).collect();
    }

    /// Adds whole frames; what says more about them replaces what says less. False when there is no room.
    fn add(&mut self, new: BadRange) -> bool {
        if self.at(new.offset).is_some_and(|old| old.end() >= new.end() && old.source != BadSource::Fault) {
            return true;
        }
        self.carve(new.offset, new.end());
        let at = self.runs.partition_point(|run| run.offset < new.offset);
        let joins = |run: Option<&BadRange>, edge: fn(&BadRange) -> u64, at: u64| {
            run.is_some_and(|run| run.source == new.source && edge(run) == at)
        };
        let before = at.checked_sub(1).filter(|before| joins(self.runs.get(*before), BadRange::end, new.offset));
        let behind = joins(self.runs.get(at), |run| run.offset, new.end());
        let (first, last) = (before.unwrap_or(at), if behind { at + 1 } else { at });
        if first == last && self.runs.len() >= MAX_RUNS {
            self.more = true;
            return false;
        }
        let start = before.and_then(|before| self.runs.get(before)).map_or(new.offset, |run| run.offset);
        let end = self.runs.get(at).filter(|_| behind).map_or(new.end(), BadRange::end);
        self.runs.splice(first..last, [BadRange { offset: start, len: end - start, ..new }]);
        true
    }
}

impl BadList {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the table has to look before it hands out a window.
    pub(crate) fn gate(&self) -> bool {
        self.gate.load(Ordering::Acquire)
    }

    /// Whether there is a bad frame in the range that should not be touched.
    #[cfg(feature = "pmem-io")]
    pub(crate) fn refuses(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        self.known().runs.iter().any(|run| run.source != BadSource::Fault && run.offset < end && offset < run.end())
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.known().runs.capacity() * size_of::<BadRange>()
    }
}

/// Remembers the frame at byte `offset` as bad. The caller is in a section or has the frame in flight, so that the mapping is
/// the region's.
#[cold]
pub(crate) fn note(region: &Inner, offset: u64, source: BadSource) {
    if is_shut(region, offset) {
        return;
    }
    let offset = offset / FRAME_SIZE * FRAME_SIZE;
    let source = if source == BadSource::Fault && is_broken(region, offset) { BadSource::Poison } else { source };
    let frame = BadRange { offset, len: FRAME_SIZE, source };
    let mut known = region.bad.known();
    if !known.add(frame) || source == BadSource::Fault {
        return;
    }
    shut(region, frame);
    drop(known);
    // What is new to us may be one of many that the kernel has learnt of.
    import(region);
}

/// Whether memory that faults without a report is broken all the same: a kernel without `CONFIG_MEMORY_FAILURE` reports
/// none. So it is where a fault has no other reason: it is private, or the data of a file that lies in memory. A disk under a page
/// cache may well read what it could not read before.
fn is_broken(region: &Inner, offset: u64) -> bool {
    match region.backing.store() {
        Store::Anonymous(_) => true,
        Store::File { file, .. } if region.backing.lies_in_memory() => {
            let at = region.backing.in_file(offset);
            file.size().is_ok_and(|size| size > at) && matches!(file.run_at(at, at + 1), Ok(Run::DataUntil(_)))
        }
        _ => false,
    }
}

/// Whether the frame at byte `offset` is shut.
#[cold]
pub(crate) fn is_shut(region: &Inner, offset: u64) -> bool {
    region.bad.known().at(offset).is_some_and(|run| run.source != BadSource::Fault)
}

/// Gives the shut frame at byte `offset`, all of which is about to be overwritten, new memory.
#[cold]
pub(crate) fn clear(region: &Inner, offset: u64) -> Result<(), Fault> {
    let len = FRAME_SIZE.min(region.len().saturating_sub(offset));
    let media = |_| Fault::Media;
    // Each frame in the middle of a run makes two of it, for us and for the kernel.
    if region.bad.known().runs.len() > 2 * MAX_RUNS {
        return Err(Fault::Media);
    }
    // Memory that somebody has in flight stays where it is.
    let closed = region.holds.close(offset, offset.saturating_add(len), Instant::now()).map_err(|_| Fault::Media)?;
    match region.backing.store() {
        Store::Anonymous(mapping) => renew(mapping, offset).map_err(media)?,
        Store::File { mapping, file } if region.backing.fillable() => {
            rewrite(file, region.backing.in_file(offset), len)?;
            if !region.backing.on_file_system() {
                // A block device's driver hears of it when the page cache is written back.
                file.sync_data().map_err(|error| Fault::from_medium(error.errno()))?;
            }
            renew(mapping, offset).map_err(media)?;
        }
        _ => return Err(Fault::Media),
    }
    drop(closed);
    region.punches.fetch_add(1, Ordering::Release);
    // Written, and yet the kernel does not take it for sound.
    let Ok(listed) = from_kernel(region) else { return Err(Fault::Media) };
    if listed.is_some_and(|(runs, _)| runs.iter().any(|run| run.offset < offset + len && offset < run.end())) {
        return Err(Fault::Media);
    }
    cleared(region, offset, FRAME_SIZE);
    Ok(())
}

/// Whole frames have new memory: opens those of them that were shut.
#[cold]
pub(crate) fn cleared(region: &Inner, offset: u64, len: u64) {
    open(region, &mut region.bad.known(), offset, len);
}

fn open(region: &Inner, known: &mut Known, offset: u64, len: u64) {
    let end = offset.saturating_add(len);
    let runs: Vec<BadRange> = known.runs.iter().filter(|run| run.offset < end && offset < run.end()).copied().collect();
    if runs.is_empty() {
        return;
    }
    known.changes += 1;
    known.carve(offset, end);
    for run in runs.into_iter().filter(|run| run.source != BadSource::Fault) {
        let (start, end) = (run.offset.max(offset), run.end().min(end));
        if let Some((mapping, at, bytes)) = addresses(region, start, end - start) {
            // What the page table has for it may be the error itself, and not the new memory.
            let _ = mapping.discard(at, bytes);
            let _ = mapping.reopen(at, bytes, region.backing.writable());
        }
    }
}

/// Writes zeroes over a block through the kernel, which may clear it; else has it put elsewhere.
fn rewrite(file: &File, at: u64, len: u64) -> Result<(), Fault> {
    // A file that ends before is not made longer, for others may have cut it.
    if file.size().map_or(true, |size| size < at.saturating_add(len)) {
        return Err(Fault::Media);
    }
    let zeroes = [0; FRAME];
    let zeroes = &zeroes[..usize::try_from(len).unwrap_or(0)];
    if file.write_at(zeroes, at) == Ok(zeroes.len()) {
        return Ok(());
    }
    let refused = |error: pageless_sys::Error| Fault::from_medium(error.errno());
    file.fallocate(FallocMode::PunchHole, at, len).map_err(refused)?;
    match file.write_at(zeroes, at).map_err(refused)? {
        written if written == zeroes.len() => Ok(()),
        _ => Err(Fault::Media),
    }
}

/// Lets go of the page that a frame is mapped to.
fn renew(mapping: &Mapping, offset: u64) -> Result<(), pageless_sys::Error> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    mapping.discard(start, FRAME)
}

/// Closes the addresses of bad frames; leaves it to the table where the kernel does not close so few.
fn shut(region: &Inner, run: BadRange) {
    // Past the end there is nothing of ours any more.
    let end = run.end().min(region.len().next_multiple_of(FRAME_SIZE));
    let Some((mapping, at, bytes)) = addresses(region, run.offset, end.saturating_sub(run.offset)) else { return };
    if mapping.shut(at, bytes).is_err() {
        region.bad.gate.store(true, Ordering::Release);
    }
}

/// The mapping that frames are part of, where it is ours to change.
fn addresses(region: &Inner, offset: u64, len: u64) -> Option<(&Mapping, usize, usize)> {
    let mapping = match region.backing.store() {
        Store::Anonymous(mapping) | Store::File { mapping, .. } => mapping,
        #[cfg(feature = "pmem-io")]
        Store::Foreign(_) => return None,
    };
    #[cfg(feature = "pmem-io")]
    if region.backing.device().is_some() {
        return None;
    }
    Some((mapping, usize::try_from(offset).ok()?, usize::try_from(len).ok().filter(|len| *len > 0)?))
}

/// Whole frames by offset, and whether there are more.
type Listed = (Vec<BadRange>, bool);

/// What the kernel knows to be bad of this region. `None` where no device is known.
///
/// # Errors
/// Where the kernel does not say.
fn from_kernel(region: &Inner) -> Result<Option<Listed>, Errno> {
    let Some(medium) = region.backing.medium() else { return Ok(None) };
    let (bytes, more) = medium.bad_bytes(MAX_RUNS)?;
    if bytes.is_empty() {
        return Ok(Some((Vec::new(), more)));
    }
    if !medium.translated() {
        return Ok(Some((Vec::new(), true)));
    }
    let (start, end) = (region.backing.in_file(0), region.backing.in_file(region.backing.reserved()));
    let mut found = Placing { bytes: &bytes, start, end, frames: Known { more, ..Known::default() } };
    match region.backing.file_behind().filter(|_| region.backing.on_file_system()) {
        None => found.place(Placed { logical: start, physical: start, len: end - start }),
        Some(file) => {
            let told = fiemap::extents(file, start, end, |placed| {
                found.place(placed);
                !found.frames.more
            });
            found.frames.more |= told.is_err();
        }
    }
    Ok(Some((found.frames.runs, found.frames.more)))
}

/// Finds the frames of a region that bad bytes of the device lie in.
struct Placing<'a> {
    bytes: &'a [(u64, u64)],
    start: u64,
    end: u64,
    frames: Known,
}

impl Placing<'_> {
    fn place(&mut self, placed: Placed) {
        for (from, len) in self.bytes {
            let (from, to) = (*from, from.saturating_add(*len));
            let (first, last) = (from.max(placed.physical), to.min(placed.physical.saturating_add(placed.len)));
            if first >= last {
                continue;
            }
            let in_file = |byte: u64| placed.logical + (byte - placed.physical);
            let (first, last) = (in_file(first).max(self.start), in_file(last).min(self.end));
            if first < last {
                let offset = (first - self.start) / FRAME_SIZE * FRAME_SIZE;
                let len = (last - self.start).next_multiple_of(FRAME_SIZE) - offset;
                self.frames.add(BadRange { offset, len, source: BadSource::Kernel });
            }
        }
    }
}

/// What the kernel said, and what was known when it was asked.
struct Asked {
    listed: Listed,
    changes: u64,
}

/// Asks the kernel, which may take a while. `None` where it has nothing to say, or does not say it.
fn ask(region: &Inner) -> Option<Asked> {
    let changes = region.bad.known().changes;
    from_kernel(region).ok().flatten().map(|listed| Asked { listed, changes })
}

/// Shuts what is new on the kernel's list, and opens what is on it no more: false where something was overwritten since it was
/// asked, which it may have as it was before. The caller is in a section, or is the only one who knows the region.
fn take_over(region: &Inner, Asked { listed: (runs, more), changes }: Asked) -> bool {
    let mut known = region.bad.known();
    if known.changes != changes {
        return false;
    }
    known.changes += 1;
    known.more_listed = more;
    // What has no room is not gone.
    if !more {
        let kernels: Vec<BadRange> = known.runs.iter().filter(|run| run.source == BadSource::Kernel).copied().collect();
        for gone in BadRange::beyond(&kernels, &runs) {
            open(region, &mut known, gone.offset, gone.len);
        }
    }
    let shut_before: Vec<BadRange> = known.runs.iter().filter(|run| run.source != BadSource::Fault).copied().collect();
    for new in BadRange::beyond(&runs, &shut_before) {
        if known.add(new) {
            shut(region, new);
        }
    }
    true
}

/// Reads the kernel's list and takes it over. The caller is in a section, or is the only one who knows the region.
pub(crate) fn import(region: &Inner) {
    if let Some(asked) = ask(region) {
        // Somebody who cleared a frame meanwhile has asked as well.
        take_over(region, asked);
    }
}

impl Region {
    /// What is known to be bad, in whole frames by offset: from the kernel's list as it was when the region was registered or
    /// last [refreshed](Region::refresh_bad), and from contained faults.
    pub fn bad(&self) -> Vec<BadRange> {
        self.inner().bad.known().runs.clone()
    }

    /// The same as `(offset, len)`.
    pub fn bad_ranges(&self) -> Vec<(u64, u64)> {
        self.inner().bad.known().runs.iter().map(|run| (run.offset, run.len)).collect()
    }

    /// Whether there is more that is bad than the list holds: it is bounded, and device-mapper hides where blocks lie.
    pub fn more_bad(&self) -> bool {
        let known = self.inner().bad.known();
        known.more || known.more_listed
    }

    /// Reads the kernel's list of bad blocks again: what is on it is not touched from now on, what is on it no more may be.
    /// Asks the file system where the file lies if there are any. What is known stays so where the kernel does not answer.
    ///
    /// # Errors
    /// [`Error::Fault`] with `Gone` for a region that was revoked.
    pub fn refresh_bad(&self) -> Result<(), Error> {
        let region = self.inner();
        let mut reader = self.publisher().reader();
        let mut tries = 0..TRIES;
        loop {
            // Others wait for who is in a section, and a file system may take long.
            let asked = if region.len() == 0 { None } else { ask(region) };
            let online = reader.online();
            if region.len() == 0 {
                return Err(Error::Fault { fault: Fault::Gone, offset: 0, len: 0 });
            }
            let done = asked.is_none_or(|asked| take_over(region, asked));
            drop(online);
            if done || tries.next().is_none() {
                break;
            }
        }
        if region.bad.gate() && !region.bad.gate_is_known.swap(true, Ordering::AcqRel) {
            self.publisher().refresh(region);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
