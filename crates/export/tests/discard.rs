// SPDX-License-Identifier: MIT OR Apache-2.0
//! Discards over the network while the disk's memory is in flight, which they do not wait for.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]
#![allow(dead_code, reason = "the client can do more")]

#[path = "revoke/client.rs"]
mod client;

use client::{Client, READ, TRIM, WRITE};
use pageless_drivers::PmemDisk;
use pageless_export::nbd::{Export, Listen, Server, ServerConfig};
use pageless_mem::{Access, Backing, FileOptions, Memory};
use pageless_testkit::regions::TempPath;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
/// Bytes of a client's own, and of each of its requests.
const SHARE: u64 = 1 << 18;
const STEP: u32 = 1 << 14;
const CLIENTS: u8 = 3;

/// Writes, reads and discards its bytes, all at once, and then sees what a discard leaves.
fn discard_under_load(client: &mut Client, me: u8, cookies: u64) {
    let start = u64::from(me) * SHARE;
    let requests = SHARE / u64::from(STEP);
    for round in 0..cookies {
        for n in 0..requests {
            let at = start + n * u64::from(STEP);
            client.send(WRITE, 0, 3 * n, at, STEP, &vec![me + 1; STEP as usize]).unwrap();
            client.send(READ, 0, 3 * n + 1, at, STEP, &[]).unwrap();
            client.send(TRIM, 0, 3 * n + 2, at, STEP, &[]).unwrap();
            // Replies of this one and of nothing else: the socket never fills up.
            for _ in 0..3 {
                let reply = client.reply(|cookie| if cookie % 3 == 1 { STEP } else { 0 }).unwrap();
                assert_eq!(reply.errno, 0, "round {round}");
                let known = |byte: &u8| *byte == 0 || *byte == me + 1;
                assert!(reply.data.iter().all(known), "bytes of nobody that wrote here");
            }
        }
        assert_eq!(client.call(TRIM, start, SHARE as u32, &[]).unwrap().errno, 0);
        let reply = client.call(READ, start, SHARE as u32, &[]).unwrap();
        assert!(reply.errno == 0 && reply.data == vec![0; SHARE as usize], "round {round}: discarded bytes are zeroes");
    }
}

#[test]
fn nbd_a_trim_waits_for_no_io_in_flight() {
    let memory = Memory::new().unwrap();
    let path = TempPath::within(&std::env::temp_dir());
    std::fs::write(path.path(), vec![0; SHARE as usize * usize::from(CLIENTS)]).unwrap();
    let region = memory.register(Backing::file(path.path(), FileOptions::default()).unwrap()).unwrap();
    let device = Arc::new(PmemDisk::new(&memory, region.clone(), "disk"));
    let socket = TempPath::within(&std::env::temp_dir());
    let config = ServerConfig {
        exports: vec![Export { name: "disk".into(), description: String::new(), device, read_only: false }],
        listen: vec![Listen::Unix(socket.path().to_owned())],
        ..ServerConfig::default()
    };
    let server = Server::start(config, &memory).unwrap();
    // In flight for as long as the clients are there: who waits for it never answers.
    let all = region.range(0, region.len()).unwrap();
    let pinned = memory.reader().online().pin(&[all], Access::Write).unwrap();
    std::thread::scope(|scope| {
        for me in 0..CLIENTS {
            let socket = socket.path();
            scope.spawn(move || discard_under_load(&mut Client::connect(socket, "disk", me % 2 == 1), me, 10));
        }
    });
    drop(pinned);
    assert_eq!(server.totals().dropped, 0);
    server.stop(LONG).unwrap();
}
