// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mapped file that is changed under its frames, and what its users see.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

#[path = "dax_file/rig.rs"]
mod rig;

use pageless_block::{Direct, DirectAccess, ScatterList, Status};
use pageless_drivers::dax_file::{DaxError, DaxFile, DaxOptions};
use pageless_mem::persist::Durability;
use pageless_mem::{Access, Backing, Error, Fault, Memory, Region};
use pageless_sys::Errno;
use pageless_testkit::require;
use rig::{KIB, LONG, SHORT, SOON, file, load, pattern, places, same, store};
use std::fs;

const PAGE: u64 = 4096;

#[test]
fn a_lease_names_frames_and_holes_of_a_file() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(40_000, 1));
        let file = file(&memory, &path);
        assert_eq!((file.size(), file.parts(), file.path()), (40_000, 1, path.path()));
        let mut lease = file.lease(5000, 30_000).unwrap();
        assert_eq!((lease.len(), lease.broken()), (30_000, false));
        same(&load(&memory, &lease.frames(0, 30_000).unwrap()).unwrap(), &content[5000..35_000]);
        let Ok(Direct::Data(range)) = lease.access(100, 29_900) else { panic!("all of it is data") };
        same(&load(&memory, &range.into()).unwrap(), &content[5100..5100 + range.len() as usize]);
        for (offset, len) in [(0, 30_001), (30_000, 1), (1, u64::MAX), (5, 0)] {
            assert_eq!(lease.access(offset, len), Err(Status::OutOfRange), "{offset}+{len}");
            assert_eq!(lease.frames(offset, len).unwrap_err(), Status::OutOfRange);
            assert_eq!(lease.stored(offset, len), Err(Status::OutOfRange));
        }
        for (offset, len) in [(39_999, 2), (40_000, 1), (u64::MAX, 2)] {
            assert!(matches!(file.lease(offset, len), Err(DaxError::OutOfRange { len: 40_000, .. })));
        }
        // What is stored to the frames is in the file.
        store(&memory, &lease.frames(0, 3).unwrap(), b"abc");
        lease.stored(0, 3).unwrap();
        lease.persist(0, 3).unwrap();
        lease.flush().unwrap();
        file.flush().unwrap();
        assert_eq!(
            fs::read(path.path()).unwrap()[4999..5004],
            *[&content[4999..5000], b"abc", &content[5003..5004]].concat()
        );
        assert!(file.metadata_bytes() < 4096);
        file.close(LONG).unwrap();
        assert!(lease.broken());
        assert_eq!(
            (lease.access(0, 1), lease.persist(0, 1), lease.flush()),
            (Err(Status::Gone), Err(Status::Gone), Err(Status::Gone))
        );
    }
}

#[test]
fn reading_a_hole_through_a_lease_allocates_nothing_and_storing_fills_it() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let path = place.path();
        let options = DaxOptions { size: Some(64 * PAGE), create: true, read_only: false };
        let file = DaxFile::open(&memory, path.path(), options).unwrap();
        let mut lease = file.lease(0, 64 * PAGE).unwrap();
        assert_eq!(lease.access(0, 64 * PAGE), Ok(Direct::Hole(64 * PAGE)));
        store(&memory, &lease.frames(8 * PAGE, 100).unwrap(), &[7; 100]);
        lease.persist(8 * PAGE, 100).unwrap();
        assert_eq!(lease.access(0, 64 * PAGE), Ok(Direct::Hole(8 * PAGE)));
        assert!(matches!(lease.access(8 * PAGE, 100), Ok(Direct::Data(_))));
        assert_eq!(lease.access(9 * PAGE, PAGE), Ok(Direct::Hole(PAGE)));
        assert!(path.allocated() <= 8 * PAGE, "{}", path.allocated());
        // A file that was there already must hold what is asked for, and is not made smaller.
        drop((lease, file));
        let larger = DaxFile::open(&memory, path.path(), DaxOptions { size: Some(65 * PAGE), ..options });
        assert!(matches!(larger, Err(DaxError::Memory(Error::TooSmall { wanted, .. })) if wanted == 65 * PAGE));
        let smaller = DaxFile::open(&memory, path.path(), DaxOptions { size: Some(PAGE), ..options }).unwrap();
        assert_eq!(smaller.size(), 64 * PAGE);
    }
}

