// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that fail: the right error reaches the right request, and wrong data never does.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use pageless_block::{Bio, BlockDevice, Completion, Error, Limits, Op, Queue, Refused, Status};
use pageless_drivers::{NullDisk, RamDisk};
use pageless_mem::{Backing, FileOptions, Memory};
use pageless_testkit::regions::TempPath;
use pageless_testkit::require::require;
use pageless_testkit::{Fault, Faulty, What};

use super::super::wire::cmd;
use super::client::{Host, header, ram};
use super::{MIB, pattern};

fn faulty(size: u64) -> (Arc<Faulty<RamDisk>>, Host) {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::anon(size).unwrap()).unwrap();
    let device = Arc::new(Faulty::new(RamDisk::new(&memory, region, "ram")));
    let host = Host::new(Arc::clone(&device) as _, &memory);
    (device, host)
}

#[test]
fn nbd_error_values_of_every_status() {
    let (device, host) = faulty(MIB);
    let mut client = host.client(true);
    for (status, errno) in [
        (Status::IoErr, 5),
        (Status::Media, 5),
        (Status::Gone, 5),
        (Status::NoSpace, 28),
        (Status::ReadOnly, 1),
        (Status::OutOfRange, 22),
        (Status::Unsupported, 22),
        (Status::Aborted, 108),
    ] {
        device.inject(Fault::every(Op::Write, What::Fail { status, done: 0 }));
        device.inject(Fault::every(Op::Flush, What::Fail { status, done: 0 }));
        device.inject(Fault::every(Op::Discard, What::Fail { status, done: 0 }));
        device.inject(Fault::every(Op::WriteZeroes, What::Fail { status, done: 0 }));
        assert_eq!(client.write(0, &[1; 4096]), errno, "{status}");
        assert_eq!(client.call(cmd::FLUSH, 0, 0, 0).errno, errno, "{status}");
        assert_eq!(client.call(cmd::TRIM, 0, 0, 4096).errno, errno, "{status}");
        assert_eq!(client.call(cmd::WRITE_ZEROES, 0, 0, 4096).errno, errno, "{status}");
        device.heal();
    }
    device.inject(Fault::every(Op::WriteZeroes, What::Fail { status: Status::Unsupported, done: 0 }));
    assert_eq!(client.call(cmd::WRITE_ZEROES, 16, 0, 4096).errno, 95, "asked to be fast");
    device.heal();
    assert_eq!(client.write(0, &[1; 4096]), 0);
    host.stop();
}

#[test]
fn one_failed_piece_fails_the_write() {
    let (device, host) = faulty(32 * MIB);
    let mut client = host.client(false);
    device.inject(Fault::nth(Op::Write, 3, What::Fail { status: Status::NoSpace, done: 512 }));
    assert_eq!(client.write(0, &pattern(1, 16 << 20)), 28);
    assert_eq!(client.write(0, &pattern(1, 16 << 20)), 0);
    assert!(client.read(0, 16 << 20) == pattern(1, 16 << 20));
    host.stop();
}

#[test]
fn nbd_cmd_read_failures_are_replies_before_and_disconnects_after_the_header() {
    let (device, host) = faulty(32 * MIB);
    let mut client = host.client(true);
    let data = pattern(2, 16 << 20);
    client.write(0, &data);

    device.inject(Fault::nth(Op::Read, 0, What::Fail { status: Status::Media, done: 512 }));
    let reply = client.call(cmd::READ, 0, 4096, 4096);
    assert_eq!((reply.errno, reply.failed_at), (5, Some(4608)));

    device.heal();
    device.inject(Fault::nth(Op::Read, 3, What::Fail { status: Status::Media, done: 0 }));
    let reply = client.call(cmd::READ, 0, 0, 16 << 20);
    assert_eq!((reply.errno, reply.failed_at), (5, Some(3 * (256 << 10))));
    for (offset, bytes) in &reply.data {
        assert!(bytes[..] == data[*offset as usize..][..bytes.len()], "what did come is right");
    }

    let mut simple = host.client(false);
    device.heal();
    device.inject(Fault::nth(Op::Read, 0, What::Fail { status: Status::Media, done: 0 }));
    assert_eq!(simple.call(cmd::READ, 0, 0, 16 << 20).errno, 5);
    device.heal();
    device.inject(Fault::nth(Op::Read, 40, What::Fail { status: Status::Media, done: 0 }));
    simple.request(cmd::READ, 0, 1, 0, 16 << 20);
    assert_eq!(simple.reply(|_| (0, 16 << 20)), None, "the header said success: only hanging up is honest");
    assert_eq!(client.read(0, 512), data[..512], "others go on");
    host.stop();
}

#[test]
fn a_queue_that_is_full_is_tried_again() {
    let (device, host) = faulty(4 * MIB);
    let mut client = host.client(false);
    device.inject(Fault { op: None, first: 5, count: 7, what: What::Full });
    for round in 0..8 {
        assert_eq!(client.write(round * 4096, &pattern(round, 4096)), 0);
    }
    for round in 0..8 {
        assert_eq!(client.read(round * 4096, 4096), pattern(round, 4096));
    }
    host.stop();
}

