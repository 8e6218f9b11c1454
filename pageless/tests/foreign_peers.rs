// SPDX-License-Identifier: MIT OR Apache-2.0
//! Peers that do what no honest client does: cut messages, lie about lengths, never read, come in thousands. Each test keeps an
//! honest client working beside them, because "other clients go on" is the property.

use std::io::{Read, Write};
use std::net::Shutdown;

mod common;

use common::nbd::{self, Peer, go_data, option, request};
use common::server::Server;
use common::{MIB, eventually, noise, rounds, same, settled};

/// An honest client with a block of its own that it writes and reads back.
struct Witness {
    peer: Peer,
    turn: u64,
}

impl Witness {
    fn new(server: &Server) -> Witness {
        Witness { peer: Peer::connect(server.socket()).expect("an honest client connects").0, turn: 0 }
    }

    fn works(&mut self) {
        self.turn += 1;
        let bytes = noise(4096, self.turn);
        assert_eq!(self.peer.ask(nbd::CMD_WRITE, 0, 0, 4096, &bytes), 0);
        same("the witness", &self.peer.read_at(0, 4096).expect("a read"), &bytes);
    }
}

#[test]
fn a_handshake_cut_at_every_byte() {
    let mut server = Server::start("ram:1M");
    let mut witness = Witness::new(&server);
    let before = settled(|| server.open_files());
    let mut whole = nbd::CLIENT_FLAGS.to_be_bytes().to_vec();
    whole.extend(option(nbd::OPT_STRUCTURED_REPLY, &[]));
    whole.extend(option(nbd::OPT_LIST, &[]));
    whole.extend(option(nbd::OPT_INFO, &go_data("")));
    whole.extend(option(nbd::OPT_GO, &go_data("")));
    for cut in 0..=whole.len() {
        let mut peer = Peer::greet(server.socket()).expect("greeting");
        peer.0.write_all(&whole[..cut]).expect("the socket takes a few bytes");
        // The server may have hung up already, which is as good.
        let _ = peer.0.shutdown(Shutdown::Write);
        // Whatever it answered before the cut, the end of it is a closed connection.
        let mut rest = Vec::new();
        let _ = peer.0.read_to_end(&mut rest);
        if cut % 16 == 0 {
            witness.works();
        }
    }
    witness.works();
    assert!(server.alive());
    eventually("the connections are closed", || (server.open_files() <= before).then_some(()));
    server.stop();
}

#[test]
fn requests_cut_at_every_byte() {
    let mut server = Server::start("ram:1M");
    let mut witness = Witness::new(&server);
    let before = settled(|| server.open_files());
    let mark = noise(1024, 1);
    let mut whole = request(nbd::CMD_WRITE, 0, 1, 8192, 1024);
    whole.extend(&mark);
    whole.extend(request(nbd::CMD_READ, 0, 2, 8192, 512));
    whole.extend(request(nbd::CMD_FLUSH, 0, 3, 0, 0));
    for cut in 0..=whole.len() {
        let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
        peer.0.write_all(&whole[..cut]).expect("the socket takes a few bytes");
        // The server may have hung up already, which is as good.
        let _ = peer.0.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = peer.0.read_to_end(&mut rest);
        if cut % 64 == 0 {
            witness.works();
        }
    }
    witness.works();
    same("the whole message was served", &witness.peer.read_at(8192, 1024).expect("a read"), &mark);
    assert!(server.alive());
    eventually("the connections are closed", || (server.open_files() <= before).then_some(()));
    server.stop();
}