#[test]
fn a_file_says_what_durable_means_there() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, _) = place.file(&[1; 4096]);
        let file = file(&memory, &path);
        let text = file.to_string();
        match file.durability() {
            Durability::Msync => assert!(text.ends_with("a page cache: a flush is fdatasync"), "{text}"),
            _ => assert!(text.contains("persistent memory mapped with MAP_SYNC"), "{text}"),
        }
        assert_eq!(file.durability() == Durability::Msync, !place.is_dax());
        assert!(text.starts_with(&format!("{}, 4096 bytes in 1 part(s)", path.path().display())), "{text}");
    }
}

#[test]
fn a_truncation_waits_for_io_and_then_fails_busy_and_changes_nothing() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(64 * KIB, 2));
        let file = file(&memory, &path);
        file.grow(128 * KIB as u64, SHORT).unwrap();
        let mut content = [content, vec![0; 64 * KIB]].concat();
        let lease = file.lease(0, 128 * KIB as u64).unwrap();
        let mut reader = memory.reader();
        for at in [20_000, 100_000] {
            let frames = lease.frames(at, 512).unwrap();
            let pinned = reader.online().pin(frames.as_slice(), Access::Write).unwrap();
            for change in [0, 1, 2, 3] {
                let error = match change {
                    0 => file.truncate(at + 511, SHORT),
                    1 => file.punch_hole(at - 10_000, 10_001, SHORT),
                    2 => file.collapse(8192, 4096, SHORT),
                    _ => file.close(SHORT),
                }
                .unwrap_err();
                let DaxError::Busy(busy) = &error else { panic!("{change}: {error}") };
                assert_eq!(busy.holders.len(), 1, "{busy}");
                assert_eq!(busy.holders[0].in_flight, Some((at, at + 512, Access::Write)), "in bytes of the file");
                assert!(error.is_busy() && error.to_string().contains(path.path().to_str().unwrap()), "{error}");
                same(&fs::read(path.path()).unwrap(), &content);
                assert_eq!((file.size(), lease.broken()), (128 * KIB as u64, false));
                same(&load(&memory, &lease.frames(0, 128 * KIB as u64).unwrap()).unwrap(), &content);
            }
            // What is not in flight may go meanwhile.
            file.punch_hole(at + 512, 1, SHORT).unwrap();
            content[at as usize + 512] = 0;
            drop(pinned);
        }
        // A window is waited for too, by what takes frames away.
        let frames = lease.frames(0, 1).unwrap();
        let online = reader.online();
        let _window = online.kmap(frames.as_slice()[0], Access::Read).unwrap();
        let error = file.truncate(100, SHORT).unwrap_err();
        assert!(error.to_string().contains("has windows open"), "{error}");
        drop(online);
        assert_eq!((file.size(), lease.broken()), (128 * KIB as u64, false));
        file.truncate(100, LONG).unwrap();
        same(&fs::read(path.path()).unwrap(), &content[..100]);
    }
}

