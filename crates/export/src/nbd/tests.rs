// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server as a client sees it, over a unix socket, with a client that knows only the specification.

mod broken;
mod client;
mod corpus;
mod faults;
mod hostile;

use std::sync::Arc;
use std::time::Duration;

use pageless_block::BlockDevice;
use pageless_drivers::NullDisk;
use pageless_mem::{Backing, Memory};
use pageless_testkit::{Faulty, Narrow};
use proptest::prelude::*;

use super::wire::cmd;
use super::{Listen, Server, ServerConfig};
use client::{Client, Host, PATIENCE, header, ram};

const MIB: u64 = 1 << 20;

/// Bytes that tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| ((n * 131 + seed * 29 + n / 509) % 255) as u8 + 1).collect()
}

/// Servers whose devices make them work differently: a medium that is frames, one that is not, one that takes little
/// at once and not many, and one that completes late.
fn hosts(size: u64) -> Vec<(&'static str, Host)> {
    let memory = Memory::new().unwrap();
    let narrow = |depth, max_bytes| {
        let region = memory.register(Backing::anon(size).unwrap()).unwrap();
        Narrow::new(pageless_drivers::RamDisk::new(&memory, region, "ram"), depth, |limits| {
            limits.max_bytes = max_bytes;
        })
    };
    let late = Faulty::new(narrow(64, 1 << 20));
    late.inject(pageless_testkit::Fault {
        op: None,
        first: 0,
        count: u64::MAX,
        what: pageless_testkit::What::Delay(2),
    });
    vec![
        ("frames", Host::ram(size)),
        ("no frames", Host::new(Arc::new(Faulty::new(narrow(256, 1 << 30))), &memory)),
        ("narrow", Host::new(Arc::new(Faulty::new(narrow(2, 4096))), &memory)),
        ("late", Host::new(Arc::new(late), &memory)),
    ]
}

#[test]
fn nbd_every_command_does_what_it_says() {
    for (name, host) in hosts(64 * MIB) {
        for structured in [false, true] {
            let mut client = host.client(structured);
            let data = pattern(1, 300_544);
            assert_eq!(client.write(512, &data), 0, "{name}");
            assert_eq!(client.read(512, 300_544), data, "{name}");
            assert_eq!(client.write_with(1, 4096, &data[..4096]), 0, "{name}: FUA");
            assert_eq!(client.read(4096, 4096), data[..4096], "{name}");
            assert_eq!(client.call(cmd::FLUSH, 0, 0, 0).errno, 0, "{name}");
            assert_eq!(client.call(cmd::CACHE, 0, 0, 512).errno, 0, "{name}");
            assert_eq!(client.call(cmd::WRITE_ZEROES, 0, 8192, 8192).errno, 0, "{name}");
            assert_eq!(client.read(8192, 8192), vec![0; 8192], "{name}");
            assert_eq!(client.call(cmd::WRITE_ZEROES, 1 | 2, 16384, 512).errno, 0, "{name}: FUA, NO_HOLE");
            assert_eq!(client.read(16384, 512), vec![0; 512], "{name}");
            assert_eq!(client.call(cmd::TRIM, 0, 0, 1 << 20).errno, 0, "{name}");
            client.request(cmd::DISC, 0, 0, 0, 0);
            assert!(client.hung_up(), "{name}");
        }
        let totals = host.stop();
        assert_eq!((totals.connections, totals.dropped, totals.errors), (2, 0, 0), "{name}");
        assert_eq!((totals.writes, totals.reads, totals.flushes, totals.trims, totals.zeroes), (4, 8, 2, 2, 4));
    }
}

#[test]
fn nbd_size_constraints_32_mib_requests() {
    for (name, host) in hosts(64 * MIB) {
        for structured in [false, true] {
            let mut client = host.client(structured);
            let data = pattern(2, 32 << 20);
            assert_eq!(client.write(MIB, &data), 0, "{name}");
            assert!(client.read(MIB, 32 << 20) == data, "{name}");
            if structured {
                let whole = client.call(cmd::READ, 4, MIB, 32 << 20);
                assert_eq!(whole.data.len(), 1, "{name}: DF");
                assert!(whole.bytes(MIB) == data, "{name}");
            }
        }
        host.stop();
    }
}

