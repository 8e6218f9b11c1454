// SPDX-License-Identifier: MIT OR Apache-2.0
//! PMDK 1.12 and we on the same bytes: a `pmemblk` pool that both write by turns, fio's `pmemblk` engine, and `libpmempool` on
//! BTTs that we laid out. What is in them is compared with a model that neither has seen.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

mod common;

use common::nbd::{CMD_DISC, CMD_WRITE, Peer, request};
use common::server::Server;
use common::{MIB, Scratch, have, noise, ok, rounds, run, said, same, skip};

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

/// Every size a sector of a BTT may have, and what a user of the disk sees of it.
const SIZES: [(usize, usize); 7] =
    [(512, 512), (520, 512), (528, 512), (4096, 4096), (4104, 4096), (4160, 4096), (4224, 4096)];

/// A program of `pageless/tests/programs`, linked with a library of PMDK's.
struct Program {
    path: String,
    _scratch: Scratch,
}

impl Program {
    fn build(name: &str, library: &str) -> Option<Program> {
        if !have(&["gcc", "pmempool"]) {
            return None;
        }
        let source = format!("{}/tests/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let scratch = Scratch::disk();
        let path = scratch.path(name);
        let out = run("gcc", &["-O1", "-Wall", "-Wextra", "-Werror", "-o", &path, &source, &format!("-l{library}")]);
        if said(&out).contains("No such file") {
            skip(&format!("lib{library}-dev"));
            return None;
        }
        assert!(out.status.success(), "{}", said(&out));
        Some(Program { path, _scratch: scratch })
    }

    /// Runs it on a pool with this on its standard input, and returns its standard output.
    fn on(&self, pool: &str, what: &str, input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(&self.path)
            .args([pool, what])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("what was built runs");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let out = child.wait_with_output().expect("it ends");
        writer.join().expect("no panic").expect("it reads its input");
        assert!(out.status.success(), "{what}: {}", out.status);
        out.stdout
    }
}

/// What the disk holds, by us who wrote it.
struct Model {
    block: usize,
    bytes: Vec<u8>,
    seed: u64,
}

impl Model {
    fn blocks(&self) -> usize {
        self.bytes.len() / self.block
    }

