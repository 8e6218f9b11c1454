// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kinds a spec can name, one row each: the parser, the suggestions and `help specs` read the same table.

use std::fmt;

/// What stands before the first colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Anonymous memory.
    Ram,
    /// A memfd, mapped shared.
    Memfd,
    /// A memfd of huge pages.
    Hugetlb,
    /// Memory of `memfd_secret(2)`.
    Secret,
    /// A dma-buf made of a memfd.
    Udmabuf,
    /// A dma-buf from a heap.
    Heap,
    /// A file, mapped.
    Pmem,
    /// A device-DAX node, mapped.
    Dax,
    /// A PCI BAR, mapped.
    Bar,
    /// Physical memory, by its address.
    DevMem,
    /// A block translation table on memory.
    Btt,
    /// A file or block device behind `O_DIRECT`.
    File,
    /// A disk that stores nothing.
    Null,
}

/// The size of what is made from a path or an address.
pub(super) const SIZE_KEY: &str = "size";
/// Which heap a dma-buf comes from.
pub(super) const NAME_KEY: &str = "name";
/// Bytes of a BTT's blocks.
pub(super) const SECTOR_KEY: &str = "sector";
/// Where a BTT's first arena is.
pub(super) const LAYOUT_KEY: &str = "layout";
/// How the steps of a BTT's writes are ordered.
pub(super) const ORDER_KEY: &str = "order";
/// What a BTT names as its parent.
pub(super) const PARENT_KEY: &str = "parent";

/// One row of the table.
#[derive(Debug)]
pub struct About {
    /// The kind this row describes.
    pub kind: Kind,
    /// The word before the colon.
    pub name: &'static str,
    /// The whole form.
    pub form: &'static str,
    /// One that parses.
    pub example: &'static str,
    /// What it is, in one line.
    pub what: &'static str,
    /// The option keys it takes.
    pub keys: &'static [&'static str],
}

/// Every kind: memory first, then what is only a disk.
pub const KINDS: [About; 13] = [
    About {
        kind: Kind::Ram,
        name: "ram",
        form: "ram:SIZE",
        example: "ram:16M",
        what: "anonymous memory, on huge pages where the kernel gives them",
        keys: &[],
    },
    About {
        kind: Kind::Memfd,
        name: "memfd",
        form: "memfd:SIZE",
        example: "memfd:64M",
        what: "a memfd, mapped shared; stays sparse",
        keys: &[],
    },
    About {
        kind: Kind::Hugetlb,
        name: "hugetlb",
        form: "hugetlb:SIZE",
        example: "hugetlb:64M",
        what: "reserved huge pages of 2M (vm.nr_hugepages must cover it)",
        keys: &[],
    },
    About {
        kind: Kind::Secret,
        name: "secret",
        form: "secret:SIZE",
        example: "secret:4M",
        what: "memfd_secret(2): out of the kernel's own map, so unpinnable; counts against `ulimit -l`",
        keys: &[],
    },
    About {
        kind: Kind::Udmabuf,
        name: "udmabuf",
        form: "udmabuf:SIZE",
        example: "udmabuf:16M",
        what: "a dma-buf made of a memfd through /dev/udmabuf",
        keys: &[],
    },
    About {
        kind: Kind::Heap,
        name: "heap",
        form: "heap:SIZE[,name=HEAP]",
        example: "heap:16M",
        what: "a dma-buf from /dev/dma_heap/HEAP (the system heap, unless name= says another)",
        keys: &[NAME_KEY],
    },
    About {
        kind: Kind::Pmem,
        name: "pmem",
        form: "pmem:PATH[,size=SIZE]",
        example: "pmem:/mnt/pm/disk.img,size=8G",
        what: "a mapped file, on fsdax, tmpfs or any other; with size= made, sparse, if it is not there",
        keys: &[SIZE_KEY],
    },
    About {
        kind: Kind::Dax,
        name: "dax",
        form: "dax:/dev/daxX.Y",
        example: "dax:/dev/dax0.0",
        what: "a device-DAX node (persistent memory, CXL), mapped whole",
        keys: &[],
    },
    About {
        kind: Kind::Bar,
        name: "bar",
        form: "bar:DDDD:BB:DD.F/N",
        example: "bar:0000:01:00.0/2",
        what: "BAR N of a PCI function, mapped through sysfs, or through VFIO if it is bound to vfio-pci",
        keys: &[],
    },
    About {
        kind: Kind::DevMem,
        name: "devmem",
        form: "devmem:ADDRESS,size=SIZE",
        example: "devmem:0x3c000000,size=16M",
        what: "physical memory kept from the kernel at boot (memmap=16M$0x3c000000, mem=), by /dev/mem",
        keys: &[SIZE_KEY],
    },
    About {
        kind: Kind::Btt,
        name: "btt",
        form: "btt:PATH|MEMORY[,KEYS]",
        example: "btt:/mnt/pm/disk.btt,size=8G,sector=4096",
        what: "a BTT: atomic sectors; size= makes it; sector=, layout=1.1|2.0, order=strict, parent=UUID",
        keys: &[SIZE_KEY, NAME_KEY, SECTOR_KEY, LAYOUT_KEY, ORDER_KEY, PARENT_KEY],
    },
    About {
        kind: Kind::File,
        name: "file",
        form: "file:PATH[,size=SIZE]",
        example: "file:/data/disk.img",
        what: "a file or block device, by io_uring and O_DIRECT; with size= made, sparse, if not there",
        keys: &[SIZE_KEY],
    },
    About {
        kind: Kind::Null,
        name: "null",
        form: "null:SIZE",
        example: "null:1T",
        what: "a disk that reads as zeroes and forgets what is written",
        keys: &[],
    },
];