#[test]
fn nbd_cmd_write_zeroes_fast_zero_is_not_supported_where_it_is_not_fast() {
    let host = Host::ram(4 * MIB);
    let mut client = host.client(true);
    client.write(0, &pattern(3, 4096));
    assert_eq!(client.call(cmd::WRITE_ZEROES, 16 | 2, 0, 4096).errno, 95, "NO_HOLE stores zero by zero");
    assert_eq!(client.read(0, 4096), pattern(3, 4096));
    assert_eq!(client.call(cmd::WRITE_ZEROES, 16, 0, 4096).errno, 0);
    assert_eq!(client.read(0, 4096), vec![0; 4096]);
    host.stop();
}

#[test]
fn nbd_cmd_read_and_block_status_see_holes() {
    // Memory comes in huge pages: the data and the holes are far apart.
    let host = Host::ram(32 * MIB);
    let mut client = host.client(true);
    client.write(16 * MIB, &pattern(4, 8192));
    let status = client.call(cmd::BLOCK_STATUS, 0, 0, 32 << 20);
    assert_eq!(status.extents.iter().map(|e| u64::from(e.0)).sum::<u64>(), 32 * MIB);
    assert_eq!(status.extents[0].1, 3, "a hole that reads as zeroes");
    assert!(status.extents.iter().any(|e| e.1 == 0));
    let one = client.call(cmd::BLOCK_STATUS, 8, 16 * MIB, 512);
    assert_eq!(one.extents, [(512, 0)]);
    let read = client.call(cmd::READ, 0, 8 * MIB, 16 << 20);
    assert!(read.holes > 0);
    let mut simple = host.client(false);
    for bytes in [read.bytes(8 * MIB), simple.read(8 * MIB, 16 << 20)] {
        assert!(bytes[..8 << 20].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[8 << 20..][..8192], pattern(4, 8192));
    }
    host.stop();
}

#[test]
fn nbd_refused_requests_leave_the_stream_intact() {
    let host = Host::ram(MIB);
    for structured in [false, true] {
        let mut client = host.client(structured);
        assert_eq!(client.write(MIB - 512, &[1; 1024]), 28, "past the end");
        assert_eq!(client.write(1, &[1; 512]), 22, "unaligned");
        assert_eq!(client.write(u64::MAX - 511, &[1; 512]), 28);
        assert_eq!(client.call(cmd::READ, 0, MIB, 512).errno, 22);
        assert_eq!(client.call(cmd::READ, 0, 0, 0).errno, 22);
        assert_eq!(client.call(cmd::READ, 0, 0, (32 << 20) + 512).errno, if structured { 75 } else { 22 });
        assert_eq!(client.call(99, 0, 0, 0).errno, 22);
        assert_eq!(client.call(cmd::READ, 1 << 15, 0, 512).errno, 22);
        assert_eq!(client.read(0, 512), [0; 512]);
    }
    assert_eq!(host.client(false).call(cmd::BLOCK_STATUS, 0, 0, 512).errno, 22, "no context");
    host.stop();
}

#[test]
fn nbd_cmd_write_over_the_maximum_is_drained_and_refused() {
    let host = Host::ram(64 * MIB);
    let mut client = host.client(true);
    assert_eq!(client.write(0, &vec![7; (32 << 20) + 512]), 22);
    assert_eq!(client.read(0, 512), [0; 512]);
    host.stop();
}

#[test]
fn nbd_read_only_exports_refuse_to_change() {
    let memory = Memory::new().unwrap();
    let host = Host::with(ram(&memory, MIB), &memory, |config| config.exports[0].read_only = true);
    let mut client = host.client(true);
    assert_eq!(client.write(0, &[1; 512]), 1);
    assert_eq!(client.call(cmd::WRITE_ZEROES, 0, 0, 512).errno, 1);
    assert_eq!(client.call(cmd::TRIM, 0, 0, 512).errno, 1);
    assert_eq!(client.read(0, 512), [0; 512]);
    host.stop();
}

