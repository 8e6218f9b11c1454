// SPDX-License-Identifier: MIT OR Apache-2.0
//! Zeroes and discards: by the map alone, which Linux and PMDK read as zeroes too.
//!
//! The block stays with its LBA, so nothing is given to anybody, and no flog entry is needed: one store of the map does it.
//! A block whose entry says that it cannot be read is written instead, so that it is exchanged for another one. Where the
//! submitter wants the blocks to stay allocated (`NO_UNMAP`), zeroes are written in any case.

use pageless_block::{Bio, Flags, Op, Status};
use pageless_mem::{Access, Extent, Fault};

use super::arena::Arena;
use super::claims::{Claimant, Claims};
use super::device::Shared;
use super::io::{Io, Maps};
use super::lanes::LaneSet;
use super::map::{MapEntry, MapState};
use super::open::Order;
use super::read::out_of_bounds;
use super::write::{Batch, Writes};

/// Executes a discard or a write-zeroes. Blocks that have to be written wait in `writes`.
pub(super) fn execute<'s>(
    shared: &'s Shared,
    io: &mut Io,
    lanes: &mut LaneSet<'s>,
    writes: &mut Writes,
    batch: &mut Batch<'_>,
    job: usize,
) {
    let block = u64::from(shared.lba_size.block());
    let bio = &batch.0[job];
    let (first, count) = (bio.sector.bytes() / block, bio.len / block);
    if bio.op == Op::WriteZeroes && bio.flags.contains(Flags::NO_UNMAP) {
        if bio.flags.contains(Flags::FAST_ONLY) {
            batch.1[job].fail(0, Status::Unsupported);
            return;
        }
        for index in 0..count {
            if !writes.add_block(shared, io, lanes, batch, (job, index, first + index)) {
                return;
            }
        }
        return;
    }
    let mut index = 0;
    while index < count {
        let external = first + index;
        let (arena, lba) = shared.locate(external);
        let run = Run { arena, lba, len: Claims::run(external).min(count - index).min(arena.end() - external) };
        if bio.op == Op::Discard
            && let Extent::Hole(bytes) = io.extents.next(arena.map_offset(lba), run.rest(count - index))
        {
            // Never written: zeroes already.
            index += (bytes / 4).max(1);
            continue;
        }
        match run.zero(shared, io, &mut writes.claims, external, bio) {
            Ok(None) => index += run.len,
            Ok(Some(unreadable)) => {
                index += unreadable;
                if !writes.add_block(shared, io, lanes, batch, (job, index, first + index)) {
                    return;
                }
                index += 1;
            }
            Err((done, status)) => {
                batch.1[job].fail(index + done, status);
                return;
            }
        }
    }
}

/// Blocks whose entries lie in one cache line.
struct Run<'a> {
    arena: &'a Arena,
    lba: u32,
    len: u64,
}

impl Run<'_> {
    /// Bytes of the map from here on, for so many blocks or to the end of the arena.
    fn rest(&self, blocks: u64) -> u64 {
        blocks.min(u64::from(self.arena.geometry.external_nlba() - self.lba)) * 4
    }

    /// Changes the entries. Stops at one whose block cannot be read, and says how many were done by then.
    fn zero(
        &self,
        shared: &Shared,
        io: &mut Io,
        claims: &mut Claimant,
        external: u64,
        bio: &Bio,
    ) -> Result<Option<u64>, (u64, Status)> {
        let Run { arena, lba, len } = *self;
        shared.may_change(arena).map_err(|status| (0, status))?;
        let claimed = claims.claim(std::iter::once(external));
        // By another queue that met trouble since: what it left is recovery's.
        if arena.frozen() {
            return Err((0, Status::ReadOnly));
        }
        let mut stopped = Ok(None);
        {
            let section = io.section(shared);
            let mut maps = section.maps(Access::Write);
            for (done, lba) in (0..len).zip(lba..) {
                let changed = zero_entry(shared, &mut maps, (arena, lba), bio.op);
                match changed {
                    Ok(true) => {}
                    Ok(false) => {
                        stopped = Ok(Some(done));
                        break;
                    }
                    Err(status) => {
                        stopped = Err((done, status));
                        break;
                    }
                }
            }
        }
        drop(claimed);
        if let Err(fault) = io.reader.confirm()
            && io.lost(shared, bio, fault)
        {
            return Err((0, fault.into()));
        }
        if shared.order == Order::Strict {
            let synced = io.flusher.persist(arena.map_offset(lba), 4 * len);
            synced.map_err(|fault: Fault| (0, Status::from(fault)))?;
        }
        stopped
    }
}

/// Changes an entry that is claimed. False when its block cannot be read.
fn zero_entry(shared: &Shared, maps: &mut Maps<'_>, (arena, lba): (&Arena, u32), op: Op) -> Result<bool, Status> {
    let map = maps.of(arena, lba)?;
    let entry = map.entry_to_change(lba)?;
    let block = entry.block(lba);
    if block >= arena.geometry.internal_nlba() {
        return Err(out_of_bounds(shared, arena, lba, entry));
    }
    match entry.state() {
        MapState::Zero => {}
        MapState::Initial if op == Op::Discard => {}
        MapState::Error => return Ok(false),
        MapState::Initial | MapState::Normal => map.store(lba, MapEntry::zero(block))?,
    }
    Ok(true)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use pageless_block::{Queue, Sector, open_checked};
    use pageless_mem::{Backing, Memory};

    use crate::btt::info::Uuid;
    use crate::btt::layout::Placement;
    use crate::btt::trouble::Trouble;
    use crate::btt::{BttDisk, CreateOptions, OpenOptions};

    use super::*;

    /// The flog has another queue's write of the block, and the map has not: recovery finishes it, whatever the map has then.
    #[test]
    fn btt_zeroes_that_waited_for_a_write_in_trouble_are_not_stored() {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::anon(32 << 20).unwrap()).unwrap();
        let lba_size = crate::btt::layout::LbaSize::new(4096).unwrap();
        let options = CreateOptions::new(lba_size, Placement::V1_1, Uuid([1; 16]));
        BttDisk::create(&memory, &region, &options).unwrap();
        let disk = BttDisk::open(&memory, &region, "btt", &OpenOptions::default()).unwrap();
        let zeroes = || {
            let (mut queue, mut out) = (open_checked(&disk).unwrap(), Vec::new());
            queue.submit(Bio::write_zeroes(Sector(8 * 5), 4096, 0)).unwrap();
            while queue.poll(&mut out).unwrap() == 0 {}
            out[0].status
        };
        // Now the map was read: what follows waits for the claim alone.
        assert_eq!(zeroes(), Status::Ok);
        let shared = disk.shared();
        let mut other = shared.claims.enter(7);
        let claimed = other.claim(std::iter::once(5));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(zeroes);
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert!(!waiting.is_finished(), "the block is claimed");
            let arena = &shared.arenas[0];
            shared.freeze(arena, Trouble::MapNotStored { arena: 0, lba: 5, fault: Fault::Media });
            drop(claimed);
            assert_eq!(waiting.join().unwrap(), Status::ReadOnly);
        });
    }
}
