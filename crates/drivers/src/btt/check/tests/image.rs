// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images of one arena, made and written to as Linux does it.

use std::ops::ControlFlow;

use pageless_mem::{Backing, Memory};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::btt::check::medium::Medium;
use crate::btt::check::{CheckOptions, CopyOf, Finding, Problem, Report, Watch, check};
use crate::btt::flog::{FlogEntry, FlogGroup, FlogLayout, Which};
use crate::btt::info::{Identity, InfoBlock, Uuid};
use crate::btt::layout::{ARENA_MIN, Geometry, LbaSize, PAGE, Placement, cut};
use crate::btt::map::MapEntry;

/// What a check told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) findings: Vec<Finding>,
    pub(super) progress: Option<(u64, u64)>,
    pub(super) stop: bool,
}

impl Heard {
    pub(super) fn has(&self, problem: Problem) -> bool {
        self.findings.iter().any(|finding| finding.problem == problem)
    }
}

impl Watch for Heard {
    fn found(&mut self, finding: &Finding) {
        assert!(!finding.to_string().is_empty());
        self.findings.push(*finding);
    }

    fn progress(&mut self, done: u64, of: u64) -> ControlFlow<()> {
        assert!(
            done <= of && self.progress.is_none_or(|before| done >= before.0),
            "{done} of {of} after {:?}",
            self.progress
        );
        self.progress = Some((done, of));
        if self.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(super) fn medium(len: u64) -> Medium {
    let memory = Memory::new().unwrap();
    Medium::new(&memory, memory.register(Backing::anon(len).unwrap()).unwrap())
}

/// One arena, and the medium that it is on.
pub(super) struct Image {
    pub(super) medium: Medium,
    pub(super) geometry: Geometry,
    start: u64,
}

impl Image {
    pub(super) fn standard() -> Image {
        Image::new(Placement::V1_1, LbaSize::new(4096).unwrap(), 256)
    }

    pub(super) fn new(placement: Placement, lba_size: LbaSize, nfree: u32) -> Image {
        let len = placement.offset() + ARENA_MIN + PAGE;
        let geometry = cut(len, placement, lba_size, nfree).unwrap()[0].geometry;
        let mut image = Image { medium: medium(len), geometry, start: placement.offset() };
        let mut parent_uuid = Uuid([9; 16]);
        if placement == Placement::Pmemblk {
            parent_uuid = Uuid([4; 16]);
            image.medium.put(0, b"PMEMBLK\0").unwrap();
            image.medium.put(24, &parent_uuid.0).unwrap();
            image.medium.put(4096, &lba_size.bytes().to_le_bytes()).unwrap();
        }
        let identity = Identity { uuid: Uuid([7; 16]), parent_uuid, version: placement.version() };
        let block = InfoBlock::new(&identity, &geometry);
        for copy in [CopyOf::First, CopyOf::Second] {
            let offset = image.info_offset(copy);
            image.medium.put(offset, block.as_bytes()).unwrap();
        }
        for lane in 0..nfree {
            image.set_group(lane, &FlogGroup::initial(lane, geometry.external_nlba() + lane));
        }
        image
    }

    pub(super) fn check(&mut self) -> (Report, Heard) {
        let mut heard = Heard::default();
        let report = check(&mut self.medium, CheckOptions::default(), &mut heard).unwrap();
        (report, heard)
    }

    pub(super) fn info_offset(&self, copy: CopyOf) -> u64 {
        match copy {
            CopyOf::First => self.start,
            CopyOf::Second => self.start + self.geometry.info2off(),
        }
    }

    pub(super) fn patch_info(&mut self, copy: CopyOf, change: impl FnOnce(&mut InfoBlock), seal: bool) {
        let offset = self.info_offset(copy);
        let mut block: InfoBlock = self.medium.get(offset).unwrap();
        change(&mut block);
        let block = if seal { block.sealed() } else { block };
        self.medium.put(offset, block.as_bytes()).unwrap();
    }

    pub(super) fn map(&mut self, lba: u32) -> MapEntry {
        let word: U32 = self.medium.get(self.start + self.geometry.map_offset(lba)).unwrap();
        MapEntry::from_raw(word.get())
    }

    pub(super) fn set_map(&mut self, lba: u32, entry: MapEntry) {
        let offset = self.start + self.geometry.map_offset(lba);
        self.medium.put(offset, &entry.raw().to_le_bytes()).unwrap();
    }

    pub(super) fn group(&mut self, lane: u32) -> FlogGroup {
        self.medium.get(self.start + self.geometry.flog_offset(lane)).unwrap()
    }

    pub(super) fn set_group(&mut self, lane: u32, group: &FlogGroup) {
        let offset = self.start + self.geometry.flog_offset(lane);
        self.medium.put(offset, group.as_bytes()).unwrap();
    }

    pub(super) fn set_flog(&mut self, lane: u32, which: Which, entry: FlogEntry) {
        let mut group = self.group(lane);
        group.slots[FlogLayout::Packed.slot(which)] = entry;
        self.set_group(lane, &group);
    }

    /// The flog part of a write: the old and the new block. A lane that is no good is left alone.
    fn log(&mut self, layout: FlogLayout, lane: u32, lba: u32) -> (u32, u32) {
        let (old, mut group) = (self.map(lba), self.group(lane));
        let Ok(current) = group.current(layout) else { return (0, 0) };
        let new = current.entry.old_block();
        let entry = FlogEntry::new(lba, MapEntry::normal(old.block(lba)), new, current.seq.next());
        group.slots[layout.slot(current.which.other())] = entry;
        self.set_group(lane, &group);
        (old.block(lba), new)
    }

    /// A whole write, without its data.
    pub(super) fn write(&mut self, layout: FlogLayout, lane: u32, lba: u32) {
        let (_, new) = self.log(layout, lane, lba);
        self.set_map(lba, MapEntry::normal(new));
    }

    /// A write that was cut off before the map.
    pub(super) fn unfinished(&mut self, lane: u32, lba: u32) -> (u32, u32) {
        self.log(FlogLayout::Packed, lane, lba)
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.medium.len()).unwrap()];
        self.medium.read(0, &mut bytes).unwrap();
        bytes
    }

    /// The same bytes on a larger medium.
    pub(super) fn grown(&mut self, by: u64) -> Medium {
        let mut grown = medium(self.medium.len() + by);
        grown.put(0, &self.bytes()).unwrap();
        grown
    }

    /// A new flog for an arena of the same geometry.
    pub(super) fn flog_at(&self, medium: &mut Medium, start: u64) {
        for lane in 0..self.geometry.nfree() {
            let group = FlogGroup::initial(lane, self.geometry.external_nlba() + lane);
            medium.put(start + self.geometry.flog_offset(lane), group.as_bytes()).unwrap();
        }
    }
}
