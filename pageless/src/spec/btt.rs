// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BttSpec`]: a block translation table, and the memory that it lies on.
//!
//! WHERE is a path, or the spec of any memory: `btt:/mnt/pm/a.img` is `btt:pmem:/mnt/pm/a.img`.

use std::fmt;

use pageless_drivers::btt::Order;
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, Placement};

use super::{Kind, MemorySpec, Spec};

/// A disk whose sectors no power failure tears.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BttSpec {
    /// What it lies on.
    pub medium: MemorySpec,
    /// Bytes of a block with its metadata: those of one that is made, or what one that is there must have.
    pub sector: Option<LbaSize>,
    /// Where its first arena is, likewise.
    pub layout: Option<Placement>,
    /// The order of its writes.
    pub order: Order,
    /// What is around it, which its info blocks must name; that of the namespace which the medium is unless said.
    pub parent: Option<Uuid>,
}

/// The kind of memory that WHERE begins with, if with any; and where that memory's own WHERE begins.
pub(super) fn inner(place: &str) -> Option<(Kind, usize)> {
    let colon = place.find(':')?;
    let kind = Kind::named(&place[..colon]).filter(|kind| kind.is_memory())?;
    Some((kind, colon + 1))
}

/// A layout by name.
pub(super) fn layout(text: &str) -> Option<Placement> {
    match text {
        "1.1" => Some(Placement::V1_1),
        "2.0" => Some(Placement::V2_0),
        _ => None,
    }
}

/// A block size by number.
pub(super) fn sector(text: &str) -> Option<LbaSize> {
    let bytes = super::parse_size(text).ok()?;
    LbaSize::new(u32::try_from(bytes).ok()?)
}

/// An order by name.
pub(super) fn order(text: &str) -> Option<Order> {
    (text == "strict").then_some(Order::Strict)
}

impl fmt::Display for BttSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let medium = Spec::Memory(self.medium.clone()).to_string();
        // A path needs no kind, unless it begins like one.
        let short = medium.strip_prefix("pmem:").filter(|path| inner(path).is_none());
        f.write_str(short.unwrap_or(&medium))?;
        if let Some(sector) = self.sector {
            write!(f, ",sector={}", sector.bytes())?;
        }
        if let Some(layout) = self.layout {
            write!(f, ",layout={}", layout.version())?;
        }
        match self.order {
            Order::Kernel => {}
            Order::Strict => f.write_str(",order=strict")?,
        }
        self.parent.map_or(Ok(()), |parent| write!(f, ",parent={parent}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::KINDS;
    use super::*;

    #[test]
    fn only_memory_can_be_inside() {
        assert_eq!(inner("ram:64M"), Some((Kind::Ram, 4)));
        for path in ["/mnt/a.img", "file:a", "null:1M", "btt:a", "C:x", ":", ""] {
            assert_eq!(inner(path), None, "{path}");
        }
        assert!(KINDS.iter().filter(|about| about.kind.is_memory()).all(|about| inner(about.example).is_some()));
    }
}
