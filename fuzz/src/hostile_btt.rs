// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hostile BTT images, for the fuzz targets and for the test that replays their seeds.
//!
//! A few good images are made once and kept. An input is a list of patches, 16 bytes each: it is stored into one of
//! them, tried, and taken back, so that a run costs what it patches and not what an image is made of.
//!
//! ```text
//! byte 0 of the input: which image
//! patch:  kind u8, flags u8, index u16, three words u32
//! ```
#![allow(dead_code, reason = "each target uses its own part of this file")]

use std::cell::RefCell;
use std::ops::ControlFlow;

use pageless_block::{Bio, Queue as _, Sector, open_checked};
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{CheckError, CheckOptions, Counts, Finding, Report, Watch, Worth, check, repair};
use pageless_drivers::btt::flog::{FlogEntry, FlogGroup, FlogLayout};
use pageless_drivers::btt::info::{Expected, Identity, InfoBlock, Uuid};
use pageless_drivers::btt::layout::{ARENA_MIN, Follows, Geometry, LbaSize, PAGE, Placement};
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{BttDisk, OpenOptions};
use pageless_mem::{Backing, Memory, Region};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Few lanes and few blocks, for which an arena has much more room: a run costs what there is to be checked.
const NFREE: u32 = 8;
const EXTERNAL: u32 = 120;
const PATCH: usize = 16;
/// Patches of one input, at most.
const PATCHES: usize = 24;

/// Where an arena is, on a good image.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Arena {
    /// Its first byte.
    pub(crate) start: u64,
    /// How it is divided.
    pub(crate) geometry: Geometry,
}

/// A good image, and what was changed in it.
pub(crate) struct Image {
    pub(crate) memory: Memory,
    pub(crate) region: Region,
    pub(crate) medium: Medium,
    pub(crate) arenas: Vec<Arena>,
    undo: Vec<(u64, Vec<u8>)>,
    /// All metadata as it was made.
    good: Vec<(u64, Vec<u8>)>,
}

thread_local!(static IMAGES: RefCell<Images> = RefCell::new(Images::new()));

/// As [`Images::with`], on images that this thread has kept.
pub(crate) fn with(input: &[u8], attempt: impl FnOnce(&mut Image)) {
    IMAGES.with_borrow_mut(|images| images.with(input, attempt));
}

/// All images.
pub(crate) struct Images(Vec<Image>);

impl Images {
    /// Makes them.
    pub(crate) fn new() -> Images {
        let all = [(Placement::V1_1, 1), (Placement::V2_0, 1), (Placement::Pmemblk, 1), (Placement::V1_1, 2)];
        Images(all.map(|(placement, arenas)| Image::new(placement, arenas)).into())
    }

    /// Patches an image as the input says, tries it, and takes all of it back.
    pub(crate) fn with(&mut self, input: &[u8], attempt: impl FnOnce(&mut Image)) {
        let Some((which, patches)) = input.split_first() else { return };
        let count = self.0.len();
        let image = &mut self.0[usize::from(*which) % count];
        for patch in patches.chunks_exact(PATCH).take(PATCHES) {
            image.patch(patch);
        }
        attempt(image);
        image.take_back();
    }
}

impl Image {
    fn new(placement: Placement, count: u64) -> Image {
        let size = ARENA_MIN;
        let len = placement.offset() + count * size;
        let memory = Memory::new().expect("a frame space");
        let region = memory.register(Backing::anon(len).expect("memory")).expect("registered");
        let mut medium = Medium::new(&memory, region.clone());
        let identity = Identity { uuid: Uuid([7; 16]), parent_uuid: Uuid([9; 16]), version: placement.version() };
        if placement == Placement::Pmemblk {
            store(&mut medium, 0, b"PMEMBLK\0");
            store(&mut medium, 24, &identity.parent_uuid.0);
            store(&mut medium, PAGE, &4096_u32.to_le_bytes());
        }
        let mut arenas = Vec::new();
        for number in 0..count {
            let follows = if number + 1 < count { Follows::Another } else { Follows::Nothing };
            let lba_size = LbaSize::new(4096).expect("one of the sizes");
            let geometry = Geometry::new(lba_size, NFREE, size, follows).expect("large enough");
            let start = placement.offset() + number * size;
            let mut block = InfoBlock::new(&identity, &geometry);
            block.external_nlba = EXTERNAL.into();
            block.internal_nlba = (EXTERNAL + NFREE).into();
            let block = block.sealed();
            let expected = Expected { version: placement.version(), parent_uuid: None, room: len - start };
            let geometry = block.check(&expected).expect("good").geometry;
            store(&mut medium, start, block.as_bytes());
            store(&mut medium, start + geometry.info2off(), block.as_bytes());
            // Never a hole, of which the kernel would have to be asked each time.
            store(&mut medium, start + geometry.mapoff(), &vec![0; (geometry.info2off() - geometry.mapoff()) as usize]);
            for lane in 0..NFREE {
                let group = FlogGroup::initial(lane, geometry.external_nlba() + lane);
                store(&mut medium, start + geometry.flog_offset(lane), group.as_bytes());
            }
            arenas.push(Arena { start, geometry });
        }
        let mut image = Image { memory, region, medium, arenas, undo: Vec::new(), good: Vec::new() };
        image.good = image.metadata();
        image
    }