#[test]
fn messages_that_arrive_one_byte_at_a_time_are_served() {
    let server = Server::start("ram:1M");
    let mut witness = Witness::new(&server);
    let mut peer = Peer::greet(server.socket()).expect("greeting");
    let mut bytes = nbd::CLIENT_FLAGS.to_be_bytes().to_vec();
    bytes.extend(option(nbd::OPT_GO, &go_data("")));
    for byte in bytes {
        peer.0.write_all(&[byte]).expect("the server reads");
    }
    while peer.option_reply().expect("a reply").1 != nbd::REP_ACK {}
    let data = noise(512, 4);
    let mut message = request(nbd::CMD_WRITE, nbd::FLAG_FUA, 5, 1024, 512);
    message.extend(&data);
    for byte in message {
        peer.0.write_all(&[byte]).expect("the server reads");
    }
    assert_eq!(peer.reply().expect("a reply"), (0, 5));
    same("slow writer", &witness.peer.read_at(1024, 512).expect("a read"), &data);
    witness.works();
    server.stop();
}

#[test]
fn bad_magic_in_either_phase_ends_that_connection_only() {
    let server = Server::start("ram:1M");
    let mut witness = Witness::new(&server);

    let mut peer = Peer::greet(server.socket()).expect("greeting");
    peer.0.write_all(&nbd::CLIENT_FLAGS.to_be_bytes()).expect("flags");
    peer.0.write_all(b"IHAVEOPX\0\0\0\x07\0\0\0\0").expect("an option with bad magic");
    assert!(peer.is_closed());
    witness.works();

    let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
    let mut message = request(nbd::CMD_READ, 0, 1, 0, 512);
    message[0] ^= 0xff;
    peer.0.write_all(&message).expect("a request with bad magic");
    assert!(peer.is_closed());
    witness.works();

    let mut peer = Peer::greet(server.socket()).expect("greeting");
    peer.0.write_all(&0x8000_0003u32.to_be_bytes()).expect("unknown client flags");
    assert!(peer.is_closed(), "the protocol tells the server to drop a client with flags it does not know");
    witness.works();
    server.stop();
}

#[test]
fn unknown_and_malformed_options_are_answered_and_the_handshake_goes_on() {
    let server = Server::start("ram:1M");
    let mut peer = Peer::greet(server.socket()).expect("greeting");
    peer.0.write_all(&nbd::CLIENT_FLAGS.to_be_bytes()).expect("flags");
    let mut answers = |number: u32, data: &[u8]| {
        peer.0.write_all(&option(number, data)).expect("an option");
        let (echo, kind, _) = peer.option_reply().expect("a reply");
        assert_eq!(echo, number);
        kind
    };
    assert_eq!(answers(0x4711, &[]), nbd::REP_ERR_UNSUP);
    assert_eq!(answers(0x4711, &noise(3000, 1)), nbd::REP_ERR_UNSUP, "its data is skipped");
    assert_eq!(answers(nbd::OPT_LIST, b"x"), nbd::REP_ERR_INVALID, "LIST has no data");
    assert_eq!(answers(nbd::OPT_STRUCTURED_REPLY, b"x"), nbd::REP_ERR_INVALID);
    assert_eq!(answers(nbd::OPT_GO, &[]), nbd::REP_ERR_INVALID, "GO without a name length");
    assert_eq!(answers(nbd::OPT_GO, &[0, 0, 0, 9, b'x', 0, 0]), nbd::REP_ERR_INVALID, "a name longer than the option");
    assert_eq!(answers(nbd::OPT_INFO, &[0xff, 0xff, 0xff, 0xff, 0, 0]), nbd::REP_ERR_INVALID);
    assert_eq!(answers(nbd::OPT_GO, &[0, 0, 0, 0, 0, 3, 0, 0]), nbd::REP_ERR_INVALID, "fewer requests than announced");
    assert_eq!(answers(nbd::OPT_GO, &go_data("no such export")), nbd::REP_ERR_UNKNOWN);
    assert_eq!(answers(nbd::OPT_ABORT, &[]), nbd::REP_ACK);
    assert!(peer.is_closed());
    server.stop();
}

