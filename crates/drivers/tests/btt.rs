// SPDX-License-Identifier: MIT OR Apache-2.0
//! BTT disks as disks: conformance, models, threads, and media that go away.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use pageless_block::{Bio, BlockDevice, Completion, Flags, Queue, Sector, Status, open_checked};
use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, Placement};
use pageless_drivers::btt::map::MapEntry;
use pageless_drivers::btt::{AccessMode, BttDisk, CreateOptions, OpenOptions, Order, Promise, Trouble};
use pageless_mem::testing::record::{What, record};
use pageless_mem::{Access, Backing, Durability, Memory, PhysRange, Region};
use pageless_testkit::conformance::{Config, conformance};
use pageless_testkit::regions::Kind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LEN: u64 = (16 << 20) + 8192;

fn create_options(lba: u32, placement: Placement) -> CreateOptions {
    CreateOptions::new(LbaSize::new(lba).unwrap(), placement, Uuid([7; 16]))
}

fn made(memory: &Memory, region: &Region, options: &CreateOptions) -> BttDisk {
    BttDisk::create(memory, region, options).unwrap();
    open(memory, region)
}

fn open(memory: &Memory, region: &Region) -> BttDisk {
    let disk = BttDisk::open(memory, region, "btt", &OpenOptions::default()).unwrap();
    assert_eq!(disk.troubles(), []);
    disk
}

fn ram(memory: &Memory, len: u64) -> Region {
    memory.register(Backing::anon(len).unwrap()).unwrap()
}

/// All bios in one batch.
fn run(queue: &mut dyn Queue, bios: impl IntoIterator<Item = Bio>) -> Vec<(Status, u64)> {
    let mut wanted = 0;
    for bio in bios {
        queue.submit(Bio { tag: wanted, ..bio }).unwrap();
        wanted += 1;
    }
    let mut done: Vec<Completion> = Vec::new();
    while (done.len() as u64) < wanted {
        queue.poll(&mut done).unwrap();
    }
    done.sort_by_key(|done| done.tag);
    done.iter().map(|done| (done.status, done.done)).collect()
}

fn store(memory: &Memory, range: PhysRange, bytes: &[u8]) {
    let mut reader = memory.reader();
    reader.online().kmap(range, Access::Write).unwrap().writer().write(bytes).unwrap();
}

fn load(memory: &Memory, range: PhysRange) -> Vec<u8> {
    let mut bytes = vec![0; range.len() as usize];
    let mut reader = memory.reader();
    reader.online().kmap(range, Access::Read).unwrap().reader().read(&mut bytes).unwrap();
    bytes
}

fn quick() -> Config {
    Config { rounds: 3, ..Config::default() }
}

#[test]
fn btt_is_a_disk_with_every_block_size_and_at_every_place() {
    let memory = Memory::new().unwrap();
    for lba in LbaSize::ALL {
        for (placement, rounds) in [(Placement::V1_1, 4), (Placement::V2_0, 1)] {
            let region = ram(&memory, LEN);
            let disk = made(&memory, &region, &create_options(lba.bytes(), placement));
            assert_eq!((disk.placement(), disk.lba_size()), (placement, lba));
            assert_eq!((disk.limits().block_size, disk.limits().atomic_write_unit), (lba.block(), lba.block()));
            conformance(&disk, &memory, &Config { rounds, ..Config::default() });
            assert_eq!(disk.troubles(), []);
            conformance(&open(&memory, &region), &memory, &Config { rounds: 1, ..Config::default() });
        }
    }
}

#[test]
fn btt_is_a_disk_on_mapped_files_and_on_persistent_memory() {
    let memory = Memory::new().unwrap();
    // A tmpfs is synced as any file, and power takes it all the same.
    for (kind, promise, unit) in [(Kind::Tmpfs, Promise::Nothing, 4096), (Kind::Ext4, Promise::ProcessDeath, 8)] {
        let Some(made_region) = kind.make(&memory, LEN) else { continue };
        let disk = made(&memory, made_region.region(), &create_options(4096, Placement::V1_1));
        assert_eq!((disk.promise(), disk.limits().atomic_write_unit), (promise, unit));
        conformance(&disk, &memory, &quick());
        let strict = OpenOptions { order: Order::Strict, ..OpenOptions::default() };
        drop(disk);
        let disk = BttDisk::open(&memory, made_region.region(), "btt", &strict).unwrap();
        let bought = if promise == Promise::Nothing { promise } else { Promise::PowerCut };
        assert_eq!((disk.promise(), disk.limits().atomic_write_unit), (bought, 4096));
    }
    for durability in [Durability::Clwb, Durability::Fence] {
        let region = memory.register(Backing::memfd_as(LEN, durability).unwrap()).unwrap();
        let disk = made(&memory, &region, &create_options(512, Placement::V1_1));
        assert_eq!((disk.promise(), disk.limits().atomic_write_unit), (Promise::PowerCut, 512));
        conformance(&disk, &memory, &quick());
    }
}

