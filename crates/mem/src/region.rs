// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region: a contiguous run of frames that came into being together. The only metadata there is (I1).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pageless_sys::Errno;
use pageless_sys::file::FallocMode;

use crate::backing::{Backing, Store};
use crate::bad::{self, BadList};
use crate::caps::CapsCell;
use crate::control::Released;
use crate::extents::Extents;
use crate::holds::Holds;
use crate::memory::Publisher;
use crate::persist::{Durability, FlushErrors};
use crate::pfn::{FRAME_SIZE, FrameRange, PhysRange};
use crate::range_lock::RangeLock;
use crate::revoke::Wait;
use crate::{Access, Error, Fault};

/// What the memory is. Its owner's business is what it is used for.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum MemKind {
    /// Anonymous memory, memfd, hugetlb: pages, no name.
    Anon,
    /// A mapped file whose pages are the page cache.
    File,
    /// Persistent memory mapped without a page cache: fsdax with `MAP_SYNC`, devdax.
    #[cfg(feature = "pmem-io")]
    Dax,
    /// Secret memory: has pages that the kernel refuses to pin.
    #[cfg(feature = "pmem-io")]
    Secret,
    /// A dma-buf.
    #[cfg(feature = "pmem-io")]
    DmaBuf,
    /// A PCI BAR: memory of a function that may go away.
    #[cfg(feature = "pmem-io")]
    Bar,
    /// Somebody else's, of which nothing more is known: addresses that something else in this process mapped, physical
    /// memory by its address (`/dev/mem`).
    #[cfg(feature = "pmem-io")]
    Foreign,
}

/// Whether the kernel pins these pages for a short time (`O_DIRECT`). Found by trying, when an I/O first needs it.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Pinned {
    /// Nobody tried.
    Unknown,
    /// It does.
    Ok,
    /// It refused.
    Refused(Errno),
}

/// What the table and every user share. Lives until the last table, kmap or in-flight I/O that knows it is gone.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) frames: FrameRange,
    pub(crate) backing: Backing,
    pub(crate) flush_errors: FlushErrors,
    /// What was handed to the kernel or a device and not yet reaped, and how much of the region there still is.
    pub(crate) holds: Holds,
    /// Held by who cuts the region short.
    pub(crate) cutting: RangeLock,
    /// Tells when the memory was given back.
    pub(crate) released: Released,
    /// Moves whenever something is deallocated: cached extents are then void.
    pub(crate) punches: AtomicU64,
    /// `punches` when the file was last synced because of them.
    punches_synced: AtomicU64,
    pub(crate) caps: CapsCell,
    pub(crate) bad: BadList,
}

impl Inner {
    pub(crate) fn new(frames: FrameRange, backing: Backing) -> Inner {
        Inner {
            caps: CapsCell::new(&backing),
            frames,
            holds: Holds::new(backing.len()),
            cutting: RangeLock::new(),
            released: Released::default(),
            backing,
            flush_errors: FlushErrors::default(),
            punches: AtomicU64::new(0),
            punches_synced: AtomicU64::new(0),
            bad: BadList::default(),
        }
    }

    /// Bytes that there still are.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.holds.end()
    }

    pub(crate) fn addr(&self) -> usize {
        self.backing.addr()
    }

    pub(crate) fn allows(&self, access: Access) -> bool {
        access == Access::Read || self.backing.writable()
    }

    pub(crate) fn short_pin(&self) -> Pinned {
        self.caps.load().short_pin
    }

    pub(crate) fn set_short_pin(&self, verdict: Pinned) {
        self.caps.set_short_pin(verdict);
    }

    /// Whether there are holes that a power cut may undo: they are the file system's doing, and where stores need no
    /// kernel to be durable, nobody has told it since.
    pub(crate) fn owes_sync(&self) -> bool {
        let punches = self.punches.load(Ordering::Acquire);
        punches != self.punches_synced.load(Ordering::Acquire)
            && matches!(self.backing.durability(), Durability::Clwb | Durability::Fence)
    }

    /// Makes holes durable, if any have to be. One caller at a time.
    pub(crate) fn sync_punches(&self) -> Result<(), Fault> {
        // What is punched from here on is owed still.
        let punches = self.punches.load(Ordering::Acquire);
        if self.owes_sync() {
            self.backing.sync_all().map_err(Fault::from_medium)?;
            self.punches_synced.store(punches, Ordering::Release);
        }
        Ok(())
    }

    /// Bytes of ours that this region costs, wherever they are.
    fn metadata_bytes(&self) -> usize {
        let elsewhere = self.backing.metadata_bytes() + self.bad.heap_bytes();
        size_of::<Inner>() + crate::table::ENTRY_BYTES + elsewhere
    }
}