#[test]
fn an_option_that_announces_gigabytes_costs_nothing() {
    let server = Server::start("ram:1M");
    let mut witness = Witness::new(&server);
    witness.works();
    let before = server.resident();
    let mut peers = Vec::new();
    for _ in 0..50 {
        let mut peer = Peer::greet(server.socket()).expect("greeting");
        let mut head = nbd::CLIENT_FLAGS.to_be_bytes().to_vec();
        head.extend(option(nbd::OPT_EXPORT_NAME, &[]));
        let len = head.len();
        head[len - 4..].copy_from_slice(&0xf000_0000u32.to_be_bytes());
        // The server may hang up at the announcement: then writing more is what fails.
        let _ = peer.0.write_all(&head).and_then(|()| peer.0.write_all(&[0; 4096]));
        peers.push(peer);
    }
    witness.works();
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "{grown} bytes for fifty announcements");
    server.stop();
}

#[test]
fn out_of_range_oversize_and_unknown_requests_get_the_right_error() {
    let server = Server::start("ram:1M");
    let (mut peer, size) = Peer::connect(server.socket()).expect("connect");
    assert_eq!(size, MIB);
    let end = size;
    assert_eq!(peer.read_at(end, 512), Err(nbd::EINVAL), "read at the end");
    assert_eq!(peer.read_at(end - 512, 1024), Err(nbd::EINVAL), "read across the end");
    assert_eq!(peer.read_at(u64::MAX - 511, 1024), Err(nbd::EINVAL), "an offset that wraps");
    let kib = noise(1024, 5);
    assert_eq!(peer.ask(nbd::CMD_WRITE, 0, end, 1024, &kib), nbd::ENOSPC, "write at the end");
    assert_eq!(peer.ask(nbd::CMD_WRITE, 0, end - 512, 1024, &kib), nbd::ENOSPC, "write across the end");
    assert_eq!(peer.ask(nbd::CMD_WRITE_ZEROES, 0, end - 512, 1024, &[]), nbd::ENOSPC);
    assert_eq!(peer.ask(nbd::CMD_TRIM, 0, end - 512, 1024, &[]), nbd::EINVAL);
    assert_eq!(peer.ask(0x4711, 0, 0, 512, &[]), nbd::EINVAL, "an unknown command");
    assert_eq!(peer.ask(nbd::CMD_READ, 0x8000, 0, 512, &[]), nbd::EINVAL, "an unknown flag");
    assert_eq!(peer.read_at(100, 512), Err(nbd::EINVAL), "an offset that is no multiple of the block");
    assert_eq!(peer.ask(nbd::CMD_WRITE, 0, 512, 100, &noise(100, 6)), nbd::EINVAL, "a length that is none");
    assert_eq!(peer.read_at(0, u32::MAX), Err(nbd::EINVAL), "a read of four gigabytes");
    assert!(peer.read_at(0, 512).is_ok(), "the connection survived all of them");

    // Only the payload of an oversize write can not be skipped for free: the server may answer or hang up, never allocate it.
    let before = server.resident();
    peer.0.write_all(&request(nbd::CMD_WRITE, 0, 1, 0, u32::MAX)).expect("the header");
    let _ = peer.0.write_all(&noise(1 << 20, 1));
    assert!(server.resident() < before + 16 * MIB);
    Witness::new(&server).works();
    server.stop();
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let disk = common::disks::Disk::file(MIB);
    let server = common::server::Serve::new(&disk.spec).args(&["--read-only"]).start();
    let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
    assert_eq!(peer.ask(nbd::CMD_WRITE, 0, 0, 512, &noise(512, 1)), nbd::EPERM);
    assert_eq!(peer.ask(nbd::CMD_TRIM, 0, 0, 512, &[]), nbd::EPERM);
    assert_eq!(peer.ask(nbd::CMD_WRITE_ZEROES, 0, 0, 512, &[]), nbd::EPERM);
    assert_eq!(peer.read_at(0, 512).expect("a read"), [0; 512]);
    server.stop();
}

