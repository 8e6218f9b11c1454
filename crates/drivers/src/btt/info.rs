// SPDX-License-Identifier: MIT OR Apache-2.0
//! The info block: 4 KiB at the beginning and at the end of an arena that say what it is.
//!
//! Anybody can compute its checksum, so it proves that a block is whole and not that it is true. [`InfoBlock::check`]
//! therefore checks every number in it against its bounds, once; what passed is an [`Info`], whose geometry is safe to
//! calculate with.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{ARENA_MAX, ARENA_MIN, Geometry, LbaSize, MAX_NFREE, PAGE, Version};
use super::{flog, map};

/// The first bytes of an info block.
pub const SIGNATURE: [u8; 16] = *b"BTT_ARENA_INFO\0\0";
/// Offsets of an arena's parts are multiples of it.
pub const ALIGNMENT: u64 = 512;

/// The flag of an arena that must not be written any more.
const FLAG_ERROR: u32 = 1;

/// A UUID, as its 16 bytes lie on the medium and as Linux prints them (PMDK swaps those of the first three parts).
#[derive(Copy, Clone, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// All zeroes: no UUID.
    pub const NIL: Uuid = Uuid([0; 16]);

    /// Whether it is [`Uuid::NIL`].
    pub fn is_nil(self) -> bool {
        self == Uuid::NIL
    }

    /// What something of this UUID does, in an error.
    pub(super) fn said(self) -> String {
        if self.is_nil() { "has no UUID".to_owned() } else { format!("is {self}") }
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Uuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Uuid, NotAUuid> {
        let groups: Vec<&str> = text.split('-').collect();
        let digits = groups.concat();
        let right =
            groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) || (groups.len() == 1 && text.len() == 32);
        if !right || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotAUuid { text: text.to_owned() });
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| NotAUuid { text: text.to_owned() })?;
        Ok(Uuid(number.to_be_bytes()))
    }
}

/// Text that is no UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no UUID: it takes 32 hexadecimal digits, as 8-4-4-4-12 or in one")]
pub struct NotAUuid {
    /// What was given.
    pub text: String,
}

/// An info block as it lies on the medium.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoBlock {
    /// [`SIGNATURE`].
    pub signature: [u8; 16],
    /// Of the BTT; the same in all arenas.
    pub uuid: Uuid,
    /// Of what holds the BTT: the namespace, the pool set.
    pub parent_uuid: Uuid,
    /// Bit 0: an error, the arena is read-only.
    pub flags: U32,
    /// Of the format.
    pub major: U16,
    /// Of the format.
    pub minor: U16,
    /// Bytes of a block that a user sees, with its metadata.
    pub external_lbasize: U32,
    /// How many.
    pub external_nlba: U32,
    /// Bytes from one block of the data area to the next.
    pub internal_lbasize: U32,
    /// How many.
    pub internal_nlba: U32,
    /// Lanes, and free blocks.
    pub nfree: U32,
    /// Bytes of this block.
    pub infosize: U32,
    /// The next arena, or 0.
    pub nextoff: U64,
    /// The data area.
    pub dataoff: U64,
    /// The map.
    pub mapoff: U64,
    /// The flog.
    pub flogoff: U64,
    /// The other copy of this block.
    pub info2off: U64,
    /// Zeroes.
    pub unused: [u8; 3968],
    /// [`fletcher64`] of the block with zeroes here.
    pub checksum: U64,
}

/// What is the same in all info blocks of a BTT.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the BTT.
    pub uuid: Uuid,
    /// Of what holds it.
    pub parent_uuid: Uuid,
    /// Of the format.
    pub version: Version,
}

/// What an info block must agree with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// What its place on the medium says of the format.
    pub version: Version,
    /// Who holds the medium, where that is known. A block without a parent belongs to anybody, as in Linux.
    pub parent_uuid: Option<Uuid>,
    /// Bytes of the medium from the arena's first one on.
    pub room: u64,
}

/// Whether an arena may be written.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ArenaState {
    /// It may.
    Good,
    /// Its error flag is set: an earlier user left it read-only.
    Error,
}

/// An info block that passed every check.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Whose arena it is.
    pub identity: Identity,
    /// Whether it may be written.
    pub state: ArenaState,
    /// How it is divided, within the room that was given.
    pub geometry: Geometry,
}