    /// Stores bytes that are taken back later. What lies outside is left.
    pub(crate) fn store(&mut self, offset: u64, bytes: &[u8]) {
        let mut old = vec![0; bytes.len()];
        if self.medium.read(offset, &mut old).is_ok() {
            store(&mut self.medium, offset, bytes);
            self.undo.push((offset, old));
        }
    }

    fn metadata(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut parts = vec![(0, vec![0; 3 * PAGE as usize])];
        for Arena { start, geometry } in &self.arenas {
            let len = geometry.info2off() + PAGE - geometry.mapoff();
            parts.push((*start, vec![0; PAGE as usize]));
            parts.push((start + geometry.mapoff(), vec![0; len as usize]));
        }
        for (offset, bytes) in &mut parts {
            self.medium.read(*offset, bytes).expect("inside the medium");
        }
        parts
    }

    /// Opens it as a disk, reads and writes some blocks, and checks it again: nothing that was whole is damaged. All metadata is
    /// as it was made after that.
    pub(crate) fn open_and_use(&mut self) {
        let before = self.check().map(|checked| checked.report.counts);
        let disk = BttDisk::open(&self.memory, &self.region, "hostile", &OpenOptions::default());
        if let Ok(disk) = disk
            && let Ok(mut queue) = open_checked(&disk)
        {
            let buffer = self.memory.register(Backing::anon(PAGE).expect("memory")).expect("registered");
            let (frames, mut done) = (buffer.range(0, PAGE).expect("inside"), Vec::new());
            for tag in 0..12 {
                let sector = Sector(tag % 5 * 8);
                let bio = if tag % 3 == 0 { Bio::read(sector, frames, tag) } else { Bio::write(sector, frames, tag) };
                let accepted = queue.submit(bio).is_ok();
                queue.poll(&mut done).expect("a poll");
                assert_eq!(done.drain(..).count(), usize::from(accepted));
            }
            drop(queue);
            // What the disk was opened on is a BTT still, and use has damaged nothing that was whole.
            let after = self.check().expect("it is still a BTT").report.counts;
            let whole = before.is_some_and(|before| before.consistent());
            assert!(!whole || (after.consistent() && after.unfinished == 0), "{before:?} {after:?}");
        }
        self.undo.clear();
        for (offset, bytes) in std::mem::take(&mut self.good) {
            store(&mut self.medium, offset, &bytes);
            self.good.push((offset, bytes));
        }
    }

    fn take_back(&mut self) {
        while let Some((offset, old)) = self.undo.pop() {
            store(&mut self.medium, offset, &old);
        }
    }

    fn patch(&mut self, patch: &[u8]) {
        let word = |at: usize| u32::from_le_bytes([patch[at], patch[at + 1], patch[at + 2], patch[at + 3]]);
        let (kind, flags, index) = (patch[0], patch[1], u16::from_le_bytes([patch[2], patch[3]]));
        let (a, b, c) = (word(4), word(8), word(12));
        let arena = self.arenas[usize::from(flags >> 7) % self.arenas.len()];
        let geometry = arena.geometry;
        let block = |n: u32| near(n, geometry.external_nlba());
        let lane = u32::from(index) % NFREE;
        match kind % 9 {
            // A map entry: anything, or something that could be.
            0 => self.store(arena.start + geometry.map_offset(a % geometry.external_nlba()), &b.to_le_bytes()),
            1 => {
                let entry = (b & 3) << 30 | block(c);
                self.store(arena.start + geometry.map_offset(a % 64), &entry.to_le_bytes());
            }
            // A flog entry, likewise.
            2 => {
                let offset = arena.start + geometry.flog_offset(lane) + u64::from(flags & 3) * 16;
                let seq = u32::from(flags >> 2 & 7);
                self.store(offset, [a, b, c, seq].map(u32::to_le_bytes).as_flattened());
            }
            3 => {
                let offset = arena.start + geometry.flog_offset(lane) + u64::from(flags & 3) * 16;
                let seq = u32::from(flags >> 2 & 3);
                self.store(offset, [a % 16, block(b), block(c), seq].map(u32::to_le_bytes).as_flattened());
            }
            // A field of an info block, sealed or not, in either copy or both.
            4 | 5 => self.info(arena, flags, |info| {
                let value = u64::from(a) | u64::from(b) << 32;
                let value = if kind % 9 == 5 { value & 0x1_ffff_fe00 } else { value };
                let at = 48 + usize::from(index) % 56;
                let bytes = value.to_le_bytes();
                let len = if c & 1 == 0 { 4 } else { 8 };
                info.as_mut_bytes()[at..at + len].copy_from_slice(&bytes[..len]);
            }),
            // Bytes of an info block, likewise.
            6 => self.info(arena, flags, |info| {
                let at = usize::from(index) % 4093;
                info.as_mut_bytes()[at..at + 4].copy_from_slice(&a.to_le_bytes());
            }),
            // A write, whole or cut off before the map.
            7 => self.write(arena, lane, a % 16, flags & 1 == 0),
            _ => self.store((u64::from(a) % self.medium.len()) & !3, &b.to_le_bytes()),
        }
    }

