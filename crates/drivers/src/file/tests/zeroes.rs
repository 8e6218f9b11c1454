// SPDX-License-Identifier: MIT OR Apache-2.0
//! Discard, write-zeroes, and what is told of holes.

use super::rig::{Rig, Scratch, Tmpfs, pattern};
use pageless_block::{Bio, BlockDevice, Extent, Flags, Route, Sector, Status, Why};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const MIB: u64 = 1 << 20;

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_discard_frees_and_zeroes_read_as_zeroes() {
    let file = Scratch::with(&pattern(4 << 20, 0));
    let mut rig = Rig::new(file.path());
    assert_eq!(rig.run(Bio::flush(0)).status, Status::Ok);
    let full = allocated(file.path());
    let sector = |mib: u64| Sector(mib * MIB / 512);

    let done = rig.run(Bio::discard(sector(0), MIB, 0).with_flags(Flags::FUA));
    assert_eq!((done.status, done.done, done.route), (Status::Ok, MIB, Route::None));
    let done = rig.run(Bio::write_zeroes(sector(1), MIB, 0));
    assert_eq!((done.status, done.done), (Status::Ok, MIB));
    assert_eq!(full - allocated(file.path()), 2 * MIB);

    let kept = Bio::write_zeroes(sector(2), MIB, 0).with_flags(Flags::NO_UNMAP | Flags::FUA);
    assert_eq!(rig.run(kept).status, Status::Ok);
    assert_eq!(full - allocated(file.path()), 2 * MIB, "NO_UNMAP leaves the blocks allocated");
    let content = file.content();
    assert!(content[..3 << 20].iter().all(|byte| *byte == 0));
    assert_eq!(content[3 << 20..], pattern(4 << 20, 0)[3 << 20..]);
}

#[test]
fn where_zeroes_cannot_be_asked_for_they_are_stored() {
    let Some(tmpfs) = Tmpfs::mount("8m") else { return };
    let path = tmpfs.path("disk");
    std::fs::write(&path, pattern(2 << 20, 0)).unwrap();
    let mut rig = Rig::new(&path);
    let zeroes = |flags| Bio::write_zeroes(Sector(8), MIB, 0).with_flags(flags);

    let refused = rig.run(zeroes(Flags::NO_UNMAP | Flags::FAST_ONLY));
    assert_eq!((refused.status, refused.done), (Status::Unsupported, 0));
    assert_eq!(std::fs::read(&path).unwrap(), pattern(2 << 20, 0));

    let stored = rig.run(zeroes(Flags::NO_UNMAP));
    assert_eq!((stored.status, stored.done, stored.route), (Status::Ok, MIB, Route::Bounce(Why::Zeroes)));
    let mut wanted = pattern(2 << 20, 0);
    wanted[4096..4096 + (1 << 20)].fill(0);
    assert_eq!(std::fs::read(&path).unwrap(), wanted);
    assert_eq!(allocated(&path), 2 * MIB);

    assert_eq!(rig.run(zeroes(Flags::FAST_ONLY)).status, Status::Ok);
    assert_eq!(allocated(&path), MIB);
}

#[test]
fn where_nothing_can_be_freed_a_discard_frees_nothing() {
    let Some(ramfs) = Tmpfs::ramfs() else { return };
    let path = ramfs.path("disk");
    std::fs::write(&path, pattern(1 << 20, 0)).unwrap();
    let mut rig = Rig::new(&path);
    for flags in [Flags::empty(), Flags::FUA] {
        let done = rig.run(Bio::discard(Sector(8), 64 << 10, 0).with_flags(flags));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, 64 << 10, Route::None));
        assert_eq!(std::fs::read(&path).unwrap(), pattern(1 << 20, 0));
    }
    let fast = rig.run(Bio::write_zeroes(Sector(8), 64 << 10, 0).with_flags(Flags::FAST_ONLY));
    assert_eq!(fast.status, Status::Unsupported, "this file system has no fallocate");
}

#[test]
fn extents_are_those_of_the_file() {
    let file = Scratch::new();
    let image = File::create(file.path()).unwrap();
    image.set_len(64 * MIB).unwrap();
    image.write_all_at(&pattern(8192, 0), 16 * MIB).unwrap();
    image.sync_all().unwrap();
    let mut rig = Rig::new(file.path());
    let mut extents = rig.disk.extents().unwrap();
    if extents.next(0, 64 * MIB) == Ok(Extent::Data(64 * MIB)) {
        pageless_testkit::require::require::<(), _>("SEEK_HOLE", Err("the file system tells of none"));
        return;
    }
    assert_eq!(extents.next(0, 64 * MIB), Ok(Extent::Hole(16 * MIB)));
    assert_eq!(extents.next(MIB, MIB), Ok(Extent::Hole(MIB)));
    assert_eq!(extents.next(16 * MIB, 48 * MIB), Ok(Extent::Data(8192)));
    assert_eq!(extents.next(16 * MIB + 4096, 512), Ok(Extent::Data(512)));
    assert_eq!(extents.next(16 * MIB + 8192, 48 * MIB - 8192), Ok(Extent::Hole(48 * MIB - 8192)));
    assert_eq!(extents.next(64 * MIB, 512), Err(Status::OutOfRange));
    assert_eq!(extents.next(0, 0), Err(Status::OutOfRange));

    // what another queue wrote is data at once
    let region = rig.ram(4096);
    rig.store(&region, 0, &[1; 4096]);
    assert_eq!(rig.run(Bio::write(Sector(0), region.range(0, 4096).unwrap(), 0)).status, Status::Ok);
    assert_eq!(extents.next(0, MIB), Ok(Extent::Data(4096)));
}

#[test]
fn reading_a_hole_leaves_it_one() {
    let file = Scratch::new();
    File::create(file.path()).unwrap().set_len(8 * MIB).unwrap();
    let mut rig = Rig::new(file.path());
    let region = rig.ram(8 * MIB);
    rig.store(&region, 0, &[1; 4096]);
    let all = region.range(0, 8 * MIB).unwrap();
    assert_eq!(rig.run(Bio::read(Sector(0), all, 0)).status, Status::Ok);
    assert!(rig.load(all).iter().all(|byte| *byte == 0));
    assert_eq!(allocated(file.path()), 0);
}
