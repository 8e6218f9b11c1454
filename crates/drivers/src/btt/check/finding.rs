// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Finding`]: one thing that is wrong with a BTT, where, and what it means.

use std::fmt;

use pageless_mem::Fault;

use crate::btt::flog::{SeqError, UnknownPadding};
use crate::btt::info::{InfoError, Uuid};

/// One thing that is wrong.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which arena, from 0 on.
    pub arena: u32,
    /// At which byte of the medium.
    pub offset: u64,
    /// What.
    pub problem: Problem,
}

/// What a finding is worth.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Worth {
    /// Not wrong: a write that was cut off, which opening the BTT finishes too.
    Unfinished,
    /// Wrong, and there is only one way to make it right.
    Repairable,
    /// Wrong, and nobody can tell what it was.
    Damage,
}

/// One of an arena's two info blocks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum CopyOf {
    /// At the beginning of the arena.
    First,
    /// At its end.
    Second,
}

/// A part of an arena.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An info block.
    Info,
    /// The map.
    Map,
    /// The flog.
    Flog,
}

/// A name of a whole BTT that each arena repeats.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `uuid`.
    Uuid(Uuid, Uuid),
    /// `parent_uuid`.
    Parent(Uuid, Uuid),
    /// `external_lbasize`.
    LbaSize(u32, u32),
}

/// Why an unfinished write cannot be finished.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another lane's last write is of the same external block, and would change what this one found.
    OtherLane(u32),
    /// One of its two blocks belongs to something else too.
    Shared(u32),
    /// The arena is damaged in a way that makes its geometry a guess.
    Arena,
}

/// Everything that can be wrong.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// One of the info blocks is no good; the other is.
    Info(CopyOf, InfoError),
    /// Neither is, or the first is whole and somebody else's: what lies behind is lost too.
    ArenaLost(InfoError, InfoError),
    /// Both are good, and say different things.
    CopiesDiffer {
        /// Where the second one is, on the medium.
        second: u64,
        /// The first of their bytes that differs, the error flag aside.
        at: u32,
    },
    /// They differ in the error flag alone: setting it was cut off.
    FlagsDiffer,
    /// The error flag is set: an earlier user made the arena read-only.
    ErrorFlag,
    /// An arena that belongs to another BTT than the first one.
    Name(Name),
    /// An arena of this BTT follows that none points to.
    Unreached,
    /// The pool states another block size than its BTT.
    PoolBlockSize {
        /// The pool's.
        pool: u32,
        /// The BTT's.
        arena: u32,
    },
    /// Flog slots are in use that no writer uses together.
    FlogPadding(UnknownPadding),
    /// Which of a lane's entries is current cannot be told.
    FlogSequence(u32, SeqError),
    /// A lane wrote an external block that there is not.
    FlogLba {
        /// The lane.
        lane: u32,
        /// The block.
        lba: u32,
        /// How many there are.
        bound: u32,
    },
    /// A lane used an internal block that there is not.
    FlogBlock {
        /// The lane.
        lane: u32,
        /// `old_map` or `new_map`.
        field: &'static str,
        /// The block.
        block: u32,
        /// How many there are.
        bound: u32,
    },
    /// The flog has a write that the map does not: it is finished by giving `lba` the block `new`.
    Unfinished {
        /// The lane.
        lane: u32,
        /// The external block.
        lba: u32,
        /// Its block in the map.
        old: u32,
        /// The block that was written.
        new: u32,
    },
    /// The same, and finishing it would be a guess.
    UnfinishedUnclear {
        /// The lane.
        lane: u32,
        /// The external block.
        lba: u32,
        /// Why.
        why: Why,
    },
    /// A map entry names an internal block that there is not.
    MapBlock {
        /// The external block.
        lba: u32,
        /// The internal one.
        block: u32,
        /// How many there are.
        bound: u32,
    },
    /// A map entry is initial and names a block all the same.
    MapState {
        /// The external block.
        lba: u32,
        /// The entry.
        raw: u32,
    },
    /// An internal block that another, lower external block has too.
    BlockTwice {
        /// The external block.
        lba: u32,
        /// The internal one.
        block: u32,
    },
    /// An internal block that two lanes have free.
    BlockFreeTwice {
        /// The lane.
        lane: u32,
        /// The other lane.
        other: u32,
        /// The block.
        block: u32,
    },
    /// An internal block that is free and in the map.
    BlockFreeAndMapped {
        /// The lane that has it free.
        lane: u32,
        /// The block.
        block: u32,
    },
    /// Internal blocks that are neither free nor in the map.
    BlocksLost {
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// The medium is broken there.
    Unreadable(Part, Fault),
}

impl Problem {
    /// What can be done about it.
    pub const fn worth(&self) -> Worth {
        match self {
            Problem::Unfinished { .. } => Worth::Unfinished,
            Problem::Info(..) | Problem::FlagsDiffer => Worth::Repairable,
            _ => Worth::Damage,
        }
    }

