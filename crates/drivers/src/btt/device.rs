// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BttDisk`]: a BTT as a disk.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use pageless_block::{BlockDevice, Error, Limits, Queue};
use pageless_mem::persist::{Durability, FlushDomain};
use pageless_mem::{Memory, Region};

use super::BttError;
use super::arena::Arena;
use super::claims::Claims;
use super::create::{CreateOptions, create};
use super::info::Identity;
use super::layout::{LbaSize, NewArena, Placement};
use super::open::{OpenOptions, Opened, Order, open};
use super::queue::BttQueue;
use super::read_table::ReadTable;
use super::trouble::{Trouble, Troubles};

/// Blocks that one discard or write-zeroes takes, at most: a poll must stay short.
const MAX_UNMAP_BLOCKS: u64 = 1 << 16;

/// What a sector is safe from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A power cut leaves each sector old or new, and what was flushed is there.
    PowerCut,
    /// The death of the process does; a power cut may leave the BTT inconsistent, since the kernel writes pages back in its
    /// own order. What was flushed is there unless something was written since.
    ProcessDeath,
    /// A power cut leaves nothing.
    Nothing,
}

impl Promise {
    pub(super) fn of(domain: FlushDomain, order: Order) -> Promise {
        if !domain.survives_power_loss() {
            return Promise::Nothing;
        }
        match (domain.durability, order) {
            (Durability::Fence | Durability::Clwb, _) | (Durability::Msync, Order::Strict) => Promise::PowerCut,
            (Durability::Msync, Order::Kernel) => Promise::ProcessDeath,
            (Durability::Volatile, _) => Promise::Nothing,
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::PowerCut => "sectors are atomic across power cuts",
            Promise::ProcessDeath => {
                "sectors are atomic if the process dies, not if power does: this is a page cache (order=strict: slow, and both)"
            }
            Promise::Nothing => "volatile memory: sectors are atomic as long as it is there, and power takes them all",
        })
    }
}

/// What the queues of a disk share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) memory: Memory,
    pub(super) region: Region,
    /// At least one, in the order of their external blocks.
    pub(super) arenas: Vec<Arena>,
    pub(super) lba_size: LbaSize,
    /// PMDK's, whose flog has flags.
    pub(super) in_pool: bool,
    pub(super) claims: Arc<Claims>,
    pub(super) reads: Arc<ReadTable>,
    pub(super) troubles: Troubles,
    /// The medium has bad ranges, so free blocks are looked up among them.
    pub(super) ailing: AtomicBool,
    /// [`Order::Strict`] only where that takes syncs.
    pub(super) order: Order,
    pub(super) promise: Promise,
}

impl Shared {
    /// Where an external block of the disk lies, which must have it.
    #[inline]
    pub(super) fn locate(&self, block: u64) -> (&Arena, u32) {
        let (arena, lba) = self.find(block);
        (&self.arenas[arena], lba)
    }

    /// The same, with the arena's place among all.
    #[inline]
    pub(super) fn find(&self, block: u64) -> (usize, u32) {
        let after = match self.arenas.len() {
            1 => 1,
            _ => self.arenas.partition_point(|arena| arena.first <= block).max(1),
        };
        (after - 1, u32::try_from(block - self.arenas[after - 1].first).unwrap_or(u32::MAX))
    }

    pub(super) fn freeze(&self, arena: &Arena, trouble: Trouble) {
        if arena.freeze() {
            self.troubles.tell(trouble);
        }
    }

    /// Whether a contained fault, or the system, has found any of an arena's internal block bad.
    #[inline]
    pub(super) fn bad(&self, arena: &Arena, block: u32) -> bool {
        self.ailing.load(Ordering::Relaxed) && self.is_bad(arena, block)
    }

    #[cold]
    fn is_bad(&self, arena: &Arena, block: u32) -> bool {
        let (start, len) = (arena.block_offset(block), u64::from(self.lba_size.bytes()));
        self.region.bad_ranges().iter().any(|(bad, size)| *bad < start + len && start < bad + size)
    }

