// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing a new BTT over whatever a medium holds.
//!
//! # Order
//! What an older BTT is known by goes first. Then each arena, the last one first: map, flog, second info block, info block, each
//! durable before the next. Cut off anywhere, the medium has no BTT or all of it.

use zerocopy::IntoBytes;

use super::check::medium::{Medium, MediumError};
use super::flog::FlogGroup;
use super::info::{Identity, InfoBlock, SIGNATURE, Uuid};
use super::layout::{LayoutError, LbaSize, NewArena, PAGE, Placement, cut};

/// What is to be made.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct NewBtt {
    /// Where its first arena is.
    pub placement: Placement,
    /// Bytes of a block and its metadata.
    pub lba_size: LbaSize,
    /// Lanes.
    pub nfree: u32,
    /// Its own name.
    pub uuid: Uuid,
    /// The name of what holds it; [`Uuid::NIL`] for nothing in particular.
    pub parent_uuid: Uuid,
}

/// Why it was not made.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The medium has not the size for it. Nothing was stored.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The medium failed.
    #[error(transparent)]
    Medium(#[from] MediumError),
}

/// Makes it; the arenas that there are now.
pub fn format(medium: &mut Medium, new: &NewBtt) -> Result<Vec<NewArena>, FormatError> {
    let arenas = cut(medium.len(), new.placement, new.lba_size, new.nfree)?;
    let identity = Identity { uuid: new.uuid, parent_uuid: new.parent_uuid, version: new.placement.version() };
    forget(medium, new.placement)?;
    for NewArena { start, geometry } in arenas.iter().rev() {
        let flog = start + geometry.flogoff();
        medium.clear(start + geometry.mapoff(), geometry.flogoff() - geometry.mapoff())?;
        medium.clear(flog, geometry.info2off() - geometry.flogoff())?;
        let groups = (0..geometry.nfree()).map(|lane| FlogGroup::initial(lane, geometry.external_nlba() + lane));
        medium.put(flog, groups.collect::<Vec<_>>().as_bytes())?;
        let block = InfoBlock::new(&identity, geometry);
        medium.put(start + geometry.info2off(), block.as_bytes())?;
        medium.put(*start, block.as_bytes())?;
    }
    Ok(arenas)
}

/// What the medium was before: in no placement may an info block be left that could be found in place of the new one.
fn forget(medium: &mut Medium, placement: Placement) -> Result<(), MediumError> {
    for other in Placement::ALL {
        let offset = if other == Placement::Pmemblk && placement != other { 0 } else { other.offset() };
        if medium.len() < offset + PAGE || (placement == Placement::Pmemblk && offset < placement.offset()) {
            continue;
        }
        let head: [u8; 16] = medium.get(offset)?;
        if head == SIGNATURE || head.starts_with(b"PMEMBLK\0") {
            medium.put(offset, &[0; 16])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, CheckOptions, Finding, Watch};
    use super::super::layout::{ARENA_MIN, DEFAULT_NFREE};
    use super::*;
    use pageless_mem::{Backing, Memory};
    use std::ops::ControlFlow;

    struct Clean;

    impl Watch for Clean {
        fn found(&mut self, finding: &Finding) {
            panic!("{finding}");
        }

        fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
    }

    fn medium(len: u64) -> Medium {
        let memory = Memory::new().unwrap();
        Medium::new(&memory, memory.register(Backing::anon(len).unwrap()).unwrap())
    }

    fn new(placement: Placement, bytes: u32) -> NewBtt {
        NewBtt {
            placement,
            lba_size: LbaSize::new(bytes).unwrap(),
            nfree: DEFAULT_NFREE,
            uuid: Uuid([1; 16]),
            parent_uuid: Uuid::NIL,
        }
    }

    /// In whatever order they are made over each other, the last one is found, and is clean.
    #[test]
    fn btt_new_ones_replace_each_other() {
        let mut medium = medium(ARENA_MIN + 5 * PAGE);
        medium.put(PAGE, &vec![0xa5; 16 << 20]).unwrap();
        for (placement, bytes) in [
            (Placement::V2_0, 512),
            (Placement::V1_1, 4096),
            (Placement::V2_0, 4224),
            (Placement::V1_1, 520),
            (Placement::V1_1, 4160),
        ] {
            format(&mut medium, &new(placement, bytes)).unwrap();
            let report = check::check(&mut medium, CheckOptions::default(), &mut Clean).unwrap();
            assert_eq!(report.found.placement, placement);
            assert_eq!(report.arenas[0].info.geometry.lba_size().bytes(), bytes);
        }
    }

    #[test]
    fn btt_too_large_for_its_medium_is_not_begun() {
        let mut medium = medium(ARENA_MIN);
        medium.put(0, &SIGNATURE).unwrap();
        let refused = format(&mut medium, &new(Placement::V1_1, 512));
        assert!(matches!(refused, Err(FormatError::Layout(LayoutError::TooSmall { .. }))), "{refused:?}");
        assert_eq!(medium.get::<[u8; 16]>(0).unwrap(), SIGNATURE);
    }
}
