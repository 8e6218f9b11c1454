// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BTT as the explorer sees it.

use std::ops::ControlFlow;

use pageless_block::BlockDevice;
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{CheckOptions, Finding, Watch, check};
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, NewArena, Placement, cut};
use pageless_drivers::btt::{BttDisk, CreateOptions, OpenOptions, Order};
use pageless_mem::testing::record::{Event, What};
use pageless_mem::{Memory, Region};
use pageless_testkit::crash::CrashTarget;

/// Bytes of the medium: the smallest arena.
pub(crate) const LEN: u64 = 16 << 20;

/// A BTT of 4 KiB or 512-byte blocks on a whole region.
#[derive(Debug)]
pub(crate) struct Btt {
    pub(crate) lba_size: LbaSize,
    pub(crate) nfree: u32,
    arena: NewArena,
}

/// What lies at a byte.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Info,
    Data,
    Map,
    Flog,
}

impl Btt {
    pub(crate) fn new(lba_size: u32, nfree: u32) -> Btt {
        let lba_size = LbaSize::new(lba_size).unwrap();
        let arena = cut(LEN, Placement::V2_0, lba_size, nfree).unwrap()[0];
        Btt { lba_size, nfree, arena }
    }

    /// What lies at a byte, and its number there: block, LBA or lane.
    pub(crate) fn place_of(&self, offset: u64) -> (Place, u64) {
        let at = &self.arena.geometry;
        let offset = offset - self.arena.start;
        match offset {
            _ if offset < at.dataoff() || offset >= at.info2off() => (Place::Info, u64::from(offset >= at.info2off())),
            _ if offset >= at.flogoff() => (Place::Flog, (offset - at.flogoff()) / 64),
            _ if offset >= at.mapoff() => (Place::Map, (offset - at.mapoff()) / 4),
            _ => (Place::Data, (offset - at.dataoff()) / u64::from(at.internal_lbasize())),
        }
    }

    /// What an event is about.
    pub(crate) fn is(&self, event: &Event, place: Place) -> bool {
        match event.what {
            What::Store { offset, .. } | What::WriteBack { offset, .. } => self.place_of(offset).0 == place,
            _ => false,
        }
    }
}

struct Findings(Vec<String>);

impl Watch for Findings {
    fn found(&mut self, finding: &Finding) {
        self.0.push(format!("{finding}"));
    }

    fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl CrashTarget for Btt {
    fn create(&self, memory: &Memory, region: &Region) -> Result<(), String> {
        let options = CreateOptions::new(self.lba_size, Placement::V2_0, Uuid([7; 16]));
        let options = CreateOptions { nfree: self.nfree, ..options };
        BttDisk::create(memory, region, &options).map(drop).map_err(|why| why.to_string())
    }

    fn recover(&self, memory: &Memory, region: &Region) -> Result<Box<dyn BlockDevice>, String> {
        // As strict as the medium allows: what is promised for less is less.
        let options = OpenOptions { order: Order::Strict, ..OpenOptions::default() };
        let disk = BttDisk::open(memory, region, "btt", &options).map_err(|why| why.to_string())?;
        if let Some(trouble) = disk.troubles().first() {
            return Err(format!("it opens with {trouble:?}"));
        }
        Ok(Box::new(disk))
    }

    /// The device was opened before, so not even an unfinished write may be left.
    fn check(&self, memory: &Memory, region: &Region) -> Result<(), String> {
        let mut findings = Findings(Vec::new());
        let report = check(&mut Medium::new(memory, region.clone()), CheckOptions::default(), &mut findings);
        let report = report.map_err(|why| why.to_string())?;
        if findings.0.is_empty() && report.counts.consistent() { Ok(()) } else { Err(findings.0.join("; ")) }
    }

    fn place(&self, offset: u64) -> String {
        match self.place_of(offset) {
            (Place::Info, 0) => "first info block".to_owned(),
            (Place::Info, _) => "second info block".to_owned(),
            (Place::Flog, lane) => format!("flog of lane {lane}"),
            (Place::Map, lba) => format!("map of block {lba}"),
            (Place::Data, block) => format!("internal block {block}"),
        }
    }
}
