// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking memory back: what later users see, who is waited for, what is left behind (I5, I6).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pageless_mem::{Access, Backing, Error, FRAME_SIZE, Fault, FileOptions, Memory, Region};

const LONG: Duration = Duration::from_secs(60);

/// Rounds of the load tests: few enough for every run, unless asked for more.
fn rounds() -> u64 {
    let rounds = std::env::var("PAGELESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300);
    println!("{rounds} rounds");
    rounds
}

fn scratch(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("pageless-revoke-{}-{name}", std::process::id()))
}

fn fill(memory: &Memory, region: &Region, byte: u8) {
    let mut reader = memory.reader();
    let online = reader.online();
    for frame in 0..region.len() / FRAME_SIZE {
        let range = region.range(frame * FRAME_SIZE, FRAME_SIZE).unwrap();
        online.kmap(range, Access::Write).unwrap().writer().write(&[byte; 4096]).unwrap();
    }
}

#[test]
fn a_revoked_region_is_gone_to_everybody_and_its_memory_is_given_back() {
    let memory = Memory::new().unwrap();
    let path = scratch("gone");
    let options = FileOptions { size: Some(64 << 10), create: true, read_only: false };
    let region = memory.register(Backing::file(&path, options).unwrap()).unwrap();
    let again = || Backing::file(&path, FileOptions { size: None, create: false, read_only: false });
    let other = memory.register(Backing::anon(4096).unwrap()).unwrap();
    let (mut reader, mut flusher) = (memory.reader(), region.flusher());
    let range = region.range(8192, 4096).unwrap();
    fill(&memory, &region, 7);
    assert!(matches!(again(), Err(Error::Locked { .. })), "in use");

    let released = region.revoke(LONG).unwrap();

    let online = reader.online();
    assert_eq!(online.kmap(range, Access::Read).map(drop), Err(Fault::Gone));
    assert_eq!(online.pin(&[range], Access::Read).map(drop), Err(Fault::Gone));
    assert!(online.kmap(other.range(0, 1).unwrap(), Access::Write).is_ok());
    drop(online);
    assert_eq!((region.revoked(), region.len(), region.range(0, 1)), (true, 0, None));
    assert_eq!((flusher.flush(), flusher.persist(0, 1)), (Err(Fault::Gone), Err(Fault::Gone)));
    assert_eq!(
        (region.persist(0, 1), region.zero(0, 1), region.punch(0, 4096)),
        (Err(Fault::Gone), Err(Fault::Gone), Err(Fault::Gone))
    );
    assert!(released.wait(LONG).unwrap());
    // The handle, a reader and a flusher still live, and the file is free all the same.
    let later = memory.register(again().unwrap()).unwrap();
    let mut bytes = [0; 4096];
    reader.online().kmap(later.range(8192, 4096).unwrap(), Access::Read).unwrap().reader().read(&mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096], "the file is what it was");
    assert!(region.revoke(LONG).unwrap().wait(LONG).unwrap(), "twice is once");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_deadline_names_who_holds_the_memory_and_a_later_call_goes_on() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::anon(1 << 20).unwrap()).unwrap();
    let mut reader = memory.reader();
    let pinned = reader.online().pin(&[region.range(4096, 512).unwrap()], Access::Write).unwrap();
    let error = region.revoke(Duration::from_millis(5)).unwrap_err();
    let Error::Busy(busy) = &error else { panic!("{error}") };
    assert_eq!(busy.holders.len(), 1);
    assert_eq!(busy.holders[0].in_flight, Some((4096, 4608, Access::Write)));
    let text = error.to_string();
    assert!(text.contains("busy after 5ms: thread ") && text.contains(" writes bytes 4096..4608"), "{text}");
    let frames = region.frames();
    assert_eq!(region.range(0, 1), None, "Gone all the same");
    drop(pinned);
    assert!(region.revoke(LONG).unwrap().wait(LONG).unwrap());
    assert_eq!(region.frames(), frames, "its numbers stay its own");

    let region = memory.register(Backing::anon(1 << 20).unwrap()).unwrap();
    let online = reader.online();
    let window = online.kmap(region.range(0, 4096).unwrap(), Access::Write).unwrap();
    let error = region.revoke(Duration::from_millis(5)).unwrap_err();
    assert!(error.to_string().contains(" has windows open"), "{error}");
    window.writer().write(b"still there").unwrap();
    drop(online);
    assert!(region.revoke(LONG).unwrap().wait(LONG).unwrap());
}

