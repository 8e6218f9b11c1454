// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory is taken back while disks work on it: each bio ends once, as `Gone` or as if nothing had happened, and nothing
//! that comes later is touched.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests count in small numbers and may panic")]

#[path = "revoke/load.rs"]
mod load;

use std::time::Duration;

use pageless_block::{
    Bio, BlockDevice, Checked, Completion, Extent, Flags, Op, Queue, Route, ScatterList, Sector, Status, Why,
    open_checked,
};
use pageless_drivers::file::{FileDisk, FileDiskOptions};
use pageless_drivers::{MemoryDisk, RamDisk};
use pageless_mem::{Access, Backing, Error, Memory, Region};
use pageless_testkit::blocking::wait;
use pageless_testkit::regions::{Kind, TempPath};
use pageless_testkit::{Blocking, Config, Narrow, TestFrames, conformance};

const LONG: Duration = Duration::from_secs(60);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A file on a disk, of this size.
fn file(size: u64) -> TempPath {
    let path = TempPath::on("ext4").unwrap_or_else(|_| TempPath::within(&std::env::temp_dir()));
    std::fs::write(path.path(), vec![0xf1; size as usize]).unwrap();
    path
}

fn open(memory: &Memory, path: &TempPath, bounce_bytes: u64) -> FileDisk {
    FileDisk::open(memory, path.path(), FileDiskOptions { bounce_bytes, ..FileDiskOptions::default() }).unwrap()
}

fn ram(memory: &Memory, len: u64, fill: u8) -> Region {
    let region = memory.register(Backing::anon(len).unwrap()).unwrap();
    let range = region.range(0, len).unwrap();
    TestFrames::of(memory, region.clone()).put(&range.into(), &vec![fill; len as usize]).unwrap();
    region
}

/// Takes the memory back, and has it given back too.
fn revoke(region: &Region) {
    assert!(region.revoke(LONG).unwrap().wait(LONG).unwrap());
}

/// Polls until all is back.
fn finish(queue: &mut Checked) -> Vec<Completion> {
    let mut out = Vec::new();
    wait(queue, &mut out).unwrap();
    assert_eq!(queue.poll(&mut out).unwrap(), 0, "nothing comes back twice");
    out
}

/// One of each operation, on the first 64 KiB.
fn one_of_each(frames: impl Into<ScatterList> + Clone) -> Vec<Bio> {
    vec![
        Bio::read(Sector(0), frames.clone(), 0),
        Bio::write(Sector(0), frames.clone(), 1),
        Bio::write(Sector(0), frames, 2).with_flags(Flags::FUA),
        Bio::flush(3),
        Bio::discard(Sector(0), 64 * KIB, 4),
        Bio::write_zeroes(Sector(0), 64 * KIB, 5),
        Bio::write_zeroes(Sector(0), 64 * KIB, 6).with_flags(Flags::NO_UNMAP | Flags::FUA),
    ]
}

#[test]
fn a_memory_disk_that_is_revoked_ends_everything_as_gone() {
    for kind in Kind::ALL {
        let memory = Memory::new().unwrap();
        let Some(made) = kind.make(&memory, 2 * MIB) else { continue };
        let disk = MemoryDisk::new(&memory, made.region().clone(), "revoked");
        let frames = TestFrames::of(&memory, ram(&memory, MIB, 7));
        let list = frames.range(0, 64 << 10);
        let (mut before, mut idle) = (open_checked(&disk).unwrap(), Blocking::new(&disk).unwrap());
        let (mut extents, mut dax) = (disk.extents().unwrap(), disk.dax().unwrap());
        idle.write(0, list).unwrap();
        let accepted = one_of_each(list).into_iter().filter(|bio| disk.limits().discard || bio.op != Op::Discard);
        let mut count = 0;
        for bio in accepted {
            before.submit(bio).unwrap();
            count += 1;
        }

        revoke(made.region());

        let ended = finish(&mut before);
        assert_eq!(ended.len(), count, "{kind:?}: each bio once");
        for completion in ended {
            assert_eq!((completion.status, completion.done), (Status::Gone, 0), "{kind:?}: {completion:?}");
        }
        // Neither data nor a hole that would read as zeroes, wherever one looks.
        assert_eq!(idle.run(Bio::read(Sector(1024), list, 9)).unwrap().status, Status::Gone, "{kind:?}");
        assert_eq!(extents.next(0, 4096).unwrap_err(), Status::Gone, "{kind:?}");
        assert_eq!(disk.extents().unwrap().next(MIB, 4096).unwrap_err(), Status::Gone, "{kind:?}");
        assert_eq!(dax.access(0, 4096).unwrap_err(), Status::Gone, "{kind:?}");
        assert_eq!((dax.stored(0, 8), dax.persist(0, 8)), (Err(Status::Gone), Err(Status::Gone)), "{kind:?}");
    }
}