#[test]
fn blocks_that_were_never_written_read_as_zeroes_whatever_lay_there() {
    let memory = Memory::new().unwrap();
    let region = ram(&memory, LEN);
    let junk = vec![0xa5; 1 << 20];
    for offset in (0..LEN).step_by(1 << 20) {
        let len = (LEN - offset).min(1 << 20);
        store(&memory, region.range(offset, len).unwrap(), &junk[..len as usize]);
    }
    let disk = made(&memory, &region, &create_options(4096, Placement::V1_1));
    let buffer = ram(&memory, 4 << 20).range(0, 4 << 20).unwrap();
    let mut queue = open_checked(&disk).unwrap();
    assert_eq!(run(&mut queue, [Bio::read(Sector(0), buffer, 0)]), [(Status::Gone, 0)], "its region is dropped");
    let region = ram(&memory, 4 << 20);
    let buffer = region.range(0, 4 << 20).unwrap();
    store(&memory, buffer, &vec![1; 4 << 20]);
    assert_eq!(run(&mut queue, [Bio::read(Sector(0), buffer, 0)]), [(Status::Ok, 4 << 20)]);
    assert!(load(&memory, buffer).iter().all(|byte| *byte == 0));
}

#[test]
fn two_writes_of_a_block_in_one_batch_leave_the_second_one_and_lose_no_block() {
    let memory = Memory::new().unwrap();
    let region = ram(&memory, LEN);
    let disk = made(&memory, &region, &create_options(512, Placement::V2_0));
    let frames = ram(&memory, 1 << 20);
    let mut queue = open_checked(&disk).unwrap();
    for round in 0..20_u8 {
        let write = |tag: u64| {
            let range = frames.range(512 * tag, 512).unwrap();
            store(&memory, range, &[round.wrapping_add(tag as u8); 512]);
            Bio::write(Sector(tag % 3), range, tag)
        };
        let statuses = run(&mut queue, (0..100).map(write));
        assert!(statuses.iter().all(|status| *status == (Status::Ok, 512)));
        let back = frames.range(1 << 19, 3 * 512).unwrap();
        assert_eq!(run(&mut queue, [Bio::read(Sector(0), back, 0)]), [(Status::Ok, 1536)]);
        let bytes = load(&memory, back);
        for (at, last) in [(0, 99), (1, 97), (2, 98)] {
            assert_eq!(bytes[at * 512..][..512], [round.wrapping_add(last); 512]);
        }
    }
    drop(queue);
    check_clean(&memory, &region);
}

/// What `check` has to say: nothing.
fn check_clean(memory: &Memory, region: &Region) {
    use pageless_drivers::btt::check::medium::Medium;
    use pageless_drivers::btt::check::{CheckOptions, Finding, Watch, check};
    use std::ops::ControlFlow;

    #[derive(Default)]
    struct Findings(Vec<String>);
    impl Watch for Findings {
        fn found(&mut self, finding: &Finding) {
            self.0.push(finding.to_string());
        }
        fn progress(&mut self, _done: u64, _of: u64) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
    }
    let mut findings = Findings::default();
    check(&mut Medium::new(memory, region.clone()), CheckOptions::default(), &mut findings).unwrap();
    assert_eq!(findings.0, Vec::<String>::new());
}

/// A block of its number and a version, over and over.
fn stamp(block: u64, version: u64) -> Vec<u8> {
    let word = block << 40 | version;
    word.to_le_bytes().repeat(512 / 8)
}

