// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making a BTT.
//!
//! # Creation contract
//! First what was there is no BTT any more, then everything but the info blocks is made and durable, then the second info
//! blocks, then the first ones, those of the first arena last. An info block that is torn has a wrong checksum. So a cut
//! leaves what was there, or no BTT, or all of the new one.

use pageless_mem::{Extent, Extents, Fault, Memory, Region};
use zerocopy::IntoBytes;

use super::BttError;
use super::check::CheckOptions;
use super::check::find::{self, FindError, usual_second};
use super::check::medium::{Medium, MediumError};
use super::flog::FlogGroup;
use super::info::{Identity, InfoBlock, SIGNATURE, Uuid};
use super::layout::{ARENA_MIN, DEFAULT_NFREE, Geometry, LbaSize, NewArena, PAGE, Placement, cut};

/// How a BTT is to be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of a block and its metadata.
    pub lba_size: LbaSize,
    /// Where its first arena is, and so its version.
    pub placement: Placement,
    /// Its name.
    pub uuid: Uuid,
    /// The name of what holds it: the namespace, the pool. [`Uuid::NIL`]: the namespace that the medium is, or else anybody.
    pub parent_uuid: Uuid,
    /// Lanes of each arena.
    pub nfree: u32,
}

impl CreateOptions {
    /// With 256 lanes, and a parent that is the namespace or anybody.
    pub fn new(lba_size: LbaSize, placement: Placement, uuid: Uuid) -> CreateOptions {
        CreateOptions { lba_size, placement, uuid, parent_uuid: Uuid::NIL, nfree: DEFAULT_NFREE }
    }
}

/// Makes a BTT on the whole region. Blocks keep the bytes that lie there; nobody sees them, since a block that was never
/// written reads as zeroes.
pub(super) fn create(memory: &Memory, region: &Region, options: &CreateOptions) -> Result<Vec<NewArena>, BttError> {
    if !region.writable() {
        return Err(BttError::ReadOnlyMedium);
    }
    let arenas = cut(region.len(), options.placement, options.lba_size, options.nfree)?;
    let mut maker = Maker { medium: Medium::new(memory, region.clone()), region, extents: region.extents() };
    maker.check_pool(options.placement)?;
    let parent_uuid = maker.parent(options)?;
    maker.forget()?;
    for arena in &arenas {
        maker.fill(arena, options.placement)?;
    }
    maker.settle()?;
    let identity = Identity { uuid: options.uuid, parent_uuid, version: options.placement.version() };
    let info = |arena: &NewArena| InfoBlock::new(&identity, &arena.geometry);
    for arena in arenas.iter().rev() {
        maker.medium.put(arena.start + arena.geometry.info2off(), info(arena).as_bytes())?;
    }
    for arena in arenas.iter().rev() {
        maker.medium.put(arena.start, info(arena).as_bytes())?;
    }
    maker.settle()?;
    Ok(arenas)
}

struct Maker<'r> {
    medium: Medium,
    region: &'r Region,
    extents: Extents,
}

impl Maker<'_> {
    /// A pool says by its first bytes that there is a BTT of its own and no other.
    fn check_pool(&mut self, placement: Placement) -> Result<(), BttError> {
        if self.medium.len() < Placement::Pmemblk.offset() + ARENA_MIN {
            return Ok(());
        }
        let options =
            CheckOptions { placement: Some(Placement::Pmemblk), parent_uuid: None, ..CheckOptions::default() };
        let pool = match find::find(&mut self.medium, options) {
            Err(FindError::NotAPool) => false,
            Err(FindError::Medium(error)) => return Err(error.into()),
            _ => true,
        };
        match (pool, placement == Placement::Pmemblk) {
            (true, false) => Err(BttError::InPool),
            (false, true) => Err(BttError::NoPool),
            _ => Ok(()),
        }
    }

    /// Nobody finds a BTT in a namespace by another name than the namespace's. Those of a pool have the pool's.
    fn parent(&self, options: &CreateOptions) -> Result<Uuid, BttError> {
        match self.medium.namespace().filter(|_| options.placement != Placement::Pmemblk) {
            Some(namespace) if options.parent_uuid.is_nil() => Ok(namespace),
            Some(namespace) if namespace != options.parent_uuid => {
                Err(BttError::OtherParent { asked: options.parent_uuid, namespace })
            }
            _ => Ok(options.parent_uuid),
        }
    }

    /// Whatever BTT was there, nobody finds it any more. Its first info block goes first: while the second one is whole, it
    /// is all there.
    fn forget(&mut self) -> Result<(), BttError> {
        for placement in Placement::ALL {
            let (start, room) = (placement.offset(), placement.room(self.medium.len()));
            if room < ARENA_MIN {
                continue;
            }
            let stated = self.medium.get::<InfoBlock>(start).map(|block| block.info2off.get()).unwrap_or(0);
            self.erase(start)?;
            self.erase(start + usual_second(room))?;
            if stated <= room - PAGE {
                self.erase(start + stated)?;
            }
        }
        Ok(())
    }

    /// Zeroes instead of an info block.
    fn erase(&mut self, offset: u64) -> Result<(), MediumError> {
        let signature = self.medium.get::<[u8; 16]>(offset);
        match signature {
            Ok(signature) if signature != SIGNATURE => Ok(()),
            Err(error) if error.fault == Fault::Gone => Err(error),
            // What cannot be read is none, unless it can be read again later.
            _ => self.medium.put(offset, &[0; 4096]),
        }
    }

    /// All of an arena but its info blocks.
    fn fill(&mut self, arena: &NewArena, placement: Placement) -> Result<(), MediumError> {
        let geometry = &arena.geometry;
        // From the end of the data to the end of the flog: what lies between map and flog is zero as well.
        let (mapoff, flogoff) = (geometry.mapoff(), geometry.flogoff());
        self.zero(arena.start + mapoff, flogoff - mapoff)?;
        self.zero(arena.start + flogoff, geometry.info2off() - flogoff)?;
        let group = |lane| {
            let mut group = FlogGroup::initial(lane, free_block(geometry, lane));
            if placement != Placement::Pmemblk {
                group.slots[0] = group.slots[0].plain();
            }
            group
        };
        let groups: Vec<FlogGroup> = (0..geometry.nfree()).map(group).collect();
        self.medium.put(arena.start + flogoff, groups.as_bytes())
    }

    /// Stores zeroes where there is no hole.
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), MediumError> {
        let mut done = 0;
        while done < len {
            match self.extents.next(offset + done, (len - done).min(1 << 20)) {
                Extent::Hole(bytes) => done += bytes,
                Extent::Data(bytes) => {
                    let failed = |fault| MediumError { offset: offset + done, fault };
                    self.region.zero(offset + done, bytes).map_err(failed)?;
                    done += bytes;
                }
            }
        }
        Ok(())
    }

    /// What was stored so far is durable.
    fn settle(&mut self) -> Result<(), MediumError> {
        self.region.flusher().flush().map_err(|fault| MediumError { offset: 0, fault })
    }
}

/// The blocks behind those that LBAs have at first.
fn free_block(geometry: &Geometry, lane: u32) -> u32 {
    geometry.external_nlba() + lane
}
