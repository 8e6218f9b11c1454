// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hostile BTT images, for the fuzz targets and for the test that replays their seeds.
//!
//! A few good images are made once and kept. An input is a list of patches, 16 bytes each: it is stored into one of
//! them, tried, and taken back, so that a run costs what it patches and not what an image is made of.
//!
//! ```text
//! byte 0 of the input: which image; bit 3: one whose map has holes;
//!         bits 4 and 5: first comes how many pages of it are left, u16
//! ```
#![allow(dead_code, reason = "each target uses its own part of this file")]

#[path = "hostile_btt/patch.rs"]
mod patch;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;

use pageless_block::{Bio, Completion, Queue, Sector, Status, open_checked};
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{
    CheckError, CheckOptions, Counts, Finding, FirstLook, Report, Watch, Worth, check, repair,
};
use pageless_drivers::btt::flog::FlogGroup;
use pageless_drivers::btt::info::{Expected, Identity, InfoBlock, Uuid};
use pageless_drivers::btt::layout::{ARENA_MIN, Follows, Geometry, LbaSize, PAGE, Placement};
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{BttDisk, BttError, OpenOptions, Trouble};
use pageless_mem::{Backing, Memory, PhysRange, Region};
use pageless_sys::mmap::Mapping;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Few lanes and few blocks, for which an arena has much more room: a run costs what there is to be checked.
const NFREE: u32 = 8;
const EXTERNAL: u32 = 120;
/// Of one whose map has holes: as many as three pages of it.
const SPARSE_EXTERNAL: u32 = 2_900;
const PATCH: usize = 16;
/// Patches of one input, at most.
const PATCHES: usize = 24;
/// The bits of byte 0 that have the image cut short: both, since that costs more than all the rest.
const CUT: u8 = 0x30;
/// The bit of byte 0 that takes an image whose map has holes. Those are not cut short.
pub(crate) const SPARSE: u8 = 0x08;
/// Pages of an open disk that are compared.
const LOOKED_AT: u64 = 16;

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
    /// All of it, of which the region may be the beginning. Nothing where the map has holes.
    mapping: Option<Arc<Mapping>>,
    /// What a user reads into and writes from: to make one costs more than a run.
    buffer: Region,
    undo: Vec<(u64, Vec<u8>)>,
    /// All metadata as it was made.
    good: Vec<(u64, Vec<u8>)>,
    /// Where users wrote, if there were any.
    used: Option<Vec<u64>>,
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
        let image = |sparse: bool| move |(placement, arenas)| Image::new(placement, arenas, sparse);
        Images(all.map(image(false)).into_iter().chain(all.map(image(true))).collect())
    }

    /// Patches an image as the input says, tries it, and takes all of it back.
    pub(crate) fn with(&mut self, input: &[u8], attempt: impl FnOnce(&mut Image)) {
        let Some((which, mut patches)) = input.split_first() else { return };
        let dense = self.0.len() / 2;
        let sparse = if which & SPARSE == 0 { 0 } else { dense };
        let image = &mut self.0[usize::from(*which) % dense + sparse];
        let mut pages = None;
        if which & CUT == CUT
            && let Some((left, rest)) = patches.split_first_chunk()
        {
            (pages, patches) = (Some(u64::from(u16::from_le_bytes(*left))), rest);
        }
        for patch in patches.chunks_exact(PATCH).take(PATCHES) {
            image.patch(patch);
        }
        if let Some(pages) = pages {
            let all = image.region.len() / PAGE;
            image.show((1 + pages % all) * PAGE);
        }
        attempt(image);
        image.take_back();
    }
}

impl Image {
    fn new(placement: Placement, count: u64, sparse: bool) -> Image {
        let size = ARENA_MIN;
        let len = placement.offset() + count * size;
        let memory = Memory::new().expect("a frame space");
        let mapping = (!sparse).then(|| Arc::new(Mapping::anonymous(len).expect("memory")));
        let region = match &mapping {
            Some(mapping) => beginning(&memory, mapping, len),
            None => memory.register(Backing::memfd(len).expect("memory")).expect("registered"),
        };
        let external = if sparse { SPARSE_EXTERNAL } else { EXTERNAL };
        let buffer = memory.register(Backing::anon(PAGE).expect("memory")).expect("registered");
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
            block.external_nlba = external.into();
            block.internal_nlba = (external + NFREE).into();
            let block = block.sealed();
            let expected = Expected { version: placement.version(), parent_uuid: None, room: len - start };
            let geometry = block.check(&expected).expect("good").geometry;
            store(&mut medium, start, block.as_bytes());
            store(&mut medium, start + geometry.info2off(), block.as_bytes());
            if !sparse {
                // Never a hole, of which the kernel would have to be asked each time.
                let zeroes = vec![0; (geometry.info2off() - geometry.mapoff()) as usize];
                store(&mut medium, start + geometry.mapoff(), &zeroes);
            }
            for lane in 0..NFREE {
                let group = FlogGroup::initial(lane, geometry.external_nlba() + lane);
                store(&mut medium, start + geometry.flog_offset(lane), group.as_bytes());
            }
            arenas.push(Arena { start, geometry });
        }
        let (undo, good, used) = (Vec::new(), Vec::new(), None);
        let mut image = Image { memory, region, medium, arenas, mapping, buffer, undo, good, used };
        image.good = image.metadata();
        image.punch();
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