/// Unpublishes the region when the last owner is gone.
#[derive(Debug)]
struct Owner {
    inner: Arc<Inner>,
    publisher: Arc<Publisher>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.publisher.remove(&self.inner);
    }
}

/// An owner's handle on a region. When the last clone is dropped the region is unpublished: later users get
/// [`Fault::Gone`], and the mapping goes when the last window and in-flight I/O on it has ended.
#[derive(Clone)]
pub struct Region(Arc<Owner>);

impl Region {
    pub(crate) fn new(inner: Arc<Inner>, publisher: Arc<Publisher>) -> Region {
        Region(Arc::new(Owner { inner, publisher }))
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// Bytes: as many as were registered, unless some were cut off since; 0 once it is revoked.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty, and `revoked` says when it is gone")]
    #[inline]
    pub fn len(&self) -> u64 {
        self.inner().len()
    }

    /// Its frames: those of the bytes that [`Region::extend`] may open too.
    #[inline]
    pub fn frames(&self) -> FrameRange {
        self.inner().frames
    }

    /// What it is.
    pub fn kind(&self) -> MemKind {
        self.inner().backing.kind()
    }

    /// The UUID of the nvdimm namespace that this is all of, through its block device (`uuid` in sysfs), zeroes where that
    /// has none. `None` for whatever merely lies in one: a partition, a file, fsdax and devdax, which begin behind their own metadata.
    pub fn namespace_uuid(&self) -> Option<[u8; 16]> {
        self.inner().backing.namespace_uuid()
    }

    /// Whether stores are allowed.
    pub fn writable(&self) -> bool {
        self.inner().backing.writable()
    }

    /// Whether every frame has a page that the kernel may pin, by what it is. With the feature `pmem-io` off nothing
    /// else can be represented and this is a constant.
    #[inline]
    pub fn page_backed(&self) -> bool {
        #[cfg(not(feature = "pmem-io"))]
        return true;
        #[cfg(feature = "pmem-io")]
        matches!(self.kind(), MemKind::Anon | MemKind::File)
    }

    /// `len` bytes at `offset`, or the prefix of them that one [`PhysRange`] can name. `None` outside the region.
    #[inline]
    pub fn range(&self, offset: u64, len: u64) -> Option<PhysRange> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len() && len > 0)?;
        let len = u32::try_from(end - offset).unwrap_or(PhysRange::MAX_LEN).min(PhysRange::MAX_LEN);
        Some(PhysRange::at(self.frames().start().number() * FRAME_SIZE + offset, len))
    }

    /// Gives back what lies in whole frames of the range, and makes all of it read as zeroes. Never waits for I/O in
    /// flight, which may be the caller's own: memory that is in flight is kept and stored to.
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), Fault> {
        let end = self.end_of(offset, len)?;
        let Some((first, last)) = self.whole_frames(offset, end) else { return self.zero(offset, len) };
        let Ok(closed) = self.inner().holds.close(first, last, Instant::now()) else { return self.zero(offset, len) };
        if self.deallocate(first, last - first).is_err() {
            drop(closed);
            return self.zero(offset, len);
        }
        drop(closed);
        self.zero(offset, first - offset)?;
        self.zero(last, end - last)
    }

    /// As [`Region::punch`], but gives the frames back in any case: waits for I/O in flight on them at most so long.
    ///
    /// # Errors
    /// [`Error::Busy`] when it goes on, or what the kernel says; then nothing was changed.
    pub fn punch_within(&self, offset: u64, len: u64, patience: Duration) -> Result<(), Error> {
        let wait = Wait::new(self, patience);
        let end = self.end_of(offset, len).map_err(|_| self.outside(offset, len))?;
        let zero = |offset, len| self.zero(offset, len).map_err(|fault| Error::Fault { fault, offset, len });
        let Some((first, last)) = self.whole_frames(offset, end) else { return zero(offset, len) };
        let closed =
            self.inner().holds.close(first, last, wait.deadline).map_err(|held| match self.end_of(offset, len) {
                Ok(_) => wait.in_flight(&held),
                Err(_) => self.outside(offset, len),
            })?;
        self.deallocate(first, last - first)?;
        drop(closed);
        zero(offset, first - offset)?;
        zero(last, end - last)
    }

    /// The whole frames in `[offset, end)`, where there are some that can be given back.
    fn whole_frames(&self, offset: u64, end: u64) -> Option<(u64, u64)> {
        let (first, last) = (offset.next_multiple_of(FRAME_SIZE).min(end), end / FRAME_SIZE * FRAME_SIZE);
        (first < last && self.punchable()).then_some((first, last))
    }

    /// Whether [`Region::punch`] gives memory back rather than only storing zeroes.
    pub fn punchable(&self) -> bool {
        self.writable() && self.inner().backing.punchable()
    }

    /// The caller has closed the range.
    fn deallocate(&self, offset: u64, len: u64) -> Result<(), pageless_sys::Error> {
        let inner = self.inner();
        let too_large = |value| pageless_sys::Error::TooLarge { call: "madvise", value };
        let result = self.changing_extents(|| match inner.backing.store() {
            Store::Anonymous(mapping) => {
                let start = usize::try_from(offset).map_err(|_| too_large(offset))?;
                mapping.discard(start, usize::try_from(len).map_err(|_| too_large(len))?)
            }
            Store::File { file, .. } => file.fallocate(FallocMode::PunchHole, inner.backing.in_file(offset), len),
            #[cfg(feature = "pmem-io")]
            Store::Foreign(_) => Err(pageless_sys::Error::Call { call: "fallocate", errno: Errno::EOPNOTSUPP }),
        });
        if result.is_ok() {
            bad::cleared(inner, offset, len);
        }
        #[cfg(feature = "testing")]
        crate::testing::record::punched(inner.addr(), offset, len, result.is_ok());
        result
    }

    /// Does what makes holes, and voids the extents that anybody remembers.
    pub(crate) fn changing_extents<T>(&self, change: impl FnOnce() -> T) -> T {
        let punches = &self.inner().punches;
        punches.fetch_add(1, Ordering::Release);
        let result = change();
        // Moved after the fact too: an extent looked up in between may have seen the old data.
        punches.fetch_add(1, Ordering::Release);
        result
    }

    /// Stores zeroes, so that the range stays (or becomes) allocated.
    pub fn zero(&self, offset: u64, len: u64) -> Result<(), Fault> {
        self.end_of(offset, len)?;
        if !self.writable() {
            return Err(Fault::ReadOnly);
        }
        let mut reader = self.0.publisher.reader();
        let mut done = 0;
        // In pieces: an online section must stay short.
        while let Some(piece) = self.range(offset + done, (len - done).min(1 << 20)) {
            let online = reader.online();
            let kmap = online.kmap(piece, Access::Write)?;
            kmap.writer().streaming().zero(piece.len() as usize).map_err(|error| error.fault)?;
            done += u64::from(piece.len());
        }
        crate::persist::fence();
        reader.confirm()?;
        if done < len { Err(Fault::Gone) } else { Ok(()) }
    }

    pub(crate) fn outside(&self, offset: u64, len: u64) -> Error {
        let end = offset.saturating_add(len);
        Error::OutOfRange { start: offset, end, len: self.len(), region: self.describe() }
    }

    fn end_of(&self, offset: u64, len: u64) -> Result<u64, Fault> {
        offset.checked_add(len).filter(|end| *end <= self.len()).ok_or(Fault::Gone)
    }

    /// Where data is, as one queue remembers it.
    pub fn extents(&self) -> Extents {
        Extents::new(Arc::clone(self.inner()))
    }

    /// What is known of short pins.
    pub fn short_pin(&self) -> Pinned {
        self.inner().short_pin()
    }

    /// Remembers what an I/O found out about short pins.
    pub fn set_short_pin(&self, verdict: Pinned) {
        self.inner().set_short_pin(verdict);
    }

    /// Ranges that the kernel or a device has of this region now.
    pub fn in_flight(&self) -> u64 {
        self.inner().holds.count()
    }

    /// Bytes of ours that this region costs: constant for any size.
    pub fn metadata_bytes(&self) -> usize {
        self.inner().metadata_bytes() + size_of::<Owner>()
    }

    /// Kind and size, for messages.
    pub fn describe(&self) -> String {
        self.inner().backing.describe()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({}, {:?}+{})", self.describe(), self.frames().start(), self.frames().count())
    }
}