#[test]
fn nbd_requests_may_come_in_pieces_of_any_size() {
    for (name, host) in hosts(MIB) {
        for size in [1, 2, 3, 7, 27, 28, 29, 511, 512, 513, 4095, 4097] {
            let mut client = host.client(false);
            let data = pattern(size as u64, 6144);
            let mut stream = header(cmd::WRITE, 0, 1, 1024, 6144);
            stream.extend(&data);
            stream.extend(header(cmd::FLUSH, 0, 2, 0, 0));
            stream.extend(header(cmd::WRITE, 0, 3, 1 << 16, 512));
            stream.extend(&data[..512]);
            for piece in stream.chunks(size) {
                client.send(piece);
            }
            let mut cookies: Vec<u64> = (0..3).map(|_| client.reply(|_| (0, 0)).unwrap().cookie).collect();
            cookies.sort_unstable();
            assert_eq!(cookies, [1, 2, 3], "{name}, pieces of {size}");
            assert_eq!(client.read(1024, 6144), data, "{name}, pieces of {size}");
            assert_eq!(client.read(1 << 16, 512), data[..512], "{name}, pieces of {size}");
        }
        host.stop();
    }
}

#[test]
fn nbd_requests_are_pipelined() {
    for (name, host) in hosts(16 * MIB) {
        let mut client = host.client(true);
        let mut sender = Client { stream: client.stream.try_clone().unwrap(), structured: true };
        let writes = 400u64;
        let sending = std::thread::spawn(move || {
            for n in 0..writes {
                sender.send(&header(cmd::WRITE, 0, n, n * 8192, 8192));
                sender.send(&pattern(n, 8192));
            }
        });
        let mut done: Vec<u64> = (0..writes).map(|_| client.reply(|_| (0, 0)).unwrap().cookie).collect();
        done.sort_unstable();
        assert_eq!(done, (0..writes).collect::<Vec<_>>(), "{name}");
        sending.join().unwrap();
        let reads: Vec<u8> = (0..writes).flat_map(|n| header(cmd::READ, 0, n, n * 8192, 8192)).collect();
        client.send(&reads);
        for _ in 0..writes {
            let reply = client.reply(|_| (0, 0)).unwrap();
            assert_eq!(reply.bytes(reply.cookie * 8192), pattern(reply.cookie, 8192), "{name}");
        }
        host.stop();
    }
}

#[test]
fn nbd_cmd_flush_on_one_connection_covers_another() {
    let memory = Memory::new().unwrap();
    let host = Host::new(ram(&memory, MIB), &memory);
    let (mut one, mut two) = (host.client(false), host.client(false));
    assert_eq!(one.write(0, &pattern(5, 4096)), 0);
    assert_eq!(two.call(cmd::FLUSH, 0, 0, 0).errno, 0);
    assert_eq!(two.read(0, 4096), pattern(5, 4096));
    host.stop();
}

#[test]
fn nbd_requests_sent_before_the_handshake_was_answered_are_served() {
    let host = Host::ram(MIB);
    let mut client = Client { stream: host.connect(), structured: false };
    let mut early = 3u32.to_be_bytes().to_vec();
    early.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    early.extend(header(cmd::WRITE, 0, 1, 0, 512));
    early.extend([9; 512]);
    early.extend(header(cmd::READ, 0, 2, 0, 512));
    client.send(&early);
    let answers = 18 + (20 + 12) + (20 + 14) + 20;
    std::io::Read::read_exact(&mut client.stream, &mut vec![0; answers]).unwrap();
    let replies: Vec<_> = (0..2).map(|_| client.reply(|cookie| (0, if cookie == 2 { 512 } else { 0 }))).collect();
    assert!(replies.iter().all(|reply| reply.as_ref().is_some_and(|reply| reply.errno == 0)));
    assert_eq!(client.read(0, 512), [9; 512]);
    host.stop();
}

#[test]
fn what_was_asked_before_the_end_of_the_stream_is_answered() {
    for (name, host) in hosts(MIB) {
        let mut client = host.client(false);
        client.request(cmd::WRITE, 0, 1, 0, 4096);
        client.send(&pattern(6, 4096));
        client.request(cmd::READ, 0, 2, 8192, 4096);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..2 {
            let reply = client.reply(|cookie| (8192, if cookie == 2 { 4096 } else { 0 })).expect(name);
            assert_eq!(reply.errno, 0, "{name}");
        }
        assert!(client.hung_up(), "{name}");
        host.stop();
    }
}