    /// Nothing but the first bytes are there, until this is called again.
    fn show(&mut self, len: u64) {
        let Some(mapping) = &self.mapping else { return };
        // Addresses are registered once.
        self.region = self.buffer.clone();
        self.medium = Medium::new(&self.memory, self.buffer.clone());
        self.region = beginning(&self.memory, mapping, len);
        self.medium = Medium::new(&self.memory, self.region.clone());
    }

    /// As much of all metadata as is there.
    fn metadata(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut parts = vec![(0, vec![0; 3 * PAGE as usize])];
        for Arena { start, geometry } in &self.arenas {
            let len = geometry.info2off() + PAGE - geometry.mapoff();
            parts.push((*start, vec![0; PAGE as usize]));
            parts.push((start + geometry.mapoff(), vec![0; len as usize]));
        }
        for (offset, bytes) in &mut parts {
            let left = self.medium.len().saturating_sub(*offset).min(bytes.len() as u64);
            bytes.truncate(left as usize);
            self.medium.read(*offset, bytes).expect("inside the medium");
        }
        parts
    }

    /// Opens it as a disk, reads and writes some blocks, and opens it again: what was written is there, all else reads as
    /// before, and a check finds nothing that it did not find before. What is refused is as it was.
    pub(crate) fn open_and_use(&mut self) {
        let before = self.check();
        let mut written = Vec::new();
        if let Some(mut user) = self.open() {
            let Checked { report, findings } = before.expect("only what is a BTT is opened as one");
            let mut expected: Vec<_> = (0..LOOKED_AT).map(|page| user.read(page)).collect();
            for tag in 0..12 {
                let page = tag % 5;
                if tag % 3 == 0 {
                    assert_eq!(user.read(page), expected[page as usize], "page {page}");
                } else if let Some(bytes) = user.write(page, tag) {
                    expected[page as usize] = bytes;
                    written.extend(self.lies_at(&report, page));
                }
            }
            let all = |user: &mut User| (0..LOOKED_AT).map(|page| user.read(page)).collect::<Vec<_>>();
            assert_eq!(all(&mut user), expected);
            drop(user);
            let after = self.check().expect("it is still a BTT").findings;
            let new: Vec<_> = after.iter().filter(|finding| !findings.contains(finding)).collect();
            assert!(new.is_empty(), "{new:?} after {findings:?}");
            let mut user = self.open().expect("it is opened again");
            assert_eq!(all(&mut user), expected, "opened again");
        }
        self.used.get_or_insert_default().extend(written);
    }

    /// Opens it as a disk, if that can be done. Where not, something is wrong with what is there and not with us, and nothing is
    /// stored.
    pub(crate) fn open(&mut self) -> Option<User> {
        let before = self.metadata();
        let disk = match BttDisk::open(&self.memory, &self.region, "hostile", &OpenOptions::default()) {
            Ok(disk) => disk,
            Err(BttError::Check(CheckError::Find(_)) | BttError::Damaged(_)) => {
                assert!(self.metadata() == before, "what is refused is changed");
                return None;
            }
            Err(error) => panic!("{error:?}"),
        };
        let queue = Box::new(open_checked(&disk).expect("a queue"));
        let frames = self.buffer.range(0, PAGE).expect("inside");
        Some(User { disk, queue, frames, buffer: Medium::new(&self.memory, self.buffer.clone()) })
    }

    /// Where the first block of a page of the disk lies.
    fn lies_at(&mut self, report: &Report, page: u64) -> Option<u64> {
        let block = report.arenas.first()?.info.geometry.lba_size().block();
        let mut lba = page * PAGE / u64::from(block);
        for arena in &report.arenas {
            let geometry = arena.info.geometry;
            if let Ok(lba) = u32::try_from(lba)
                && lba < geometry.external_nlba()
            {
                let word: U32 = self.medium.get(arena.start + geometry.map_offset(lba)).ok()?;
                return Some(arena.start + geometry.block_offset(MapEntry::from_raw(word.get()).block(lba)));
            }
            lba -= u64::from(geometry.external_nlba());
        }
        None
    }

