// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes of a mapped file that fail, meet each other, or meet users who never rest.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "dax_file/rig.rs"]
mod rig;

use pageless_block::{DirectAccess, Status};
use pageless_drivers::dax_file::{DaxError, DaxFile, DaxOptions, DirectFile, Lease};
use pageless_drivers::file::FileDiskOptions;
use pageless_mem::{Access, Error, Memory};
use rig::{KIB, LONG, SHORT, file, load, pattern, places, same};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const READING: DaxOptions = DaxOptions { size: None, create: false, read_only: true };

#[test]
fn closing_twice_or_at_the_same_time_is_no_error() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(64 * KIB, 12));
        for options in [DaxOptions::default(), READING] {
            for _ in 0..50 {
                let file = DaxFile::open(&memory, path.path(), options).unwrap();
                std::thread::scope(|scope| {
                    let closing: Vec<_> = (0..4).map(|_| scope.spawn(|| file.close(LONG))).collect();
                    closing.into_iter().for_each(|closing| closing.join().unwrap().unwrap());
                });
                file.close(Duration::ZERO).unwrap();
                assert_eq!(memory.regions(), 0);
            }
        }
        // The lock went each time.
        let last = file(&memory, &path);
        same(
            &load(&memory, &last.lease(0, 64 * KIB as u64).unwrap().frames(0, 64 * KIB as u64).unwrap()).unwrap(),
            &content,
        );
    }
}

#[test]
fn a_file_that_was_dropped_can_be_opened_again() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, _) = place.file(&pattern(64 * KIB, 13));
        let (file, other) = (file(&memory, &path), memory.reader());
        let lease = file.lease(0, 100).unwrap();
        file.grow(256 * KIB as u64, LONG).unwrap();
        file.truncate(3000, LONG).unwrap();
        file.grow(9000, LONG).unwrap();
        drop(file);
        assert!(lease.broken());
        let start = Instant::now();
        loop {
            match DaxFile::open(&memory, path.path(), DaxOptions::default()) {
                Ok(again) => break assert_eq!(again.size(), 9000),
                // What was cut off is given back, and the lock with it, on another thread.
                Err(DaxError::Memory(Error::Locked { .. })) if start.elapsed() < LONG => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        drop(other);
    }
}

#[test]
fn no_patience_is_too_long() {
    const FOREVER: Duration = Duration::MAX;
    let memory = Memory::new().unwrap();
    let (path, _) = places()[0].file(&[1; 64 * KIB]);
    let writing = file(&memory, &path);
    drop(writing.lock(0, 10, Access::Write, FOREVER).unwrap());
    writing.grow(128 * KIB as u64, FOREVER).unwrap();
    writing.truncate(100_000, FOREVER).unwrap();
    writing.punch_hole(0, 10, FOREVER).unwrap();
    match writing.collapse(4096, 4096, FOREVER) {
        Err(error) if places()[0].has_no_collapse() => assert!(!error.is_busy(), "{error}"),
        collapsed => collapsed.unwrap(),
    }
    assert!(writing.lease(0, 10).unwrap().wait(FOREVER));
    writing.close(FOREVER).unwrap();
    let reading = DaxFile::open(&memory, path.path(), READING).unwrap();
    reading.close(FOREVER).unwrap();
    reading.close(FOREVER).unwrap();
}

/// Also who panics stops the others.
struct StopAtEnd<'s>(&'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A window that stays open makes every change fail after it has drained and cut the regions, at its last step.
#[test]
fn a_change_that_is_taken_back_fails_no_transfer() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let source_place = rig::on_disk();
        let (source, content) = source_place.file(&pattern(16 * KIB, 14));
        let (target, _) = source_place.file(&[0xee; 16 * KIB]);
        let (path, _) = place.file(&[9; 64 * KIB]);
        let (file, stop) = (file(&memory, &path), AtomicBool::new(false));
        let mut lease = file.lease(32_768, 16_384).unwrap();
        let mut reader = memory.reader();
        let online = reader.online();
        let (mut aborted, mut told) = (0, 0);
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                let mut failed = 0;
                while !stop.load(SeqCst) {
                    assert!(file.truncate(10_000, SHORT).unwrap_err().is_busy());
                    failed += 1;
                }
                failed
            });
            let moving = scope.spawn(|| {
                // They belong to one thread.
                let reading = FileDiskOptions { read_only: true, ..FileDiskOptions::default() };
                let mut source = DirectFile::open(&memory, source.path(), reading).unwrap();
                let mut target = DirectFile::open(&memory, target.path(), FileDiskOptions::default()).unwrap();
                for _ in 0..40 {
                    file.read_from(&mut source, 0, 32_768, 16_384).unwrap();
                    file.write_to(&mut target, 0, 32_768, 16_384).unwrap();
                }
            });
            let stopping = StopAtEnd(&stop);
            while !moving.is_finished() || aborted == 0 || told == 0 {
                assert!(!changing.is_finished(), "it fails each time");
                match lease.stored(0, 16_384).and_then(|()| lease.persist(0, 16_384)) {
                    Ok(()) => told += 1,
                    Err(Status::Aborted) => aborted += 1,
                    Err(status) => panic!("{status}, and nothing was cut"),
                }
                std::thread::yield_now();
            }
            drop(stopping);
            println!("{} changes taken back, {aborted} times asked again", changing.join().unwrap());
        });
        drop(online);
        assert!(!lease.broken());
        same(&load(&memory, &lease.frames(0, 16_384).unwrap()).unwrap(), &content);
        // What is cut off in the end is gone.
        file.truncate(32_768, LONG).unwrap();
        assert_eq!((lease.stored(0, 1), lease.persist(0, 1)), (Err(Status::Gone), Err(Status::Gone)));
    }
}