#[test]
fn what_was_cut_off_stays_dead_and_what_grows_is_new() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(64 * KIB, 3));
        let file = file(&memory, &path);
        let (low, high) = (file.lease(0, 5000).unwrap(), file.lease(5000, 10_000).unwrap());
        let old = high.frames(0, 10_000).unwrap();
        file.truncate(5000, LONG).unwrap();
        assert_eq!((file.size(), fs::read(path.path()).unwrap()), (5000, content[..5000].to_vec()));
        assert!(high.broken() && !low.broken());
        file.grow(20_000, LONG).unwrap();
        assert_eq!((file.size(), file.parts()), (20_000, 2));
        assert!(high.broken(), "grown back is not the same");
        assert_eq!(load(&memory, &old), Err(Fault::Gone));
        let new = file.lease(0, 20_000).unwrap();
        let expected = [&content[..5000], &[0; 15_000]].concat();
        same(&load(&memory, &new.frames(0, 20_000).unwrap()).unwrap(), &expected);
        // Both parts have some of the page at 4096; each store lands where its name says.
        store(&memory, &new.frames(4998, 4).unwrap(), b"wxyz");
        let expected = [&content[..4998], b"wxyz", &[0; 14_998]].concat();
        same(&fs::read(path.path()).unwrap(), &expected);
        // A punch over the seam.
        file.punch_hole(4000, 5000, LONG).unwrap();
        let expected = [&content[..4000], &[0; 16_000]].concat();
        same(&fs::read(path.path()).unwrap(), &expected);
        same(&load(&memory, &new.frames(0, 20_000).unwrap()).unwrap(), &expected);
        // A cut through both.
        file.truncate(4500, LONG).unwrap();
        assert_eq!(
            (file.parts(), load(&memory, &low.frames(0, 4500).unwrap()).unwrap()),
            (1, expected[..4500].to_vec())
        );
        assert_eq!(low.frames(0, 4501).unwrap_err(), Status::Gone);
        assert!(matches!(file.truncate(4501, LONG), Err(DaxError::OutOfRange { len: 4500, .. })));
        assert!(matches!(file.grow(4499, LONG), Err(DaxError::OutOfRange { .. })));
        file.truncate(0, LONG).unwrap();
        assert_eq!((file.size(), file.parts(), memory.regions()), (0, 0, 0));
        file.grow(PAGE, LONG).unwrap();
        same(&load(&memory, &file.lease(0, PAGE).unwrap().frames(0, PAGE).unwrap()).unwrap(), &[0; PAGE as usize]);
    }
}

#[test]
fn many_small_growths_make_few_parts() {
    let memory = Memory::new().unwrap();
    let (path, _) = places()[0].file(&[1; 10]);
    let file = file(&memory, &path);
    let first = file.lease(0, 10).unwrap();
    for step in 1..3000 {
        file.grow(10 + step * 1000, LONG).unwrap();
        store(&memory, &file.lease(file.size() - 7, 7).unwrap().frames(0, 7).unwrap(), &[2; 7]);
    }
    assert!(file.parts() <= 5, "{} parts", file.parts());
    assert!(!first.broken(), "growing takes nothing away");
    let content = fs::read(path.path()).unwrap();
    let expected = |at: usize| if at < 10 { 1 } else { 2 * u8::from((at - 10) % 1000 >= 993) };
    assert!(content.len() == 2_999_010 && content.iter().enumerate().all(|(at, byte)| *byte == expected(at)));

    // Growing, and cutting some of it off again, starts a new part each time: until there are too many.
    for _ in 0..200 {
        file.grow(file.size() + 5000, LONG).unwrap();
        file.truncate(file.size() - 2500, LONG).unwrap();
        assert!(file.parts() <= DaxFile::MAX_PARTS + 1);
    }
    assert!(first.broken(), "mapped anew as one");
    let whole = file.lease(0, file.size()).unwrap().frames(0, file.size()).unwrap();
    same(&load(&memory, &whole).unwrap(), &fs::read(path.path()).unwrap());
    // Unless somebody has some of it: then it waits for a better time.
    let mut reader = memory.reader();
    let pinned = reader.online().pin(&whole.as_slice()[..1], Access::Read).unwrap();
    for _ in 0..100 {
        file.grow(file.size() + 5000, SHORT).unwrap();
        file.truncate(file.size() - 2500, LONG).unwrap();
    }
    assert!(file.parts() > DaxFile::MAX_PARTS);
    drop(pinned);
    file.grow(file.size() + (1 << 30), LONG).unwrap();
    assert_eq!((file.parts(), memory.regions()), (1, 1));
}

#[test]
fn a_collapse_moves_bytes_up_and_every_frame_behind_is_new() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(100_000, 4));
        let file = file(&memory, &path);
        let (head, tail) = (file.lease(0, 8192).unwrap(), file.lease(8192, 1000).unwrap());
        for (offset, len) in [(8192, 91_808), (0, 100_000), (8192, u64::MAX)] {
            assert!(matches!(file.collapse(offset, len, LONG), Err(DaxError::OutOfRange { .. })), "{offset}+{len}");
        }
        let collapsed = file.collapse(8192, 12_288, LONG);
        if place.has_no_collapse() {
            let error = collapsed.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP));
            assert!(error.to_string().ends_with("this file system cannot do that"), "{error}");
            same(&fs::read(path.path()).unwrap(), &content);
            assert_eq!((file.size(), tail.broken(), memory.regions()), (100_000, false, 1));
            continue;
        }
        collapsed.unwrap();
        let expected = [&content[..8192], &content[20_480..]].concat();
        same(&fs::read(path.path()).unwrap(), &expected);
        assert_eq!((file.size(), head.broken(), tail.broken()), (expected.len() as u64, false, true));
        let all = file.lease(0, file.size()).unwrap();
        same(&load(&memory, &all.frames(0, file.size()).unwrap()).unwrap(), &expected);
        let error = file.collapse(8192, 100, LONG).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        assert!(error.to_string().ends_with("whole blocks of the file system"), "{error}");
        assert_eq!((fs::read(path.path()).unwrap(), all.broken()), (expected, false));
    }
}

