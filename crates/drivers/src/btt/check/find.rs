// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the BTT is: told by what only its owner can have written.
//!
//! Users of a BTT write into its data area whatever they like, an info block too, and the data area of version 2.0 begins
//! where an arena of version 1.1 would. So byte 0 is looked at first, which is no user's in any placement; an arena at byte
//! 4096 counts only as long as nothing says that it is somebody's data.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::CheckOptions;
use super::medium::{Medium, MediumError};
use crate::btt::info::{InfoBlock, InfoError, SIGNATURE, Uuid};
use crate::btt::layout::{ARENA_MAX, ARENA_MIN, PAGE, Placement};

/// The first bytes of a PMDK block pool.
const POOL_SIGNATURE: [u8; 8] = *b"PMEMBLK\0";
/// Where a pool states its block size.
pub(super) const POOL_BLOCK_SIZE: u64 = PAGE;

/// The beginning of a PMDK pool header.
#[derive(Copy, Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PoolHeader {
    signature: [u8; 8],
    major: U32,
    features: [U32; 3],
    poolset_uuid: Uuid,
}

/// What a pool says of itself.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The parent of its BTT.
    pub poolset_uuid: Uuid,
    /// Bytes of its blocks.
    pub block_size: u32,
}

/// A BTT that was found.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where its first arena is.
    pub placement: Placement,
    /// Who holds it, where that is known.
    pub parent_uuid: Option<Uuid>,
    /// The pool around it.
    pub pool: Option<Pool>,
    /// Bytes of its blocks, as the first info block that is whole states it.
    pub lba_size: Option<u32>,
}

/// Looks for a BTT.
pub fn find(medium: &mut Medium, options: CheckOptions) -> Result<Found, FindError> {
    let len = medium.len();
    let smallest = options.placement.map_or(0, Placement::offset) + ARENA_MIN;
    if len < smallest {
        return Err(FindError::TooSmall { len, min: smallest });
    }
    let pool = pool(medium)?;
    let evidence = match (options.placement, pool) {
        (Some(Placement::Pmemblk), None) => return Err(FindError::NotAPool),
        (Some(placement), _) => Evidence::gather(medium, placement)?,
        (None, Some(_)) => Evidence::gather(medium, Placement::Pmemblk)?,
        (None, None) => look(medium)?,
    };
    let placement = evidence.placement;
    let pool = pool.filter(|_| placement == Placement::Pmemblk);
    let parent_uuid = pool.map(|pool| pool.poolset_uuid).or(options.parent_uuid).or(medium.namespace());
    match evidence.block() {
        Some(block) => {
            let lba_size = Some(block.external_lbasize.get());
            Ok(Found { placement, parent_uuid, pool, lba_size })
        }
        None if evidence.torn => Ok(Found { placement, parent_uuid, pool, lba_size: None }),
        None if pool.is_some() => Err(FindError::EmptyPool),
        None => Err(FindError::None { at: placement.offset(), error: evidence.first_error }),
    }
}

fn pool(medium: &mut Medium) -> Result<Option<Pool>, MediumError> {
    let Some(header) = readable(medium.get::<PoolHeader>(0))? else { return Ok(None) };
    if header.signature != POOL_SIGNATURE || medium.len() < Placement::Pmemblk.offset() + ARENA_MIN {
        return Ok(None);
    }
    let block_size = readable(medium.get::<U32>(POOL_BLOCK_SIZE))?.map_or(0, U32::get);
    Ok(Some(Pool { poolset_uuid: header.poolset_uuid, block_size }))
}

/// Version 2.0 or 1.1, where nobody said which.
fn look(medium: &mut Medium) -> Result<Evidence, FindError> {
    let whole = Evidence::gather(medium, Placement::V2_0)?;
    if whole.first.is_some() {
        return Ok(whole);
    }
    let shifted = Evidence::gather(medium, Placement::V1_1)?;
    match (whole.any(), shifted.any()) {
        // What is at byte 4096 may be a block that a user of version 2.0 wrote.
        (true, true) => Err(FindError::Ambiguous),
        (true, false) => Ok(whole),
        (false, _) => Ok(shifted),
    }
}

/// What speaks for a first arena at some place.
struct Evidence {
    placement: Placement,
    /// The info block there, if it is whole.
    first: Option<InfoBlock>,
    first_error: Option<InfoError>,
    /// There is one that is not.
    torn: bool,
    /// Its copy where the arena would end, if that is whole.
    second: Option<InfoBlock>,
}

impl Evidence {
    fn gather(medium: &mut Medium, placement: Placement) -> Result<Evidence, MediumError> {
        let start = placement.offset();
        let room = placement.room(medium.len());
        let version = |block: &InfoBlock| (block.major.get(), block.minor.get());
        let wanted = (placement.version().major, placement.version().minor);
        let mut evidence = Evidence { placement, first: None, first_error: None, torn: false, second: None };
        if room < ARENA_MIN {
            return Ok(evidence);
        }
        if let Some(block) = readable(medium.get::<InfoBlock>(start))? {
            evidence.first_error = block.check_whole().err();
            match evidence.first_error {
                None => evidence.first = Some(block),
                Some(_) => evidence.torn = block.signature == SIGNATURE,
            }
        }
        let info2off = usual_second(room);
        if let Some(block) = readable(medium.get::<InfoBlock>(start + info2off))? {
            let fits = version(&block) == wanted && block.info2off.get() == info2off;
            evidence.second = (fits && block.check_whole().is_ok()).then_some(block);
        }
        Ok(evidence)
    }

    fn any(&self) -> bool {
        self.first.is_some() || self.torn || self.second.is_some()
    }

    fn block(&self) -> Option<&InfoBlock> {
        self.first.as_ref().or(self.second.as_ref())
    }
}

/// Where everybody puts the second info block of an arena that has so much room.
pub(in crate::btt) fn usual_second(room: u64) -> u64 {
    room.min(ARENA_MAX) / PAGE * PAGE - PAGE
}

/// What a medium that is broken there does not say.
fn readable<T>(read: Result<T, MediumError>) -> Result<Option<T>, MediumError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.fault == pageless_mem::Fault::Gone => Err(error),
        Err(_) => Ok(None),
    }
}

/// Why no BTT was found.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// Less than one arena.
    #[error("{len} bytes are too small for a BTT: it takes {min}")]
    TooSmall {
        /// What there is.
        len: u64,
        /// What it takes.
        min: u64,
    },
    /// Nothing that looks like one.
    #[error("there is no BTT: byte {at} has no info block, nor has the end of the arena{}", because(*error))]
    None {
        /// Where it would begin.
        at: u64,
        /// What is wrong with what is there.
        error: Option<InfoError>,
    },
    /// A pool that nobody has written to.
    #[error("the pool has no BTT yet: PMDK makes it at the first write (pmempool create --write-layout: at once)")]
    EmptyPool,
    /// A pool was asked for.
    #[error("byte 0 has no PMEMBLK pool header")]
    NotAPool,
    /// It could be version 1.1, or version 2.0 with a block that looks so.
    #[error("info blocks of version 1.1 (byte 4096) and of version 2.0 (byte 0): only one of them can be meant")]
    Ambiguous,
    /// The medium went away.
    #[error(transparent)]
    Medium(#[from] MediumError),
}

fn because(error: Option<InfoError>) -> String {
    match error {
        None | Some(InfoError::Signature { .. }) => String::new(),
        Some(error) => format!(" ({error})"),
    }
}
