// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks in memory of devices, and disks that are read into and written from it.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use pageless_block::{Bio, BlockDevice, Completion, Flags, Queue, Sector, Status, open_checked};
use pageless_drivers::btt::info::Uuid;
use pageless_drivers::btt::layout::{LbaSize, Placement};
use pageless_drivers::btt::{BttDisk, CreateOptions, OpenOptions};
use pageless_drivers::{MemoryDisk, RamDisk};
use pageless_mem::{Access, Backing, Memory, PhysRange, Region};
use pageless_testkit::FakeFunction;

const LEN: u64 = 64 << 10;

fn ram(memory: &Memory) -> Region {
    memory.register(Backing::anon(LEN).unwrap()).unwrap()
}

/// All bios in one batch.
fn run(queue: &mut dyn Queue, bios: impl IntoIterator<Item = Bio>) -> Vec<(Status, u64)> {
    for (tag, bio) in bios.into_iter().enumerate() {
        queue.submit(Bio { tag: tag as u64, ..bio }).unwrap();
    }
    let mut done: Vec<Completion> = Vec::new();
    queue.poll(&mut done).unwrap();
    done.sort_by_key(|done| done.tag);
    done.iter().map(|done| (done.status, done.done)).collect()
}

fn load(memory: &Memory, range: PhysRange) -> Vec<u8> {
    let mut reader = memory.reader();
    let online = reader.online();
    let mut bytes = vec![0; range.len() as usize];
    online.kmap(range, Access::Read).unwrap().reader().read(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_disk_in_a_bar_ends_with_its_function() {
    let memory = Memory::new().unwrap();
    let function = FakeFunction::new(&[7; LEN as usize]).unwrap();
    let disk: MemoryDisk = RamDisk::new(&memory, function.region(&memory).unwrap(), "bar");
    let (buffer, other) = (ram(&memory), ram(&memory));
    let all = buffer.range(0, LEN).unwrap();
    let mut queue = open_checked(&disk).unwrap();
    assert_eq!(run(&mut queue, [Bio::read(Sector(0), all, 0)]), [(Status::Ok, LEN)]);
    assert_eq!(load(&memory, all), [7; LEN as usize]);

    function.unplug().unwrap();
    let late = other.range(0, LEN).unwrap();
    let zeroes = Bio::write_zeroes(Sector(0), 4096, 0);
    let bios = [Bio::read(Sector(0), late, 0), Bio::write(Sector(0), all, 0), zeroes, Bio::flush(0)];
    let gone = (Status::Gone, 0);
    assert_eq!(run(&mut queue, bios)[..3], [gone; 3]);
    assert_eq!(run(&mut *disk.open_queue().unwrap(), [Bio::read(Sector(0), late, 0)]), [gone]);
}

/// What was not stored to the map of a BTT was not zeroed.
#[test]
fn a_btt_in_a_bar_ends_with_its_function() {
    const LEN: usize = (16 << 20) + 8192;
    let memory = Memory::new().unwrap();
    let function = FakeFunction::new(&vec![0; LEN]).unwrap();
    let medium = function.region(&memory).unwrap();
    let size = LbaSize::new(4096).unwrap();
    BttDisk::create(&memory, &medium, &CreateOptions::new(size, Placement::V1_1, Uuid([7; 16]))).unwrap();
    let disk = BttDisk::open(&memory, &medium, "btt", &OpenOptions::default()).unwrap();
    let buffer = ram(&memory);
    let page = |number: u64| buffer.range(4096 * number, 4096).unwrap();
    let write = |number: u64| Bio::write(Sector(8 * number), page(number), 0);
    let mut queue = open_checked(&disk).unwrap();
    assert_eq!(run(&mut queue, (0..4).map(write)), [(Status::Ok, 4096); 4]);
    function.unplug().unwrap();
    let zeroes = Bio::write_zeroes(Sector(0), 4096, 0);
    let written = Bio::write_zeroes(Sector(8), 4096, 0).with_flags(Flags::NO_UNMAP);
    for bio in [zeroes, written, Bio::discard(Sector(16), 4096, 0), write(3), Bio::read(Sector(0), page(4), 0)] {
        assert_eq!(run(&mut queue, [bio]), [(Status::Gone, 0)]);
    }
}

#[test]
fn only_what_met_the_function_that_went_away_is_to_blame() {
    let memory = Memory::new().unwrap();
    let (here, gone) = (FakeFunction::new(&[1; 8192]).unwrap(), FakeFunction::new(&[2; 8192]).unwrap());
    let [here_frames, gone_frames] = [&here, &gone].map(|function| {
        let region = function.region(&memory).unwrap();
        (region.range(0, 4096).unwrap(), region)
    });
    let disk = RamDisk::new(&memory, ram(&memory), "ram");
    let frames = ram(&memory).range(0, 4096).unwrap();
    let plain = ram(&memory);
    let mut queue = open_checked(&disk).unwrap();
    gone.unplug().unwrap();
    // What is fetched ahead for the second is not held against the first.
    let wanted = [Status::Ok, Status::Gone, Status::Ok, Status::Gone, Status::Gone];
    let done = run(
        &mut queue,
        [
            Bio::write(Sector(0), plain.range(0, 4096).unwrap(), 0),
            Bio::write(Sector(8), gone_frames.0, 0),
            Bio::write(Sector(16), here_frames.0, 0),
            Bio::read(Sector(0), gone_frames.0, 0),
            Bio::read(Sector(0), frames, 0), // of a region that was dropped
        ],
    );
    assert_eq!(done.iter().map(|(status, _)| *status).collect::<Vec<_>>(), wanted);
    assert_eq!(run(&mut queue, [Bio::read(Sector(16), plain.range(0, 4096).unwrap(), 0)]), [(Status::Ok, 4096)]);
    assert_eq!(load(&memory, plain.range(0, 4096).unwrap()), [1; 4096]);
}
