// SPDX-License-Identifier: MIT OR Apache-2.0
//! Specs: how memory and devices are named on a command line.
//!
//! ```text
//! spec   = KIND ":" WHERE *( "," key "=" value )
//! KIND   = "ram" / "memfd" / "hugetlb" / "secret" / "udmabuf" / "heap" / "pmem" / "dax" / "bar" / "devmem" / "btt" / "file" / "null"
//! WHERE  = SIZE / PATH / DDDD:BB:DD.F/N / ADDRESS / memory spec     ; by kind, see [`KINDS`]
//! SIZE   = 1*DIGIT [ "K" / "M" / "G" / "T" ]   ; binary
//! ADDRESS = "0x" 1*HEXDIG / SIZE
//! ```
//!
//! The first comma ends WHERE; a comma that belongs to a path is written twice (`file:/data/a,,b.img`).
//! A [`Spec`] shows itself in this grammar, and what it shows parses to the same spec.
//!
//! ```
//! use pageless::spec::{Spec, MemorySpec};
//!
//! let spec: Spec = "pmem:/mnt/pm/disk.img,size=8G".parse()?;
//! assert!(matches!(spec, Spec::Memory(MemorySpec::Pmem { size: Some(8589934592), .. })));
//!
//! let error = "rma:16M".parse::<Spec>().unwrap_err();
//! assert!(error.to_string().contains("did you mean `ram:`?"));
//! # Ok::<(), pageless::spec::SpecError>(())
//! ```

mod btt;
mod error;
mod kind;
mod listen;
mod parse;
mod pci;
mod size;

use std::fmt;
use std::path::PathBuf;

pub use self::btt::BttSpec;
pub use self::error::{Cause, SpecError};
pub use self::kind::{About, KINDS, Kind};
pub use self::listen::Listen;
pub use self::pci::PciBar;
pub use self::size::{Exact, Human, SizeError, parse_size};

/// What one argument names: memory, or something that is only a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Spec {
    /// Memory; any memory is also a disk.
    Memory(MemorySpec),
    /// A disk with no memory of its own.
    Device(DeviceSpec),
}

/// Memory by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MemorySpec {
    /// `ram:SIZE`
    Ram(u64),
    /// `memfd:SIZE`
    Memfd(u64),
    /// `hugetlb:SIZE`
    Hugetlb(u64),
    /// `secret:SIZE`
    Secret(u64),
    /// `udmabuf:SIZE`
    Udmabuf(u64),
    /// `heap:SIZE[,name=NAME]`
    Heap {
        /// Bytes.
        size: u64,
        /// The heap; `None` is the system heap.
        name: Option<String>,
    },
    /// `pmem:PATH[,size=SIZE]`
    Pmem {
        /// The file to map.
        path: PathBuf,
        /// Its size, for one that is to be made.
        size: Option<u64>,
    },
    /// `dax:/dev/daxX.Y`
    Dax(PathBuf),
    /// `bar:DDDD:BB:DD.F/N`
    Bar(PciBar),
    /// `devmem:ADDRESS,size=SIZE`
    DevMem {
        /// The first physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
}

/// A disk by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// `btt:WHERE[,sector=BYTES][,layout=1.1|2.0][,order=strict][,parent=UUID]`
    Btt(BttSpec),
    /// `file:PATH[,size=SIZE]`
    File {
        /// A regular file or block device.
        path: PathBuf,
        /// Its size, for one that is to be made.
        size: Option<u64>,
    },
    /// `null:SIZE`
    Null(u64),
}

impl Spec {
    /// The word before the colon.
    pub fn kind(&self) -> Kind {
        match self {
            Spec::Memory(memory) => match memory {
                MemorySpec::Ram(_) => Kind::Ram,
                MemorySpec::Memfd(_) => Kind::Memfd,
                MemorySpec::Hugetlb(_) => Kind::Hugetlb,
                MemorySpec::Secret(_) => Kind::Secret,
                MemorySpec::Udmabuf(_) => Kind::Udmabuf,
                MemorySpec::Heap { .. } => Kind::Heap,
                MemorySpec::Pmem { .. } => Kind::Pmem,
                MemorySpec::Dax(_) => Kind::Dax,
                MemorySpec::Bar(_) => Kind::Bar,
                MemorySpec::DevMem { .. } => Kind::DevMem,
            },
            Spec::Device(DeviceSpec::Btt(_)) => Kind::Btt,
            Spec::Device(DeviceSpec::File { .. }) => Kind::File,
            Spec::Device(DeviceSpec::Null(_)) => Kind::Null,
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Spec::Memory(
                MemorySpec::Ram(size)
                | MemorySpec::Memfd(size)
                | MemorySpec::Hugetlb(size)
                | MemorySpec::Secret(size)
                | MemorySpec::Udmabuf(size),
            )
            | Spec::Device(DeviceSpec::Null(size)) => write!(f, "{kind}:{}", Exact(*size)),
            Spec::Device(DeviceSpec::Btt(btt)) => write!(f, "{kind}:{btt}"),
            Spec::Memory(MemorySpec::Bar(bar)) => write!(f, "{kind}:{bar}"),
            Spec::Memory(MemorySpec::DevMem { address, size }) => {
                write!(f, "{kind}:{address:#x},size={}", Exact(*size))
            }
            Spec::Memory(MemorySpec::Heap { size, name }) => {
                write!(f, "{kind}:{}", Exact(*size))?;
                match name {
                    Some(name) => write!(f, ",name={}", name.replace(',', ",,")),
                    None => Ok(()),
                }
            }
            Spec::Memory(MemorySpec::Dax(path)) => write!(f, "{kind}:{}", doubled(path)),
            Spec::Memory(MemorySpec::Pmem { path, size }) | Spec::Device(DeviceSpec::File { path, size }) => {
                write!(f, "{kind}:{}", doubled(path))?;
                match size {
                    Some(size) => write!(f, ",size={}", Exact(*size)),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A path as the grammar takes it. Paths come from specs, so they are UTF-8.
fn doubled(path: &std::path::Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests;
