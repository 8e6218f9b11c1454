// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium whose map and flog are made by hand, and how it is opened, read and written.
#![allow(dead_code, reason = "each test uses its own part of this file")]

use pageless_block::{Bio, BlockDevice, Completion, Queue, Sector, Status};
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{Finding, Problem, Watch};
use pageless_drivers::btt::flog::{FlogEntry, FlogGroup, Seq};
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, NewArena, Placement};
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{BttDisk, CreateOptions, OpenOptions, Trouble};
use pageless_mem::{Access, Backing, Memory, PhysRange, Region};
use std::ops::ControlFlow;
use zerocopy::IntoBytes;

pub(crate) const LEN: u64 = (16 << 20) + 4096;
pub(crate) const LANES: u32 = 8;

/// A medium with a new BTT of one arena, and its first blocks written.
pub(crate) struct Rig {
    pub(crate) memory: Memory,
    pub(crate) region: Region,
    pub(crate) arena: NewArena,
    pub(crate) frames: Region,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(4096, LANES)
    }

    pub(crate) fn with(lba_size: u32, nfree: u32) -> Rig {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::anon(LEN).unwrap()).unwrap();
        Rig::on(memory, region, lba_size, nfree)
    }

    /// On this medium.
    pub(crate) fn on(memory: Memory, region: Region, lba_size: u32, nfree: u32) -> Rig {
        let size = LbaSize::new(lba_size).unwrap();
        let options = CreateOptions { nfree, ..CreateOptions::new(size, Placement::V1_1, Uuid([7; 16])) };
        let arena = BttDisk::create(&memory, &region, &options).unwrap()[0];
        let frames = memory.register(Backing::anon(1 << 20).unwrap()).unwrap();
        Rig { memory, region, arena, frames }
    }

    pub(crate) fn medium(&self) -> Medium {
        Medium::new(&self.memory, self.region.clone())
    }

    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) {
        self.medium().put(self.arena.start + offset, bytes).unwrap();
    }

    pub(crate) fn set_map(&self, lba: u32, entry: MapEntry) {
        self.put(self.arena.geometry.map_offset(lba), &entry.raw().to_le_bytes());
    }

    pub(crate) fn map(&self, lba: u32) -> MapEntry {
        let word: [u8; 4] = self.medium().get(self.arena.start + self.arena.geometry.map_offset(lba)).unwrap();
        MapEntry::from_raw(u32::from_le_bytes(word))
    }

    pub(crate) fn set_block(&self, block: u32, byte: u8) {
        self.put(self.arena.geometry.block_offset(block), &[byte; 4096]);
    }

    pub(crate) fn group(&self, lane: u32) -> FlogGroup {
        self.medium().get(self.arena.start + self.arena.geometry.flog_offset(lane)).unwrap()
    }

    pub(crate) fn set_group(&self, lane: u32, group: FlogGroup) {
        self.put(self.arena.geometry.flog_offset(lane), group.as_bytes());
    }

    /// The block that a lane has at first.
    pub(crate) fn free(&self, lane: u32) -> u32 {
        self.arena.geometry.external_nlba() + lane
    }

    /// A lane whose current entry, in this slot, is `entry`.
    pub(crate) fn set_entry(&self, lane: u32, slot: usize, entry: FlogEntry) {
        let mut group = self.group(lane);
        group.slots[slot] = entry;
        self.set_group(lane, group);
    }

    /// The write of `lba` from its own block to the lane's, cut off before the map.
    pub(crate) fn cut_off(&self, lane: u32, lba: u32) {
        self.set_entry(lane, 1, FlogEntry::new(lba, MapEntry::normal(lba), self.free(lane), second()));
        self.set_block(self.free(lane), 0xee);
    }

    pub(crate) fn open(&self) -> BttDisk {
        BttDisk::open(&self.memory, &self.region, "btt", &OpenOptions::default()).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; LEN as usize];
        self.medium().read(0, &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn range(&self, slot: u64) -> PhysRange {
        self.frames.range(slot * 4096, 4096).unwrap()
    }

    pub(crate) fn read(&self, disk: &BttDisk, lba: u32) -> (Status, u8) {
        let status =
            run(&mut *disk.open_queue().unwrap(), [Bio::read(Sector(u64::from(lba) * 8), self.range(0), 0)])[0];
        let bytes = self.slot(0);
        assert!(status != Status::Ok || bytes.iter().all(|byte| *byte == bytes[0]), "torn");
        (status, bytes[0])
    }

    /// What is in a slot of the frames.
    pub(crate) fn slot(&self, slot: u64) -> [u8; 4096] {
        let mut bytes = [0; 4096];
        let mut reader = self.memory.reader();
        reader.online().kmap(self.range(slot), Access::Read).unwrap().reader().read(&mut bytes).unwrap();
        bytes
    }

    /// Fills a slot of the frames.
    pub(crate) fn fill(&self, slot: u64, byte: u8) {
        let mut reader = self.memory.reader();
        reader.online().kmap(self.range(slot), Access::Write).unwrap().writer().write(&[byte; 4096]).unwrap();
    }

    pub(crate) fn write(&self, queue: &mut dyn Queue, lba: u32, byte: u8) -> Status {
        self.fill(1, byte);
        run(queue, [Bio::write(Sector(u64::from(lba) * 8), self.range(1), 0)])[0]
    }

    /// Opens it and expects the one arena to be read-only for this reason.
    pub(crate) fn frozen(&self, expected: impl Fn(&Problem) -> bool) {
        let before = self.bytes();
        let disk = self.open();
        let froze = |trouble: &Trouble| matches!(trouble, Trouble::Froze(finding) if expected(&finding.problem));
        assert!(disk.troubles().iter().any(froze), "{:?}", disk.troubles());
        assert!(disk.limits().read_only);
        assert_eq!(self.write(&mut *disk.open_queue().unwrap(), 0, 1), Status::ReadOnly);
        assert_eq!(disk.finished(), 0);
        assert!(before == self.bytes(), "nothing is stored where nothing is sure");
    }
}

/// The number that follows a new lane's.
pub(crate) fn second() -> Seq {
    Seq::FIRST.next()
}

pub(crate) fn run(queue: &mut dyn Queue, bios: impl IntoIterator<Item = Bio>) -> Vec<Status> {
    let mut wanted = 0;
    for bio in bios {
        queue.submit(Bio { tag: wanted, ..bio }).unwrap();
        wanted += 1;
    }
    let mut done: Vec<Completion> = Vec::new();
    queue.poll(&mut done).unwrap();
    assert_eq!(done.len() as u64, wanted);
    done.sort_by_key(|done| done.tag);
    done.iter().map(|done| done.status).collect()
}

/// What a check finds.
#[derive(Default)]
pub(crate) struct Heard(pub(crate) Vec<Finding>);

impl Watch for Heard {
    fn found(&mut self, finding: &Finding) {
        self.0.push(*finding);
    }

    fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
