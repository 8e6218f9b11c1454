// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media that fail a BTT in the middle of a write: what the request gets, what the disk says, and what is there when it is
//! opened again.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use btt_rig::{Heard, LANES, LEN, Rig, run};
use pageless_block::{Bio, BlockDevice, Flags, Sector, Status, open_checked};
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{CheckOptions, FirstLook, Part, Problem, check};
use pageless_drivers::btt::layout::PAGE;
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{BttDisk, OpenOptions, Order, Promise, Trouble};
use pageless_mem::testing::{device_says, fail_sync, poison, record};
use pageless_mem::{Backing, Durability, Fault, FileOptions, Memory};

mod btt_rig;

/// Nothing of the disk is changed any more, and it has said why, once.
fn is_read_only(rig: &Rig, disk: &BttDisk, told: &[Trouble], lba: u32) {
    let wanted = [Trouble::MapNotStored { arena: 0, lba, fault: Fault::Media }];
    assert_eq!((disk.troubles(), told), (wanted.to_vec(), &wanted[..]));
    assert!(wanted[0].freezes() && wanted[0].to_string().contains("the arena is read-only"));
    let before = rig.bytes();
    let mut queue = open_checked(disk).unwrap();
    assert_eq!(rig.write(&mut queue, 6, 9), Status::ReadOnly);
    let zeroes = [Bio::write_zeroes(Sector(0), 4096, 0), Bio::discard(Sector(0), 4096, 0)];
    assert_eq!(run(&mut queue, zeroes), [Status::ReadOnly; 2]);
    assert!(before == rig.bytes());
}

/// The flog has the write and the map has not: nobody may write the block until that is finished.
#[test]
fn btt_map_that_cannot_be_stored_makes_the_arena_read_only_until_it_is_opened_again() {
    let rig = Rig::new();
    let disk = rig.open();
    let told = disk.troubles_to_come();
    let mut queue = disk.open_queue().unwrap();
    assert_eq!(rig.write(&mut *queue, 5, 1), Status::Ok);
    let recording = record(&rig.region);
    // Found good before the flog is stored, and bad after that.
    recording.refuse(rig.arena.start + rig.arena.geometry.map_offset(5), 1);
    assert_eq!(rig.write(&mut *queue, 5, 2), Status::Media);
    is_read_only(&rig, &disk, &told.try_iter().collect::<Vec<_>>(), 5);
    assert_eq!(rig.read(&disk, 5), (Status::Ok, 1));
    drop((queue, disk, recording));
    let disk = rig.open();
    assert_eq!((disk.finished(), disk.troubles()), (1, vec![]));
    assert_eq!(rig.read(&disk, 5), (Status::Ok, 2));
    let mut queue = disk.open_queue().unwrap();
    for lba in 0..3 * LANES {
        assert_eq!(rig.write(&mut *queue, lba, lba as u8), Status::Ok);
    }
}

/// A map that cannot be stored to at all is found out before the flog is: that request fails, and no other.
#[test]
fn btt_map_that_is_known_to_fail_fails_its_request_alone() {
    let rig = Rig::new();
    let disk = rig.open();
    let mut queue = disk.open_queue().unwrap();
    assert_eq!(rig.write(&mut *queue, 5, 1), Status::Ok);
    let recording = record(&rig.region);
    recording.refuse(rig.arena.start + rig.arena.geometry.map_offset(5), 0);
    let frames = rig.range(1);
    let bios = (4..7).map(|lba| Bio::write(Sector(8 * lba), frames, 0));
    assert_eq!(run(&mut *queue, bios), [Status::Ok, Status::Media, Status::Ok]);
    assert_eq!(disk.troubles(), []);
    drop(recording);
    assert_eq!(rig.write(&mut *queue, 5, 3), Status::Ok);
    assert_eq!(rig.read(&disk, 5), (Status::Ok, 3));
}