    /// The medium did not give or take bytes somewhere.
    pub(super) fn ails(&self) {
        self.ailing.store(true, Ordering::Relaxed);
    }
}

/// A BTT on a region as a disk.
///
/// # Sector contract
/// Each sector is written atomically: a reader, whoever finds the medium after this process died, and, as far as
/// [`BttDisk::promise`] goes, after a power cut, sees all of the old or all of the new one. A request of many sectors is as
/// many writes.
///
/// # Ownership contract
/// One disk at a time uses a medium: the lock of the file it comes from sees to that among processes, and nobody opens
/// the same region twice. Memory is kept for each lane and queue, none for blocks.
#[derive(Clone, Debug)]
pub struct BttDisk {
    name: String,
    shared: Arc<Shared>,
    placement: Placement,
    identity: Identity,
    finished: u32,
    capacity: u64,
    limits: Limits,
}

impl BttDisk {
    /// What its queues share.
    #[cfg(all(test, not(loom)))]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Makes a BTT on all of `region`, and says how it was cut. What was there is lost.
    ///
    /// # Errors
    /// When none fits, or the medium fails. A cut on the way leaves what was there, or no BTT, or all of the new one.
    pub fn create(memory: &Memory, region: &Region, options: &CreateOptions) -> Result<Vec<NewArena>, BttError> {
        create(memory, region, options)
    }

    /// Opens the BTT on `region`. Unless that may not be written, interrupted writes are finished first.
    ///
    /// # Errors
    /// When there is none, or one that cannot be used. What can be used in part is opened, and [`BttDisk::troubles`] says
    /// which part is read-only and why.
    pub fn open(
        memory: &Memory,
        region: &Region,
        name: impl Into<String>,
        options: &OpenOptions,
    ) -> Result<BttDisk, BttError> {
        let Opened { shared, placement, identity, finished } = open(memory, region, options)?;
        let block = shared.lba_size.block();
        let blocks = shared.arenas.last().map_or(0, Arena::end);
        let writable = !shared.arenas.iter().all(Arena::frozen);
        let limits = Limits {
            block_size: block,
            physical_block: block,
            optimal_io: 4096,
            max_unmap: MAX_UNMAP_BLOCKS * u64::from(block),
            // Where nothing orders the steps, power may tear what memory tears.
            atomic_write_unit: if shared.promise == Promise::ProcessDeath { 8 } else { block },
            read_only: !writable,
            flush: true,
            fua: true,
            discard: writable,
            discard_granularity: block,
            write_zeroes: writable,
            ..Limits::default()
        };
        Ok(BttDisk {
            name: name.into(),
            capacity: blocks * u64::from(block),
            shared: Arc::new(shared),
            placement,
            identity,
            finished,
            limits,
        })
    }

    /// The memory that holds the BTT.
    pub fn region(&self) -> &Region {
        &self.shared.region
    }

    /// What a sector is safe from.
    pub fn promise(&self) -> Promise {
        self.shared.promise
    }

    /// Where it was found, and so its version.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// What it is called.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Bytes of a block and its metadata. Metadata is written as zeroes and not read.
    pub fn lba_size(&self) -> LbaSize {
        self.shared.lba_size
    }

    /// How many arenas it has.
    pub fn arenas(&self) -> usize {
        self.shared.arenas.len()
    }

    /// Interrupted writes that were finished when it was opened.
    pub fn finished(&self) -> u32 {
        self.finished
    }

    /// What was found wrong so far, when it was opened and since.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.shared.troubles.all()
    }

    /// What is found wrong from now on, as it is found, until the disk and its queues are gone. For one listener: the last
    /// who asked.
    pub fn troubles_to_come(&self) -> Receiver<Trouble> {
        self.shared.troubles.listen()
    }
}

impl BlockDevice for BttDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        match BttQueue::new(Arc::clone(&self.shared)) {
            Ok(queue) => Ok(Box::new(queue)),
            Err(error) => Err(Error::device(self.name.clone(), error)),
        }
    }
}
