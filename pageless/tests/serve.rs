// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless serve` from the first line to a clean end: files and sockets it makes, locks it holds, signals it obeys.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::nbd::{CMD_FLUSH, CMD_WRITE, EIO, EPERM, Peer};
use common::run::Run;
use common::server::{Serve, Server};
use common::{MIB, Scratch, eventually, have, noise, ok, same};
use serde_json::{Value, json};

/// A mebibyte of a buffer.
const M: usize = 1 << 20;

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

#[test]
fn without_arguments_it_makes_an_image_and_says_what_to_type_next() {
    let scratch = Scratch::short();
    let dir = scratch.path("");
    let mut run = Run::start(&dir, &["serve"]);
    assert_eq!(run.line(), "ready nbd unix:./pageless.sock");
    let image = std::fs::metadata(scratch.path("pageless.img")).expect("made");
    assert_eq!((image.len(), image.blocks()), (1 << 30, 0));
    let (mut peer, size) = Peer::connect(&scratch.path("pageless.sock")).expect("it accepts");
    assert_eq!(size, 1 << 30);
    let bytes = noise(4096, 1);
    assert_eq!(peer.ask(CMD_WRITE, 0, 8192, 4096, &bytes), 0);
    let (code, rest, errors) = run.stop("-TERM");
    assert_eq!((code, rest.as_str()), (Some(0), ""), "{errors}");
    assert!(!std::fs::exists(scratch.path("pageless.sock")).expect("stat"), "the socket stayed behind");
    for next in ["nbdinfo", "qemu-img info", "nbdcopy", "Ctrl-C"] {
        assert!(errors.contains(next), "{next}: {errors}");
    }
    let image = std::fs::read(scratch.path("pageless.img")).expect("kept");
    same("the image", &image[8192..12288], &bytes);

    // The second time it serves what is there, whatever its size.
    std::fs::File::options()
        .write(true)
        .open(scratch.path("pageless.img"))
        .expect("there")
        .set_len(MIB)
        .expect("shrinks");
    let mut run = Run::start(&dir, &["serve"]);
    assert_eq!(run.line(), "ready nbd unix:./pageless.sock");
    let (mut peer, size) = Peer::connect(&scratch.path("pageless.sock")).expect("it accepts");
    assert_eq!((size, peer.read_at(8192, 4096)), (MIB, Ok(bytes)));
    assert_eq!(run.stop("-INT").0, Some(0));
}

#[test]
fn one_ready_line_for_each_address() {
    let scratch = Scratch::short();
    let listen = ["unix:a.sock", "tcp:127.0.0.1:0", "unix:b.sock", "tcp:[::1]:0"];
    let listen = if std::net::TcpListener::bind("[::1]:0").is_ok() { &listen[..] } else { &listen[..3] };
    let mut args = vec!["serve", "ram:1M"];
    listen.iter().for_each(|address| args.extend(["--nbd", address]));
    let mut run = Run::start(&scratch.path(""), &args);
    for address in listen {
        let line = run.line();
        let told = line.strip_prefix("ready nbd ").unwrap_or_else(|| panic!("{line}"));
        match address.strip_prefix("tcp:").and_then(|a| a.strip_suffix(":0")) {
            None => assert_eq!(told, *address),
            Some(host) => {
                let real = told.strip_prefix("tcp:").expect("tcp");
                assert!(real.starts_with(host) && !real.ends_with(":0"), "{told}");
                std::net::TcpStream::connect(real).expect("it accepts there");
            }
        }
    }
    assert_eq!(run.stop("-TERM").0, Some(0));
    assert!(
        !std::fs::exists(scratch.path("a.sock")).expect("stat")
            && !std::fs::exists(scratch.path("b.sock")).expect("stat")
    );
}

/// A disk on a tmpfs that somebody else cuts short under a client.
struct Cut {
    sockets: Scratch,
    _memory: Scratch,
    run: Run,
    peer: Peer,
}