/// Writers and readers of the same few blocks: a reader sees one version of the right block, whole.
#[test]
fn no_reader_ever_sees_a_torn_block_or_another_ones() {
    const BLOCKS: u64 = 24;
    let rounds = 300 * std::env::var("PAGELESS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let memory = Memory::new().unwrap();
    let region = ram(&memory, LEN);
    let disk = made(&memory, &region, &create_options(512, Placement::V1_1));
    let (stop, versions, reads) = (AtomicBool::new(false), AtomicU64::new(1), AtomicU64::new(0));
    let next = |seed: &mut u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|thread| {
                let (disk, memory, versions) = (&disk, &memory, &versions);
                scope.spawn(move || {
                    let frames = ram(memory, 64 * 512);
                    let mut queue = open_checked(disk).unwrap();
                    let mut seed = thread + 1;
                    for _ in 0..rounds {
                        let bios: Vec<Bio> = (0..40)
                            .map(|tag| {
                                let (block, range) = (next(&mut seed) % BLOCKS, frames.range(tag * 512, 512).unwrap());
                                store(memory, range, &stamp(block, versions.fetch_add(1, Ordering::Relaxed)));
                                match next(&mut seed) % 16 {
                                    0 => Bio::write_zeroes(Sector(block), 512, tag),
                                    1 => Bio::discard(Sector(block), 512, tag),
                                    2 => Bio::write_zeroes(Sector(block), 512, tag).with_flags(Flags::NO_UNMAP),
                                    _ => Bio::write(Sector(block), range, tag),
                                }
                            })
                            .collect();
                        assert!(run(&mut queue, bios).iter().all(|(status, _)| *status == Status::Ok));
                    }
                })
            })
            .collect();
        for thread in 0..2 {
            let (disk, memory, stop, reads) = (&disk, &memory, &stop, &reads);
            scope.spawn(move || {
                let frames = ram(memory, 64 * 512);
                let mut queue = open_checked(disk).unwrap();
                let mut seed = 100 + thread;
                while !stop.load(Ordering::Relaxed) {
                    let blocks: Vec<u64> = (0..40).map(|_| next(&mut seed) % BLOCKS).collect();
                    let read = |(block, tag)| Bio::read(Sector(block), frames.range(tag * 512, 512).unwrap(), tag);
                    let bios: Vec<Bio> = blocks.iter().copied().zip(0..).map(read).collect();
                    assert!(run(&mut queue, bios).iter().all(|(status, _)| *status == Status::Ok));
                    for (block, tag) in blocks.iter().zip(0..) {
                        let bytes = load(memory, frames.range(tag * 512, 512).unwrap());
                        let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                        assert!(bytes.chunks(8).all(|chunk| chunk == &bytes[..8]), "block {block} is torn");
                        assert!(word == 0 || word >> 40 == *block, "block {block} shows block {}", word >> 40);
                    }
                    reads.fetch_add(40, Ordering::Relaxed);
                }
            });
        }
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
    assert_eq!(disk.troubles(), []);
    drop(disk);
    check_clean(&memory, &region);
    assert_eq!(open(&memory, &region).finished(), 0);
}

#[test]
fn many_queues_write_with_few_lanes() {
    let memory = Memory::new().unwrap();
    let region = ram(&memory, LEN);
    let options = CreateOptions { nfree: 3, ..create_options(4096, Placement::V1_1) };
    let disk = made(&memory, &region, &options);
    let mut queues = Vec::new();
    let error = loop {
        match disk.open_queue() {
            Ok(queue) => queues.push(queue),
            Err(error) => break error,
        }
    };
    assert_eq!(queues.len(), 256);
    assert!(error.to_string().contains("all 256 queues that a BTT has room for are open"), "{error}");
    let frames = ram(&memory, 1 << 20);
    for queue in &mut queues {
        let bio = Bio::write(Sector(0), frames.range(0, 1 << 20).unwrap(), 0);
        assert_eq!(run(&mut **queue, [bio]), [(Status::Ok, 1 << 20)]);
    }
    // Idle queues have no lanes.
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (disk, frames) = (&disk, &frames);
            queues.pop();
            scope.spawn(move || {
                let mut queue = disk.open_queue().unwrap();
                for round in 0..50 {
                    let bios = (0..8).map(|at| {
                        Bio::write(Sector(8 * (thread + at * round)), frames.range(4096 * at, 4096).unwrap(), at)
                    });
                    assert!(run(&mut *queue, bios).iter().all(|done| *done == (Status::Ok, 4096)));
                }
            });
        }
    });
    assert_eq!(disk.troubles(), []);
    check_clean(&memory, &region);
}

#[test]
fn a_disk_that_may_not_be_written_stores_nothing() {
    let memory = Memory::new().unwrap();
    let region = ram(&memory, LEN);
    made(&memory, &region, &create_options(4096, Placement::V1_1));
    let options = OpenOptions { access: AccessMode::ReadOnly, ..OpenOptions::default() };
    let disk = BttDisk::open(&memory, &region, "btt", &options).unwrap();
    assert!(disk.limits().read_only);
    let frames = ram(&memory, 4096).range(0, 4096).unwrap();
    let bios = [Bio::write(Sector(0), frames, 0), Bio::write_zeroes(Sector(0), 4096, 1), Bio::flush(2)];
    let statuses = run(&mut *disk.open_queue().unwrap(), bios);
    assert_eq!(statuses, [(Status::ReadOnly, 0), (Status::ReadOnly, 0), (Status::Ok, 0)]);
    check_clean(&memory, &region);
}

