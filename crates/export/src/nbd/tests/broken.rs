// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks in memory that breaks, or goes away.

use std::sync::Arc;

use pageless_block::BlockDevice;
use pageless_drivers::RamDisk;
use pageless_mem::{Backing, Memory, testing};
use pageless_testkit::FakeFunction;
use pageless_testkit::require::kernel;

use super::super::wire::cmd;
use super::client::Host;
use super::{MIB, pattern};

#[test]
fn nbd_one_broken_frame_is_an_error_where_it_is_and_nowhere_else() {
    const BAD: u64 = 9 * 4096;
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(MIB).unwrap()).unwrap();
    let host = Host::new(Arc::new(RamDisk::new(&memory, region.clone(), "broken")), &memory);
    let (mut structured, mut simple) = (host.client(true), host.client(false));
    let data = pattern(3, 1 << 20);
    assert_eq!(structured.write(0, &data), 0);
    if kernel("UFFDIO_POISON (6.6)", "guest/poison", testing::poison(&region, BAD)).is_none() {
        host.stop();
        return;
    }
    for (offset, length) in [(BAD, 4096), (BAD + 512, 512), (BAD - 512, 1024)] {
        let reply = structured.call(cmd::READ, 0, offset, length);
        assert_eq!(reply.errno, 5, "{length} at {offset}");
        for (at, bytes) in &reply.data {
            assert!(*at + bytes.len() as u64 <= BAD, "{length} at {offset}: {at} is not to be had");
            assert!(bytes[..] == data[*at as usize..][..bytes.len()], "what did come is right");
        }
        // Of a broken frame nobody knows the rest.
        if (offset, length) != (BAD, 4096) {
            assert_eq!(structured.write(offset, &vec![1; length as usize]), 5, "{length} at {offset}");
        }
    }
    assert_eq!(simple.call(cmd::READ, 0, BAD, 4096).errno, 5);
    // Up to the broken frame a write that meets it may have stored.
    assert_eq!(simple.read(0, (BAD - 512) as u32), data[..BAD as usize - 512]);
    assert_eq!(simple.read(BAD + 4096, 64 << 10), data[BAD as usize + 4096..][..64 << 10]);
    assert_eq!(simple.write(BAD + 4096, &[7; 4096]), 0);
    assert_eq!(structured.read(BAD + 4096, 4096), [7; 4096]);
    assert_eq!(region.bad_ranges(), [(BAD, 4096)]);

    // What would be sound again is not looked at until it is overwritten whole.
    testing::heal(&region, BAD).unwrap();
    for client in [&mut structured, &mut simple] {
        assert_eq!(client.call(cmd::READ, 0, BAD, 4096).errno, 5);
    }
    assert_eq!(structured.write(BAD, &[9; 4096]), 0);
    for client in [&mut structured, &mut simple] {
        assert_eq!(client.read(BAD, 4096), [9; 4096]);
    }
    assert_eq!(region.bad_ranges(), []);
    host.stop();
}

#[test]
fn nbd_a_disk_whose_function_was_pulled_out_answers_with_errors_and_no_data() {
    let memory = Memory::new().unwrap();
    let content = pattern(4, 1 << 20);
    let function = FakeFunction::new(&content).unwrap();
    let region = function.region(&memory).unwrap();
    let disk = RamDisk::new(&memory, region, "bar");
    assert!(disk.dax().is_none(), "what was sent from the frames could not be taken back");
    let host = Host::new(Arc::new(disk), &memory);
    for structured in [false, true] {
        let mut client = host.client(structured);
        assert_eq!(client.read(512, 99_840), content[512..100_352]);
        assert_eq!(client.write(512, &content[512..1024]), 0);
    }
    function.unplug().unwrap();
    for structured in [true, false] {
        let mut client = host.client(structured);
        let reply = client.call(cmd::READ, 0, 512, 99_840);
        assert_eq!((reply.errno, &reply.data[..]), (5, &[][..]));
        assert_eq!(client.write(512, &[1; 512]), 5);
        assert_eq!(client.call(cmd::WRITE_ZEROES, 0, 0, 4096).errno, 5);
    }
    host.stop();
}
