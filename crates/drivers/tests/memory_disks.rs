// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory as a disk, and nothing as a disk.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use pageless_block::{
    Bio, BlockDevice, Completion, Direct, Extent, Flags, Op, Queue, RefusedWhy, Route, ScatterList, Sector, Status,
    Why, open_checked,
};
use pageless_drivers::{NullDisk, PmemDisk, RamDisk};
use pageless_mem::testing::device_says;
use pageless_mem::{Backing, FileOptions, Memory, Region};
use pageless_testkit::regions::{Kind, TempPath};
use pageless_testkit::{Blocking, Config, Error, Fault, Faulty, Narrow, TestFrames, TestRegion, What, conformance};
use std::fs;

const MIB: u64 = 1 << 20;

fn disk(memory: &Memory, kind: Kind, len: u64) -> Option<(RamDisk, TestRegion)> {
    let made = kind.make(memory, len)?;
    Some((RamDisk::new(memory, made.region().clone(), format!("{kind:?}")), made))
}

fn ram(memory: &Memory, len: u64) -> RamDisk {
    RamDisk::new(memory, memory.register(Backing::anon(len).unwrap()).unwrap(), "ram")
}

fn map(memory: &Memory, path: &TempPath, options: FileOptions) -> Region {
    memory.register(Backing::file(path.path(), options).unwrap()).unwrap()
}

/// Data and holes of the device, as somebody sees them who has not seen it before.
fn extents(device: &dyn BlockDevice) -> Vec<Extent> {
    let (mut map, mut offset, mut all) = (device.extents().unwrap(), 0, Vec::new());
    while offset < device.capacity() {
        let extent = map.next(offset, device.capacity() - offset).unwrap();
        offset += extent.len();
        all.push(extent);
    }
    all
}

#[test]
fn every_kind_of_memory_is_a_disk() {
    let memory = Memory::new().unwrap();
    for kind in Kind::ALL {
        if let Some((disk, _made)) = disk(&memory, kind, 2 * MIB) {
            let config = Config { rounds: 12, ..Config::default() };
            conformance(&disk, &memory, &config);
        }
    }
}

#[test]
fn a_memory_disk_takes_its_requests_in_pieces_too() {
    let memory = Memory::new().unwrap();
    let narrow = Narrow::new(ram(&memory, MIB), 3, |limits| {
        limits.max_bytes = 8192 + 512;
        limits.max_unmap = 64 << 10;
        limits.max_segments = 6;
        limits.fua = false;
    });
    conformance(&narrow, &memory, &Config { rounds: 16, ..Config::default() });
}

#[test]
fn a_memory_disk_that_fails_says_how_far_it_got() {
    let memory = Memory::new().unwrap();
    let disk = Faulty::new(Narrow::new(ram(&memory, MIB), 8, |limits| limits.max_bytes = 4096));
    for nth in 0..400 {
        disk.inject(Fault::nth(Op::Write, 9 * nth, What::Fail { status: Status::Media, done: 512 * (nth % 5) }));
        disk.inject(Fault::nth(Op::Read, 40 * nth, What::Fail { status: Status::Gone, done: 1024 }));
        disk.inject(Fault { op: None, first: 13 * nth, count: 1, what: What::Full });
        disk.inject(Fault { op: None, first: 17 * nth, count: 3, what: What::Delay(2) });
    }
    conformance(&disk, &memory, &Config { rounds: 12, failures: true, ..Config::default() });
}

#[test]
fn a_read_only_disk_is_read() {
    let memory = Memory::new().unwrap();
    let path = TempPath::within(&std::env::temp_dir());
    fs::write(path.path(), (0..MIB).map(|i| (i / 999).to_le_bytes()[0]).collect::<Vec<_>>()).unwrap();
    let region = map(&memory, &path, FileOptions { read_only: true, ..FileOptions::default() });
    let disk = PmemDisk::new(&memory, region, "read-only");
    assert!(disk.limits().read_only && !disk.limits().discard && !disk.limits().write_zeroes);
    conformance(&disk, &memory, &Config { rounds: 8, ..Config::default() });
    let mut dax = disk.dax().unwrap();
    assert_eq!(dax.stored(0, 8), Err(Status::ReadOnly));
    assert_eq!(dax.persist(0, 8), Err(Status::ReadOnly));
}