    /// The next block to write: its number and its bytes.
    fn next(&mut self) -> (usize, Vec<u8>) {
        self.seed += 1;
        let dice = noise(8, self.seed);
        let lba = usize::try_from(u64::from_le_bytes(dice.try_into().expect("8 bytes")) % self.blocks() as u64);
        let (lba, bytes) = (lba.expect("small"), noise(self.block, !self.seed));
        self.bytes[lba * self.block..][..self.block].copy_from_slice(&bytes);
        (lba, bytes)
    }
}

/// Our server on it: compares all of it with the model, and writes on.
fn our_turn(path: &str, model: &mut Model, writes: u32) {
    let server = Server::start(&format!("btt:{path}"));
    let (mut peer, size) = Peer::connect(server.socket()).expect("connect");
    if model.bytes.is_empty() {
        model.bytes = vec![0; usize::try_from(size).expect("small")];
    }
    assert_eq!(size, model.bytes.len() as u64, "the size of the disk");
    same("we read", &all(&mut peer, size), &model.bytes);
    for _ in 0..writes {
        let (lba, bytes) = model.next();
        let len = u32::try_from(model.block).expect("small");
        assert_eq!(peer.ask(CMD_WRITE, 0, (lba * model.block) as u64, len, &bytes), 0);
    }
    same("we read what we wrote", &all(&mut peer, size), &model.bytes);
    peer.send(&request(CMD_DISC, 0, 3, 0, 0), &[]).expect("goodbye");
    server.stop();
}

fn all(peer: &mut Peer, size: u64) -> Vec<u8> {
    let part = |at: u64| u32::try_from((size - at).min(MIB)).expect("small");
    (0..size).step_by(1 << 20).flat_map(|at| peer.read_at(at, part(at)).expect("a read")).collect()
}

fn our_check(path: &str) {
    let text = ok(PAGELESS, &["btt", "check", path]);
    assert!(text.contains("consistent") && !text.contains("unfinished"), "{text}");
}

fn their_check(path: &str) {
    let text = ok("pmempool", &["check", "-v", path]);
    assert!(text.contains(": consistent"), "{text}");
}

#[test]
fn a_pool_is_written_by_turns_and_compared() {
    let Some(pmemblk) = Program::build("pmemblk", "pmemblk") else { return };
    let scratch = Scratch::disk();
    for (lba, block) in SIZES {
        let path = scratch.path("pool.blk");
        ok("pmempool", &["create", "--write-layout", "--size", "18M", "blk", &lba.to_string(), &path]);
        let blocks = pmemblk.on(&path, "get", &[]).len() / lba;
        let mut model = Model { block, bytes: vec![0; blocks * block], seed: lba as u64 };
        for turn in 0..3 * rounds() {
            let mut records = Vec::new();
            for _ in 0..300 {
                let (number, mut bytes) = model.next();
                bytes.resize(lba, 0x5a);
                records.extend((number as u64).to_ne_bytes());
                records.extend(bytes);
            }
            pmemblk.on(&path, "put", &records);
            our_check(&path);
            our_turn(&path, &mut model, 300);
            our_check(&path);
            their_check(&path);
            let theirs: Vec<u8> =
                pmemblk.on(&path, "get", &[]).chunks(lba).flat_map(|chunk| chunk[..block].to_vec()).collect();
            same(&format!("sectors of {lba} bytes, turn {turn}: PMDK reads"), &theirs, &model.bytes);
        }
        fs::remove_file(path).expect("removes");
    }
}

#[test]
fn fio_verifies_through_its_pmemblk_engine_what_we_wrote_and_the_other_way_round() {
    if !have(&["fio", "pmempool"]) {
        return;
    }
    if !ok("fio", &["--enghelp"]).contains("pmemblk") {
        return skip("fio with its pmemblk engine");
    }
    let scratch = Scratch::shm(); // PMDK syncs each write on a disk
    for block in [512, 4096] {
        let path = scratch.path("pool.blk");
        ok("pmempool", &["create", "--write-layout", "--size", "48M", "blk", &block.to_string(), &path]);
        let job = |engine: &str, target: &str, seed: u32, extra: &[&str]| {
            let mut args = vec![
                "--name=v".to_owned(),
                "--thread".to_owned(),
                format!("--ioengine={engine}"),
                target.to_owned(),
                format!("--aux-path={}", env!("CARGO_TARGET_TMPDIR")),
                format!("--bs={block}"),
                "--size=8M".to_owned(),
                format!("--randseed={seed}"),
                "--verify=crc32c".to_owned(),
                "--verify_fatal=1".to_owned(),
                "--rw=randwrite".to_owned(),
            ];
            args.extend(extra.iter().map(|a| (*a).to_owned()));
            ok("fio", &args);
        };
        let theirs = format!("--filename={path},{block},48");
        for seed in 1..=2 * rounds() {
            job("pmemblk", &theirs, seed, &[]);
            our_check(&path);
            let server = Server::start(&format!("btt:{path}"));
            let ours = format!("--uri={}", server.uri());
            job("nbd", &ours, seed, &["--verify_only"]);
            job("nbd", &ours, 1000 + seed, &["--iodepth=16"]);
            server.stop();
            our_check(&path);
            their_check(&path);
            job("pmemblk", &theirs, 1000 + seed, &["--verify_only"]);
        }
        fs::remove_file(path).expect("removes");
    }
}

/// What libpmempool says of a BTT without a pool: of a copy of it, as it may write.
fn their_check_of_raw(program: &Program, path: &str, offset: u64, scratch: &Scratch) -> (bool, String) {
    let copy = scratch.path("copy");
    let image = fs::read(path).expect("reads");
    // Where it looks: at byte 4096.
    let shifted = [vec![0; usize::try_from(4096 - offset).expect("small")], image].concat();
    fs::write(&copy, &shifted).expect("writes");
    let out = run(&program.path, &[&copy]);
    let changed = fs::read(&copy).expect("reads") != shifted;
    let clean = out.status.success() && !changed;
    (clean, said(&out))
}

#[test]
fn libpmempool_finds_our_own_clean() {
    let Some(program) = Program::build("pmempool_btt", "pmempool") else { return };
    let scratch = Scratch::disk();
    for (layout, offset) in [("1.1", 4096), ("2.0", 0)] {
        for (lba, block) in SIZES {
            let path = scratch.path("raw.btt");
            create(&path, layout, lba);
            let mut model = Model { block, bytes: Vec::new(), seed: lba as u64 };
            for _ in 0..2 * rounds() {
                let (clean, text) = their_check_of_raw(&program, &path, offset, &scratch);
                assert!(clean, "{layout}, {lba}:\n{text}");
                our_turn(&path, &mut model, 400);
                our_check(&path);
            }
            let (clean, text) = their_check_of_raw(&program, &path, offset, &scratch);
            assert!(clean, "{layout}, {lba}:\n{text}");

            // The control: what it would say of a map with one block twice.
            let mut image = fs::read(&path).expect("reads");
            let start = usize::try_from(offset).expect("small");
            let at = |field: usize| {
                let bytes = image[start + field..][..8].try_into().expect("8 bytes");
                usize::try_from(u64::from_le_bytes(bytes)).expect("small")
            };
            let map = start + at(0x60);
            image.copy_within(map..map + 4, map + 4 * 9);
            if image[map..map + 4] == [0; 4] {
                image[map + 4 * 9..map + 4 * 10].copy_from_slice(&0xc000_0000_u32.to_le_bytes());
            }
            fs::write(&path, image).expect("writes");
            let (clean, text) = their_check_of_raw(&program, &path, offset, &scratch);
            assert!(!clean && text.contains("duplicated"), "{layout}, {lba}:\n{text}");
            let (ours, text) = (run(PAGELESS, &["btt", "check", &path]), ());
            assert_eq!(ours.status.code(), Some(1), "{}{text:?}", said(&ours));
            fs::remove_file(path).expect("removes");
        }
    }
}

/// A new BTT of ours.
fn create(path: &str, layout: &str, lba: usize) {
    ok(PAGELESS, &["btt", "create", path, "--size", "18M", "--layout", layout, "--sector-size", &lba.to_string()]);
}