/// After a sync that failed nobody knows what is on the medium.
#[test]
fn btt_sync_that_fails_makes_the_arena_read_only_until_it_is_opened_again() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd_as(LEN, Durability::Msync).unwrap()).unwrap();
    let rig = Rig::on(memory, region, 4096, LANES);
    let strict = OpenOptions { order: Order::Strict, ..OpenOptions::default() };
    let disk = BttDisk::open(&rig.memory, &rig.region, "btt", &strict).unwrap();
    let told = disk.troubles_to_come();
    let mut queue = disk.open_queue().unwrap();
    assert_eq!(rig.write(&mut *queue, 5, 1), Status::Ok);
    fail_sync(&rig.region);
    assert_eq!(rig.write(&mut *queue, 5, 2), Status::Media);
    is_read_only(&rig, &disk, &told.try_iter().collect::<Vec<_>>(), 5);
    drop((queue, disk));
    let disk = BttDisk::open(&rig.memory, &rig.region, "btt", &strict).unwrap();
    assert_eq!(disk.troubles(), []);
    let (status, byte) = rig.read(&disk, 5);
    assert!(status == Status::Ok && (byte == 1 || byte == 2), "{status:?} {byte}");
    assert_eq!(rig.write(&mut *disk.open_queue().unwrap(), 5, 3), Status::Ok);
}

/// Where the kernel writes pages back in its own order a failed sync is told to everybody who writes there, once, and what was asked
/// for in time is not lost from sight: it is a disk as before.
#[test]
fn btt_sync_that_fails_in_the_kernels_order_is_told_to_every_queue_once() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd_as(LEN, Durability::Msync).unwrap()).unwrap();
    let rig = Rig::on(memory, region, 4096, LANES);
    let disk = rig.open();
    assert_eq!(disk.promise(), Promise::ProcessDeath);
    let [mut first, mut second] = [(); 2].map(|()| disk.open_queue().unwrap());
    assert_eq!((rig.write(&mut *first, 5, 1), rig.write(&mut *second, 6, 2)), (Status::Ok, Status::Ok));
    assert_eq!(run(&mut *first, [Bio::flush(0)]), [Status::Ok]);
    fail_sync(&rig.region);
    let mut late = disk.open_queue().unwrap();
    // A write that is to be durable at once may be among what was lost; one that is not was promised nothing.
    assert_eq!(rig.write(&mut *first, 7, 3), Status::Ok);
    let through = |lba: u64| Bio::write(Sector(8 * lba), rig.range(1), 0).with_flags(Flags::FUA);
    assert_eq!(run(&mut *first, [through(5), through(6)]), [Status::Media; 2]);
    assert_eq!(run(&mut *first, [through(5), Bio::flush(0)]), [Status::Ok; 2]);
    assert_eq!(run(&mut *second, [Bio::flush(0), Bio::flush(0)]), [Status::Media; 2], "one sync for both");
    assert_eq!(run(&mut *second, [Bio::flush(0)]), [Status::Ok], "told once is told");
    assert_eq!(run(&mut *late, [Bio::flush(0)]), [Status::Ok], "who came later lost nothing");
    assert_eq!(disk.troubles(), []);
    assert_eq!([5, 6, 7].map(|lba| rig.read(&disk, lba)), [(Status::Ok, 3); 3]);
}

