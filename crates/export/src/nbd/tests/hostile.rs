// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that break the protocol, stop in the middle, do not read, or come in crowds: others go on and memory stays
//! bounded.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageless_mem::{Backing, Memory};
use pageless_testkit::{Faulty, Narrow};

use super::super::wire::cmd;
use super::client::{Client, Host, PATIENCE, header, ram};
use super::{MIB, hosts, pattern};

#[test]
fn nbd_request_magic_that_is_wrong_ends_the_connection() {
    for (name, host) in hosts(MIB) {
        let mut client = host.client(true);
        let mut bad = header(cmd::READ, 0, 1, 0, 512);
        bad[3] ^= 1;
        client.send(&bad);
        assert!(client.hung_up(), "{name}");
        assert_eq!(host.client(true).read(0, 512), [0; 512], "{name}: others go on");
        assert_eq!(host.stop().dropped, 1, "{name}");
    }
}

#[test]
fn nbd_handshake_magic_that_is_wrong_ends_the_connection() {
    let host = Host::ram(MIB);
    for bad in [&b"\0\0\0\x80"[..], b"\0\0\0\x03IHAVEOP?\0\0\0\x03\0\0\0\0", b"\0\0\0\x03IHAVEOPT\0\0\0\x03\xff\0\0\0"]
    {
        let mut stream = host.connect();
        stream.read_exact(&mut [0; 18]).unwrap();
        std::io::Write::write_all(&mut stream, bad).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    assert_eq!(host.client(true).read(0, 512), [0; 512]);
    host.stop();
}

#[test]
fn a_client_that_leaves_in_mid_write_takes_nothing_with_it() {
    for (name, host) in hosts(32 * MIB) {
        for size in [1, 27, 28, 29, 28 + 511, 28 + 512, 28 + 5000, 28 + 300_000, 28 + (1 << 20) - 1] {
            let mut client = host.client(false);
            let whole = [header(cmd::WRITE, 0, 1, 0, 1 << 20), pattern(8, 1 << 20)].concat();
            client.send(&whole[..size]);
            drop(client);
        }
        wait(|| host.server.connections() == 0);
        let mut client = host.client(false);
        assert_eq!(client.write(0, &pattern(9, 1 << 20)), 0, "{name}");
        assert!(client.read(0, 1 << 20) == pattern(9, 1 << 20), "{name}");
        host.stop();
    }
}

#[test]
fn half_a_write_is_not_acknowledged() {
    for (name, host) in hosts(32 * MIB) {
        let mut client = host.client(false);
        let whole = [header(cmd::WRITE, 0, 1, 0, 1 << 20), pattern(8, 1 << 20)].concat();
        client.send(&whole[..300_000]);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.reply(|_| (0, 0)), None, "{name}");
        // And one that is cut short by the end of the server, with bios in flight or not.
        let mut client = host.client(false);
        client.send(&whole[..300_000]);
        std::thread::sleep(Duration::from_millis(5));
        host.stop();
        assert_eq!(client.reply(|_| (0, 0)), None, "{name}");
    }
}

#[test]
fn a_client_that_stops_in_mid_write_does_not_stop_others() {
    for (name, host) in hosts(32 * MIB) {
        let stalled: Vec<Client> = (0..300)
            .map(|n| {
                let mut client = host.client(false);
                let whole = [header(cmd::WRITE, 0, 1, 16 * MIB, 1 << 20), pattern(n, 1 << 20)].concat();
                client.send(&whole[..28 + 511 + n as usize]);
                client
            })
            .collect();
        let mut client = host.client(false);
        assert_eq!(client.write(0, &pattern(9, 1 << 20)), 0, "{name}");
        assert!(client.read(0, 1 << 20) == pattern(9, 1 << 20), "{name}");
        drop(stalled);
        host.stop();
    }
}