#[test]
fn stopping_finishes_what_is_in_flight() {
    let memory = Memory::new().unwrap();
    let slow = Faulty::new(NullDisk::new(&memory, MIB));
    slow.inject(pageless_testkit::Fault::every(pageless_block::Op::Write, pageless_testkit::What::Delay(200)));
    let host = Host::new(Arc::new(slow), &memory);
    let mut client = host.client(false);
    client.request(cmd::WRITE, 0, 1, 0, 512);
    client.send(&[1; 512]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while host.server.totals().writes == 0 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    let half_open = host.client(false);
    host.stop();
    assert_eq!(client.reply(|_| (0, 0)).map(|reply| (reply.cookie, reply.errno)), Some((1, 0)));
    assert!(client.hung_up());
    drop(half_open);
}

#[test]
fn stopping_does_not_wait_for_a_client_that_does_not_read() {
    let host = Host::ram(64 * MIB);
    let mut client = host.client(false);
    client.write(0, &pattern(7, 16 << 20));
    client.request(cmd::READ, 0, 1, 0, 16 << 20);
    let start = std::time::Instant::now();
    host.server.stop(Duration::from_millis(200)).unwrap();
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn tcp_works_and_its_port_is_told() {
    let memory = Memory::new().unwrap();
    let host = Host::with(ram(&memory, MIB), &memory, |config| {
        config.listen.push(Listen::Tcp("127.0.0.1:0".parse().unwrap()));
    });
    let Listen::Tcp(address) = host.server.addresses()[1] else { panic!("not tcp") };
    assert_ne!(address.port(), 0);
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let mut greeting = [0; 18];
    std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    host.stop();
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let memory = Memory::new().unwrap();
    let device: Arc<dyn BlockDevice> = Arc::new(NullDisk::new(&memory, MIB));
    let export = |name: &str| super::Export {
        name: name.into(),
        description: String::new(),
        device: Arc::clone(&device),
        read_only: false,
    };
    let good = || ServerConfig { exports: vec![export("a")], ..Default::default() };
    let fails = |config: ServerConfig, says: &str| {
        let message = Server::start(config, &memory).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(says), "{message}");
    };
    fails(ServerConfig::default(), "no export");
    fails(ServerConfig { exports: vec![export("a"), export("a")], ..good() }, "two exports are called \"a\"");
    fails(ServerConfig { workers: 0, ..good() }, "workers");
    fails(ServerConfig { max_connections: 0, ..good() }, "connections");
    fails(ServerConfig { slots: 7, ..good() }, "slots");
    fails(ServerConfig { exports: vec![export(&"x".repeat(4097))], ..good() }, "4097");
    Server::start(good(), &memory).unwrap().stop(PATIENCE).unwrap();
}

#[derive(Clone, Debug)]
enum Act {
    Write { sector: u64, sectors: u32 },
    Read { sector: u64, sectors: u32 },
    Zero { sector: u64, sectors: u32 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let range = (0u64..4000, 1u32..900);
    let act = (0..3, range).prop_map(|(kind, (sector, sectors))| match kind {
        0 => Act::Write { sector, sectors },
        1 => Act::Read { sector, sectors },
        _ => Act::Zero { sector, sectors },
    });
    proptest::collection::vec(act, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_served_disk_is_a_disk(acts in acts(), structured: bool) {
        for (name, host) in hosts(4 * MIB) {
            let mut client = host.client(structured);
            let mut model = vec![0u8; 4 << 20];
            for (seed, act) in acts.iter().enumerate() {
                match *act {
                    Act::Write { sector, sectors } => {
                        let data = pattern(seed as u64, sectors as usize * 512);
                        prop_assert_eq!(client.write(sector * 512, &data), 0);
                        model[sector as usize * 512..][..data.len()].copy_from_slice(&data);
                    }
                    Act::Read { sector, sectors } => {
                        let read = client.read(sector * 512, sectors * 512);
                        prop_assert!(read == model[sector as usize * 512..][..read.len()], "{}", name);
                    }
                    Act::Zero { sector, sectors } => {
                        prop_assert_eq!(client.call(cmd::WRITE_ZEROES, 0, sector * 512, sectors * 512).errno, 0);
                        model[sector as usize * 512..][..sectors as usize * 512].fill(0);
                    }
                }
            }
            prop_assert!(client.read(0, 4 << 20) == model, "{}", name);
            host.stop();
        }
    }
}