impl Cut {
    /// `to` bytes are left of so many.
    fn new(len: usize, to: u64) -> Cut {
        let (sockets, memory) = (Scratch::short(), Scratch::shm());
        let path = memory.path("disk");
        let spec = format!("pmem:{path},size={len}");
        let mut run = Run::start(&sockets.path(""), &["serve", &spec, "--nbd", "unix:s", "--json"]);
        run.line();
        let (mut peer, _) = Peer::connect(&sockets.path("s")).expect("it accepts");
        assert_eq!(peer.ask(CMD_WRITE, 0, 0, u32::try_from(len).expect("small"), &noise(len, 1)), 0);
        std::fs::File::options().write(true).open(&path).expect("there").set_len(to).expect("shrinks");
        Cut { sockets, _memory: memory, run, peer }
    }
}

#[test]
fn bytes_that_become_bad_are_told_once() {
    let mut cut = Cut::new(65536, 32768);
    for _ in 0..2 {
        assert_eq!((cut.peer.read_at(40960, 8192), cut.peer.read_at(0, 32768).is_ok()), (Err(EIO), true));
    }
    let bad: Value = serde_json::from_str(&cut.run.line()).expect("JSON");
    assert_eq!(bad, json!({"event": "bad", "offset": 40960, "bytes": 4096, "known_by": "a fault"}));
    // What is found just before the end is told as well.
    assert_eq!(cut.peer.read_at(53248, 4096), Err(EIO));
    let (code, rest, errors) = cut.run.stop("-INT");
    // Of what was written some is not there to be flushed.
    assert_eq!(code, Some(1), "{errors}");
    for at in [40960, 53248] {
        assert_eq!(
            errors.matches(&format!(": 4096 bytes at {at} (a fault) of its memory are bad")).count(),
            1,
            "{errors}"
        );
    }
    assert_eq!(rest.matches("\"bad\"").count(), 1, "{rest}");
}

/// However many they are, and whether anybody reads of them.
#[test]
fn a_flood_of_bad_bytes_keeps_nobody_from_stopping_it() {
    let mut cut = Cut::new(M, 0);
    for block in (0..256).step_by(2) {
        assert_eq!(cut.peer.read_at(block * 4096, 4096), Err(EIO));
    }
    let told: Vec<Value> = (0..17).map(|_| serde_json::from_str(&cut.run.line()).expect("JSON")).collect();
    assert!(told[..16].iter().all(|event| event["event"] == "bad"), "{told:?}");
    assert_eq!(told[16]["event"], "bad-left-out");
    let (_, rest, errors) = cut.run.stop("-INT");
    assert!(rest.matches("\"bad\"").count() <= 48, "{rest}");
    assert!(errors.contains("more runs of bytes are bad"), "{errors}");
    assert!(!std::fs::exists(cut.sockets.path("s")).expect("stat"), "the socket stayed behind");
}

/// Whoever started it has filled its pipe and looks away.
#[test]
fn whoever_reads_nothing_of_what_is_told_keeps_it_from_ending_for_a_while_only() {
    let (sockets, memory) = (Scratch::short(), Scratch::shm());
    let (path, socket) = (memory.path("disk"), sockets.path("s"));
    let (_unread, mut pipe) = std::io::pipe().expect("a pipe");
    // It holds 64 KiB (pipe(7)): there is room for the first line, and not for sixteen more.
    pipe.write_all(&[b' '; 65536 - 1024]).expect("room");
    let mut server = Command::new(PAGELESS)
        .args(["serve", &format!("pmem:{path},size=1M"), "--nbd", &format!("unix:{socket}"), "--json"])
        .stdout(pipe)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut peer, _) = eventually("it accepts", || Peer::connect(&socket).ok());
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 1 << 20, &noise(M, 1)), 0);
    std::fs::File::options().write(true).open(&path).expect("there").set_len(0).expect("shrinks");
    for block in (0..256).step_by(2) {
        assert_eq!(peer.read_at(block * 4096, 4096), Err(EIO));
    }
    // Once it has told of the first, it is in the middle of the others.
    let mut errors = BufReader::new(server.stderr.take().expect("piped")).lines();
    assert!(errors.next().expect("a line").expect("text").contains("are bad"));
    ok("kill", &["-INT", &server.id().to_string()]);
    assert_eq!(eventually("it ends", || server.try_wait().expect("a child")).code(), Some(1));
    assert!(!std::fs::exists(&socket).expect("stat"), "the socket stayed behind");
}

