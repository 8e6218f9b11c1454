// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions from outside: registration, resolution, holes, durability, what goes away when.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests count in small numbers and may panic")]

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pageless_mem::{Access, Backing, Error, Extent, FRAME_SIZE, Fault, FileOptions, Memory, PhysRange};

struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &str, name: &str) -> Scratch {
        Scratch(PathBuf::from(dir).join(format!("pageless-{name}-{}", std::process::id())))
    }

    fn create(&self, size: u64) -> Backing {
        Backing::file(&self.0, FileOptions { size: Some(size), create: true, read_only: false }).unwrap()
    }

    fn blocks(&self) -> u64 {
        std::fs::metadata(&self.0).unwrap().blocks()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Past the capture of the test runner, so that a skipped test is seen. (`testkit` says it for other crates; it would turn on the
/// feature that this one is tested without.)
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

#[test]
fn ranges_resolve_to_their_region_and_nothing_else() {
    let memory = Memory::new().unwrap();
    let regions: Vec<_> = (1..=50).map(|n| memory.register(Backing::anon(n * FRAME_SIZE).unwrap()).unwrap()).collect();
    let mut reader = memory.reader();
    for (index, region) in regions.iter().enumerate() {
        let online = reader.online();
        let window = online.kmap(region.range(0, region.len()).unwrap(), Access::Write).unwrap();
        window.writer().write(&(index as u64).to_ne_bytes()).unwrap();
    }
    let online = reader.online();
    for (index, region) in regions.iter().enumerate().rev() {
        let mut number = [0; 8];
        online.kmap(region.range(0, 8).unwrap(), Access::Read).unwrap().reader().read(&mut number).unwrap();
        assert_eq!(u64::from_ne_bytes(number), index as u64);
        // One byte past the end is the guard frame: no merge, no neighbour.
        let last = region.range(region.len() - 1, 1).unwrap();
        let past = PhysRange::new(last.pfn(), 4095, 2).unwrap();
        assert_eq!(online.kmap(past, Access::Read).unwrap_err(), Fault::Gone);
    }
    assert_eq!(regions[3].range(0, 4 * FRAME_SIZE + 1), None);
    assert_eq!(regions[3].range(u64::MAX, 2), None);
    assert_eq!(regions[3].range(0, 0), None);
}

#[test]
fn numbers_of_one_frame_space_mean_nothing_in_another() {
    let (a, b) = (Memory::new().unwrap(), Memory::new().unwrap());
    let here = a.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    let there = b.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    let (mut in_a, mut in_b) = (a.reader(), b.reader());
    assert_eq!(in_b.online().kmap(here.range(0, 1).unwrap(), Access::Read).unwrap_err(), Fault::Gone);
    assert_eq!(in_a.online().kmap(there.range(0, 1).unwrap(), Access::Read).unwrap_err(), Fault::Gone);
}

#[test]
fn a_dropped_region_is_gone_and_its_numbers_stay_dead() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    let stale = region.range(0, 64).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    let window = online.kmap(stale, Access::Write).unwrap();
    drop(region);
    window.writer().write(b"still mapped while we are online").unwrap();
    drop(online);
    assert_eq!(reader.online().kmap(stale, Access::Read).unwrap_err(), Fault::Gone);
    for _ in 0..100 {
        let next = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
        assert_ne!(next.frames().start(), stale.pfn());
    }
    assert_eq!(memory.regions(), 0);
}

#[test]
fn what_cannot_be_registered_is_refused_with_its_numbers() {
    let memory = Memory::new().unwrap();
    assert!(matches!(Backing::anon(0), Err(Error::Empty)));
    assert!(matches!(Backing::anon(5000), Err(Error::Misaligned { value: 5000, align: 4096, .. })));
    assert!(Backing::anon(1 << 60).is_err());
    let file = Scratch::new("/tmp", "small");
    std::fs::write(&file.0, vec![1; 8192]).unwrap();
    let open = |size, read_only| Backing::file(&file.0, FileOptions { size, create: true, read_only });
    assert!(matches!(open(Some(16384), false), Err(Error::TooSmall { actual: 8192, wanted: 16384, .. })));
    let first = memory.register(open(None, false).unwrap()).unwrap();
    let pid = std::process::id();
    assert!(matches!(open(None, true), Err(Error::Locked { pid: Some(found), .. }) if found == pid));
    drop(first);
    let (_a, _b) = (open(None, true).unwrap(), open(None, true).unwrap());
    assert!(matches!(
        Backing::file("/tmp".as_ref(), FileOptions::default()),
        Err(Error::Path { .. } | Error::NotAFile { .. })
    ));
    assert!(matches!(Backing::file("/nonexistent/x".as_ref(), FileOptions::default()), Err(Error::Path { .. })));
}

#[test]
fn read_only_regions_cannot_be_written_by_any_door() {
    let file = Scratch::new("/tmp", "ro");
    std::fs::write(&file.0, vec![7; 4096]).unwrap();
    let memory = Memory::new().unwrap();
    let options = FileOptions { read_only: true, ..FileOptions::default() };
    let region = memory.register(Backing::file(&file.0, options).unwrap()).unwrap();
    let range = region.range(0, 4096).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    assert_eq!(online.kmap(range, Access::Write).unwrap_err(), Fault::ReadOnly);
    assert_eq!(online.pin(&[range], Access::Write).unwrap_err(), Fault::ReadOnly);
    assert_eq!(online.kmap(range, Access::Read).unwrap().cell::<u32>(0).unwrap().store(1), Err(Fault::ReadOnly));
    assert_eq!((region.zero(0, 1), region.punch(0, 4096)), (Err(Fault::ReadOnly), Err(Fault::ReadOnly)));
}

#[test]
fn a_flush_of_a_file_that_was_cut_short_is_no_success() {
    let file = Scratch::new("/tmp", "cut");
    let memory = Memory::new().unwrap();
    let region = memory.register(file.create(8 * FRAME_SIZE)).unwrap();
    let mut flusher = region.flusher();
    assert_eq!(flusher.flush(), Ok(()));
    let cut = std::fs::OpenOptions::new().write(true).open(&file.0).unwrap();
    cut.set_len(FRAME_SIZE).unwrap();
    assert_eq!((flusher.flush(), flusher.flush()), (Err(Fault::Media), Err(Fault::Media)));
    assert_eq!(region.extents().next(4 * FRAME_SIZE, FRAME_SIZE), Extent::Data(FRAME_SIZE), "lost, not a hole");
    cut.set_len(8 * FRAME_SIZE).unwrap();
    assert_eq!(flusher.flush(), Ok(()));
}

#[test]
fn looking_at_holes_allocates_nothing() {
    for (dir, name) in [("/dev/shm", "holes-shm"), ("/tmp", "holes-disk")] {
        let file = Scratch::new(dir, name);
        let memory = Memory::new().unwrap();
        let region = memory.register(file.create(1 << 30)).unwrap();
        let mut extents = region.extents();
        assert_eq!(extents.next(0, 1 << 30), Extent::Hole(1 << 30));
        let mut reader = memory.reader();
        let write = |reader: &mut pageless_mem::Reader, at: u64| {
            let online = reader.online();
            let window = online.kmap(region.range(at, 4).unwrap(), Access::Write).unwrap();
            window.writer().write(b"data").unwrap();
        };
        write(&mut reader, 5 << 20);
        let blocks = file.blocks();
        assert_eq!(extents.next(0, 1 << 30), Extent::Hole(5 << 20));
        assert_eq!(extents.next(5 << 20, 1 << 20), Extent::Data(4096));
        assert_eq!(extents.next((5 << 20) + 100, 50), Extent::Data(50));
        assert!(matches!(extents.next((5 << 20) + 4096, 1 << 30), Extent::Hole(_)));
        assert_eq!(file.blocks(), blocks);
        region.punch(5 << 20, 4096).unwrap();
        assert!(matches!(extents.next(5 << 20, 4096), Extent::Hole(_)), "a punch empties what was remembered");
        let mut bytes = [1; 4];
        let online = reader.online();
        online.kmap(region.range(5 << 20, 4).unwrap(), Access::Read).unwrap().reader().read(&mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
    }
}

#[test]
fn anonymous_holes_are_found_too() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::anon(64 << 20).unwrap()).unwrap();
    let mut extents = region.extents();
    if extents.next(0, 1) == Extent::Data(1) {
        return skip("kernel lacks PAGEMAP_SCAN (guest/units covers it)");
    }
    let mut reader = memory.reader();
    {
        let online = reader.online();
        let window = online.kmap(region.range(20 << 20, 1).unwrap(), Access::Write).unwrap();
        window.writer().write(&[1]).unwrap();
    }
    assert!(matches!(extents.next(20 << 20, 1 << 20), Extent::Data(_)));
    assert!(matches!(extents.next(40 << 20, 1 << 20), Extent::Hole(_)));
    region.punch(20 << 20, 2 << 20).unwrap();
    assert!(matches!(extents.next(20 << 20, 4096), Extent::Hole(_)));
}