    /// Its name in reports for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Problem::Info(CopyOf::First, _) => "info",
            Problem::Info(CopyOf::Second, _) => "info2",
            Problem::ArenaLost(..) => "arena-lost",
            Problem::CopiesDiffer { .. } => "info-copies-differ",
            Problem::FlagsDiffer => "info-flags-differ",
            Problem::ErrorFlag => "error-flag",
            Problem::Name(Name::Uuid(..)) => "uuid",
            Problem::Name(Name::Parent(..)) => "parent-uuid",
            Problem::Name(Name::LbaSize(..)) => "external-lbasize",
            Problem::Unreached => "arena-unreached",
            Problem::PoolBlockSize { .. } => "pool-block-size",
            Problem::FlogPadding(_) => "flog-padding",
            Problem::FlogSequence(..) => "flog-sequence",
            Problem::FlogLba { .. } => "flog-lba",
            Problem::FlogBlock { .. } => "flog-block",
            Problem::Unfinished { .. } => "unfinished-write",
            Problem::UnfinishedUnclear { .. } => "unfinished-write-unclear",
            Problem::MapBlock { .. } => "map-block",
            Problem::MapState { .. } => "map-state",
            Problem::BlockTwice { .. } => "block-mapped-twice",
            Problem::BlockFreeTwice { .. } => "block-free-twice",
            Problem::BlockFreeAndMapped { .. } => "block-free-and-mapped",
            Problem::BlocksLost { .. } => "blocks-lost",
            Problem::Unreadable(..) => "unreadable",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Info(CopyOf::First, error) => write!(f, "the info block is no good ({error}); its copy is"),
            Problem::Info(CopyOf::Second, error) => {
                write!(f, "the second info block is no good ({error}); the first one is")
            }
            Problem::ArenaLost(first @ InfoError::Parent { .. }, _) => {
                write!(f, "its info block is another's ({first}): this arena and those behind it are lost")
            }
            Problem::ArenaLost(first, second) => {
                write!(f, "neither info block is good ({first}; {second}): this arena and those behind it are lost")
            }
            Problem::CopiesDiffer { second, at } => {
                write!(
                    f,
                    "both info blocks are good and differ from their byte {at} on; the second one is at byte {second}"
                )
            }
            Problem::FlagsDiffer => {
                f.write_str("only one of the info blocks has the error flag: setting it was cut off")
            }
            Problem::ErrorFlag => f.write_str("the error flag is set: an earlier user left this arena read-only"),
            Problem::Name(Name::Uuid(found, first)) => write!(f, "uuid {found}: the first arena has {first}"),
            Problem::Name(Name::Parent(found, first)) => {
                write!(f, "parent_uuid {found}: the first arena has {first}")
            }
            Problem::Name(Name::LbaSize(found, first)) => {
                write!(f, "external_lbasize {found}: the first arena has {first}")
            }
            Problem::Unreached => f.write_str("an arena of this BTT lies here, and the one before it ends the chain"),
            Problem::PoolBlockSize { pool, arena } => {
                write!(f, "the pool has blocks of {pool} bytes, its BTT of {arena}")
            }
            Problem::FlogPadding(error) => write!(f, "{error}"),
            Problem::FlogSequence(lane, error) => write!(f, "lane {lane}: {error}"),
            Problem::FlogLba { lane, lba, bound } => write!(f, "lane {lane}: lba {lba} of {bound}"),
            Problem::FlogBlock { lane, field, block, bound } => {
                write!(f, "lane {lane}: {field} is block {block} of {bound}")
            }
            Problem::Unfinished { lane, lba, old, new } => write!(
                f,
                "lane {lane}: a write of lba {lba} was cut off after its flog; the map still has block {old} and gets {new}"
            ),
            Problem::UnfinishedUnclear { lane, lba, why } => {
                write!(f, "lane {lane}: a write of lba {lba} was cut off after its flog, and ")?;
                match why {
                    Why::OtherLane(other) => write!(f, "lane {other} wrote the same lba"),
                    Why::Shared(block) => write!(f, "block {block} belongs to something else too"),
                    Why::Arena => f.write_str("the arena cannot be trusted"),
                }
            }
            Problem::MapBlock { lba, block, bound } => write!(f, "map[{lba}] is block {block} of {bound}"),
            Problem::MapState { lba, raw } => write!(f, "map[{lba}] is {raw:#010x}: initial, and yet not zero"),
            Problem::BlockTwice { lba, block } => {
                write!(f, "map[{lba}] is block {block}, which another lba below it has too")
            }
            Problem::BlockFreeTwice { lane, other, block } => {
                write!(f, "lane {lane} has block {block} free, and so has lane {other}")
            }
            Problem::BlockFreeAndMapped { lane, block } => {
                write!(f, "lane {lane} has block {block} free, and an lba has it too")
            }
            Problem::BlocksLost { first, count: 1 } => write!(f, "block {first} is neither free nor mapped"),
            Problem::BlocksLost { first, count } => {
                write!(f, "blocks {first} to {} are neither free nor mapped", first + (count - 1))
            }
            Problem::Unreadable(part, fault) => {
                let part = match part {
                    Part::Info => "info block",
                    Part::Map => "map",
                    Part::Flog => "flog",
                };
                write!(f, "the {part} cannot be read here ({fault:?})")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arena {}, byte {}: {}", self.arena, self.offset, self.problem)
    }
}