#[test]
fn what_the_file_system_refuses_changes_nothing() {
    let memory = Memory::new().unwrap();
    let place = &places()[0];
    let (path, content) = place.file(&pattern(64 * KIB, 5));
    let file = file(&memory, &path);
    let lease = file.lease(0, 64 * KIB as u64).unwrap();
    let error = file.grow(i64::MAX as u64 - 4096, LONG).unwrap_err();
    assert!(matches!(error.errno(), Some(Errno::EFBIG | Errno::EINVAL | Errno::ENOMEM | Errno::EOVERFLOW)), "{error}");
    // Sealed against nothing, but immutable: what only root can do. Not every file system looks at that once a file is open.
    let looks = if place.name() == "ext4" { Ok(()) } else { Err(format!("the files are on {}", place.name())) };
    if require("ext4, for a file that is made immutable", looks).is_some() && rig::immutable(path.path(), true) {
        let error = file.truncate(10, LONG).unwrap_err();
        let punched = file.punch_hole(0, 8192, LONG).unwrap_err();
        let grown = file.grow(1 << 20, LONG).unwrap_err();
        assert!(rig::immutable(path.path(), false));
        for (error, what) in [(error, "truncate"), (punched, "punch hole"), (grown, "grow")] {
            assert!(matches!(&error, DaxError::Refused { what: told, .. } if *told == what), "{error}");
            assert_eq!(error.errno(), Some(Errno::EPERM));
        }
    }
    assert_eq!((file.size(), file.parts(), lease.broken()), (64 * KIB as u64, 1, false));
    same(&load(&memory, &lease.frames(0, 64 * KIB as u64).unwrap()).unwrap(), &content);
    assert_eq!(memory.regions(), 1);
}

#[test]
fn a_closed_file_is_let_go_with_its_lock() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(64 * KIB, 7));
        let first = file(&memory, &path);
        let again = || DaxFile::open(&memory, path.path(), DaxOptions::default());
        assert!(matches!(again(), Err(DaxError::Memory(Error::Locked { .. }))));
        let lease = first.lease(0, 100).unwrap();
        let frames = lease.frames(0, 100).unwrap();
        let mut idle = memory.reader();
        drop(idle.online());
        first.close(LONG).unwrap();
        assert_eq!(memory.regions(), 0);
        for closed in [first.lease(0, 1).map(drop), first.truncate(0, LONG), first.grow(1 << 20, LONG), first.flush()] {
            assert!(matches!(closed, Err(DaxError::Closed { .. } | DaxError::OutOfRange { .. })));
        }
        first.close(LONG).unwrap();
        // The handle, a lease and a reader still live.
        let second = again().unwrap();
        assert_eq!((load(&memory, &frames), lease.broken()), (Err(Fault::Gone), true));
        same(&load(&memory, &second.lease(0, 9).unwrap().frames(0, 9).unwrap()).unwrap(), &content[..9]);
        // Dropping one is as good, when nothing is in flight.
        let lease = second.lease(0, 100).unwrap();
        drop(second);
        assert!(lease.broken());
        let reading = DaxOptions { read_only: true, ..DaxOptions::default() };
        let (a, b) = (
            DaxFile::open(&memory, path.path(), reading).unwrap(),
            DaxFile::open(&memory, path.path(), reading).unwrap(),
        );
        let refused = a.truncate(5, LONG).unwrap_err();
        let told = format!("{}: truncate at byte 5 of {}: it was opened read-only", a.path().display(), a.size());
        assert_eq!((refused.to_string(), refused.errno()), (told, None));
        let mut lease = a.lease(0, 100).unwrap();
        assert_eq!((lease.stored(0, 1), lease.persist(0, 1)), (Err(Status::ReadOnly), Err(Status::ReadOnly)));
        let refused = memory.reader().online().pin(lease.frames(0, 100).unwrap().as_slice(), Access::Write).map(drop);
        assert_eq!(refused, Err(Fault::ReadOnly));
        a.close(LONG).unwrap();
        b.close(LONG).unwrap();
    }
}