#[test]
fn a_hole_of_a_region_that_was_cut_is_no_zeroes() {
    for kind in [Kind::Ram, Kind::Memfd, Kind::Secret, Kind::Tmpfs] {
        let memory = Memory::new().unwrap();
        let Some(made) = kind.make(&memory, 2 * MIB) else { continue };
        let disk = MemoryDisk::new(&memory, made.region().clone(), "cut");
        let frames = TestFrames::new(&memory, MIB).unwrap();
        let (mut queue, mut extents) = (Blocking::new(&disk).unwrap(), disk.extents().unwrap());
        assert_eq!(extents.next(MIB, MIB).unwrap(), Extent::Hole(MIB), "{kind:?}");
        made.region().cut(MIB, LONG, || Ok(())).unwrap();
        let lost = queue.run(Bio::read(Sector(3 << 10), frames.range(0, 4096), 1)).unwrap();
        assert_eq!((lost.status, lost.done), (Status::Gone, 0), "{kind:?}");
        let across = queue.run(Bio::read(Sector(2040), frames.range(0, 8192), 1)).unwrap();
        assert_eq!(across.status, Status::Gone, "{kind:?}");
        assert_eq!(queue.read(2040, frames.range(0, 4096)).unwrap().done, 4096, "{kind:?}");
    }
}

#[test]
fn frames_that_are_revoked_between_submit_and_poll_end_the_bio_where_they_begin() {
    let memory = Memory::new().unwrap();
    let path = file(MIB);
    let disks: [Box<dyn BlockDevice>; 2] =
        [Box::new(RamDisk::new(&memory, ram(&memory, MIB, 0xf1), "ram")), Box::new(open(&memory, &path, MIB))];
    let mut held = Vec::new();
    for disk in &disks {
        for kind in [Kind::Ram, Kind::Secret] {
            for write in [false, true] {
                let Some(lost) = kind.make(&memory, 64 * KIB) else { continue };
                let mut kept = TestFrames::of(&memory, ram(&memory, 64 * KIB, 7));
                let mut list = ScatterList::from(kept.range(0, 16 << 10));
                list.push(lost.region().range(0, 16 * KIB).unwrap());
                list.push(kept.range(32 << 10, 16 << 10));
                let mut queue = open_checked(&**disk).unwrap();
                let bio = match write {
                    true => Bio::write(Sector(0), list, 1),
                    false => Bio::read(Sector(0), list, 1),
                };
                queue.submit(bio).unwrap();
                // Nothing was begun, so nothing holds it.
                assert_eq!(lost.region().in_flight(), 0);
                revoke(lost.region());
                let after = ram(&memory, 64 * KIB, 0xee);
                let ended = finish(&mut queue);
                let what = format!("{} {kind:?} write {write}: {ended:?}", disk.name());
                assert_eq!((ended.len(), ended[0].status), (1, Status::Gone), "{what}");
                assert!(ended[0].done <= 16 * KIB, "{what}");
                assert_eq!(kept.get(&kept.range(48 << 10, 16 << 10).into()).unwrap(), vec![7; 16 << 10], "{what}");
                let mut later = TestFrames::of(&memory, after);
                assert_eq!(later.get(&later.range(0, 64 << 10).into()).unwrap(), vec![0xee; 64 << 10], "{what}");
                held.push(later);
            }
        }
    }
    assert!(held.len() >= 4);
}

