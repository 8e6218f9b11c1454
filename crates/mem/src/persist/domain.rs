// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FlushDomain`]: what makes a store to a region durable, and how that is known.

use std::fmt;

use pageless_sys::cpu::WriteBack;
use pageless_sys::file::FileSystem;

use super::Durability;
use crate::Region;

/// What makes a store durable, and why.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct FlushDomain {
    /// What does.
    pub durability: Durability,
    /// How that is known.
    pub reason: Reason,
}

/// Why memory is as durable as it is.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is behind it: anonymous memory, a memfd, huge pages, secret memory.
    Anonymous,
    /// It belongs to a device (a BAR, a dma-buf), which loses it with power.
    Device,
    /// Addresses that somebody else mapped, or physical memory that nobody vouches for.
    Foreign,
    /// Whoever registered it said so.
    Assumed,
    /// A file of a file system that lives in memory.
    MemoryFs(FileSystem),
    /// A file that is mapped through the page cache.
    PageCache(FileSystem),
    /// A block device, mapped through its page cache.
    BlockDevice,
    /// A DAX file whose device does not take `MAP_SYNC`: virtio-pmem, which only the host can flush.
    DaxWithoutSync(FileSystem),
    /// Persistent memory, mapped without a page cache.
    Persistent {
        /// How it is mapped.
        mapped: Mapped,
        /// What the platform flushes when the power goes.
        domain: PersistenceDomain,
        /// What this processor writes a line back with.
        write_back: WriteBack,
    },
}

/// How persistent memory is mapped.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Mapped {
    /// A DAX file with `MAP_SYNC`: its metadata is durable before the first store.
    MapSync,
    /// A device-DAX character device: there is no metadata.
    DevDax,
}

/// What the platform still brings to the medium when the power goes: `persistence_domain` of the nvdimm region behind the
/// mapping (Documentation/ABI/testing/sysfs-bus-nd). Of several regions it is the least that holds for all.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PersistenceDomain {
    /// Nothing that can be asked for from here: virtio-pmem is flushed by its host, which only a file system or the block device asks.
    HostFlushed,
    /// No nvdimm region is behind the mapping, or none that could be found.
    NoRegion,
    /// The region does not say.
    Unknown,
    /// What has left the caches (ADR).
    MemoryController,
    /// The caches too, and yet somebody switched the device's `write_cache` on.
    CachesOverruled,
    /// The caches too (eADR).
    CpuCache,
}

impl PersistenceDomain {
    /// What a store needs.
    pub(crate) fn durability(self) -> Durability {
        match self {
            PersistenceDomain::CpuCache => Durability::Fence,
            PersistenceDomain::HostFlushed => Durability::Volatile,
            _ => Durability::Clwb,
        }
    }
}

impl FlushDomain {
    /// Whether what was made durable is there after the power was off. Where not, `persist` and FLUSH do what they can,
    /// and keep what was stored from a process that ends, no more.
    pub fn survives_power_loss(&self) -> bool {
        !matches!(
            (self.durability, self.reason),
            (Durability::Volatile, _) | (_, Reason::MemoryFs(_) | Reason::Anonymous | Reason::Device)
        )
    }
}

impl Region {
    /// What makes a store to this memory durable, and how that is known. Found out when it was mapped.
    pub fn flush_domain(&self) -> FlushDomain {
        self.inner().backing.flush_domain()
    }
}

impl fmt::Display for FlushDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match (self.durability, self.reason) {
            (Durability::Clwb, Reason::Persistent { write_back: WriteBack::ClflushOpt, .. }) => "CLFLUSHOPT and fence",
            (Durability::Clwb, Reason::Persistent { write_back: WriteBack::Clflush, .. }) => "CLFLUSH",
            (Durability::Msync, Reason::MemoryFs(_)) => "volatile, msync changes nothing",
            (durability, _) => return write!(f, "{}: {durability}", self.reason),
        };
        write!(f, "{}: {by}", self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Anonymous => f.write_str("anonymous memory"),
            Reason::Device => f.write_str("memory of a device"),
            Reason::Foreign => f.write_str("memory that somebody else answers for"),
            Reason::Assumed => f.write_str("assumed on request"),
            Reason::MemoryFs(fs) => write!(f, "file in memory ({fs})"),
            Reason::PageCache(fs) => write!(f, "page cache of {fs}"),
            Reason::BlockDevice => f.write_str("page cache of a block device"),
            Reason::DaxWithoutSync(fs) => write!(f, "DAX file of {fs} whose device takes no MAP_SYNC"),
            Reason::Persistent { mapped, domain, .. } => write!(f, "{mapped}, {domain}"),
        }
    }
}

impl fmt::Display for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mapped::MapSync => "MAP_SYNC mapping of a DAX file",
            Mapped::DevDax => "devdax",
        })
    }
}

impl fmt::Display for PersistenceDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PersistenceDomain::HostFlushed => "virtio-pmem, which a host flushes that cannot be asked to from here",
            PersistenceDomain::CpuCache => "nvdimm region persistence_domain=cpu_cache",
            PersistenceDomain::MemoryController => "nvdimm region persistence_domain=memory_controller",
            PersistenceDomain::CachesOverruled => "nvdimm region persistence_domain=cpu_cache but write_cache=1",
            PersistenceDomain::Unknown => "persistence_domain unknown, treated as volatile caches",
            PersistenceDomain::NoRegion => "no nvdimm region behind it, treated as volatile caches",
        })
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Volatile => "volatile",
            Durability::Fence => "fence",
            Durability::Clwb => "CLWB and fence",
            Durability::Msync => "msync",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_a_sentence() {
        let persistent = |mapped, domain: PersistenceDomain, write_back| FlushDomain {
            durability: domain.durability(),
            reason: Reason::Persistent { mapped, domain, write_back },
        };
        use PersistenceDomain::{CachesOverruled, CpuCache, HostFlushed, MemoryController, NoRegion, Unknown};
        for (domain, says, survives) in [
            (
                persistent(Mapped::MapSync, MemoryController, WriteBack::Clwb),
                "MAP_SYNC mapping of a DAX file, nvdimm region persistence_domain=memory_controller: CLWB and fence",
                true,
            ),
            (
                persistent(Mapped::DevDax, CpuCache, WriteBack::Clwb),
                "devdax, nvdimm region persistence_domain=cpu_cache: fence",
                true,
            ),
            (
                persistent(Mapped::DevDax, Unknown, WriteBack::ClflushOpt),
                "devdax, persistence_domain unknown, treated as volatile caches: CLFLUSHOPT and fence",
                true,
            ),
            (
                persistent(Mapped::DevDax, CachesOverruled, WriteBack::Clflush),
                "devdax, nvdimm region persistence_domain=cpu_cache but write_cache=1: CLFLUSH",
                true,
            ),
            (
                persistent(Mapped::MapSync, NoRegion, WriteBack::Clwb),
                "MAP_SYNC mapping of a DAX file, no nvdimm region behind it, treated as volatile caches: CLWB and fence",
                true,
            ),
            (
                persistent(Mapped::DevDax, HostFlushed, WriteBack::Clwb),
                "devdax, virtio-pmem, which a host flushes that cannot be asked to from here: volatile",
                false,
            ),
            (
                FlushDomain { durability: Durability::Volatile, reason: Reason::Anonymous },
                "anonymous memory: volatile",
                false,
            ),
        ] {
            assert_eq!((domain.to_string().as_str(), domain.survives_power_loss()), (says, survives));
        }
    }
}