#[test]
fn a_client_that_does_not_read_does_not_stop_others() {
    for (name, host) in hosts(32 * MIB) {
        let mut writer = host.client(false);
        assert_eq!(writer.write(0, &pattern(1, 16 << 20)), 0);
        // More of them, and more owed to each, than there is memory for.
        let silent: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = host.client(true);
                let reads: Vec<u8> = (0..256).flat_map(|n| header(cmd::READ, 0, n, 0, 16 << 20)).collect();
                client.send(&reads);
                client
            })
            .collect();
        for round in 0..4 {
            let mut client = host.client(true);
            assert!(client.read(0, 16 << 20) == pattern(1, 16 << 20), "{name}");
            assert_eq!(client.write(16 * MIB, &pattern(round, 8 << 20)), 0, "{name}");
            assert!(client.read(16 * MIB, 8 << 20) == pattern(round, 8 << 20), "{name}");
        }
        // One that begins to read after all gets the right bytes.
        let mut late = silent.into_iter().next().unwrap();
        for n in 0..4 {
            let reply = late.reply(|_| (0, 0)).unwrap();
            assert_eq!((reply.cookie, reply.errno), (n, 0), "{name}");
            assert!(reply.bytes(0) == pattern(1, 16 << 20), "{name}");
        }
        drop(late);
        wait(|| host.server.connections() <= 1);
        drop(writer);
        host.stop();
    }
}

#[test]
fn a_client_that_only_asks_is_not_listened_to_for_ever() {
    let host = Host::ram(MIB);
    let mut client = host.client(true);
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let requests: Vec<u8> = (0..4096).flat_map(|n| header(cmd::BLOCK_STATUS, 0, n, 0, 1 << 20)).collect();
    let mut sent = 0;
    // Its socket fills up, because we stop taking requests while replies are owed.
    while std::io::Write::write_all(&mut client.stream, &requests).is_ok() {
        sent += requests.len();
        assert!(sent < 256 << 20, "requests were taken without end");
    }
    assert_eq!(host.client(true).read(0, 512), [0; 512], "others go on");
    drop(client);
    host.stop();
}

#[test]
fn a_thousand_clients_are_served() {
    // Both ends are in this process.
    if pageless_sys::limits::raise_descriptors().is_none_or(|most| most < 2500) {
        pageless_testkit::require::require::<(), _>("2,500 open files", Err("the hard limit is lower"));
        return;
    }
    let host = Host::ram(64 * MIB);
    let mut clients: Vec<Client> = (0..1000).map(|_| host.client(false)).collect();
    assert_eq!(host.server.connections(), 1000);
    for (n, client) in clients.iter_mut().enumerate() {
        client.request(cmd::WRITE, 0, 1, n as u64 * 4096, 4096);
        client.send(&pattern(n as u64, 4096));
    }
    for client in &mut clients {
        assert_eq!(client.reply(|_| (0, 0)).unwrap().errno, 0);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read(n as u64 * 4096, 4096), pattern(n as u64, 4096));
    }
    drop(clients);
    wait(|| host.server.connections() == 0);
    host.stop();
}

#[test]
fn one_connection_too_many_is_closed_and_room_is_made_again() {
    let memory = Memory::new().unwrap();
    let host = Host::with(ram(&memory, MIB), &memory, |config| config.max_connections = 2);
    let (one, two) = (host.client(false), host.client(false));
    assert_eq!(host.connect().read(&mut [0; 18]).unwrap_or(0), 0);
    drop((one, two));
    wait(|| host.server.connections() == 0);
    assert_eq!(host.client(false).read(0, 512), [0; 512]);
    host.stop();
}

#[test]
fn a_client_that_never_finishes_its_handshake_is_closed() {
    let memory = Memory::new().unwrap();
    let host = Host::with(ram(&memory, MIB), &memory, |config| config.handshake_timeout = Duration::from_millis(10));
    let mut silent = host.connect();
    silent.read_exact(&mut [0; 18]).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    host.stop();
}

#[test]
fn a_pool_much_smaller_than_the_demand_serves_everyone() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::anon(32 * MIB).unwrap()).unwrap();
    let device = Narrow::new(pageless_drivers::RamDisk::new(&memory, region, "ram"), 8, |_| ());
    let host = Host::with(Arc::new(Faulty::new(device)), &memory, |config| {
        config.slots = 8;
        config.workers = 1;
    });
    let threads: Vec<_> = (0..12u64)
        .map(|n| {
            let mut client = host.client(n % 2 == 0);
            std::thread::spawn(move || {
                let data = pattern(n, 2 << 20);
                for _ in 0..3 {
                    assert_eq!(client.write(n * 2 * MIB, &data), 0);
                    assert!(client.read(n * 2 * MIB, 2 << 20) == data);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    host.stop();
}

fn wait(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "it never came to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}