#[test]
fn nbd_media_faults_in_the_frames_themselves() {
    // A file that shrinks under its mapping: loads from the lost part fault.
    let Some(path) = require("a tmpfs", TempPath::on("tmpfs")) else { return };
    let memory = Memory::new().unwrap();
    let options = FileOptions { size: Some(4 * MIB), create: true, ..Default::default() };
    let region = memory.register(Backing::file(path.path(), options).unwrap()).unwrap();
    let device = Arc::new(RamDisk::new(&memory, region, "shrinking"));
    let host = Host::new(device, &memory);
    let (mut structured, mut simple) = (host.client(true), host.client(false));
    structured.write(0, &pattern(3, 4 << 20));
    assert_eq!(structured.read(0, 8192), pattern(3, 8192));
    File::options().write(true).open(path.path()).unwrap().set_len(MIB).unwrap();

    let reply = structured.call(cmd::READ, 4, 2 * MIB, 4096);
    assert_eq!(reply.errno, 5);
    assert_eq!(reply.data, [], "nothing was made up");
    assert_eq!(simple.call(cmd::READ, 0, 2 * MIB, 4096).errno, 5);
    assert_eq!(structured.read(MIB - 4096, 4096), pattern(3, 4 << 20)[(1 << 20) - 4096..1 << 20], "others go on");
    host.stop_after_loss();
}

/// Gives completions back in the wrong order, as many at a time as there are.
#[derive(Debug)]
struct Backwards(Arc<RamDisk>);

#[derive(Debug)]
struct BackwardsQueue(Box<dyn Queue>);

impl BlockDevice for Backwards {
    fn name(&self) -> &str {
        "backwards"
    }

    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(BackwardsQueue(self.0.open_queue()?)))
    }
}

impl Queue for BackwardsQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        self.0.submit(bio)
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let start = out.len();
        let polled = self.0.poll(out);
        out[start..].reverse();
        polled
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.0.event()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }
}

#[test]
fn reads_that_end_together_in_the_wrong_order_are_all_answered() {
    let memory = Memory::new().unwrap();
    let host = Host::new(Arc::new(Backwards(ram(&memory, MIB))), &memory);
    for structured in [false, true] {
        let mut client = host.client(structured);
        let data = pattern(4, 1 << 20);
        assert_eq!(client.write(0, &data), 0);
        let reads: Vec<u8> = (0..64).flat_map(|n| header(cmd::READ, 0, n, n * 4096, 4096)).collect();
        client.send(&reads);
        let mut seen = [false; 64];
        for _ in 0..64 {
            let reply = client.reply(|cookie| (cookie * 4096, 4096)).unwrap();
            let at = reply.cookie * 4096;
            assert_eq!(reply.bytes(at), data[at as usize..][..4096]);
            assert!(!std::mem::replace(&mut seen[reply.cookie as usize], true));
        }
    }
    host.stop();
}

#[test]
fn a_full_medium_is_enospc_and_the_server_goes_on() {
    let memory = Memory::new().unwrap();
    let device = Faulty::new(Arc::into_inner(ram(&memory, MIB)).unwrap());
    device.inject(Fault::nth(Op::Write, 0, What::Fail { status: Status::NoSpace, done: 0 }));
    let host = Host::new(Arc::new(device), &memory);
    let mut client = host.client(true);
    assert_eq!(client.write(0, &[1; 512]), 28);
    assert_eq!(client.write(0, &[1; 512]), 0);
    host.stop();
}

#[test]
fn a_failed_flush_is_told_to_every_client_once() {
    let memory = Memory::new().unwrap();
    let device = Faulty::new(Arc::into_inner(ram(&memory, MIB)).unwrap());
    device.inject(Fault::nth(Op::Flush, 0, What::Fail { status: Status::Media, done: 0 }));
    let host = Host::with(Arc::new(device), &memory, |config| config.workers = 1);
    let (mut first, mut second) = (host.client(true), host.client(false));
    assert_eq!((first.write(0, &[1; 512]), second.write(4096, &[2; 512])), (0, 0));
    assert_eq!(first.call(cmd::FLUSH, 0, 0, 0).errno, 5);
    assert_eq!(second.call(cmd::FLUSH, 0, 0, 0).errno, 5, "its data may be what was lost");
    assert_eq!((first.call(cmd::FLUSH, 0, 0, 0).errno, second.call(cmd::FLUSH, 0, 0, 0).errno), (0, 0));
    let mut third = host.client(true);
    assert_eq!(third.call(cmd::FLUSH, 0, 0, 0).errno, 0, "who came later lost nothing");
    host.stop();
}

#[test]
fn a_flood_of_requests_without_dax_is_answered_in_full() {
    // Thousands of small requests in one go are more than are begun at once: the rest waits as it came.
    let memory = Memory::new().unwrap();
    let device = Arc::new(NullDisk::new(&memory, MIB));
    let host = Host::with(device, &memory, |config| config.workers = 1);
    let mut client = host.client(false);
    let mut flood = Vec::new();
    for cookie in 0..5000u64 {
        flood.extend(0x2560_9513u32.to_be_bytes());
        flood.extend([0; 4]);
        flood.extend(cookie.to_be_bytes());
        flood.extend((cookie % 2000 * 512).to_be_bytes());
        flood.extend(512u32.to_be_bytes());
    }
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(&flood).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut replies = Vec::new();
    client.stream.read_to_end(&mut replies).unwrap();
    sending.join().unwrap();
    assert_eq!(replies.len(), 5000 * (16 + 512), "a client that stopped sending still gets its answers");
    host.stop();
}