/// A file that somebody cut short has lost what was written past its end, however often it is asked.
#[test]
fn btt_file_that_was_cut_short_fails_every_flush() {
    let path = std::env::temp_dir().join(format!("pageless-btt-cut-{}", std::process::id()));
    let memory = Memory::new().unwrap();
    let options = FileOptions { size: Some(LEN), create: true, read_only: false };
    let region = memory.register(Backing::file(&path, options).unwrap()).unwrap();
    let rig = Rig::on(memory, region, 4096, LANES);
    let disk = rig.open();
    let mut queue = disk.open_queue().unwrap();
    assert_eq!(rig.write(&mut *queue, 5, 1), Status::Ok);
    assert_eq!(run(&mut *queue, [Bio::flush(0)]), [Status::Ok]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(LEN / 2).unwrap();
    std::fs::remove_file(&path).unwrap();
    for _ in 0..3 {
        assert_eq!(run(&mut *queue, [Bio::flush(0)]), [Status::Media]);
    }
    assert!(
        !run(&mut *disk.open_queue().unwrap(), [Bio::flush(0)])[0].is_ok(),
        "nor is another queue told that all is well"
    );
}

/// One page of the map is broken: blocks whose entries lie there cannot be read or written; all others can.
#[test]
fn btt_bad_page_of_the_map_fails_its_blocks_and_no_other() {
    let rig = Rig::new();
    let (bad, good) = (5, 2000);
    rig.set_map(bad, MapEntry::normal(bad));
    let offset = rig.arena.start + rig.arena.geometry.map_offset(bad);
    if pageless_testkit::require::kernel("UFFDIO_POISON", "guest/poison", poison(&rig.region, offset)).is_none() {
        return;
    }
    let disk = rig.open();
    let mut queue = open_checked(&disk).unwrap();
    let frames = rig.range(1);
    let at = |lba: u32| Sector(8 * u64::from(lba));
    let bios = [Bio::read(at(bad), frames, 0), Bio::write(at(bad), frames, 0), Bio::discard(at(bad), 4096, 0)];
    assert_eq!(run(&mut queue, bios), [Status::Media; 3]);
    assert_eq!(rig.write(&mut queue, good, 7), Status::Ok);
    assert_eq!(rig.read(&disk, good), (Status::Ok, 7));
    let told = disk.troubles();
    let unreadable = |trouble: &Trouble| matches!(trouble, Trouble::Noticed(found) if matches!(found.problem, Problem::Unreadable(Part::Map, _)));
    assert!(told.iter().any(unreadable) && !told.iter().any(Trouble::freezes), "{told:?}");
}

/// A check finds the same whether it meets a broken page or it is known from before: that page, and none beside it.
#[test]
fn btt_bad_page_of_the_map_is_told_alone_however_often_it_is_checked() {
    let rig = Rig::new();
    let offset = rig.arena.start + rig.arena.geometry.map_offset(1500) / PAGE * PAGE;
    if pageless_testkit::require::kernel("UFFDIO_POISON", "guest/poison", poison(&rig.region, offset)).is_none() {
        return;
    }
    let fingerprint = |threads| FirstLook::Fingerprint { threads };
    for first_look in [FirstLook::Entries, FirstLook::Entries, fingerprint(1), fingerprint(3)] {
        let (mut heard, options) = (Heard::default(), CheckOptions { first_look, ..CheckOptions::default() });
        check(&mut Medium::new(&rig.memory, rig.region.clone()), options, &mut heard).unwrap();
        let told = heard.0.iter().map(|finding| (finding.offset, finding.problem));
        assert_eq!(told.collect::<Vec<_>>(), [(offset, Problem::Unreadable(Part::Map, Fault::Media))]);
    }
}

/// Of blocks that are read side by side one is broken: its request fails, and how far it got is told of it alone.
#[test]
fn btt_bad_block_fails_the_read_of_it_and_none_beside_it() {
    let rig = Rig::new();
    let bad = 5;
    for lba in 0..12 {
        rig.set_map(lba, MapEntry::normal(lba));
        rig.set_block(lba, lba as u8 + 1);
    }
    let offset = rig.arena.start + rig.arena.geometry.block_offset(bad);
    if pageless_testkit::require::kernel("UFFDIO_POISON", "guest/poison", poison(&rig.region, offset)).is_none() {
        return;
    }
    let disk = rig.open();
    let mut queue = disk.open_queue().unwrap();
    // Blocks by themselves, then all in requests of four.
    for blocks in [1, 4] {
        for slot in 0..12 {
            rig.fill(slot, 0);
        }
        let frames = |slot: u64| rig.frames.range(slot * 4096, blocks * 4096).unwrap();
        let bios = (0..12 / blocks).map(|at| Bio::read(Sector(8 * blocks * at), frames(blocks * at), at));
        let mut out = Vec::new();
        bios.for_each(|bio| queue.submit(bio).unwrap());
        queue.poll(&mut out).unwrap();
        let failed: Vec<_> =
            out.iter().filter(|end| !end.status.is_ok()).map(|end| (end.tag, end.status, end.done)).collect();
        let (tag, done) = (u64::from(bad) / blocks, u64::from(bad) % blocks * 4096);
        assert_eq!(failed, [(tag, Status::Media, done)], "{blocks}");
        for lba in (0..12).filter(|lba| lba / blocks != tag) {
            assert_eq!(rig.slot(lba), [lba as u8 + 1; 4096], "{blocks}: block {lba}");
        }
    }
}

/// Free blocks of whole groups of lanes are broken, so that no write of a batch finds another lane in its own: each write
/// takes one of the good ones in the end, and fails where there is none.
#[test]
fn btt_bad_free_blocks_cost_lanes_and_no_write() {
    const LANES: u32 = 48;
    for (broken, status) in [(LANES - 5, Status::Ok), (LANES, Status::Media)] {
        let rig = Rig::with(4096, LANES);
        for lane in 0..broken {
            let offset = rig.arena.start + rig.arena.geometry.block_offset(rig.free(lane));
            let poisoned = poison(&rig.region, offset);
            if pageless_testkit::require::kernel("UFFDIO_POISON", "guest/poison", poisoned).is_none() {
                return;
            }
        }
        let disk = rig.open();
        let mut queue = disk.open_queue().unwrap();
        rig.fill(1, 0x77);
        let bios = (0..30).map(|lba| Bio::write(Sector(8 * lba), rig.range(1), 0));
        assert_eq!(run(&mut *queue, bios), [status; 30]);
        for lba in 0..30 {
            let wanted = if status.is_ok() { 0x77 } else { 0 };
            assert_eq!(rig.read(&disk, lba), (Status::Ok, wanted), "{broken} broken, block {lba}");
        }
        let told = disk.troubles();
        let retired = |trouble: &&Trouble| matches!(trouble, Trouble::LaneRetired { .. });
        assert_eq!(told.iter().filter(retired).count(), broken as usize, "{told:?}");
        assert!(!told.iter().any(Trouble::freezes), "{told:?}");
    }
}

/// The page that the flog lies in is broken: lanes are lost, and no block is.
#[test]
fn btt_bad_page_of_the_flog_loses_lanes_and_no_block() {
    let rig = Rig::new();
    let disk = rig.open();
    let mut queue = disk.open_queue().unwrap();
    for lba in 0..LANES {
        assert_eq!(rig.write(&mut *queue, lba, lba as u8 + 1), Status::Ok);
    }
    let offset = rig.arena.start + rig.arena.geometry.flogoff();
    if pageless_testkit::require::kernel("UFFDIO_POISON", "guest/poison", poison(&rig.region, offset)).is_none() {
        return;
    }
    for lba in 0..LANES + 2 {
        assert_eq!(rig.write(&mut *queue, lba, 0xee), Status::Media);
    }
    for lba in 0..LANES {
        assert_eq!(rig.read(&disk, lba), (Status::Ok, lba as u8 + 1));
    }
    let told = disk.troubles();
    let retired = |trouble: &&Trouble| matches!(trouble, Trouble::LaneRetired { .. });
    assert_eq!(told.iter().filter(retired).count(), LANES as usize, "{told:?}");
}

/// A disk on memory of a device, with block 5 written.
fn on_device() -> (Rig, BttDisk) {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(LEN).unwrap().of_device()).unwrap();
    let rig = Rig::on(memory, region, 4096, LANES);
    let disk = rig.open();
    assert_eq!(rig.write(&mut *disk.open_queue().unwrap(), 5, 1), Status::Ok);
    (rig, disk)
}