impl InfoBlock {
    /// The block of a new arena, sealed.
    pub fn new(identity: &Identity, geometry: &Geometry) -> InfoBlock {
        let mut block = InfoBlock::new_zeroed();
        block.signature = SIGNATURE;
        block.uuid = identity.uuid;
        block.parent_uuid = identity.parent_uuid;
        block.major = identity.version.major.into();
        block.minor = identity.version.minor.into();
        block.external_lbasize = geometry.lba_size().bytes().into();
        block.external_nlba = geometry.external_nlba().into();
        block.internal_lbasize = geometry.internal_lbasize().into();
        block.internal_nlba = geometry.internal_nlba().into();
        block.nfree = geometry.nfree().into();
        block.infosize = 4096.into();
        block.nextoff = geometry.nextoff().unwrap_or(0).into();
        block.dataoff = geometry.dataoff().into();
        block.mapoff = geometry.mapoff().into();
        block.flogoff = geometry.flogoff().into();
        block.info2off = geometry.info2off().into();
        block.sealed()
    }

    /// With the error flag as given, sealed again; nothing else changes.
    #[must_use]
    pub fn with_state(mut self, state: ArenaState) -> InfoBlock {
        let others = self.flags.get() & !FLAG_ERROR;
        self.flags = (others | if state == ArenaState::Error { FLAG_ERROR } else { 0 }).into();
        self.sealed()
    }

    /// With the checksum that its content has.
    #[must_use]
    pub fn sealed(mut self) -> InfoBlock {
        self.checksum = self.expected_checksum().into();
        self
    }

    /// What the checksum must be.
    pub fn expected_checksum(&self) -> u64 {
        let content = &self.as_bytes()[..size_of::<InfoBlock>() - size_of::<U64>()];
        // The checksum's own two words count as zeroes, which the upper sum notices.
        let mut sum = Fletcher64::default();
        sum.add(content);
        sum.add(&[0; 8]);
        sum.finish()
    }

    /// Checks that the block is whole: signature and checksum. What [`InfoBlock::check`] looks at first.
    pub fn check_whole(&self) -> Result<(), InfoError> {
        if self.signature != SIGNATURE {
            return Err(InfoError::Signature { found: self.signature });
        }
        let expected = self.expected_checksum();
        if self.checksum.get() != expected {
            return Err(InfoError::Checksum { found: self.checksum.get(), expected });
        }
        Ok(())
    }

    /// Checks everything that the block states, in the order of its fields.
    pub fn check(&self, expected: &Expected) -> Result<Info, InfoError> {
        self.check_whole()?;
        let version = Version { major: self.major.get(), minor: self.minor.get() };
        if version != expected.version {
            return Err(InfoError::Version { found: version, expected: expected.version });
        }
        if let Some(parent) = expected.parent_uuid
            && !self.parent_uuid.is_nil()
            && self.parent_uuid != parent
        {
            return Err(InfoError::Parent { found: self.parent_uuid, expected: parent });
        }
        Ok(Info {
            identity: Identity { uuid: self.uuid, parent_uuid: self.parent_uuid, version },
            state: if self.flags.get() & FLAG_ERROR == 0 { ArenaState::Good } else { ArenaState::Error },
            geometry: self.geometry(expected.room)?,
        })
    }

    fn geometry(&self, room: u64) -> Result<Geometry, InfoError> {
        let lba_size = LbaSize::new(self.external_lbasize.get())
            .ok_or(InfoError::LbaSize { found: self.external_lbasize.get() })?;
        let (external_nlba, nfree) = (self.external_nlba.get(), self.nfree.get());
        let internal = (self.internal_lbasize.get(), self.internal_nlba.get());
        within(Field::InternalLbasize, internal.0, lba_size.bytes(), 2 * lba_size.internal())?;
        within(Field::Nfree, nfree, 1, MAX_NFREE)?;
        within(Field::ExternalNlba, external_nlba, nfree, map::MAX_BLOCKS - nfree)?;
        within(Field::InternalNlba, internal.1, external_nlba + nfree, external_nlba + nfree)?;
        within(Field::Infosize, self.infosize.get(), 4096, 4096)?;

        // Part by part: where each one may begin follows from what lies before it. No sum can overflow: 2^30 blocks of
        // at most 2^14 bytes, and offsets below 2^39.
        let (data, map) = (self.dataoff.get(), self.mapoff.get());
        let (flog, info2) = (self.flogoff.get(), self.info2off.get());
        let last = room.min(ARENA_MAX).saturating_sub(PAGE);
        part(Field::Dataoff, data, PAGE, last)?;
        part(Field::Mapoff, map, data + u64::from(internal.0) * u64::from(internal.1), last)?;
        part(Field::Flogoff, flog, map + u64::from(external_nlba) * map::ENTRY_SIZE, last)?;
        part(Field::Info2off, info2, (flog + u64::from(nfree) * flog::GROUP_SIZE).max(ARENA_MIN - PAGE), last)?;
        let next = self.nextoff.get();
        if next != 0 {
            part(Field::Nextoff, next, info2 + PAGE, room.saturating_sub(ARENA_MIN).min(ARENA_MAX))?;
        }
        Ok(Geometry {
            lba_size,
            internal_lbasize: internal.0,
            external_nlba,
            nfree,
            nextoff: next,
            dataoff: data,
            mapoff: map,
            flogoff: flog,
            info2off: info2,
        })
    }
}