#[test]
fn a_revoked_medium_is_gone_and_nothing_else_happens() {
    let memory = Memory::new().unwrap();
    let region = ram(&memory, LEN);
    let disk = made(&memory, &region, &create_options(4096, Placement::V1_1));
    let frames = ram(&memory, 1 << 20);
    let mut queue = open_checked(&disk).unwrap();
    let all = |queue: &mut dyn Queue| {
        let range = frames.range(0, 8192).unwrap();
        let zeroes = Bio::write_zeroes(Sector(8), 8192, 2);
        run(queue, [Bio::read(Sector(0), range, 0), Bio::write(Sector(8), range, 1), zeroes, Bio::flush(3)])
    };
    assert!(all(&mut queue).iter().all(|(status, _)| *status == Status::Ok));
    region.revoke(Duration::from_secs(10)).unwrap();
    assert!(all(&mut queue).iter().all(|status| *status == (Status::Gone, 0)), "{:?}", all(&mut queue));
    let error = BttDisk::open(&memory, &region, "btt", &OpenOptions::default()).unwrap_err();
    assert!(BttDisk::create(&memory, &region, &create_options(4096, Placement::V1_1)).is_err(), "{error}");
}

#[test]
fn a_strict_order_buys_the_promise_back() {
    let memory = Memory::new().unwrap();
    let Some(made_region) = Kind::Ext4.make(&memory, LEN) else { return };
    let region = made_region.region();
    BttDisk::create(&memory, region, &create_options(4096, Placement::V1_1)).unwrap();
    let options = OpenOptions { order: Order::Strict, ..OpenOptions::default() };
    let disk = BttDisk::open(&memory, region, "btt", &options).unwrap();
    assert_eq!((disk.promise(), disk.limits().atomic_write_unit), (Promise::PowerCut, 4096));
    conformance(&disk, &memory, &Config { rounds: 1, steps: 10, ..Config::default() });
}

#[test]
fn btt_writes_of_one_batch_share_their_fences() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::anon(LEN).unwrap().assuming(Durability::Clwb)).unwrap();
    let (disk, frames) = (made(&memory, &region, &create_options(4096, Placement::V1_1)), ram(&memory, 1 << 20));
    let mut queue = disk.open_queue().unwrap();
    let mut write = |count: u64| {
        let bios = (0..count).map(|n| Bio::write(Sector(n * 8), frames.range(n * 4096, 4096).unwrap(), 0));
        assert!(run(&mut *queue, bios).iter().all(|(status, _)| *status == Status::Ok));
    };
    write(1);
    let recording = record(&region);
    let mut fences = |count| {
        write(count);
        recording.take().iter().filter(|event| event.what == What::Fence).count()
    };
    // After the data and half of the flog's entry, after its other half, after the map: of as many as a group has lanes.
    assert_eq!([1, 2, 16, 32].map(&mut fences), [3, 3, 3, 6]);
}

#[test]
fn btt_large_map_is_sound_by_its_fingerprint_and_frozen_where_a_block_has_two_owners() {
    // The map of as many blocks has 35 MiB, all of them a hole.
    let (memory, len) = (Memory::new().unwrap(), 4500 << 20);
    let region = memory.register(Backing::memfd(len).unwrap()).unwrap();
    let arena = BttDisk::create(&memory, &region, &create_options(512, Placement::V1_1)).unwrap()[0];
    assert!(arena.geometry.map_len() > 32 << 20);
    let frames = ram(&memory, 4096);
    let write = |disk: &BttDisk| {
        run(&mut *disk.open_queue().unwrap(), [Bio::write(Sector(7), frames.range(0, 512).unwrap(), 0)])[0].0
    };
    assert_eq!(write(&open(&memory, &region)), Status::Ok);
    let map = arena.start + arena.geometry.map_offset(5_000_000);
    Medium::new(&memory, region.clone()).put(map, &MapEntry::normal(5_000_001).raw().to_le_bytes()).unwrap();
    let disk = open(&memory, &region);
    assert_eq!(write(&disk), Status::ReadOnly);
    assert!(disk.troubles().iter().any(Trouble::freezes));
}