#[test]
fn registering_costs_the_same_for_any_size() {
    let memory = Memory::new().unwrap();
    let file = Scratch::new("/dev/shm", "16t");
    let backing = match Backing::file(&file.0, FileOptions { size: Some(16 << 40), create: true, read_only: false }) {
        Ok(backing) => backing,
        Err(error) => return skip(&format!("needs a tmpfs that takes 16 TiB files ({error})")),
    };
    let small = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    let start = Instant::now();
    let region = memory.register(backing).unwrap();
    println!("16 TiB registered in {:?}, {} bytes of metadata", start.elapsed(), region.metadata_bytes());
    assert!(region.metadata_bytes() < small.metadata_bytes() + 256);
    assert_eq!(file.blocks(), 0);
    let last = region.range(region.len() - 8, 8).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    let window = online.kmap(last, Access::Write).unwrap();
    window.cell::<u64>(0).unwrap().store(0x1234_5678_9abc_def0).unwrap();
    assert_eq!(window.cell::<u64>(0).unwrap().load(), Ok(0x1234_5678_9abc_def0));
}

#[test]
fn cells_are_words_of_their_width() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(FRAME_SIZE).unwrap()).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    let window = online.kmap(region.range(0, FRAME_SIZE).unwrap(), Access::Write).unwrap();
    window.cell::<u64>(8).unwrap().store(u64::MAX).unwrap();
    window.cell::<u16>(10).unwrap().store(0x1234).unwrap();
    window.cell::<u32>(12).unwrap().store(0x8765_4321).unwrap();
    assert_eq!(window.cell::<u64>(8).unwrap().load(), Ok(0x8765_4321_1234_ffff));
    assert_eq!(window.cell::<u16>(10).unwrap().fetch_or(0x4000), Ok(0x1234));
    assert_eq!(window.cell::<u32>(12).unwrap().fetch_or(1 << 30), Ok(0x8765_4321));
    assert_eq!(window.cell::<u8>(9).unwrap().fetch_or(0xf0), Ok(0xff));
    window.cell::<u8>(9).unwrap().store(0x7f).unwrap();
    assert_eq!(window.cell::<u8>(9).unwrap().fetch_or(0x80), Ok(0x7f));
    assert_eq!(window.cell::<u8>(15).unwrap().load(), Ok(0xc7));
    assert_eq!(window.cell::<u64>(8).unwrap().fetch_or(0), Ok(0xc765_4321_5234_ffff));
    assert!(window.cell::<u32>(2).is_none() && window.cell::<u64>(4096 - 7).is_none());
    assert!(window.cell::<u64>(usize::MAX).is_none());
}