#[test]
fn events_in_json() {
    let scratch = Scratch::short();
    let mut run = Run::start(&scratch.path(""), &["serve", "ram:1M", "--nbd", "unix:s", "--export", "disk", "--json"]);
    let ready: Value = serde_json::from_str(&run.line()).expect("JSON");
    assert_eq!((&ready["event"], &ready["nbd"], &ready["export"]), (&"ready".into(), &"unix:s".into(), &"disk".into()));
    assert_eq!((&ready["bytes"], &ready["read_only"]), (&MIB.into(), &false.into()));
    assert_eq!(ready["atomic_write_unit"], 8, "memory has no sectors");
    let (code, rest, errors) = run.stop("-TERM");
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let events: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    assert_eq!(names, ["stopping", "stopped"]);
    assert_eq!(events[0]["signal"], "SIGTERM");
}

#[test]
fn which_way_the_bytes_of_an_export_went_is_told_at_the_end() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let scratch = Scratch::disk();
    let from = scratch.file("from", &noise(M, 9));
    scratch.sparse("image", MIB);
    for (spec, json) in [("ram:1M", true), ("ram:1M", false), ("file:image", true)] {
        let socket = Scratch::short();
        let listen = format!("unix:{}", socket.path("s"));
        let uri = format!("nbd+unix:///?socket={}", socket.path("s"));
        let mut args = vec!["serve", spec, "--nbd", &listen];
        args.extend(json.then_some("--json"));
        let mut run = Run::start(&scratch.path(""), &args);
        run.line();
        ok("nbdcopy", &[&from, &uri]);
        ok("nbdcopy", &[&uri, &scratch.path("to")]);
        let (code, rest, errors) = run.stop("-TERM");
        assert_eq!(code, Some(0), "{errors}");
        if !json {
            // Stored by the CPU, sent from the frames.
            let expected = "ram:1M:\n  direct  1 MiB\n  copy    1 MiB\n  copy (the device is memory)\n";
            assert_eq!((rest.as_str(), errors.as_str()), ("", expected));
            continue;
        }
        let stopped: Value = serde_json::from_str(rest.lines().last().expect("an event")).expect("JSON");
        let export = &stopped["exports"][0];
        let bytes = |way: &str| export["routes"][way].as_u64().expect("bytes");
        assert_eq!((&export["export"], &export["device"]), (&"".into(), &spec.into()), "{stopped}");
        assert_eq!(["direct", "dma-buf", "bounce", "copy"].map(bytes).iter().sum::<u64>(), 2 * MIB, "{stopped}");
        let reasons = export["reasons"].as_array().expect("a list").len();
        assert_eq!(reasons > 0, bytes("direct") < 2 * MIB, "{stopped}");
        if spec == "ram:1M" {
            assert_eq!((bytes("direct"), bytes("copy")), (MIB, MIB), "{stopped}");
        }
    }
}

#[test]
fn a_second_writer_is_refused_with_the_holders_pid() {
    let scratch = Scratch::disk();
    let image = scratch.sparse("x.img", MIB);
    for (first, second) in [("file", "file"), ("pmem", "file"), ("file", "pmem"), ("pmem", "pmem")] {
        let server = Server::start(&format!("{first}:{image}"));
        let spec = format!("{second}:{image}");
        for args in [&[][..], &["--read-only"]] {
            let (code, text) = Serve::new(&spec).args(args).refused();
            assert_eq!(code, 1, "{text}");
            assert!(
                text.contains(&format!("{spec}: {image} is in use by process {} (pageless)", server.pid())),
                "{text}"
            );
            assert!(text.contains(&format!("kill {}", server.pid())), "{text}");
        }
        server.stop();
    }
    // Readers do not mind each other, and keep writers out.
    let spec = format!("file:{image}");
    let first = Serve::new(&spec).args(&["--read-only"]).start();
    let second = Serve::new(&format!("pmem:{image}")).args(&["--read-only"]).start();
    assert_eq!(Serve::new(&spec).refused().0, 1);
    first.stop();
    second.stop();
    Server::start(&spec).stop();
}

#[test]
fn a_stale_socket_is_replaced() {
    let scratch = Scratch::short();
    let socket = scratch.path("s");
    drop(UnixListener::bind(&socket).expect("binds"));
    assert!(UnixStream::connect(&socket).is_err(), "nobody listens any more");
    Serve::new("ram:1M").at(&socket).start().stop();
    // One whose server was killed, too.
    let killed = Serve::new("ram:1M").at(&socket).start();
    killed.kill();
    assert!(std::fs::exists(&socket).expect("stat"));
    Serve::new("ram:1M").at(&socket).start().stop();
}