#[test]
fn a_cut_happens_whole_or_changes_nothing() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(16 * FRAME_SIZE).unwrap()).unwrap();
    fill(&memory, &region, 9);
    let mut reader = memory.reader();
    let (low, high) = (region.range(0, 4096).unwrap(), region.range(8 * FRAME_SIZE, 4096).unwrap());
    let pinned = reader.online().pin(&[high], Access::Read).unwrap();
    let never = || -> Result<(), Error> { panic!("the change must not be tried") };
    assert!(matches!(region.cut(8 * FRAME_SIZE + 100, Duration::from_millis(2), never), Err(Error::Busy(_))));
    assert_eq!(region.len(), 16 * FRAME_SIZE);
    region.cut(9 * FRAME_SIZE, LONG, || Ok(())).unwrap();
    drop(pinned);
    let failing = || Err::<(), _>(Error::GivenUp { start: 0, end: region.len(), why: "a test" });
    assert!(matches!(region.cut(0, LONG, failing), Err(Error::GivenUp { .. })));
    let mut byte = [0];
    for range in [low, high] {
        reader.online().kmap(range, Access::Read).unwrap().reader().read(&mut byte).unwrap();
        assert_eq!(byte, [9], "a change that failed cut nothing");
    }
    region.cut(8 * FRAME_SIZE + 100, LONG, || Ok(())).unwrap();
    let online = reader.online();
    assert_eq!(online.kmap(high, Access::Read).map(drop), Err(Fault::Gone), "reaches past the cut");
    assert!(online.kmap(region.range(8 * FRAME_SIZE, 100).unwrap(), Access::Read).is_ok());
    assert_eq!(region.range(8 * FRAME_SIZE, 101), None);
    drop(online);
    region.cut(0, LONG, || Ok(())).unwrap();
    assert!(region.revoked());
    assert_eq!(reader.online().kmap(low, Access::Read).map(drop), Err(Fault::Gone));
}

#[test]
fn a_punch_leaves_memory_in_flight_where_it_is() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(16 * FRAME_SIZE).unwrap()).unwrap();
    fill(&memory, &region, 5);
    let mut reader = memory.reader();
    let pinned = reader.online().pin(&[region.range(3 * FRAME_SIZE, 4096).unwrap()], Access::Write).unwrap();
    let error = region.punch_within(0, 16 * FRAME_SIZE, Duration::from_millis(2)).unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    let read = |reader: &mut pageless_mem::Reader, at: u64| {
        let mut byte = [0];
        reader.online().kmap(region.range(at, 1).unwrap(), Access::Read).unwrap().reader().read(&mut byte).unwrap();
        byte[0]
    };
    assert_eq!(read(&mut reader, 0), 5, "refused is unchanged");
    region.punch_within(4 * FRAME_SIZE - 1, 2 * FRAME_SIZE + 2, LONG).unwrap();
    assert_eq!(
        [4 * FRAME_SIZE - 2, 4 * FRAME_SIZE - 1, 6 * FRAME_SIZE, 6 * FRAME_SIZE + 1].map(|at| read(&mut reader, at)),
        [5, 0, 0, 5]
    );
    // One that cannot wait stores its zeroes instead.
    region.punch(0, 16 * FRAME_SIZE).unwrap();
    assert_eq!(read(&mut reader, 3 * FRAME_SIZE), 0);
    drop(pinned);
    assert!(matches!(region.punch_within(0, 17 * FRAME_SIZE, LONG), Err(Error::OutOfRange { .. })));
}

