// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server of a BTT killed under load, again and again on the same medium: what libnbd was told is written is there, every sector
//! is whole, and what was cut off is finished.
//!
//! A killed process leaves the stores it made, in their order. What a power failure leaves is the crash explorer's business, and
//! that of `guest/btt-stores`.

use std::collections::HashMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

mod common;

use common::nbd::Peer;
use common::server::Server;
use common::{MIB, Scratch, noise, ok, rounds, skip};

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");
const WRITERS: u64 = 4;

/// What each block must at least be, and what it may be in place of that.
#[derive(Default)]
struct History {
    acknowledged: HashMap<u64, u64>,
    under_way: HashMap<u64, Vec<u64>>,
    acknowledged_writes: u64,
}

impl History {
    /// Takes in what a writer said until its server died.
    fn note(&mut self, log: &str) {
        let mut sent = None;
        // A line that is cut short was not said.
        for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let mut words = line.split_whitespace();
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
            let (number, at) = (number(), number());
            if words.next() == Some("done") {
                sent = None;
                self.acknowledged.insert(at, number);
                self.acknowledged_writes += 1;
            } else {
                sent = Some((at, number));
            }
        }
        if let Some((at, number)) = sent {
            self.under_way.entry(at).or_default().push(number);
        }
    }

    /// The number of the write that a block holds.
    fn check(&self, at: u64, block: &[u8]) -> u64 {
        let word = |n: usize| u64::from_le_bytes(block[8 * n..8 * n + 8].try_into().expect("8 bytes"));
        let torn = block.chunks(16).position(|chunk| chunk != &block[..16]);
        assert_eq!(torn, None, "block {at} is torn there, in units of 16 bytes");
        let (number, least) = (word(0), self.acknowledged.get(&at).copied().unwrap_or(0));
        assert!(number == 0 || word(1) == at, "block {at} holds what belongs into block {}", word(1));
        let allowed = number == least || self.under_way.get(&at).is_some_and(|sent| sent.contains(&number));
        assert!(allowed && number >= least, "block {at} holds write {number}; acknowledged was {least}");
        number
    }
}

fn writer(python: &str, server: &Server, block: u64, which: u64, first: u64, log: &str) -> Child {
    let source = format!("{}/tests/programs/stamps.py", env!("CARGO_MANIFEST_DIR"));
    Command::new(python)
        .arg(source)
        .arg(server.uri())
        .args([block, which, WRITERS, first].map(|n| n.to_string()))
        .stdin(Stdio::null())
        .stdout(fs::File::create(log).expect("a log"))
        .stderr(Stdio::null())
        .spawn()
        .expect("python starts")
}

/// Kills the server of `spec` under load as often as told.
fn kills(python: &str, path: &str, block: u64, kills: u32) {
    let scratch = Scratch::disk();
    let mut history = History::default();
    for kill in 0..kills {
        let server = Server::start(&format!("btt:{path}"));
        let log = |which: u64| scratch.path(&format!("log-{which}"));
        let first = 1 + u64::from(kill) * 1_000_000_000;
        let mut writers: Vec<Child> =
            (0..WRITERS).map(|which| writer(python, &server, block, which, first, &log(which))).collect();
        common::eventually("every writer writes", || {
            let writing = |which| fs::metadata(log(which)).is_ok_and(|log| log.len() > 1000);
            (0..WRITERS).all(writing).then_some(())
        });
        let dice = u64::from(noise(1, u64::from(kill) + block)[0]);
        std::thread::sleep(Duration::from_millis(dice));
        server.kill();
        for writer in &mut writers {
            writer.wait().expect("it ends without its server");
        }
        for which in 0..WRITERS {
            history.note(&fs::read_to_string(log(which)).expect("the log"));
        }

        assert!(ok(PAGELESS, &["btt", "check", path]).contains("consistent"));
        let server = Server::start(&format!("btt:{path}"));
        let (mut peer, size) = Peer::connect(server.socket()).expect("connect");
        for from in (0..size).step_by(1 << 20) {
            let len = (size - from).min(MIB);
            let bytes = peer.read_at(from, u32::try_from(len).expect("small")).expect("a read");
            for (at, bytes) in (from / block..).zip(bytes.chunks(usize::try_from(block).expect("small"))) {
                // What was under way is now what it is, for good.
                let number = history.check(at, bytes);
                history.acknowledged.insert(at, number);
            }
        }
        drop(peer);
        server.stop();
        let text = ok(PAGELESS, &["btt", "check", path]);
        assert!(text.contains("consistent") && !text.contains("unfinished"), "{text}");
    }
    common::note(&format!(
        "btt, sectors of {block} bytes: {kills} kills, {} acknowledged writes",
        history.acknowledged_writes
    ));
}

/// A Python that has libnbd: the system's own, whatever else is first in the path.
fn python() -> Option<&'static str> {
    let has =
        |python: &&str| Command::new(python).args(["-c", "import nbd"]).output().is_ok_and(|out| out.status.success());
    let found = ["/usr/bin/python3", "python3"].into_iter().find(has);
    if found.is_none() {
        skip("python3-libnbd");
    }
    found
}

#[test]
fn killed_under_load_every_sector_is_whole_and_what_was_acknowledged_is_there() {
    let Some(python) = python() else { return };
    for (block, scratch) in [(512_u64, Scratch::shm()), (4096, Scratch::disk())] {
        let path = scratch.path("disk.btt");
        ok(PAGELESS, &["btt", "create", &path, "--size", "24M", "--volatile", "--sector-size", &block.to_string()]);
        kills(python, &path, block, 2 * rounds());
    }
}

#[test]
fn the_check_of_a_sector_fails_as_it_should() {
    let block = |number: u64, at: u64| [number.to_le_bytes(), at.to_le_bytes()].concat().repeat(32);
    let mut history = History::default();
    history.note("7 3 sent\n7 3 done\n8 5 sent\n8 5 done\n9 3 sent\n9 3 do");
    history.check(3, &block(7, 3));
    history.check(3, &block(9, 3));
    history.check(5, &block(8, 5));
    history.check(6, &block(0, 0));
    let torn = [&block(7, 3)[..256], &block(9, 3)[256..]].concat();
    for (at, bytes) in
        [(3, torn), (3, block(0, 0)), (3, block(8, 5)), (5, block(0, 0)), (5, block(9, 5)), (6, block(8, 6))]
    {
        assert!(std::panic::catch_unwind(|| history.check(at, &bytes)).is_err(), "block {at}");
    }
}