#[test]
fn a_live_socket_is_left_alone() {
    let scratch = Scratch::short();
    let socket = scratch.path("s");
    let server = Serve::new("ram:1M").at(&socket).start();
    let (code, text) = Serve::new("ram:2M").at(&socket).refused();
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains(&format!("--nbd unix:{socket}: ")) && text.contains("a server is listening on this socket"),
        "{text}"
    );
    assert_eq!(Peer::connect(&socket).expect("the first still serves").1, MIB);
    server.stop();
}

#[test]
fn what_is_no_socket_is_not_removed() {
    let scratch = Scratch::short();
    let precious = scratch.file("s", b"precious");
    let (code, text) = Serve::new("ram:1M").at(&precious).refused();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is not a socket"), "{text}");
    assert_eq!(std::fs::read(&precious).expect("there"), b"precious");
}

#[test]
fn addresses_that_cannot_be_listened_at() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let scratch = Scratch::short();
    for (address, says) in [
        (format!("tcp:127.0.0.1:{port}"), "EADDRINUSE (98, "),
        ("tcp:192.0.2.1:10809".to_owned(), "EADDRNOTAVAIL (99, "),
        ("tcp:no-such-host.invalid:10809".to_owned(), "no-such-host.invalid"),
        (format!("unix:{}", scratch.path("no/such/dir/s")), "ENOENT (2, "),
    ] {
        let out = common::run(PAGELESS, &["serve", "ram:1M", "--nbd", &address]);
        let text = common::said(&out);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("--nbd {address}")) && text.contains(says) && text.contains("help: "), "{text}");
    }
}

/// The image it was asked to make is not left behind when it cannot serve it.
#[test]
fn a_failed_start_leaves_nothing() {
    let scratch = Scratch::short();
    let image = scratch.path("new.img");
    let spec = format!("file:{image},size=1M");
    let out = common::run(PAGELESS, &["serve", &spec, "--nbd", &format!("unix:{}", scratch.path("no/such/s"))]);
    assert_eq!(out.status.code(), Some(1));
    assert!(!std::fs::exists(&image).expect("stat"), "{}", common::said(&out));
}

#[test]
fn read_only_makes_nothing() {
    let scratch = Scratch::short();
    let image = scratch.path("nope.img");
    for kind in ["file", "pmem"] {
        let out = common::run(PAGELESS, &["serve", "--read-only", &format!("{kind}:{image},size=1M")]);
        let text = common::said(&out);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains("nope.img: ENOENT (2, ") && text.contains("check the name"), "{text}");
        assert!(!std::fs::exists(&image).expect("stat"), "{kind}: was made");
    }
}

#[test]
fn read_only_is_read_only() {
    let scratch = Scratch::disk();
    for kind in ["file", "pmem"] {
        let image = scratch.file(kind, &noise(M, 2));
        let mut permissions = std::fs::metadata(&image).expect("there").permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&image, permissions).expect("ours");
        let server = Serve::new(&format!("{kind}:{image}")).args(&["--read-only"]).start();
        let (mut peer, _) = Peer::connect(server.socket()).expect("connects");
        assert_eq!(peer.read_at(0, 4096), Ok(noise(M, 2)[..4096].to_vec()));
        assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &[0; 4096]), EPERM);
        assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), 0);
        server.stop();
        same(&image, &std::fs::read(&image).expect("there"), &noise(M, 2));
    }
}

#[test]
fn what_was_written_is_in_the_image_after_sigterm() {
    let scratch = Scratch::disk();
    for kind in ["file", "pmem"] {
        let image = scratch.sparse(kind, 8 * MIB);
        let server = Server::start(&format!("{kind}:{image}"));
        let (mut peer, _) = Peer::connect(server.socket()).expect("connects");
        let bytes = noise(M, 3);
        assert_eq!(peer.ask(CMD_WRITE, 0, 3 * MIB, u32::try_from(MIB).expect("small"), &bytes), 0);
        server.stop();
        same(kind, &std::fs::read(&image).expect("there")[3 * M..4 * M], &bytes);
    }
}
