// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where arenas begin on a medium, and how a new one is cut: the same numbers as Linux and PMDK come to.

use super::{flog, map};

/// All parts of an arena begin at a multiple of it, and the info block fills one.
pub const PAGE: u64 = 4096;
/// No arena is larger.
pub const ARENA_MAX: u64 = 512 << 30;
/// No arena is smaller.
pub const ARENA_MIN: u64 = 16 << 20;
/// Lanes of an arena unless said otherwise.
pub const DEFAULT_NFREE: u32 = 256;
/// Lanes of an arena, at most. No writer makes more than [`DEFAULT_NFREE`]; what each one costs in memory must have a bound.
pub const MAX_NFREE: u32 = 1 << 16;

const INTERNAL_ALIGNMENT: u32 = 256;

/// Major and minor number of the format.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Major.
    pub major: u16,
    /// Minor.
    pub minor: u16,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What kind of medium it is, and so where its first arena begins.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Version 1.1: a raw namespace, device or file, of which the first 4 KiB belong to nobody.
    V1_1,
    /// Version 2.0 (UEFI): from the first byte.
    V2_0,
    /// Version 1.1 inside a PMDK `pmemblk` pool, behind its two headers.
    Pmemblk,
}

impl Placement {
    /// All of them.
    pub const ALL: [Placement; 3] = [Placement::Pmemblk, Placement::V1_1, Placement::V2_0];

    /// Byte of the medium where the first arena begins.
    pub const fn offset(self) -> u64 {
        match self {
            Placement::V1_1 => PAGE,
            Placement::V2_0 => 0,
            Placement::Pmemblk => 2 * PAGE,
        }
    }

    /// What its info blocks must say.
    pub const fn version(self) -> Version {
        match self {
            Placement::V1_1 | Placement::Pmemblk => Version { major: 1, minor: 1 },
            Placement::V2_0 => Version { major: 2, minor: 0 },
        }
    }

    /// Bytes for arenas on a medium of `len` bytes; 0 where it has none.
    pub const fn room(self, len: u64) -> u64 {
        (len / PAGE * PAGE).saturating_sub(self.offset())
    }
}

/// An external LBA size that Linux knows: a block of 512 or 4096 bytes, and metadata of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct LbaSize(u32);

impl LbaSize {
    /// All of them.
    pub const ALL: [LbaSize; 7] =
        [LbaSize(512), LbaSize(520), LbaSize(528), LbaSize(4096), LbaSize(4104), LbaSize(4160), LbaSize(4224)];

    /// `None` for any other number.
    pub fn new(bytes: u32) -> Option<LbaSize> {
        LbaSize::ALL.into_iter().find(|size| size.0 == bytes)
    }

    /// Bytes of block and metadata.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Bytes of the block: 512 or 4096.
    pub const fn block(self) -> u32 {
        if self.0 < 4096 { 512 } else { 4096 }
    }

    /// Bytes of metadata behind the block.
    pub const fn metadata(self) -> u32 {
        self.0 - self.block()
    }

    /// Bytes from one internal block of a new arena to the next.
    pub const fn internal(self) -> u32 {
        self.0.next_multiple_of(INTERNAL_ALIGNMENT)
    }
}

/// How an arena is divided. Offsets are from its first byte.
///
/// # Invariants
/// Whoever makes one ([`Geometry::new`] and the checks of [`info`](super::info)) has seen to it that `info block ≤ data ≤ map ≤
/// flog ≤ second info block`, that each part fits before the next one begins, that the arena ends within its medium, and that
/// `internal_nlba = external_nlba + nfree ≤ 2^30`. So no sum or product of the offsets below leaves the arena.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    pub(super) lba_size: LbaSize,
    pub(super) internal_lbasize: u32,
    pub(super) external_nlba: u32,
    pub(super) nfree: u32,
    pub(super) nextoff: u64,
    pub(super) dataoff: u64,
    pub(super) mapoff: u64,
    pub(super) flogoff: u64,
    pub(super) info2off: u64,
}

/// Whether another arena comes behind this one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// One does, where this one ends.
    Another,
    /// This is the last.
    Nothing,
}

impl Geometry {
    /// A new arena of `size` bytes, as Linux's `alloc_arena` and PMDK's `btt_info_set` divide it.
    pub fn new(lba_size: LbaSize, nfree: u32, size: u64, follows: Follows) -> Result<Geometry, LayoutError> {
        if nfree == 0 || nfree > MAX_NFREE {
            return Err(LayoutError::Lanes { nfree });
        }
        let size = size / PAGE * PAGE;
        if size < ARENA_MIN {
            return Err(LayoutError::TooSmall { room: size, min: ARENA_MIN });
        }
        if size > ARENA_MAX {
            return Err(LayoutError::TooLarge { size });
        }
        let internal_lbasize = lba_size.internal();
        let flog_size = (u64::from(nfree) * flog::GROUP_SIZE).next_multiple_of(PAGE);
        // One page less, so that rounding the map up cannot take it from the data.
        let blocks = size.saturating_sub(3 * PAGE + flog_size) / (u64::from(internal_lbasize) + map::ENTRY_SIZE);
        let internal_nlba = u32::try_from(blocks).unwrap_or(u32::MAX).min(map::MAX_BLOCKS);
        let external_nlba = internal_nlba.saturating_sub(nfree);
        if external_nlba < nfree {
            return Err(LayoutError::TooManyLanes { nfree, blocks: internal_nlba });
        }
        let info2off = size - PAGE;
        let flogoff = info2off - flog_size;
        let mapoff = flogoff - (u64::from(external_nlba) * map::ENTRY_SIZE).next_multiple_of(PAGE);
        let nextoff = if follows == Follows::Another { size } else { 0 };
        Ok(Geometry {
            lba_size,
            internal_lbasize,
            external_nlba,
            nfree,
            nextoff,
            dataoff: PAGE,
            mapoff,
            flogoff,
            info2off,
        })
    }