#[test]
fn many_threads_set_bits_in_one_word_and_lose_none() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(FRAME_SIZE).unwrap()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (memory, region) = (memory.clone(), region.clone());
            scope.spawn(move || {
                let mut reader = memory.reader();
                for bit in 0..16 {
                    let online = reader.online();
                    let window = online.kmap(region.range(0, 8).unwrap(), Access::Write).unwrap();
                    window.cell::<u64>(0).unwrap().fetch_or(1 << (thread * 16 + bit)).unwrap();
                }
            });
        }
    });
    let mut reader = memory.reader();
    let online = reader.online();
    let window = online.kmap(region.range(0, 8).unwrap(), Access::Read).unwrap();
    assert_eq!(window.cell::<u64>(0).unwrap().load(), Ok(u64::MAX));
}

#[test]
fn tables_change_under_readers_who_always_see_a_whole_one() {
    let memory = Memory::new().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let kept = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = memory.reader();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let online = reader.online();
                    online.kmap(kept.range(0, 8).unwrap(), Access::Write).unwrap().writer().write(&[1; 8]).unwrap();
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            let brief = memory.register(Backing::anon(2 * FRAME_SIZE).unwrap()).unwrap();
            let range = brief.range(0, 1).unwrap();
            let mut reader = memory.reader();
            reader.online().kmap(range, Access::Read).unwrap();
            drop(brief);
            assert_eq!(reader.online().kmap(range, Access::Read).unwrap_err(), Fault::Gone);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_tmpfs_without_room_is_no_space_and_the_count_is_exact() {
    let mount = PathBuf::from(format!("/tmp/pageless-full-{}", std::process::id()));
    std::fs::create_dir(&mount).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&mount).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        std::fs::remove_dir(&mount).unwrap();
        return skip("needs root to mount a small tmpfs");
    }
    let memory = Memory::new().unwrap();
    let options = FileOptions { size: Some(1 << 20), create: true, read_only: false };
    let region = memory.register(Backing::file(&mount.join("f"), options).unwrap()).unwrap();
    let mut reader = memory.reader();
    {
        let online = reader.online();
        let window = online.kmap(region.range(100, 1 << 19).unwrap(), Access::Write).unwrap();
        let error = window.writer().write(&vec![9; 1 << 19]).unwrap_err();
        assert_eq!((error.moved, error.fault), (65536 - 100, Fault::NoSpace));
        assert_eq!(window.writer().zero(1 << 19).unwrap_err().fault, Fault::NoSpace);
        assert_eq!(window.cell::<u32>(65536 - 100).unwrap().store(1), Err(Fault::NoSpace));
        let mut back = vec![0; 65536 - 100];
        window.reader().read(&mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == 0), "zeroed by the second try, up to the same byte");
    }
    assert!(region.bad_ranges().is_empty(), "a full file system is no bad medium");
    region.punch(0, 32768).unwrap();
    let online = reader.online();
    let window = online.kmap(region.range(65536, 4096).unwrap(), Access::Write).unwrap();
    window.writer().write(&[9; 4096]).unwrap();
    drop(online);
    drop(region);
    let unmounted = std::process::Command::new("umount").arg("-l").arg(&mount).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    std::fs::remove_dir(&mount).unwrap();
}
