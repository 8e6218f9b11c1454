// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless serve --vhost-user`: its socket, its arguments, and what its owner is told.

mod common;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use common::nbd::{CMD_WRITE, Peer};
use common::run::Run;
use common::{MIB, Scratch, fails, noise};
use pageless_sys::{memfd, scm};
use serde_json::Value;

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

#[test]
fn a_virtual_machines_socket_beside_nbd_and_by_itself() {
    let scratch = Scratch::short();
    let dir = scratch.path("");
    let mut run =
        Run::start(&dir, &["serve", "ram:1M", "--nbd", "unix:n", "--vhost-user", "v", "--queues", "2", "--poll"]);
    assert_eq!((run.line(), run.line()), ("ready nbd unix:n".into(), "ready vhost-user v".into()));
    let (mut peer, _) = Peer::connect(&scratch.path("n")).expect("it accepts");
    let _front_end = UnixStream::connect(scratch.path("v")).expect("it accepts");
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 3)), 0);
    let (code, _, errors) = run.stop("-TERM");
    assert_eq!(code, Some(0), "{errors}");
    assert!(!std::fs::exists(scratch.path("v")).expect("stat"), "the socket stayed behind");

    // Who asks for that alone gets that alone, and what dies leaves a socket that the next one replaces.
    drop(UnixListener::bind(scratch.path("v")).expect("bound"));
    let mut run = Run::start(&dir, &["serve", "ram:1M", "--vhost-user", "v", "--json"]);
    let ready: Value = serde_json::from_str(&run.line()).expect("JSON");
    assert_eq!((&ready["event"], &ready["vhost_user"], &ready["bytes"]), (&"ready".into(), &"v".into(), &MIB.into()));
    assert!(!std::fs::exists(scratch.path("pageless.sock")).expect("stat"), "nobody asked for NBD");
    let refused = fails(PAGELESS, &["serve", "ram:1M", "--vhost-user", &scratch.path("v")]);
    assert!(
        refused.contains("--vhost-user") && refused.contains("listening") && refused.contains("help:"),
        "{refused}"
    );
    let _front_end = UnixStream::connect(scratch.path("v")).expect("it accepts");
    let (code, rest, errors) = run.stop("-INT");
    assert_eq!(code, Some(0), "{errors}");
    let stopped: Value = serde_json::from_str(rest.lines().last().expect("a line")).expect("JSON");
    // Who only looked whether anybody listens counts too.
    assert!(stopped["event"] == "stopped" && stopped["connections"].as_u64() > Some(0), "{rest}");
    assert_eq!(stopped["exports"][0]["export"], "vhost-user:v");
}

#[test]
fn a_front_end_that_talks_nonsense_is_left_and_said_so() {
    let scratch = Scratch::short();
    let mut run = Run::start(&scratch.path(""), &["serve", "ram:1M", "--vhost-user", "v", "--json"]);
    run.line();
    talk_nonsense(&scratch.path("v"));
    let left: Value = serde_json::from_str(&run.line()).expect("JSON");
    assert_eq!(left["event"], "front-end-left");
    let (code, _, errors) = run.stop("-TERM");
    assert!(code == Some(0) && errors.contains("left a vhost-user front-end"), "{errors}");
}

#[test]
fn a_flood_of_front_ends_does_not_flood_the_log_and_all_are_counted() {
    let scratch = Scratch::short();
    let mut run = Run::start(&scratch.path(""), &["serve", "ram:1M", "--vhost-user", "v", "--json"]);
    run.line();
    for _ in 0..200 {
        talk_nonsense(&scratch.path("v"));
    }
    // Then one more may be told, and with it how many were not.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    talk_nonsense(&scratch.path("v"));
    let (code, rest, errors) = run.stop("-TERM");
    let events: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = events.iter().filter(|event| event["event"] == "front-end-left").count() as u64;
    let left_out = events.iter().filter(|event| event["event"] == "notices-left-out");
    let left_out: u64 = left_out.map(|event| event["count"].as_u64().expect("a number")).sum();
    assert!(told >= 17 && left_out > 0 && told + left_out == 201, "{told} told, {left_out} not");
    assert!(code == Some(0) && errors.contains("were left out"), "{errors}");
}

/// Connects as a front-end, and is left.
fn talk_nonsense(socket: &str) {
    let mut socket = UnixStream::connect(socket).expect("it accepts");
    std::io::Write::write_all(&mut socket, &[0x55; 64]).expect("sent");
    assert_eq!(socket.read(&mut [0; 8]).unwrap_or(0), 0, "it hangs up");
}

#[test]
fn queues_and_polling_are_numbers_of_a_virtual_machines_socket() {
    for (args, says) in [
        (&["--queues", "2"][..], "--vhost-user"),
        (&["--poll"], "--vhost-user"),
        (&["--vhost-user", "v", "--queues", "0"], "--queues"),
        (&["--vhost-user", "v", "--queues", "257"], "--queues"),
        (&["--vhost-user", "v", "--poll=0"], "--poll"),
        (&["--vhost-user", "/nonexistent/v"], "make its directory first"),
    ] {
        let all: Vec<&str> = ["serve", "ram:1M"].iter().chain(args).copied().collect();
        let refused = fails(PAGELESS, &all);
        assert!(refused.contains(says), "{args:?}: {refused}");
    }
}

#[test]
fn a_ring_that_makes_no_sense_is_told_with_its_number() {
    let scratch = Scratch::short();
    let mut run = Run::start(&scratch.path(""), &["serve", "ram:1M", "--vhost-user", "v", "--queues", "2", "--json"]);
    run.line();
    let front = UnixStream::connect(scratch.path("v")).expect("it accepts");
    let memory = memfd::memfd(MIB).expect("a memfd");
    // An available index of 1000, in a ring of 16 entries.
    File::from(memory.try_clone().expect("a copy")).write_all_at(&[0xe8, 3], 0x1002).expect("written");
    let say = |request: u32, words: &[u64], fds: &[BorrowedFd<'_>]| {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let header = [request, 1, u32::try_from(payload.len()).expect("short")];
        let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).chain(payload).collect();
        assert_eq!(scm::send(front.as_fd(), &bytes, fds), Ok(bytes.len()), "request {request}");
    };
    let queue = 1;
    say(3, &[], &[]); // SET_OWNER
    say(2, &[1 << 32], &[]); // SET_FEATURES: VERSION_1
    say(5, &[1, 0, MIB, 0, 0], &[memory.as_fd()]); // SET_MEM_TABLE: guest address 0, user address 0
    say(8, &[queue | 16 << 32], &[]); // SET_VRING_NUM
    say(9, &[queue, 0, 0x2000, 0x1000, 0], &[]); // SET_VRING_ADDR: table, used, available
    say(10, &[queue], &[]); // SET_VRING_BASE
    say(12, &[queue | 1 << 8], &[]); // SET_VRING_KICK: none, so the ring is looked at by itself
    let broken: Value = serde_json::from_str(&run.line()).expect("JSON");
    assert_eq!((&broken["event"], &broken["queue"]), (&"ring-broken".into(), &queue.into()), "{broken}");
    assert!(broken["why"].as_str().is_some_and(|why| why.contains("from 0 to 1000 in a ring of 16")), "{broken}");
    let (code, _, errors) = run.stop("-TERM");
    assert!(code == Some(0) && errors.contains("ring 1 of the guest is broken"), "{errors}");
}