/// A device that says it did not take part in moving the data: that request fails, and no other.
#[test]
fn btt_device_that_fails_while_data_moves_fails_the_request_alone() {
    let (rig, disk) = on_device();
    let mut queue = open_checked(&disk).unwrap();
    let frames = rig.range(1);
    let bios = [
        Bio::read(Sector(40), frames, 0),
        Bio::write(Sector(40), frames, 0),
        Bio::write_zeroes(Sector(40), 4096, 0),
        Bio::discard(Sector(40), 4096, 0),
    ];
    for bio in bios {
        let op = bio.op;
        device_says(&rig.region, [Err(Fault::Media)]);
        assert_eq!(run(&mut queue, [bio]), [Status::Media], "{op:?}");
        device_says(&rig.region, []);
        assert_eq!(disk.troubles(), [], "{op:?}");
    }
    assert_eq!(rig.write(&mut queue, 5, 3), Status::Ok);
    assert_eq!(rig.read(&disk, 5), (Status::Ok, 3));
}

/// A device that fails after the data: nobody knows whether flog and map were stored, so nothing is acknowledged and nothing is
/// changed any more.
#[test]
fn btt_device_that_fails_after_the_data_makes_the_arena_read_only() {
    for fault in [Fault::Media, Fault::Gone] {
        let (rig, disk) = on_device();
        let mut queue = disk.open_queue().unwrap();
        device_says(&rig.region, [Ok(()), Err(fault)]);
        assert_eq!(rig.write(&mut *queue, 5, 2), fault.into());
        assert_eq!(disk.troubles(), [Trouble::MapNotStored { arena: 0, lba: 5, fault }]);
        let after = rig.write(&mut *queue, 6, 2);
        assert!(matches!(after, Status::ReadOnly | Status::Gone), "{after:?}");
        device_says(&rig.region, []);
    }
}