#[test]
fn a_bounce_that_is_half_done_ends_as_gone_with_what_was_done() {
    let memory = Memory::new().unwrap();
    let path = file(4 * MIB);
    // One slot: there is never more than one chunk on its way.
    let disk = open(&memory, &path, 128 * KIB);
    for write in [false, true] {
        let mut tried = 0;
        loop {
            let Some(secret) = Kind::Secret.make(&memory, MIB) else { return };
            let frames = secret.region().range(0, MIB).unwrap();
            let mut queue = open_checked(&disk).unwrap();
            // What the kernel says of this memory is learnt first.
            queue.submit(Bio::read(Sector(0), secret.region().range(0, 4096).unwrap(), 1)).unwrap();
            assert_eq!(finish(&mut queue)[0].route, Route::Bounce(Why::Unpinnable(pageless_sys::Errno::EFAULT)));
            let bio = if write { Bio::write(Sector(0), frames, 2) } else { Bio::read(Sector(0), frames, 2) };
            queue.submit(bio).unwrap();
            let mut ended = Vec::new();
            queue.poll(&mut ended).unwrap();
            assert_eq!(ended.len() + queue.in_flight(), 1, "a chunk is with the kernel, or all are back");
            assert_eq!(secret.region().in_flight(), 0, "which has the slot and not these frames");
            secret.region().revoke(Duration::ZERO).unwrap();
            ended.extend(finish(&mut queue));
            assert_eq!(ended.len(), 1);
            if ended[0].status == Status::Gone {
                assert!(ended[0].done < MIB && ended[0].done.is_multiple_of(128 * KIB), "{ended:?}");
                break;
            }
            // One poll goes on for as long as the disk has each chunk back before it looks again, to the last of them.
            assert_eq!((ended[0].status, ended[0].done), (Status::Ok, MIB));
            tried += 1;
            assert!(tried < 100, "the disk is always faster");
        }
    }
}

#[test]
fn what_the_kernel_has_is_waited_for_and_its_holder_named() {
    let memory = Memory::new().unwrap();
    let path = file(64 * MIB);
    let disk = open(&memory, &path, MIB);
    let frames = ram(&memory, 64 * MIB, 7);
    let mut tried = 0;
    loop {
        let mut queue = open_checked(&disk).unwrap();
        for n in 0..64 {
            queue.submit(Bio::read(Sector(n << 11), frames.range(n * MIB, MIB).unwrap(), n)).unwrap();
        }
        let mut out = Vec::new();
        // The first alone: it finds out that this memory can be pinned.
        while out.is_empty() {
            queue.poll(&mut out).unwrap();
        }
        if frames.in_flight() == 0 {
            tried += 1;
            assert!(tried < 100, "the disk is always faster");
            finish(&mut queue);
            continue;
        }
        // Until they are reaped, which is this thread's business, they are in flight.
        let error = std::thread::scope(|scope| {
            scope.spawn(|| frames.revoke(Duration::from_millis(1))).join().unwrap().unwrap_err()
        });
        let Error::Busy(busy) = &error else { panic!("{error}") };
        assert_eq!(busy.holders.len() as u64, frames.in_flight());
        let me = std::thread::current().name().unwrap().chars().take(15).collect::<String>();
        for holder in &busy.holders {
            assert_eq!(holder.name.as_deref(), Some(&*me), "{error}");
            let (start, end, access) = holder.in_flight.unwrap();
            assert_eq!((start % MIB, end - start, access), (0, MIB, Access::Write), "{error}");
        }
        // The deadline passed, and still nobody gets at it again.
        assert_eq!(frames.range(0, 1), None);
        let (released, ended) = std::thread::scope(|scope| {
            let revoking = scope.spawn(|| frames.revoke(LONG));
            let ended = finish(&mut queue);
            (revoking.join().unwrap().unwrap(), ended)
        });
        assert!(released.wait(LONG).unwrap());
        out.extend(ended);
        let mut tags: Vec<u64> = out.iter().map(|completion| completion.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..64).collect::<Vec<_>>(), "each once");
        let bad = out.iter().find(|c| !matches!(c.status, Status::Ok | Status::Gone));
        assert_eq!(bad, None);
        return;
    }
}