impl Kind {
    /// The row that describes this kind.
    pub fn about(self) -> &'static About {
        // Each kind's row stands at its own place; a test holds the order.
        &KINDS[self as usize]
    }

    /// True for memory, false for what is only a disk.
    pub fn is_memory(self) -> bool {
        !matches!(self, Kind::Btt | Kind::File | Kind::Null)
    }

    /// The kind of that name.
    pub(super) fn named(name: &str) -> Option<Kind> {
        KINDS.iter().find(|about| about.name == name).map(|about| about.kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.about().name)
    }
}

/// The candidate nearest to a mistyped word, if any is near enough to be meant.
pub(super) fn nearest(word: &str, candidates: impl IntoIterator<Item = &'static str>) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    // A word much longer than any candidate is not a slip of the finger, and not worth the table.
    if word.len() > 32 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(slips, candidate)| *slips * 2 <= candidate.len().max(3))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words, a swap of neighbours counting as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut least = (table[i - 1][j] + 1).min(table[i][j - 1] + 1).min(table[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(table[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    table[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_kind() {
        for about in &KINDS {
            assert_eq!(about.kind.about().name, about.name);
            assert_eq!(Kind::named(about.name), Some(about.kind));
            assert!(about.example.starts_with(&format!("{}:", about.name)));
            assert!(about.form.starts_with(&format!("{}:", about.name)));
        }
    }

    #[test]
    fn slips_find_their_kind_and_noise_does_not() {
        let names = || KINDS.iter().map(|about| about.name);
        for (word, meant) in [
            ("rma", Some("ram")),
            ("RAM", Some("ram")),
            ("memdf", Some("memfd")),
            ("hugetbl", Some("hugetlb")),
            ("secrets", Some("secret")),
            ("pmen", Some("pmem")),
            ("files", Some("file")),
            ("nul", Some("null")),
            ("dev-mem", Some("devmem")),
            ("heaps", Some("heap")),
            ("x", None),
            ("", None),
            ("qcow2", None),
            ("https", None),
        ] {
            assert_eq!(nearest(word, names()), meant, "{word}");
        }
        assert_eq!(nearest(&"ram".repeat(100), names()), None);
    }
}