/// A thread copies and pins without pause while regions come and go under it: it sees its own bytes or `Gone`, and never
/// those of the region that came to the same place.
#[test]
fn regions_are_revoked_under_load() {
    let memory = Memory::new().unwrap();
    let current: std::sync::Mutex<Option<(u8, Region)>> = std::sync::Mutex::new(None);
    let (stop, copies, gone) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = memory.reader();
                let mut bytes = [0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    let Some((stamp, region)) = current.lock().unwrap().clone() else { continue };
                    let ranges: Vec<_> = (0..16).filter_map(|frame| region.range(frame * FRAME_SIZE, 4096)).collect();
                    drop(region);
                    for range in ranges {
                        let online = reader.online();
                        let pinned = online.pin(&[range], Access::Write);
                        match online.kmap(range, Access::Read) {
                            Ok(window) => {
                                window.reader().read(&mut bytes).unwrap();
                                assert!(bytes.iter().all(|byte| *byte == stamp), "somebody else's data");
                                copies.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(fault) => {
                                assert_eq!(fault, Fault::Gone);
                                gone.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        drop(online);
                        drop(pinned);
                    }
                }
            });
        }
        for round in 0..rounds() {
            let stamp = (round % 255) as u8 + 1;
            let backing = if round % 2 == 0 { Backing::memfd(64 << 10) } else { Backing::anon(64 << 10) };
            let region = memory.register(backing.unwrap()).unwrap();
            fill(&memory, &region, stamp);
            *current.lock().unwrap() = Some((stamp, region.clone()));
            let before = copies.load(Ordering::Relaxed);
            let start = Instant::now();
            while copies.load(Ordering::Relaxed) < before + 20 && start.elapsed() < LONG {
                std::thread::yield_now();
            }
            let released = region.revoke(LONG).unwrap();
            assert_eq!(region.in_flight(), 0);
            if round % 16 == 0 {
                assert!(released.wait(LONG).unwrap());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (copies, gone) = (copies.into_inner(), gone.into_inner());
    println!("{copies} copies, {gone} Gone");
    assert!(copies >= 20 * rounds(), "copies went on in every round");
    assert_eq!(memory.regions(), 0);
}

/// What a file's cuts and a region's revocation leave behind while a reader lives: addresses, and no more.
#[test]
fn revocations_leave_no_descriptor_behind_and_addresses_go_with_the_reader() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mapped = |addr: u64| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            (u64::from_str_radix(start, 16).unwrap()..u64::from_str_radix(end, 16).unwrap()).contains(&addr)
        })
    };
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let before = descriptors();
    for _ in 0..200 {
        let region = memory.register(Backing::memfd(1 << 20).unwrap()).unwrap();
        region.cut(4096, LONG, || Ok(())).unwrap();
        assert!(region.revoke(LONG).unwrap().wait(LONG).unwrap());
    }
    // Other tests of this process have a few of their own.
    assert!(descriptors() < before + 100, "{before} descriptors, then {}", descriptors());

    let region = memory.register(Backing::memfd(1 << 20).unwrap()).unwrap();
    let range = region.range(0, 4096).unwrap();
    let addr = address(&region);
    let released = region.revoke(LONG).unwrap();
    assert!(released.wait(LONG).unwrap());
    drop((region, memory));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(mapped(addr), "a reader of that time lives");
    assert_eq!(reader.online().kmap(range, Access::Read).map(drop), Err(Fault::Gone));
    drop(reader);
    let start = Instant::now();
    while mapped(addr) && start.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!mapped(addr));
}

/// Where a region is mapped, which only the kernel tells.
fn address(region: &Region) -> u64 {
    let memfd = |line: &&str| line.contains("memfd") && line.contains("rw-s");
    let size = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        (end - start == region.len()).then_some(start)
    };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(memfd).find_map(size).unwrap()
}

#[test]
fn a_patience_without_end_is_one() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(8192).unwrap()).unwrap();
    region.punch_within(0, 4096, Duration::MAX).unwrap();
    region.cut(4096, Duration::MAX, || Ok(())).unwrap();
    assert!(region.revoke(Duration::MAX).unwrap().wait(Duration::MAX).unwrap());
}

#[test]
fn who_cuts_or_deallocates_is_named_too_and_a_deadline_is_kept() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(16 * FRAME_SIZE).unwrap()).unwrap();
    let (entered, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            region
                .while_idle(0, 4096, LONG, || {
                    entered.wait();
                    end.wait();
                    Ok(())
                })
                .unwrap();
        });
        entered.wait();
        let error = region.punch_within(0, 8192, Duration::from_millis(2)).unwrap_err();
        assert!(error.to_string().contains(" deallocates bytes 0..4096"), "{error}");
        end.wait();
        scope.spawn(|| {
            region
                .cut(8 * FRAME_SIZE, LONG, || {
                    entered.wait();
                    end.wait();
                    Ok(())
                })
                .unwrap();
        });
        entered.wait();
        let start = Instant::now();
        let error = region.cut(12 * FRAME_SIZE, Duration::from_millis(2), || Ok(())).unwrap_err();
        assert!(matches!(error, Error::Busy(_)), "{error}");
        assert!(start.elapsed() < LONG);
        end.wait();
    });
}