#[test]
fn a_client_that_never_reads_holds_nothing_but_its_own_socket() {
    let server = Server::start("ram:64M");
    let mut witness = Witness::new(&server);
    let mut deaf = Vec::new();
    for _ in 0..4 {
        let (peer, _) = Peer::connect(server.socket()).expect("connect");
        peer.0.set_nonblocking(true).expect("fcntl");
        deaf.push(peer);
    }
    // Ask for reads of 1 MiB until the server stops listening to them, and then some.
    let ask = request(nbd::CMD_READ, 0, 1, 0, 1 << 20);
    let mut asked = 0usize;
    for _ in 0..20_000 {
        for peer in &mut deaf {
            match peer.0.write(&ask) {
                Ok(n) if n == ask.len() => asked += 1,
                // Once a header is cut the stream is out of step; that peer has said enough.
                Ok(_) | Err(_) => {}
            }
        }
    }
    assert!(asked > 100, "the peers asked for {asked} MiB they never read");
    witness.works();
    let held = server.resident();
    assert!(held < 64 * MIB + 64 * MIB, "{held} bytes resident for a disk of 64 MiB");
    drop(deaf);
    witness.works();
    server.stop();
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_a_write() {
    let server = Server::start("ram:16M");
    let mut witness = Witness::new(&server);
    for _ in 0..20 * rounds() {
        let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
        peer.0.write_all(&request(nbd::CMD_WRITE, 0, 1, 8 * MIB, 4 << 20)).expect("the header");
        peer.0.write_all(&noise(1 << 20, 2)).expect("a quarter of the payload");
        drop(peer);
        witness.works();
    }
    server.stop();
}

#[test]
fn a_client_that_vanishes_with_reads_in_flight() {
    let disk = common::disks::Disk::file(16 * MIB);
    let server = Server::start(&disk.spec);
    let mut witness = Witness::new(&server);
    for _ in 0..20 * rounds() {
        let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
        for cookie in 0..64 {
            peer.0.write_all(&request(nbd::CMD_READ, 0, cookie, cookie * 65536, 65536)).expect("a request");
        }
        drop(peer);
        witness.works();
    }
    server.stop();
}

#[test]
fn a_thousand_connections() {
    let server = Server::start("ram:64M");
    let mut witness = Witness::new(&server);
    witness.works();
    let before = settled(|| server.open_files());
    let mut peers: Vec<Peer> =
        (0..1000).map(|n| Peer::connect(server.socket()).unwrap_or_else(|e| panic!("connection {n}: {e}")).0).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        let at = MIB + n as u64 * 4096;
        assert_eq!(peer.ask(nbd::CMD_WRITE, 0, at, 4096, &noise(4096, n as u64)), 0);
    }
    for (n, peer) in peers.iter_mut().enumerate() {
        let at = MIB + n as u64 * 4096;
        same("its own block", &peer.read_at(at, 4096).expect("a read"), &noise(4096, n as u64));
    }
    witness.works();
    let resident = server.resident();
    assert!(resident < 64 * MIB + 128 * MIB, "{resident} bytes resident with a thousand connections");
    drop(peers);
    eventually("all of them are closed", || (server.open_files() <= before).then_some(()));
    witness.works();
    server.stop();
}

#[test]
fn stopping_answers_what_was_accepted_and_hangs_up_on_the_idle() {
    let server = Server::start("ram:16M");
    let mut idle: Vec<Peer> = (0..20).map(|_| Peer::connect(server.socket()).expect("connect").0).collect();
    let (mut busy, _) = Peer::connect(server.socket()).expect("connect");
    assert_eq!(busy.ask(nbd::CMD_WRITE, 0, 0, 512, &noise(512, 1)), 0);
    server.stop();
    assert!(idle.iter_mut().all(Peer::is_closed));
    assert!(busy.is_closed());
}