    fn info(&mut self, arena: Arena, flags: u8, change: impl Fn(&mut InfoBlock)) {
        for (bit, offset) in [(1, arena.start), (2, arena.start + arena.geometry.info2off())] {
            if flags & bit != 0
                && let Ok(mut info) = self.medium.get::<InfoBlock>(offset)
            {
                change(&mut info);
                let info = if flags & 4 != 0 { info.sealed() } else { info };
                self.store(offset, info.as_bytes());
            }
        }
    }

    fn write(&mut self, arena: Arena, lane: u32, lba: u32, whole: bool) {
        let (flog, map) =
            (arena.start + arena.geometry.flog_offset(lane), arena.start + arena.geometry.map_offset(lba));
        let (Ok(mut group), Ok(word)) = (self.medium.get::<FlogGroup>(flog), self.medium.get::<U32>(map)) else {
            return;
        };
        let Ok(current) = group.current(FlogLayout::Packed) else { return };
        let (old, new) = (MapEntry::from_raw(word.get()).block(lba), current.entry.old_block());
        let slot = FlogLayout::Packed.slot(current.which.other());
        group.slots[slot] = FlogEntry::new(lba, MapEntry::normal(old), new, current.seq.next());
        self.store(flog, group.as_bytes());
        if whole {
            self.store(map, &MapEntry::normal(new).raw().to_le_bytes());
        }
    }

    /// Checks, and asserts what holds of every check. Nothing where there is no BTT.
    pub(crate) fn check(&mut self) -> Option<Checked> {
        let mut heard = Heard { len: self.medium.len(), ..Heard::default() };
        let checked = check(&mut self.medium, CheckOptions::default(), &mut heard);
        match checked {
            Ok(report) => {
                assert_eq!(heard.counts, report.counts);
                assert!(report.arenas.len() <= self.arenas.len());
                Some(Checked { report })
            }
            Err(CheckError::Find(_)) => None,
            // A read outside of the medium would end so.
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks, repairs, checks again: nothing is left that could be repaired, and nothing was made worse.
    pub(crate) fn check_and_repair(&mut self) {
        let Some(Checked { report }) = self.check() else { return };
        for change in &report.changes {
            assert_eq!(change.old.len(), change.new.len());
            let whole = |at: u64| change.offset == at && change.new.len() == PAGE as usize;
            let allowed = report.arenas.iter().any(|arena| {
                let geometry = arena.info.geometry;
                let map = arena.start + geometry.mapoff()..arena.start + geometry.mapoff() + geometry.map_len();
                let entry = change.new.len() == 4 && map.contains(&change.offset) && change.offset % 4 == 0;
                whole(arena.start) || whole(arena.start + geometry.info2off()) || entry
            });
            assert!(allowed, "{change:?}");
            self.undo.push((change.offset, change.old.clone()));
        }
        repair::apply(&mut self.medium, &report.changes).expect("nothing changed in between");
        let after = self.check().expect("it is still a BTT").report;
        assert_eq!((after.counts.repairable, after.counts.unfinished), (0, 0), "{:?}", report.changes);
        assert!(after.changes.is_empty());
        assert!(after.counts.damage <= report.counts.damage, "{report:?} {after:?}");
    }
}

/// A check that came to its end.
pub(crate) struct Checked {
    pub(crate) report: Report,
}

/// A number as it could be meant: a low block, or one near the end.
fn near(n: u32, external: u32) -> u32 {
    let low = n % 32;
    if n & 0x100 == 0 { low } else { external + low % 10 }
}

fn store(medium: &mut Medium, offset: u64, bytes: &[u8]) {
    for (piece, at) in bytes.chunks(1 << 20).zip((offset..).step_by(1 << 20)) {
        medium.put(at, piece).expect("inside the medium");
    }
}

#[derive(Default)]
struct Heard {
    len: u64,
    counts: Counts,
    done: u64,
}

impl Watch for Heard {
    fn found(&mut self, finding: &Finding) {
        assert!(finding.offset < self.len, "{finding}");
        match finding.problem.worth() {
            Worth::Unfinished => self.counts.unfinished += 1,
            Worth::Repairable => self.counts.repairable += 1,
            Worth::Damage => self.counts.damage += 1,
        }
    }

    fn progress(&mut self, done: u64, of: u64) -> ControlFlow<()> {
        assert!(done > self.done && done <= of);
        self.done = done;
        ControlFlow::Continue(())
    }
}