#[test]
fn who_asks_for_a_range_gets_it_and_changes_wait_for_it() {
    let memory = Memory::new().unwrap();
    let (path, _) = places()[0].file(&[1; 64 * KIB]);
    let file = file(&memory, &path);
    let held = file.lock(8192, 4096, Access::Write, SHORT).unwrap();
    let error = file.lock(12_287, 1, Access::Read, SHORT).unwrap_err();
    let DaxError::Busy(busy) = &error else { panic!("{error}") };
    assert_eq!(busy.holders[0].in_flight, Some((8192, 12_288, Access::Write)));
    assert!(file.truncate(10_000, SHORT).unwrap_err().is_busy());
    assert!(file.punch_hole(0, 8193, SHORT).unwrap_err().is_busy());
    assert!(file.collapse(4096, 4096, SHORT).unwrap_err().is_busy());
    file.punch_hole(0, 8192, SHORT).unwrap();
    file.truncate(12_288, SHORT).unwrap();
    drop(held);
    let (_a, _b) = (file.lock(0, 10, Access::Read, SHORT).unwrap(), file.lock(5, 10, Access::Read, SHORT).unwrap());
}

/// A discard is the business of the queue that was given it: memory in flight, also that of its own submitter, is kept.
#[test]
fn a_discard_never_waits_for_its_own_queue() {
    use pageless_block::{Bio, BlockDevice, Sector};
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let memory = Memory::new().unwrap();
        let region: Region = memory.register(Backing::memfd(1 << 20).unwrap()).unwrap();
        let disk = pageless_drivers::PmemDisk::new(&memory, region.clone(), "disk");
        let mut queue = pageless_testkit::Blocking::new(&disk).unwrap();
        let ones = memory.register(Backing::anon(1 << 20).unwrap()).unwrap();
        let all: ScatterList = ones.range(0, 1 << 20).unwrap().into();
        store(&memory, &all, &[1; 1 << 20]);
        queue.write(0, all).unwrap();
        let mut reader = memory.reader();
        let mut view = disk.dax().unwrap();
        let Ok(Direct::Data(range)) = view.access(PAGE, 8192) else { panic!("data") };
        let pinned = reader.online().pin(&[range], Access::Write).unwrap();
        queue.must(Bio::discard(Sector(0), 1 << 20, 1)).unwrap();
        queue.must(Bio::write_zeroes(Sector(8), 65_536, 1)).unwrap();
        drop(pinned);
        same(&load(&memory, &region.range(0, 1 << 20).unwrap().into()).unwrap(), &[0; 1 << 20]);
        done.send(()).unwrap();
    });
    finished.recv_timeout(LONG).expect("the discard waits for I/O that waits for it");
}

#[test]
fn a_change_goes_on_when_what_it_waited_for_ends() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(64 * KIB, 11));
        let file = file(&memory, &path);
        let frames = file.lease(30_000, 100).unwrap().frames(0, 100).unwrap();
        let mut reader = memory.reader();
        for change in [0, 1, 2] {
            let pinned = reader.online().pin(frames.as_slice(), Access::Write).unwrap();
            std::thread::scope(|scope| {
                let changing = scope.spawn(|| match change {
                    0 => file.punch_hole(20_000, 20_000, LONG),
                    1 => file.truncate(30_001, LONG),
                    _ => file.close(LONG),
                });
                std::thread::sleep(SOON);
                assert!(!changing.is_finished(), "it is in flight");
                assert_eq!(fs::metadata(path.path()).unwrap().len() > 30_001, change < 2);
                drop(pinned);
                changing.join().unwrap().unwrap();
            });
            if change == 1 {
                break;
            }
        }
        let expected = [&content[..20_000], &[0; 10_001]].concat();
        same(&fs::read(path.path()).unwrap(), &expected);
    }
}
