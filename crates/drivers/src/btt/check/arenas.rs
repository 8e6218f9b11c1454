// SPDX-License-Identifier: MIT OR Apache-2.0
//! The chain of arenas, by their info blocks and the copies of these.

use pageless_mem::Fault;
use zerocopy::IntoBytes;

use super::find::{Found, usual_second};
use super::{Change, CheckError, CopyOf, Name, Part, Problem, Session};
use crate::btt::info::{ArenaState, Expected, Info, InfoBlock, InfoError};
use crate::btt::layout::{ARENA_MIN, PAGE};

/// An arena whose info block is good.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct FoundArena {
    /// Which, from 0 on.
    pub number: u32,
    /// Its first byte on the medium.
    pub start: u64,
    /// What it says.
    pub info: Info,
    /// Whether both info blocks agree on it, or one of them is no good.
    pub trusted: bool,
}

/// An info block as it was read; nothing where the medium is broken.
type Read = Option<InfoBlock>;

impl Session<'_> {
    /// Walks the chain. Each arena begins behind the one before, so it ends.
    pub(super) fn arenas(&mut self, found: &Found) -> Result<Vec<FoundArena>, CheckError> {
        let mut arenas: Vec<FoundArena> = Vec::new();
        let end = found.placement.offset() + found.placement.room(self.medium.len());
        let mut start = found.placement.offset();
        loop {
            let number = u32::try_from(arenas.len()).unwrap_or(u32::MAX);
            let expected =
                Expected { version: found.placement.version(), parent_uuid: found.parent_uuid, room: end - start };
            let Some(arena) = self.arena(number, start, &expected)? else { break };
            if let Some(first) = arenas.first() {
                self.same_names(&arena, first);
            }
            let geometry = arena.info.geometry;
            arenas.push(arena);
            match geometry.nextoff() {
                Some(next) => start += next,
                None => {
                    self.unreached(&arena, start + geometry.size(), end)?;
                    break;
                }
            }
        }
        Ok(arenas)
    }

    fn arena(&mut self, number: u32, start: u64, expected: &Expected) -> Result<Option<FoundArena>, CheckError> {
        let first = self.info(number, start)?;
        let judged = judge(first.as_ref(), expected);
        match judged {
            Ok(info) => self.with_copy(number, start, info, first, expected).map(Some),
            // It is whole, and not ours: a copy that is may be of a BTT that was here before.
            Err(error @ InfoError::Parent { .. }) => {
                self.tell(number, start, Problem::ArenaLost(error, error));
                Ok(None)
            }
            Err(error) => self.by_copy(number, start, first, error, expected),
        }
    }

    /// The first info block is good; is the second?
    fn with_copy(
        &mut self,
        number: u32,
        start: u64,
        info: Info,
        first: Read,
        expected: &Expected,
    ) -> Result<FoundArena, CheckError> {
        let offset = start + info.geometry.info2off();
        let second = self.info(number, offset)?;
        let mut arena = FoundArena { number, start, info, trusted: true };
        let (Some(first), judged) = (first, judge(second.as_ref(), expected)) else { return Ok(arena) };
        match (judged, second) {
            (_, Some(second)) if second == first => {}
            // One that names another parent is whole: somebody else's, or ours before somebody else's came.
            (Ok(_) | Err(InfoError::Parent { .. }), Some(second)) => self.differing(&mut arena, &first, &second),
            (Err(error), Some(second)) => {
                self.tell(number, offset, Problem::Info(CopyOf::Second, error));
                self.restore(offset, &second, &first, "second info block from the first one");
            }
            // Told already: what cannot be read cannot be kept, and is not overwritten.
            (_, None) => {}
        }
        if arena.info.state == ArenaState::Error {
            self.tell(number, start, Problem::ErrorFlag);
        }
        Ok(arena)
    }

    /// Two good blocks that say different things.
    fn differing(&mut self, arena: &mut FoundArena, first: &InfoBlock, second: &InfoBlock) {
        let (number, start) = (arena.number, arena.start);
        let failed = first.clone().with_state(ArenaState::Error);
        let other = second.clone().with_state(ArenaState::Error);
        let differs = failed.as_bytes().iter().zip(other.as_bytes()).position(|(one, two)| one != two);
        if let Some(at) = differs.and_then(|at| u32::try_from(at).ok()) {
            arena.trusted = false;
            let second = start + arena.info.geometry.info2off();
            self.tell(number, start, Problem::CopiesDiffer { second, at });
            return;
        }
        // Nobody clears the flag, so it was about to be set: by the kernel in the second block first, by PMDK in the first.
        arena.info.state = ArenaState::Error;
        self.tell(number, start, Problem::FlagsDiffer);
        for (offset, block) in [(start + arena.info.geometry.info2off(), second), (start, first)] {
            if *block != failed {
                self.restore(offset, block, &failed, "error flag of the other info block");
            }
        }
    }

    /// The first info block is no good: the arena is what its copy says, if that can be found.
    fn by_copy(
        &mut self,
        number: u32,
        start: u64,
        first: Read,
        error: InfoError,
        expected: &Expected,
    ) -> Result<Option<FoundArena>, CheckError> {
        // Where everybody puts it; else where the damaged block says that it is.
        let stated = first.as_ref().map(|block| block.info2off.get());
        let usual = (expected.room >= ARENA_MIN).then(|| usual_second(expected.room));
        let last = expected.room.saturating_sub(PAGE);
        let mut second_error = error;
        for info2off in [usual, stated].into_iter().flatten() {
            if info2off == 0 || info2off > last || !info2off.is_multiple_of(PAGE) {
                continue;
            }
            let offset = start + info2off;
            let Some(second) = self.info(number, offset)? else { continue };
            match second.check(expected) {
                Ok(info) if info.geometry.info2off() == info2off => {
                    if let Some(first) = &first {
                        self.tell(number, start, Problem::Info(CopyOf::First, error));
                        self.restore(start, first, &second, "info block from its copy");
                    }
                    if info.state == ArenaState::Error {
                        self.tell(number, start, Problem::ErrorFlag);
                    }
                    return Ok(Some(FoundArena { number, start, info, trusted: true }));
                }
                Ok(_) => {}
                Err(error) => second_error = error,
            }
        }
        self.tell(number, start, Problem::ArenaLost(error, second_error));
        Ok(None)
    }

    fn same_names(&mut self, arena: &FoundArena, first: &FoundArena) {
        let (found, wanted) = (&arena.info, &first.info);
        let (size, first_size) = (found.geometry.lba_size(), wanted.geometry.lba_size());
        let names = [
            (found.identity.uuid != wanted.identity.uuid)
                .then_some(Name::Uuid(found.identity.uuid, wanted.identity.uuid)),
            (found.identity.parent_uuid != wanted.identity.parent_uuid)
                .then_some(Name::Parent(found.identity.parent_uuid, wanted.identity.parent_uuid)),
            (size != first_size).then_some(Name::LbaSize(size.bytes(), first_size.bytes())),
        ];
        for name in names.into_iter().flatten() {
            self.tell(arena.number, arena.start, Problem::Name(name));
        }
    }

    /// The chain ends here. Does it end too early?
    fn unreached(&mut self, last: &FoundArena, next: u64, end: u64) -> Result<(), CheckError> {
        if end.saturating_sub(next) < ARENA_MIN {
            return Ok(());
        }
        let block = self.info(last.number + 1, next)?;
        let ours = |block: &InfoBlock| block.check_whole().is_ok() && block.uuid == last.info.identity.uuid;
        if block.as_ref().is_some_and(ours) {
            self.tell(last.number + 1, next, Problem::Unreached);
        }
        Ok(())
    }

    fn info(&mut self, number: u32, offset: u64) -> Result<Read, CheckError> {
        match self.medium.get::<InfoBlock>(offset) {
            Ok(block) => Ok(Some(block)),
            Err(error) if error.fault == Fault::Gone => Err(error.into()),
            Err(error) => {
                self.tell(number, error.offset, Problem::Unreadable(Part::Info, error.fault));
                Ok(None)
            }
        }
    }

    fn restore(&mut self, offset: u64, old: &InfoBlock, new: &InfoBlock, what: &'static str) {
        self.changes.push(Change::new(offset, old.as_bytes(), new.as_bytes(), what));
    }
}

fn judge(block: Option<&InfoBlock>, expected: &Expected) -> Result<Info, InfoError> {
    match block {
        Some(block) => block.check(expected),
        None => Err(InfoError::Signature { found: [0; 16] }),
    }
}
