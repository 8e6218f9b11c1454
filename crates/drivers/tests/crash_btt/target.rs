// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BTT as the explorer sees it.

use std::ops::ControlFlow;

use pageless_block::BlockDevice;
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{CheckOptions, Finding, Watch, check};
use pageless_drivers::btt::flog::FlogGroup;
use pageless_drivers::btt::info::{Expected, Identity, InfoBlock, Uuid};
use pageless_drivers::btt::layout::{ARENA_MIN, Follows, Geometry, LbaSize, NewArena, Placement};
use pageless_drivers::btt::{BttDisk, CreateOptions, OpenOptions, Order};
use pageless_mem::testing::record::{Event, What};
use pageless_mem::{Memory, Region};
use pageless_testkit::crash::CrashTarget;
use zerocopy::IntoBytes;

/// A BTT of 4 KiB or 512-byte blocks on a whole region, of the smallest arenas.
#[derive(Debug)]
pub(crate) struct Btt {
    pub(crate) lba_size: LbaSize,
    pub(crate) nfree: u32,
    placement: Placement,
    arenas: Vec<NewArena>,
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
    /// Version 2.0, one arena.
    pub(crate) fn new(lba_size: u32, nfree: u32) -> Btt {
        Btt::with(Placement::V2_0, 1, lba_size, nfree)
    }

    /// Where there are several arenas the first ones have no more blocks than lanes: so the first blocks of the disk lie in all of
    /// them. Nobody makes such arenas, and whoever checks their numbers must take them.
    pub(crate) fn with(placement: Placement, count: u64, lba_size: u32, nfree: u32) -> Btt {
        let lba_size = LbaSize::new(lba_size).unwrap();
        let arena = |number: u64| {
            let follows = if number + 1 < count { Follows::Another } else { Follows::Nothing };
            let start = placement.offset() + number * ARENA_MIN;
            let mut geometry = Geometry::new(lba_size, nfree, ARENA_MIN, follows).unwrap();
            if follows == Follows::Another {
                let mut block = InfoBlock::new(&identity(placement), &geometry);
                block.external_nlba = nfree.into();
                block.internal_nlba = (2 * nfree).into();
                let room = (count - number) * ARENA_MIN;
                let expected = Expected { version: placement.version(), parent_uuid: None, room };
                geometry = block.sealed().check(&expected).unwrap().geometry;
            }
            NewArena { start, geometry }
        };
        Btt { lba_size, nfree, placement, arenas: (0..count).map(arena).collect() }
    }

    /// Bytes of the medium.
    pub(crate) fn len(&self) -> u64 {
        self.placement.offset() + self.arenas.len() as u64 * ARENA_MIN
    }

    /// What lies at a byte, and its number there: block, LBA or lane.
    pub(crate) fn place_of(&self, offset: u64) -> (Place, u64) {
        let Some(arena) = self.arenas.iter().rfind(|arena| arena.start <= offset) else { return (Place::Info, 0) };
        let (at, offset) = (&arena.geometry, offset - arena.start);
        match offset {
            _ if offset < at.dataoff() || offset >= at.info2off() => (Place::Info, u64::from(offset >= at.info2off())),
            _ if offset >= at.flogoff() => (Place::Flog, (offset - at.flogoff()) / 64),
            _ if offset >= at.mapoff() => (Place::Map, (offset - at.mapoff()) / 4),
            _ => (Place::Data, (offset - at.dataoff()) / u64::from(at.internal_lbasize())),
        }
    }

    /// What [`BttDisk::create`] does, for arenas that it would not cut: the info blocks last, those of the first arena after all others.
    fn create_by_hand(&self, memory: &Memory, region: &Region) -> Result<(), String> {
        let mut medium = Medium::new(memory, region.clone());
        let mut put = |offset: u64, bytes: &[u8]| medium.put(offset, bytes).map_err(|why| why.to_string());
        let settle = || region.flusher().flush().map_err(|why| format!("{why:?}"));
        for arena in &self.arenas {
            put(arena.start, &[0; 4096])?;
        }
        settle()?;
        for arena in &self.arenas {
            let at = &arena.geometry;
            region.zero(arena.start + at.mapoff(), at.info2off() - at.mapoff()).map_err(|why| format!("{why:?}"))?;
            let groups: Vec<_> =
                (0..self.nfree).map(|lane| FlogGroup::initial(lane, at.external_nlba() + lane)).collect();
            put(arena.start + at.flogoff(), groups.as_bytes())?;
        }
        settle()?;
        for arena in self.arenas.iter().rev() {
            let block = InfoBlock::new(&identity(self.placement), &arena.geometry);
            put(arena.start + arena.geometry.info2off(), block.as_bytes())?;
            settle()?;
            put(arena.start, block.as_bytes())?;
            settle()?;
        }
        Ok(())
    }

    /// What an event is about.
    pub(crate) fn is(&self, event: &Event, place: Place) -> bool {
        match event.what {
            What::Store { offset, .. } | What::WriteBack { offset, .. } => self.place_of(offset).0 == place,
            _ => false,
        }
    }
}

fn identity(placement: Placement) -> Identity {
    Identity { uuid: Uuid([7; 16]), parent_uuid: Uuid::NIL, version: placement.version() }
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
        if self.arenas.len() > 1 {
            return self.create_by_hand(memory, region);
        }
        let options = CreateOptions::new(self.lba_size, self.placement, identity(self.placement).uuid);
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