/// Has some of the lease in flight, and lets go only when another has, or none can be had.
fn relieve(memory: &Memory, lease: &Lease, me: usize, pinned: &[AtomicU64; 2], stop: &AtomicBool) {
    let mut reader = memory.reader();
    while !stop.load(SeqCst) {
        let Ok(frames) = lease.frames(0, lease.len()) else {
            lease.wait(Duration::from_millis(1));
            continue;
        };
        let other = pinned[1 - me].load(SeqCst);
        let held = reader.online().pin(frames.as_slice(), Access::Write).unwrap();
        pinned[me].fetch_add(1, SeqCst);
        // A change makes the other wait for this: not for ever.
        let start = Instant::now();
        while pinned[1 - me].load(SeqCst) == other && start.elapsed() < SHORT && !stop.load(SeqCst) {
            std::thread::yield_now();
        }
        drop(held);
    }
}

#[test]
fn a_punch_is_not_starved_by_users_who_relieve_each_other() {
    for place in places() {
        let memory = Memory::new().unwrap();
        let (path, content) = place.file(&pattern(64 * KIB, 15));
        let file = file(&memory, &path);
        // Two parts, each of which may be idle when the other is not.
        file.truncate(32_768, LONG).unwrap();
        file.grow(65_536, LONG).unwrap();
        assert_eq!(file.parts(), 2);
        let (low, high) = (file.lease(8192, 8192).unwrap(), file.lease(40_960, 8192).unwrap());
        let (pinned, stop) = ([AtomicU64::new(0), AtomicU64::new(0)], AtomicBool::new(false));
        let (done, finished) = mpsc::channel();
        std::thread::scope(|scope| {
            for (me, lease) in [(0, &low), (1, &high)] {
                let (memory, pinned, stop) = (&memory, &pinned, &stop);
                scope.spawn(move || relieve(memory, lease, me, pinned, stop));
            }
            let _stopping = StopAtEnd(&stop);
            while pinned.iter().any(|count| count.load(SeqCst) == 0) {
                std::thread::yield_now();
            }
            for _ in 0..20 {
                done.send(file.punch_hole(4096, 57_344, LONG)).unwrap();
            }
        });
        drop(done);
        for punched in finished {
            punched.unwrap();
        }
        let expected = [&content[..4096], &[0; 61_440]].concat();
        same(&fs::read(path.path()).unwrap(), &expected);
    }
}

#[test]
fn while_a_punch_waits_nothing_new_is_named() {
    let memory = Memory::new().unwrap();
    let (path, _) = places()[0].file(&[1; 64 * KIB]);
    let file = file(&memory, &path);
    let lease = file.lease(0, 8192).unwrap();
    let frames = lease.frames(0, 8192).unwrap();
    let pinned = memory.reader().online().pin(frames.as_slice(), Access::Read).unwrap();
    // Where nobody has the bytes nobody is kept from anything.
    file.punch_hole(32_768, 8192, SHORT).unwrap();
    std::thread::scope(|scope| {
        let punching = scope.spawn(|| file.punch_hole(0, 8192, LONG));
        let start = Instant::now();
        while lease.frames(0, 1).map(drop) != Err(Status::Aborted) && start.elapsed() < LONG {
            std::thread::yield_now();
        }
        let waits = !punching.is_finished() && lease.frames(0, 1).is_err();
        drop(pinned);
        punching.join().unwrap().unwrap();
        assert!(waits, "users keep coming while it waits");
    });
    assert_eq!(lease.frames(0, 8192).unwrap(), frames);
}
