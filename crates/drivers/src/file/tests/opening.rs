// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening: sizes, kinds, locks, block devices.

use super::rig::{Loop, Rig, Scratch, pattern};
use crate::file::{FileDisk, FileDiskOptions, FileError};
use pageless_block::{Bio, BlockDevice, Flags, Sector, Status};
use pageless_mem::Memory;
use std::path::{Path, PathBuf};

fn open(path: &Path, options: FileDiskOptions) -> Result<FileDisk, FileError> {
    FileDisk::open(&Memory::new().unwrap(), path, options)
}

fn made(size: u64) -> FileDiskOptions {
    FileDiskOptions { size: Some(size), create: true, ..FileDiskOptions::default() }
}

fn read_only() -> FileDiskOptions {
    FileDiskOptions { read_only: true, ..FileDiskOptions::default() }
}

#[test]
fn a_file_is_made_sparse_and_found_again() {
    let file = Scratch::new();
    let disk = open(file.path(), made(1 << 30)).unwrap();
    assert_eq!((disk.capacity(), disk.limits().read_only), (1 << 30, false));
    drop(disk);
    assert_eq!(open(file.path(), FileDiskOptions::default()).unwrap().capacity(), 1 << 30);
    assert_eq!(open(file.path(), made(1 << 20)).unwrap().capacity(), 1 << 20);
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 1 << 30, "what is there is not cut");
}

#[test]
fn what_cannot_be_a_disk_is_named() {
    let file = Scratch::new();
    let missing = open(file.path(), FileDiskOptions::default()).unwrap_err();
    assert!(matches!(missing, FileError::Missing { .. }), "{missing}");
    let directory = open(Path::new("/"), read_only()).unwrap_err();
    assert!(matches!(directory, FileError::NotADisk { .. }), "{directory}");
    let device = open(Path::new("/dev/null"), read_only()).unwrap_err();
    assert!(matches!(device, FileError::NotADisk { .. }), "{device}");
    let nowhere = open(&PathBuf::from("/nonexistent/x"), made(4096)).unwrap_err();
    assert!(nowhere.to_string().starts_with("/nonexistent/x: ENOENT"), "{nowhere}");

    let part = open(file.path(), made(1000)).unwrap_err();
    assert!(matches!(part, FileError::PartBlock { size: 1000, .. }), "{part}");
    assert!(!file.path().exists(), "a refused file is not left behind");
    std::fs::write(file.path(), pattern(4096, 0)).unwrap();
    let small = open(file.path(), made(8192)).unwrap_err();
    assert!(matches!(small, FileError::TooSmall { size: 4096, asked: 8192, .. }), "{small}");
    assert_eq!(file.content().len(), 4096);
    std::fs::write(file.path(), []).unwrap();
    let empty = open(file.path(), FileDiskOptions::default()).unwrap_err();
    assert!(matches!(empty, FileError::Empty { .. }), "{empty}");
}

#[test]
fn a_writer_is_alone_and_readers_are_not() {
    let file = Scratch::with(&pattern(4096, 0));
    let us = std::process::id();
    let writer = open(file.path(), FileDiskOptions::default()).unwrap();
    for options in [FileDiskOptions::default(), read_only()] {
        let refused = open(file.path(), options).unwrap_err();
        assert!(matches!(refused, FileError::Locked { holder: Some(pid), .. } if pid == us), "{refused}");
    }
    // a queue outlives the disk it came from, and so does the lock
    let queue = writer.open_queue().unwrap();
    drop(writer);
    assert!(open(file.path(), read_only()).is_err());
    drop(queue);
    let reader = open(file.path(), read_only()).unwrap();
    assert!(reader.limits().read_only);
    let _another = open(file.path(), read_only()).unwrap();
    assert!(matches!(open(file.path(), FileDiskOptions::default()), Err(FileError::Locked { .. })));
}

#[test]
fn a_disk_is_the_file_and_not_its_name() {
    let file = Scratch::with(&pattern(4096, 0));
    let mut rig = Rig::new(file.path());
    std::fs::remove_file(file.path()).unwrap();
    std::fs::write(file.path(), pattern(4096, 1)).unwrap();
    rig.queue = rig.disk.open_queue().unwrap();
    let region = rig.ram(4096);
    let range = region.range(0, 4096).unwrap();
    assert_eq!(rig.run(Bio::read(Sector(0), range, 0)).status, Status::Ok);
    assert_eq!(rig.load(range), pattern(4096, 0));
}

#[test]
fn a_block_device_says_its_block_and_has_one_writer() {
    let file = Scratch::with(&pattern(1 << 20, 0));
    let Some(device) = Loop::new(file.path(), "4096") else { return };
    let path = device.path();
    let mut rig = Rig::new(path);
    assert_eq!((rig.disk.capacity(), rig.disk.limits().block_size), (1 << 20, 4096));
    assert!(rig.disk.extents().is_none());
    // It may be a mount that has it, so nobody is named but the kernel's answer.
    assert!(matches!(
        open(path, FileDiskOptions::default()),
        Err(FileError::Open { errno: pageless_sys::Errno::EBUSY, .. })
    ));

    let region = rig.ram(8192);
    for (odd, salt) in [(0, 3), (1, 4)] {
        let range = region.range(odd, 4096).unwrap();
        rig.store(&region, odd, &pattern(4096, salt));
        let write = Bio::write(Sector(8), range, 0).with_flags(Flags::FUA);
        assert_eq!(rig.run(write).status, Status::Ok);
        rig.store(&region, odd, &[0; 4096]);
        assert_eq!(rig.run(Bio::read(Sector(8), range, 0)).status, Status::Ok);
        assert_eq!(rig.load(range), pattern(4096, salt));
    }
    assert_eq!(rig.run(Bio::flush(0)).status, Status::Ok);
    for zeroes in [Bio::write_zeroes(Sector(8), 4096, 0), Bio::write_zeroes(Sector(16), 4096, 0)] {
        assert_eq!(rig.run(zeroes.with_flags(Flags::NO_UNMAP)).status, Status::Ok);
    }
    assert_eq!(rig.run(Bio::read(Sector(8), region.range(0, 8192).unwrap(), 0)).status, Status::Ok);
    assert_eq!(rig.load(region.range(0, 8192).unwrap()), [0; 8192]);
}