#[test]
fn nothing_is_a_disk_that_forgets() {
    let memory = Memory::new().unwrap();
    conformance(&NullDisk::new(&memory, MIB), &memory, &Config { rounds: 8, forgets: true, ..Config::default() });
    let huge = NullDisk::new(&memory, 1 << 62);
    let mut frames = TestFrames::new(&memory, 4 * MIB).unwrap();
    let list = ScatterList::from(frames.range(1, 3 << 20));
    frames.put(&list, &vec![7; 3 << 20]).unwrap();
    let mut queue = Blocking::new(&huge).unwrap();
    let completion = queue.read((1 << 53) - (3 << 11), list.clone()).unwrap();
    assert_eq!(completion.route, Route::Copy(Why::Zeroes));
    assert!(frames.get(&list).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(queue.write(0, list).unwrap().route, Route::None);
    assert_eq!(extents(&huge), [Extent::Hole(1 << 62)]);
    assert!(open_checked(&NullDisk::new(&memory, 1000)).is_err());
}

#[test]
fn reading_all_of_a_sparse_disk_allocates_nothing() {
    let memory = Memory::new().unwrap();
    for kind in [Kind::Ram, Kind::Memfd, Kind::Tmpfs, Kind::Ext4] {
        let Some((disk, made)) = disk(&memory, kind, 64 * MIB) else { continue };
        let frames = TestFrames::new(&memory, 4 * MIB).unwrap();
        let mut queue = Blocking::new(&disk).unwrap();
        // Some data in the middle, so that it is not a disk of nothing.
        queue.write(65536, frames.range(0, 8192)).unwrap();
        queue.must(Bio::flush(1)).unwrap();
        let (blocks, before) = (made.allocated(), extents(&disk));
        assert!(before.len() >= 3, "{kind:?}: {before:?}");
        for sector in (0..64 * MIB / 512).step_by(4096) {
            queue.read(sector, frames.range(0, 2 << 20)).unwrap();
        }
        assert_eq!(made.allocated(), blocks, "{kind:?}");
        assert_eq!(extents(&disk), before, "{kind:?}");
    }
}

#[test]
fn a_hole_filled_through_one_queue_is_data_to_all() {
    let memory = Memory::new().unwrap();
    for kind in Kind::ALL {
        let Some((disk, _made)) = disk(&memory, kind, 4 * MIB) else { continue };
        let mut frames = TestFrames::new(&memory, MIB).unwrap();
        let (ones, back) = (ScatterList::from(frames.range(0, 4096)), ScatterList::from(frames.range(8192, 4096)));
        frames.put(&ones, &[1; 4096]).unwrap();
        let (mut a, mut b) = (Blocking::new(&disk).unwrap(), Blocking::new(&disk).unwrap());
        for sector in [0, 8, 4096] {
            a.read(sector, back.clone()).unwrap();
            assert_eq!(frames.get(&back).unwrap(), [0; 4096], "{kind:?}");
            b.write(sector, ones.clone()).unwrap();
            a.read(sector, back.clone()).unwrap();
            assert_eq!(frames.get(&back).unwrap(), [1; 4096], "{kind:?}");
            b.must(Bio::write_zeroes(Sector(sector), 4096, 1)).unwrap();
            a.read(sector, back.clone()).unwrap();
            assert_eq!(frames.get(&back).unwrap(), [0; 4096], "{kind:?}");
        }
    }
}

#[test]
fn zeroes_deallocate_or_not_as_asked() {
    let memory = Memory::new().unwrap();
    for kind in [Kind::Ram, Kind::Memfd, Kind::Tmpfs] {
        let Some((disk, _made)) = disk(&memory, kind, 4 * MIB) else { continue };
        let mut queue = Blocking::new(&disk).unwrap();
        let all = Bio::write_zeroes(Sector(0), 4 * MIB, 1);
        queue.must(all.clone().with_flags(Flags::NO_UNMAP)).unwrap();
        assert_eq!(extents(&disk), [Extent::Data(4 * MIB)], "{kind:?}");
        queue.must(all.clone().with_flags(Flags::FAST_ONLY | Flags::FUA)).unwrap();
        assert_eq!(extents(&disk), [Extent::Hole(4 * MIB)], "{kind:?}");
        let slow = queue.run(all.clone().with_flags(Flags::FAST_ONLY | Flags::NO_UNMAP)).unwrap();
        assert_eq!((slow.status, slow.done), (Status::Unsupported, 0));
        queue.must(all.with_flags(Flags::NO_UNMAP)).unwrap();
        queue.must(Bio::discard(Sector(0), 4 * MIB, 1)).unwrap();
        assert_eq!(extents(&disk), [Extent::Hole(4 * MIB)], "{kind:?}");
    }
    if let Some((secret, _made)) = disk(&memory, Kind::Secret, MIB) {
        assert!(!secret.limits().discard, "secret memory gives nothing back");
        let mut queue = Blocking::new(&secret).unwrap();
        let fast = Bio::write_zeroes(Sector(0), MIB, 1).with_flags(Flags::FAST_ONLY);
        assert_eq!(queue.run(fast).unwrap().status, Status::Unsupported);
        queue.must(Bio::write_zeroes(Sector(0), MIB, 1)).unwrap();
    }
}

#[test]
fn frames_that_are_gone_end_the_request_where_they_begin() {
    let memory = Memory::new().unwrap();
    let disk = ram(&memory, MIB);
    let (stays, goes) = (TestFrames::new(&memory, 65536).unwrap(), TestFrames::new(&memory, 65536).unwrap());
    let list: ScatterList = [stays.range(0, 512), stays.range(4096, 1024), goes.range(0, 512)].into_iter().collect();
    drop(goes);
    let mut queue = Blocking::new(&disk).unwrap();
    for bio in [Bio::read(Sector(0), list.clone(), 1), Bio::write(Sector(0), list, 1)] {
        let completion = queue.run(bio).unwrap();
        assert_eq!((completion.status, completion.done), (Status::Gone, 1536));
    }
}

#[test]
fn a_file_cut_short_ends_the_request_at_the_cut() {
    let memory = Memory::new().unwrap();
    for kind in [Kind::Tmpfs, Kind::Ext4] {
        let Some((disk, made)) = disk(&memory, kind, MIB) else { continue };
        let frames = TestFrames::new(&memory, MIB).unwrap();
        let mut queue = Blocking::new(&disk).unwrap();
        queue.write(0, frames.range(0, 1 << 20)).unwrap();
        queue.read(0, frames.range(0, 1 << 20)).unwrap();
        fs::OpenOptions::new().write(true).open(made.path().unwrap()).unwrap().set_len(MIB / 2).unwrap();
        // A queue that has seen the data before, and one that has not.
        for queue in [&mut queue, &mut Blocking::new(&disk).unwrap()] {
            for (sector, len, done) in [(0, 1 << 20, MIB / 2), (512, 1 << 19, MIB / 4), (1024, 512, 0), (2040, 4096, 0)]
            {
                let completion = queue.run(Bio::read(Sector(sector), frames.range(0, len), 1)).unwrap();
                assert_eq!((completion.status, completion.done), (Status::Media, done), "{kind:?} at sector {sector}");
            }
        }
        let whole = queue.run(Bio::read(Sector(0), frames.range(0, 1 << 19), 1)).unwrap();
        assert_eq!(whole.status, Status::Ok, "{kind:?}: what is left of it is read");
    }
}

#[test]
fn direct_access_is_the_medium_itself() {
    let memory = Memory::new().unwrap();
    for kind in Kind::ALL {
        let Some((disk, _made)) = disk(&memory, kind, 2 * MIB) else { continue };
        let mut frames = TestFrames::new(&memory, 65536).unwrap();
        let (from, to) = (ScatterList::from(frames.range(0, 4096)), ScatterList::from(frames.range(4096, 4096)));
        let mut queue = Blocking::new(&disk).unwrap();
        frames.put(&from, &[3; 4096]).unwrap();
        queue.write(8, from).unwrap();
        let mut dax = disk.dax().unwrap();
        assert_eq!(dax.access(2 * MIB - 1, 2), Err(Status::OutOfRange));
        assert_eq!(dax.access(u64::MAX, 2), Err(Status::OutOfRange));
        let Ok(Direct::Data(media)) = dax.access(4096, 4096) else { panic!("{kind:?}: written and a hole") };
        assert_eq!(frames.get(&media.into()).unwrap(), [3; 4096]);
        frames.put(&media.into(), &[4; 4096]).unwrap();
        dax.stored(4096, 4096).unwrap();
        dax.persist(4096, 4096).unwrap();
        assert_eq!(dax.persist(2 * MIB, 1), Err(Status::OutOfRange));
        queue.read(8, to.clone()).unwrap();
        assert_eq!(frames.get(&to).unwrap(), [4; 4096], "{kind:?}");
    }
}

#[test]
fn a_batch_is_done_in_order_and_a_full_queue_says_so() {
    let memory = Memory::new().unwrap();
    let (disk, null) = (ram(&memory, MIB), NullDisk::new(&memory, MIB));
    for device in [&disk as &dyn BlockDevice, &null] {
        let mut frames = TestFrames::new(&memory, 65536).unwrap();
        let mut queue = open_checked(device).unwrap();
        assert!(queue.event().is_none(), "poll finishes everything");
        let mut accepted = 0;
        let refused = loop {
            let data = frames.range(4096 * (accepted % 16), 512);
            let bio =
                if accepted % 2 == 0 { Bio::write(Sector(accepted), data, accepted) } else { Bio::flush(accepted) };
            match queue.submit(bio) {
                Ok(()) => accepted += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!((refused.why, refused.bio.tag), (RefusedWhy::Full, accepted));
        assert_eq!(queue.in_flight(), accepted as usize);
        let mut out = Vec::new();
        assert_eq!(queue.poll(&mut out).unwrap(), accepted as usize);
        assert!(out.iter().map(|completion| completion.tag).eq(0..accepted));
        assert!(out.iter().all(|completion: &Completion| completion.status.is_ok()));
        assert_eq!((queue.in_flight(), queue.poll(&mut out).unwrap()), (0, 0));
        frames.put(&frames.range(0, 8).into(), &[0; 8]).unwrap();
    }
}

/// What is executed together ends, and moves bytes, as it would one after the other.
#[test]
fn a_batch_ends_each_request_as_it_would_alone() {
    let memory = Memory::new().unwrap();
    let gone = TestFrames::new(&memory, 4096).unwrap().range(0, 4096);
    let run = |together: bool| {
        let made = Kind::Tmpfs.make(&memory, 4 * MIB).unwrap();
        let disk = RamDisk::new(&memory, made.region().clone(), "tmpfs");
        let mut frames = TestFrames::new(&memory, 4 * MIB).unwrap();
        let pattern: Vec<u8> = (0..2 * MIB).map(|at| (at / 512 * 7 + at) as u8).collect();
        frames.put(&frames.range(0, 2 * MIB as u32).into(), &pattern).unwrap();
        let mut queue = open_checked(&disk).unwrap();
        Blocking::new(&disk).unwrap().write(0, frames.range(0, 2 * MIB as u32)).unwrap();
        // The queue knows where data was before the file is cut.
        queue.submit(Bio::read(Sector(0), frames.range(2 * MIB, 2 * MIB as u32), 99)).unwrap();
        queue.poll(&mut Vec::new()).unwrap();
        fs::OpenOptions::new().write(true).open(made.path().unwrap()).unwrap().set_len(3 * MIB / 2).unwrap();
        let at = |place: u64, len: u32| frames.range(2 * MIB + place * 8192, len);
        let several: ScatterList = [at(20, 512), at(21, 1024), at(22, 512)].into_iter().collect();
        let broken: ScatterList = [at(23, 512), gone, at(24, 512)].into_iter().collect();
        let bios = [
            // Four that are copied side by side, and four that cannot be.
            Bio::read(Sector(3072 - 2), at(17, 4096), 17),
            Bio::read(Sector(16), at(18, 8192), 18),
            Bio::read(Sector(32), at(19, 4096), 19),
            Bio::read(Sector(72), at(25, 4096), 20),
            Bio::read(Sector(80), at(26, 4096), 21),
            Bio::read(Sector(88), gone, 22),
            Bio::read(Sector(96), at(27, 4096), 23),
            Bio::read(Sector(8), at(0, 4096), 0),
            Bio::read(Sector(16), several.clone(), 1),
            Bio::read(Sector(3072 - 2), at(2, 4096), 2),
            Bio::read(Sector(24), at(3, 512), 3),
            Bio::write(Sector(24), frames.range(512, 4096), 4),
            Bio::read(Sector(24), at(5, 8192), 5),
            Bio::read(Sector(32), gone, 6),
            Bio::write(Sector(40), gone, 7),
            Bio::read(Sector(40), broken.clone(), 8),
            Bio::write(Sector(48), broken, 9),
            Bio::write(Sector(56), several, 10).with_flags(Flags::FUA),
            Bio::read(Sector(48), at(11, 8192), 11),
            Bio::write_zeroes(Sector(64), 8192, 12),
            Bio::read(Sector(64), at(13, 512), 13),
            Bio::read(Sector(56), at(14, 8192), 14),
            Bio::read(Sector(0), frames.range(3 * MIB, MIB as u32), 15),
            Bio::read(Sector(8), at(16, 4096), 16),
        ];
        let mut out = Vec::new();
        for bio in bios {
            queue.submit(bio).unwrap();
            if !together {
                queue.poll(&mut out).unwrap();
            }
        }
        queue.poll(&mut out).unwrap();
        drop(queue);
        let medium = fs::read(made.path().unwrap()).unwrap();
        (out, frames.get(&frames.range(2 * MIB, 2 * MIB as u32).into()).unwrap(), medium)
    };
    let (together, alone) = (run(true), run(false));
    assert_eq!(together.0, alone.0);
    assert!(together.1 == alone.1 && together.2 == alone.2, "other bytes");
    let failed: Vec<_> = together.0.iter().filter(|end| !end.status.is_ok()).map(|end| (end.tag, end.done)).collect();
    assert_eq!(failed, [(17, 1024), (22, 0), (2, 1024), (6, 0), (7, 0), (8, 512), (9, 512)]);
}

/// Whether memory of a device can be trusted is asked after each request that touched some, and only that one fails.
#[test]
fn of_a_batch_the_request_fails_whose_frames_cannot_be_trusted() {
    let memory = Memory::new().unwrap();
    let disk = ram(&memory, MIB);
    Blocking::new(&disk).unwrap().write(0, TestFrames::new(&memory, MIB).unwrap().range(0, MIB as u32)).unwrap();
    let device = memory.register(Backing::memfd(65536).unwrap().of_device()).unwrap();
    let (device, plain) = (TestFrames::of(&memory, device), TestFrames::new(&memory, 65536).unwrap());
    for make in [Bio::read as fn(Sector, ScatterList, u64) -> Bio, Bio::write] {
        let mut queue = open_checked(&disk).unwrap();
        for tag in 0..9 {
            let frames = if tag % 3 == 1 { &device } else { &plain };
            queue.submit(make(Sector(8 * tag), frames.range(4096 * tag, 4096).into(), tag)).unwrap();
        }
        device_says(device.region(), [Ok(()), Err(pageless_mem::Fault::Media)]);
        let mut out = Vec::new();
        queue.poll(&mut out).unwrap();
        let failed: Vec<u64> = out.iter().filter(|end| !end.status.is_ok()).map(|end| end.tag).collect();
        assert_eq!((out.len(), failed), (9, vec![4]));
    }
}

/// The same where the disk is the memory of a device.
#[test]
fn of_a_batch_the_request_fails_whose_part_of_the_disk_cannot_be_trusted() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(MIB).unwrap().of_device()).unwrap();
    let disk = RamDisk::new(&memory, region.clone(), "device");
    let frames = TestFrames::new(&memory, 65536).unwrap();
    for make in [Bio::write as fn(Sector, ScatterList, u64) -> Bio, Bio::read] {
        let mut queue = open_checked(&disk).unwrap();
        for tag in 0..6 {
            queue.submit(make(Sector(8 * tag), frames.range(4096 * tag, 4096).into(), tag)).unwrap();
        }
        device_says(&region, [Ok(()), Ok(()), Err(pageless_mem::Fault::Media)]);
        let mut out = Vec::new();
        queue.poll(&mut out).unwrap();
        let failed: Vec<u64> = out.iter().filter(|end| !end.status.is_ok()).map(|end| end.tag).collect();
        assert_eq!((out.len(), failed), (6, vec![2]));
    }
}

#[test]
fn a_disk_says_what_it_is() {
    let memory = Memory::new().unwrap();
    let disk = ram(&memory, MIB);
    assert_eq!((disk.name(), disk.capacity()), ("ram", MIB));
    let limits = disk.limits();
    assert_eq!((limits.block_size, limits.physical_block, limits.atomic_write_unit), (512, 4096, 8));
    assert!(limits.flush && limits.fua && limits.discard && limits.write_zeroes && !limits.read_only);
    let frames = TestFrames::new(&memory, 65536).unwrap();
    let mut queue = Blocking::new(&disk).unwrap();
    assert_eq!(queue.read(0, frames.range(0, 512)).unwrap().route, Route::Copy(Why::MemoryDisk));
    assert!(matches!(queue.read(2048, frames.range(0, 512)), Err(Error::Refused(RefusedWhy::OutOfRange { .. }))));
}