#[test]
fn queues_that_lie_idle_hold_nothing() {
    let memory = Memory::new().unwrap();
    let path = file(MIB);
    let region = ram(&memory, MIB, 1);
    let (ramdisk, filedisk) = (RamDisk::new(&memory, region.clone(), "ram"), open(&memory, &path, MIB));
    let frames = ram(&memory, 64 * KIB, 2);
    let range = frames.range(0, 4096).unwrap();
    let mut idle: Vec<Blocking> = Vec::new();
    for disk in [&ramdisk as &dyn BlockDevice, &filedisk] {
        for _ in 0..8 {
            let mut queue = Blocking::new(disk).unwrap();
            queue.read(0, range).unwrap();
            queue.write(0, range).unwrap();
            queue.must(Bio::flush(1)).unwrap();
            idle.push(queue);
        }
    }
    // No time at all is needed where nobody holds anything.
    for region in [&frames, &region] {
        assert_eq!(region.in_flight(), 0);
        region.revoke(Duration::ZERO).unwrap();
    }
    for queue in &mut idle {
        assert_eq!(queue.run(Bio::read(Sector(0), range, 2)).unwrap().status, Status::Gone);
    }
}

#[test]
fn zeroing_that_was_not_finished_is_no_success() {
    let mut gone = 0;
    for _ in 0..10 {
        let memory = Memory::new().unwrap();
        let Some(made) = Kind::Tmpfs.make(&memory, 32 * MIB) else { return };
        let path = made.path().unwrap();
        TestFrames::of(&memory, made.region().clone())
            .put(&made.region().range(0, 32 * MIB).unwrap().into(), &vec![7; 32 << 20])
            .unwrap();
        let disk = MemoryDisk::new(&memory, made.region().clone(), "zeroed");
        let status = std::thread::scope(|scope| {
            let zeroing = scope.spawn(|| {
                let bio = Bio::write_zeroes(Sector(0), 32 * MIB, 1).with_flags(Flags::NO_UNMAP);
                Blocking::new(&disk).unwrap().run(bio).unwrap().status
            });
            let mut first = [7];
            let file = std::fs::File::open(path).unwrap();
            while first == [7] {
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
            }
            revoke(made.region());
            zeroing.join().unwrap()
        });
        let all = std::fs::read(path).unwrap().iter().all(|byte| *byte == 0);
        assert!(matches!((status, all), (Status::Gone, _) | (Status::Ok, true)), "{status}, all zero: {all}");
        gone += u32::from(status == Status::Gone);
    }
    assert!(gone > 0, "no zeroing was ever interrupted");
}

#[test]
fn disks_beside_one_that_is_revoked_stay_disks() {
    let memory = Memory::new().unwrap();
    let lost = RamDisk::new(&memory, ram(&memory, 2 * MIB, 1), "lost");
    let kept = Narrow::new(RamDisk::new(&memory, ram(&memory, 2 * MIB, 0), "kept"), 3, |limits| {
        limits.max_bytes = 8192;
    });
    let mut queue = open_checked(&lost).unwrap();
    let frames = TestFrames::new(&memory, MIB).unwrap();
    queue.submit(Bio::read(Sector(0), frames.range(0, 4096), 1)).unwrap();
    revoke(lost.region());
    conformance(&kept, &memory, &Config { rounds: 8, ..Config::default() });
    assert_eq!(finish(&mut queue)[0].status, Status::Gone);
}
