// SPDX-License-Identifier: MIT OR Apache-2.0
//! `O_DIRECT` between other files and the frames of a mapped one, in one call.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

#[path = "dax_file/rig.rs"]
mod rig;

use pageless_block::{Route, Status, Why};
use pageless_drivers::dax_file::{DaxError, DaxFile, DaxOptions, DirectFile};
use pageless_drivers::file::FileDiskOptions;
use pageless_mem::Memory;
use pageless_testkit::regions::TempPath;
use rig::{Bytes, KIB, LONG, file, load, pattern, places, same};
use std::fs;

fn direct(memory: &Memory, path: &TempPath, read_only: bool) -> DirectFile {
    DirectFile::open(memory, path.path(), FileDiskOptions { read_only, ..FileDiskOptions::default() }).unwrap()
}

#[test]
fn one_call_reads_another_file_into_the_frames_whatever_the_alignment() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let source_place = rig::on_disk();
        let (source, content) = source_place.file(&pattern(300_007, 8));
        let mut source = direct(&memory, &source, true);
        assert_eq!(source.size(), 300_007);
        let path = place.path();
        let options = DaxOptions { size: Some(400_000), create: true, read_only: false };
        let file = DaxFile::open(&memory, path.path(), options).unwrap();
        let mut model = vec![0; 400_000];
        let cases = [
            (0, 0, 4096),
            (0, 8192, 262_144),
            (4096, 5000, 100_000),
            (511, 511, 65_536),
            (513, 4096, 40_000),
            (299_000, 399_000 - 7, 1007),
            (300_000, 0, 7),
            (100, 200, 10),
            (77, 78, 299_900),
            (0, 99_993, 300_007),
            (5, 5, 0),
        ];
        let mut routes = Vec::new();
        for (from, to, len) in cases {
            let moved = file.read_from(&mut source, from, to, len).unwrap();
            assert_eq!(moved.bytes, len);
            routes.push(moved.route);
            model[to as usize..(to + len) as usize].copy_from_slice(&content[from as usize..(from + len) as usize]);
            file.flush().unwrap();
            let got = fs::read(path.path()).unwrap();
            assert_eq!(got.iter().zip(&model).position(|(a, b)| a != b), None, "{from} to {to}, {len} bytes");
        }
        println!("{routes:?}");
        if source_place.is_direct() {
            assert_eq!(routes[..2], [Route::Direct; 2]);
            assert_eq!(routes[2..4], [Route::Bounce(Why::Misaligned); 2]);
        }
        assert!(matches!(file.read_from(&mut source, 1, 0, 300_007), Err(DaxError::OutOfRange { len: 300_007, .. })));
        assert!(matches!(
            file.read_from(&mut source, 0, 400_000 - 5, 6),
            Err(DaxError::OutOfRange { len: 400_000, .. })
        ));
        assert!(matches!(file.read_from(&mut source, u64::MAX, 0, 6), Err(DaxError::OutOfRange { .. })));
        same(&fs::read(path.path()).unwrap(), &model);
    }
}

#[test]
fn one_call_writes_the_frames_to_another_file_and_leaves_holes_alone() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(300_007, 9));
        let file = file(&memory, &path);
        file.punch_hole(65_536, 131_072, LONG).unwrap();
        let content: Bytes = content
            .iter()
            .enumerate()
            .map(|(at, byte)| if (65_536..196_608).contains(&at) { 0 } else { *byte })
            .collect();
        let before = path.allocated();
        let (target_path, mut model) = rig::on_disk().file(&vec![0xee; 300_100]);
        let mut target = direct(&memory, &target_path, false);
        for (from, to, len) in
            [(0, 0, 262_144), (0, 93, 300_007), (4096, 8192, 100_000), (300_000, 300_093, 7), (3, 1, 100)]
        {
            let moved = file.write_to(&mut target, to, from, len).unwrap();
            println!("{moved:?}");
            model[to as usize..(to + len) as usize].copy_from_slice(&content[from as usize..(from + len) as usize]);
            assert_eq!(
                (moved.bytes, fs::read(target_path.path()).unwrap() == model),
                (len, true),
                "{from} to {to}, {len} bytes"
            );
        }
        assert_eq!(path.allocated(), before, "holes stay holes");
        assert!(
            matches!(file.write_to(&mut target, 94, 0, 300_007), Err(DaxError::OutOfRange { .. })),
            "it does not grow"
        );
        drop(target);
        let mut reading = direct(&memory, &target_path, true);
        let error = file.write_to(&mut reading, 0, 0, 8192).unwrap_err();
        assert!(matches!(error, DaxError::Transfer { status: Status::ReadOnly, moved: 0, .. }), "{error}");
        // Neither may be the other.
        let same = DirectFile::open(&memory, path.path(), FileDiskOptions::default());
        assert!(matches!(same, Err(DaxError::Other(_))), "{same:?}");
    }
}

#[test]
fn a_transfer_to_frames_that_are_gone_says_so() {
    let memory = Memory::new().unwrap();
    let (source, _) = rig::on_disk().file(&pattern(64 * KIB, 10));
    let mut source = direct(&memory, &source, true);
    let (path, content) = places()[0].file(&[3; 64 * KIB]);
    let file = file(&memory, &path);
    file.close(LONG).unwrap();
    assert!(matches!(file.read_from(&mut source, 0, 0, 4096), Err(DaxError::Closed { .. })));
    same(&fs::read(path.path()).unwrap(), &content);
    let tiny = rig::on_disk().file(b"tiny").0;
    let mut tiny = direct(&memory, &tiny, true);
    let (path, _) = places()[0].file(&[3; 64]);
    let file = DaxFile::open(&memory, path.path(), DaxOptions::default()).unwrap();
    let moved = file.read_from(&mut tiny, 1, 10, 3).unwrap();
    assert_eq!((moved.bytes, moved.route), (3, Route::Bounce(Why::Misaligned)));
    assert_eq!(&fs::read(path.path()).unwrap()[9..14], b"\x03iny\x03");
}

#[test]
fn a_file_without_room_is_no_space_and_the_count_is_exact() {
    let Some(tmpfs) = rig::Tmpfs::mount("1m") else { return };
    let memory = Memory::new().unwrap();
    let options = DaxOptions { size: Some(100), create: true, read_only: false };
    let file = DaxFile::open(&memory, &tmpfs.path("file"), options).unwrap();
    file.truncate(0, LONG).unwrap();
    // A second part, so that what is filled is found by the part's place in the file.
    file.grow(64 * KIB as u64, LONG).unwrap();
    file.truncate(62 * KIB as u64, LONG).unwrap();
    file.grow(4 << 20, LONG).unwrap();
    assert_eq!(file.parts(), 2);
    let (source, content) = places()[0].file(&pattern(2 << 20, 6));
    let mut source = direct(&memory, &source, true);
    let error = file.read_from(&mut source, 0, 64 * KIB as u64, 2 << 20).unwrap_err();
    let DaxError::Transfer { status: Status::NoSpace, moved, len, .. } = error else { panic!("{error}") };
    assert!(moved > 0 && moved <= 1 << 20 && len == 2 << 20, "{moved}");
    let frames = file.lease(64 * KIB as u64, moved).unwrap().frames(0, moved).unwrap();
    same(&load(&memory, &frames).unwrap(), &content[..moved as usize]);
}
