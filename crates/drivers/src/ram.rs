// SPDX-License-Identifier: MIT OR Apache-2.0
//! Volatile memory as a disk: `ram:`, `memfd:`, `hugetlb:`, `secret:`, `udmabuf:`.

use crate::memory_disk::MemoryDisk;

/// A region that a power failure empties, as a disk. Flush and FUA succeed and promise no more than that: every
/// store is visible to everyone.
pub type RamDisk = MemoryDisk;
