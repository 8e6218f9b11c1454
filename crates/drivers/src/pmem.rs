// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that keeps its content as a disk: `pmem:` (a mapped file) and `dax:`.

use crate::memory_disk::MemoryDisk;

/// A region with a medium behind it, as a disk. Flush and FUA do what [`Region::durability`] says the medium needs:
/// a fence, cache-line write-back, or `msync` and `fdatasync` for a page cache. A power failure leaves 8 aligned bytes
/// either old or new, and tears anything larger.
///
/// [`Region::durability`]: pageless_mem::Region::durability
pub type PmemDisk = MemoryDisk;