    fn take_back(&mut self) {
        let whole = self.mapping.as_ref().map_or(0, |mapping| mapping.len() as u64);
        if self.region.len() < whole {
            self.show(whole);
        }
        if let Some(written) = self.used.take() {
            self.undo.clear();
            for offset in written {
                store(&mut self.medium, offset, &Bytes::default());
            }
            for (offset, bytes) in std::mem::take(&mut self.good) {
                store(&mut self.medium, offset, &bytes);
                self.good.push((offset, bytes));
            }
        }
        while let Some((offset, old)) = self.undo.pop() {
            store(&mut self.medium, offset, &old);
        }
        self.punch();
    }

    /// What was stored into a map of holes is a hole again.
    fn punch(&mut self) {
        if self.mapping.is_none() {
            for Arena { start, geometry } in &self.arenas {
                let map = geometry.map_len().next_multiple_of(PAGE);
                self.region.punch(start + geometry.mapoff(), map).expect("a file in memory has holes");
            }
        }
    }

    /// Checks, and asserts what holds of every check. Nothing where there is no BTT.
    pub(crate) fn check(&mut self) -> Option<Checked> {
        self.check_by(FirstLook::Entries)
    }

    /// Checks entry by entry and by the fingerprint, which come to the same.
    pub(crate) fn check_both_ways(&mut self) {
        let both = [FirstLook::Entries, FirstLook::Fingerprint { threads: 2 }].map(|first_look| {
            self.check_by(first_look).map(|Checked { report, mut findings }| {
                findings.sort_by_key(|finding| (finding.arena, finding.offset, finding.problem.name()));
                (findings, report.changes)
            })
        });
        assert_eq!(both[0], both[1]);
    }

    fn check_by(&mut self, first_look: FirstLook) -> Option<Checked> {
        let mut heard = Heard { len: self.medium.len(), ..Heard::default() };
        let options = CheckOptions { first_look, ..CheckOptions::default() };
        let checked = check(&mut self.medium, options, &mut heard);
        match checked {
            Ok(report) => {
                assert_eq!(heard.counts, report.counts);
                assert!(report.arenas.len() <= self.arenas.len());
                Some(Checked { report, findings: heard.findings })
            }
            Err(CheckError::Find(_)) => None,
            // A read outside of the medium would end so.
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks, repairs, checks again: nothing is left that could be repaired, and nothing was made worse.
    pub(crate) fn check_and_repair(&mut self) {
        let Some(Checked { report, .. }) = self.check() else { return };
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
    pub(crate) findings: Vec<Finding>,
}

/// The beginning of a page.
type Bytes = [u8; 16];

/// Somebody who has it open as a disk.
pub(crate) struct User {
    disk: BttDisk,
    queue: Box<dyn Queue>,
    frames: PhysRange,
    buffer: Medium,
}

impl User {
    /// What it says is wrong.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        self.disk.troubles()
    }

    /// How a page begins; how that failed; nothing past the end.
    pub(crate) fn read(&mut self, page: u64) -> Option<Result<Bytes, Status>> {
        let done = self.execute(Bio::read(Sector(page * 8), self.frames, page))?;
        Some(match done.status {
            Status::Ok => Ok(self.buffer.get(0).expect("a buffer")),
            status => Err(status),
        })
    }

    /// Writes a page; what is read then. Nothing when it was not written.
    pub(crate) fn write(&mut self, page: u64, tag: u64) -> Option<Option<Result<Bytes, Status>>> {
        let bytes = [tag as u8 + 1; 16];
        store(&mut self.buffer, 0, &bytes);
        let done = self.execute(Bio::write(Sector(page * 8), self.frames, tag))?;
        (done.status == Status::Ok).then_some(Some(Ok(bytes)))
    }

    fn execute(&mut self, bio: Bio) -> Option<Completion> {
        let mut done = Vec::new();
        let accepted = self.queue.submit(bio).is_ok();
        self.queue.poll(&mut done).expect("a poll");
        assert_eq!(done.len(), usize::from(accepted));
        done.pop()
    }
}

/// So many bytes from the first on, as a region.
fn beginning(memory: &Memory, mapping: &Arc<Mapping>, len: u64) -> Region {
    memory.register(Backing::lent(mapping, 0, len, true).expect("inside")).expect("registered")
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
    findings: Vec<Finding>,
}

impl Watch for Heard {
    fn found(&mut self, finding: &Finding) {
        assert!(finding.offset < self.len, "{finding}");
        match finding.problem.worth() {
            Worth::Unfinished => self.counts.unfinished += 1,
            Worth::Repairable => self.counts.repairable += 1,
            Worth::Damage => self.counts.damage += 1,
        }
        self.findings.push(*finding);
    }

    fn progress(&mut self, done: u64, of: u64) -> ControlFlow<()> {
        assert!(done >= self.done && done <= of);
        self.done = done;
        ControlFlow::Continue(())
    }
}