fn within(field: Field, found: u32, min: u32, max: u32) -> Result<(), InfoError> {
    let (found, min, max) = (u64::from(found), u64::from(min), u64::from(max));
    if (min..=max).contains(&found) { Ok(()) } else { Err(InfoError::Bounds { field, found, min, max }) }
}

fn part(field: Field, found: u64, min: u64, max: u64) -> Result<(), InfoError> {
    if !(min..=max).contains(&found) {
        return Err(InfoError::Bounds { field, found, min, max });
    }
    if !found.is_multiple_of(ALIGNMENT) {
        return Err(InfoError::Alignment { field, found });
    }
    Ok(())
}

/// A number of an info block, by its name in the specification.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `external_nlba`.
    ExternalNlba,
    /// `internal_lbasize`.
    InternalLbasize,
    /// `internal_nlba`.
    InternalNlba,
    /// `nfree`.
    Nfree,
    /// `infosize`.
    Infosize,
    /// `nextoff`.
    Nextoff,
    /// `dataoff`.
    Dataoff,
    /// `mapoff`.
    Mapoff,
    /// `flogoff`.
    Flogoff,
    /// `info2off`.
    Info2off,
}

impl Field {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Field::ExternalNlba => "external_nlba",
            Field::InternalLbasize => "internal_lbasize",
            Field::InternalNlba => "internal_nlba",
            Field::Nfree => "nfree",
            Field::Infosize => "infosize",
            Field::Nextoff => "nextoff",
            Field::Dataoff => "dataoff",
            Field::Mapoff => "mapoff",
            Field::Flogoff => "flogoff",
            Field::Info2off => "info2off",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a block is no info block of this arena.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// Something else is there, or nothing.
    #[error("signature {:?}: not BTT_ARENA_INFO", String::from_utf8_lossy(found))]
    Signature {
        /// What is there.
        found: [u8; 16],
    },
    /// The block is torn or was changed.
    #[error("checksum {found:#018x}: the content has {expected:#018x}")]
    Checksum {
        /// What it says.
        found: u64,
        /// What it would have to say.
        expected: u64,
    },
    /// Of another version than its place says, or of one that we do not know.
    #[error("version {found}: at this place it must be {expected}")]
    Version {
        /// What it says.
        found: Version,
        /// What belongs there.
        expected: Version,
    },
    /// It belongs to another namespace or pool.
    #[error("parent_uuid {found}: this {}", expected.said())]
    Parent {
        /// What it says.
        found: Uuid,
        /// Where it is.
        expected: Uuid,
    },
    /// Not one of the seven sizes.
    #[error("external_lbasize {found}: must be 512, 520, 528, 4096, 4104, 4160 or 4224")]
    LbaSize {
        /// What it says.
        found: u32,
    },
    /// A number that the others, or the medium, do not allow.
    #[error("{field} {found}: must be {}", bounds(*min, *max))]
    Bounds {
        /// Which.
        field: Field,
        /// What it says.
        found: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
    },
    /// An offset in the middle of something.
    #[error("{field} {found}: must be a multiple of {ALIGNMENT}")]
    Alignment {
        /// Which.
        field: Field,
        /// What it says.
        found: u64,
    },
}

fn bounds(min: u64, max: u64) -> String {
    match () {
        () if min == max => min.to_string(),
        () if min > max => format!("at least {min}, and there is room only to {max}"),
        () => format!("{min} to {max}"),
    }
}

/// The checksum of nvdimm labels and info blocks, over little-endian words.
pub fn fletcher64(bytes: &[u8]) -> u64 {
    let mut sum = Fletcher64::default();
    sum.add(bytes);
    sum.finish()
}

#[derive(Default)]
struct Fletcher64 {
    low: u32,
    high: u32,
}

impl Fletcher64 {
    fn add(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<4>();
        for word in words {
            self.low = self.low.wrapping_add(u32::from_le_bytes(*word));
            self.high = self.high.wrapping_add(self.low);
        }
    }

    fn finish(&self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

#[cfg(test)]
mod tests;