    /// Size of a block and its metadata.
    pub const fn lba_size(&self) -> LbaSize {
        self.lba_size
    }

    /// Bytes from one internal block to the next.
    pub const fn internal_lbasize(&self) -> u32 {
        self.internal_lbasize
    }

    /// Blocks that a user sees.
    pub const fn external_nlba(&self) -> u32 {
        self.external_nlba
    }

    /// Blocks in the data area: the external ones and one for each lane.
    pub const fn internal_nlba(&self) -> u32 {
        self.external_nlba + self.nfree
    }

    /// Lanes, and free blocks.
    pub const fn nfree(&self) -> u32 {
        self.nfree
    }

    /// Where the next arena begins, if there is one.
    pub const fn nextoff(&self) -> Option<u64> {
        if self.nextoff == 0 { None } else { Some(self.nextoff) }
    }

    /// Where data begins.
    pub const fn dataoff(&self) -> u64 {
        self.dataoff
    }

    /// Where the map begins.
    pub const fn mapoff(&self) -> u64 {
        self.mapoff
    }

    /// Where the flog begins.
    pub const fn flogoff(&self) -> u64 {
        self.flogoff
    }

    /// Where the second info block is.
    pub const fn info2off(&self) -> u64 {
        self.info2off
    }

    /// Bytes of the arena: to the next one, or to the end of the second info block.
    pub const fn size(&self) -> u64 {
        if self.nextoff == 0 { self.info2off + PAGE } else { self.nextoff }
    }

    /// Byte of internal block `block`, which must be below [`Geometry::internal_nlba`].
    pub const fn block_offset(&self, block: u32) -> u64 {
        self.dataoff + block as u64 * self.internal_lbasize as u64
    }

    /// Byte of the map entry of `lba`, which must be below [`Geometry::external_nlba`].
    pub const fn map_offset(&self, lba: u32) -> u64 {
        self.mapoff + lba as u64 * map::ENTRY_SIZE
    }

    /// Byte of the flog group of `lane`, which must be below [`Geometry::nfree`].
    pub const fn flog_offset(&self, lane: u32) -> u64 {
        self.flogoff + lane as u64 * flog::GROUP_SIZE
    }

    /// Bytes of the map's entries.
    pub const fn map_len(&self) -> u64 {
        self.external_nlba as u64 * map::ENTRY_SIZE
    }

    /// Bytes of the flog's groups.
    pub const fn flog_len(&self) -> u64 {
        self.nfree as u64 * flog::GROUP_SIZE
    }
}

/// A new arena, and where it begins on the medium.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct NewArena {
    /// Its first byte on the medium.
    pub start: u64,
    /// How it is divided.
    pub geometry: Geometry,
}

/// Cuts a medium of `len` bytes into new arenas: as many of the largest size as fit, and one of the rest if it is not too small.
pub fn cut(len: u64, placement: Placement, lba_size: LbaSize, nfree: u32) -> Result<Vec<NewArena>, LayoutError> {
    let mut room = placement.room(len);
    if room < ARENA_MIN {
        return Err(LayoutError::TooSmall { room: len, min: placement.offset() + ARENA_MIN });
    }
    let (mut arenas, mut start) = (Vec::new(), placement.offset());
    while room >= ARENA_MIN {
        let size = room.min(ARENA_MAX);
        room -= size;
        let follows = if room >= ARENA_MIN { Follows::Another } else { Follows::Nothing };
        arenas.push(NewArena { start, geometry: Geometry::new(lba_size, nfree, size, follows)? });
        start += size;
    }
    Ok(arenas)
}

/// Why there can be no BTT on so many bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Less than one arena.
    #[error("{room} bytes are too small for a BTT: it takes {min}")]
    TooSmall {
        /// What there is.
        room: u64,
        /// What it takes.
        min: u64,
    },
    /// More than one arena.
    #[error("an arena of {size} bytes is larger than {ARENA_MAX}")]
    TooLarge {
        /// What was asked.
        size: u64,
    },
    /// No lanes, or more than anybody makes.
    #[error("{nfree} lanes: an arena has 1 to {MAX_NFREE}")]
    Lanes {
        /// What was asked.
        nfree: u32,
    },
    /// Fewer blocks to be seen than blocks kept free.
    #[error("{nfree} lanes are too many for {blocks} blocks")]
    TooManyLanes {
        /// What was asked.
        nfree: u32,
        /// Internal blocks that there would be.
        blocks: u32,
    },
}

#[cfg(test)]
mod tests;
