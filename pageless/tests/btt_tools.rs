// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless btt` on media that PMDK made: what it says of them, what it finds once they are damaged, what it makes right.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::{Command, Stdio};

use common::nbd::{CMD_WRITE, EPERM, Peer};
use common::server::{Serve, Server};
use common::{MIB, Scratch, eventually, fails, have, ok, run, said};

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

/// Where a pool's arena begins.
const ARENA: u64 = 8192;

/// A new pool of PMDK, its BTT laid out. Nothing without `pmempool`.
fn pool(scratch: &Scratch, block: u32) -> Option<String> {
    if !have(&["pmempool"]) {
        return None;
    }
    let path = scratch.path("pool.blk");
    ok("pmempool", &["create", "--write-layout", "--size", "20M", "blk", &block.to_string(), &path]);
    Some(path)
}

fn exit(args: &[&str]) -> (i32, String) {
    let out = run(PAGELESS, args);
    (out.status.code().expect("not a signal"), said(&out))
}

fn poke(path: &str, offset: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(bytes, offset).expect("writes");
}

/// One of the fields that a 64-bit number is in.
fn field(path: &str, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, ARENA + offset)).expect("reads");
    u64::from_le_bytes(bytes)
}

#[test]
fn btt_info_says_what_pmempool_says() {
    let scratch = Scratch::disk();
    for block in [512, 520, 4096, 4160] {
        let Some(path) = pool(&scratch, block) else { return };
        let theirs = ok("pmempool", &["info", &path]);
        let ours = ok(PAGELESS, &["btt", "info", &path]);
        // Not the UUID: PMDK prints three of its parts as numbers, Linux and libuuid its bytes in their order.
        for (name, field) in [
            ("External LBA size", "external_lbasize"),
            ("External LBA count", "external_nlba"),
            ("Internal LBA size", "internal_lbasize"),
            ("Internal LBA count", "internal_nlba"),
            ("Free blocks", "nfree"),
            ("Next arena offset", "nextoff"),
            ("Arena data offset", "dataoff"),
            ("Area map offset", "mapoff"),
            ("Area flog offset", "flogoff"),
            ("Info block backup offset", "info2off"),
        ] {
            let last = |text: &str, name: &str| {
                let line = text.lines().find(|line| line.trim().starts_with(name)).unwrap_or_default();
                line.split_whitespace().last().unwrap_or_default().to_owned()
            };
            assert_eq!(last(&ours, field), last(&theirs, name), "{name}:\n{theirs}\n{ours}");
        }
        assert!(ok(PAGELESS, &["btt", "check", &path]).contains("consistent"));
        fs::remove_file(path).expect("removes");
    }
}

#[test]
fn btt_create_makes_what_check_and_pmempool_know() {
    let scratch = Scratch::disk();
    for (layout, sector) in [("1.1", "512"), ("1.1", "4160"), ("2.0", "4096"), ("2.0", "528")] {
        let path = scratch.path("new.btt");
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let args =
            ["btt", "create", &path, "--size", "40M", "--sector-size", sector, "--layout", layout, "--uuid", uuid];
        let said = ok(PAGELESS, &args);
        assert!(said.contains(uuid) && said.contains(&format!("BTT {layout}")), "{said}");
        assert!(ok(PAGELESS, &["btt", "check", &path]).contains("consistent"));
        if layout == "1.1" && have(&["pmempool"]) {
            let theirs = ok("pmempool", &["info", &path]);
            assert!(theirs.contains("BTT") && theirs.contains(sector), "{theirs}");
        }
        // Made once; again only by force, in whatever layout.
        let (code, text) = exit(&["btt", "create", &path]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(&format!("holds a BTT {layout}")) && text.contains("--force"), "{text}");
        for other in ["2.0", "1.1"] {
            let text = ok(PAGELESS, &["btt", "create", &path, "--layout", other, "--force"]);
            assert!(text.contains(&format!("BTT {other}")), "{text}");
            assert!(ok(PAGELESS, &["btt", "check", &path]).contains(&format!("BTT {other}")));
        }
        fs::remove_file(path).expect("removes");
    }
}

/// A tmpfs forgets all: no place for what is to be whole after a power cut, unless somebody says that this is known.
#[test]
fn btt_create_on_a_tmpfs_is_refused_unless_that_is_wanted() {
    let path = format!("/dev/shm/pageless-btt-{}", std::process::id());
    let kind = run("stat", &["-f", "-c", "%T", "/dev/shm"]);
    if String::from_utf8_lossy(&kind.stdout).trim() != "tmpfs" {
        return common::skip_here("a tmpfs at /dev/shm");
    }
    let (code, text) = exit(&["btt", "create", &path, "--size", "20M"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nothing there outlives power (file in memory (tmpfs)"), "{text}");
    assert!(text.contains(&path) && text.contains("--volatile"), "{text}");
    assert!(!fs::exists(&path).expect("looks"), "nothing is left behind");
    let made = ok(PAGELESS, &["btt", "create", &path, "--size", "20M", "--volatile"]);
    let server = Server::start(&format!("btt:{path}"));
    let said = server.said();
    server.stop();
    fs::remove_file(&path).expect("removes");
    assert!(made.contains("BTT 1.1") && said.contains("power takes them all"), "{made}{said}");
}

#[test]
fn btt_create_overwrites_nothing_and_leaves_nothing_behind() {
    let scratch = Scratch::disk();
    let used = scratch.sparse("used", 32 * MIB);
    poke(&used, 20 * MIB + 5, b"x");
    let before = fs::read(&used).expect("reads");
    let (code, text) = exit(&["btt", "create", &used]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("holds data, the first at byte 20971525"), "{text}");
    assert!(fs::read(&used).expect("reads") == before);

    let small = scratch.sparse("small", MIB);
    let (missing, nowhere) = (scratch.path("missing"), scratch.path("no/such"));
    let (small, missing, used) = (&*small, &*missing, &*used);
    let cases: &[(&[&str], i32, &str)] = &[
        (&[small], 1, "1048576 bytes are too small for a BTT: it takes 16781312"),
        (&[missing], 1, "there is no"),
        (&[missing, "--size", "16M"], 1, "16777216 bytes are too small"),
        (&[used, "--size", "64M"], 1, "smaller than"),
        (&[missing, "--size", "1000"], 2, "no multiple of 4096"),
        (&[missing, "--size", "64M", "--sector-size", "1000"], 2, "must be 512, 520"),
        (&[missing, "--size", "64M", "--layout", "pool"], 2, "pmempool create"),
        (&[missing, "--size", "64M", "--uuid", "x"], 2, "is no UUID"),
        (&[&nowhere, "--size", "64M"], 1, "no/such"),
    ];
    for (args, code, says) in cases {
        let all: Vec<&str> = ["btt", "create"].iter().chain(*args).copied().collect();
        let (found, text) = exit(&all);
        assert_eq!(found, *code, "{all:?}: {text}");
        assert!(text.contains(says), "{all:?}: {text}");
    }
    assert!(!fs::exists(missing).expect("looks"));
    assert!(fs::read(used).expect("reads") == before);
}

/// What is said after a Ctrl-C that comes as soon as it is waited for, once nothing else in the folder is another than before.
fn interrupted(scratch: &Scratch, path: &str, command: &[&str]) -> String {
    let seen = || {
        let there = fs::metadata(path).expect("it is there");
        (there.len(), there.blocks(), there.mtime_nsec(), fs::read_dir(scratch.path("")).expect("lists").count())
    };
    let before = seen();
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let status = format!("/proc/{}/status", child.id());
    eventually("Ctrl-C is waited for", || {
        assert!(child.try_wait().expect("waits").is_none(), "it ended before it could be interrupted");
        let text = fs::read_to_string(&status).expect("it runs");
        let blocked = text.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
        (u64::from_str_radix(blocked.trim(), 16).expect("hex") & 2 != 0).then_some(())
    });
    ok("kill", &["-INT", &child.id().to_string()]);
    let out = child.wait_with_output().expect("ends");
    assert_eq!(out.status.code(), Some(130), "{}", said(&out));
    assert!(out.stdout.is_empty(), "nothing is told of what was not looked at");
    assert_eq!(seen(), before, "nothing is left behind");
    said(&out)
}

#[test]
fn btt_check_ends_at_ctrl_c() {
    let scratch = Scratch::disk();
    let path = scratch.path("large.btt");
    ok(PAGELESS, &["btt", "create", &path, "--size", "15T", "--sector-size", "512"]);
    for command in ["check", "repair"] {
        let text = interrupted(&scratch, &path, &[PAGELESS, "btt", command, &path]);
        assert!(text.contains("stopped: checked ") && text.contains("of the map"), "{text}");
        assert!(text.contains("nothing was changed"), "{text}");
    }
}

/// The repair is made and checked again: whoever stops that is told where the bytes are that were there.
#[test]
fn btt_repair_that_is_stopped_after_its_changes_says_what_it_did() {
    let scratch = Scratch::disk();
    let path = scratch.path("large.btt");
    ok(PAGELESS, &["btt", "create", &path, "--size", "4T", "--sector-size", "512"]);
    poke(&path, 4096, b"torn");
    let mut child = Command::new(PAGELESS)
        .args(["btt", "repair", &path, "--apply"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("large.btt.btt-undo")), "it says where they are kept");
    ok("kill", &["-INT", &child.id().to_string()]);
    let left: Vec<String> = lines.collect();
    let out = child.wait_with_output().expect("ends");
    assert_eq!((out.status.code(), left), (Some(130), vec![]), "{}", said(&out));
    let text = said(&out);
    assert!(text.contains("the changes are made; the bytes that were there are in"), "{text}");
    let mut signature = [0; 4];
    fs::File::open(&path).and_then(|file| file.read_exact_at(&mut signature, 4096)).expect("reads");
    assert_eq!(&signature, b"BTT_");
}

#[test]
fn btt_create_ends_at_ctrl_c_while_it_looks_for_data() {
    let scratch = Scratch::disk();
    let path = scratch.file("zeroes", &vec![0; 64 << 20]);
    // The signal may come before the look begins: whoever runs it holds it back until then.
    let command = ["env", "--block-signal=INT", PAGELESS, "btt", "create", &path];
    let text = interrupted(&scratch, &path, &command);
    assert!(text.contains("stopped: checked ") && text.contains(" of 64 MiB"), "{text}");
    assert!(text.contains("nothing was changed"), "{text}");
    assert!(fs::read(&path).expect("reads").iter().all(|byte| *byte == 0));
    ok(PAGELESS, &["btt", "create", &path]);
}

#[test]
fn btt_check_finds_repair_plans_and_then_does() {
    let scratch = Scratch::disk();
    let Some(path) = pool(&scratch, 512) else { return };
    let good = fs::read(&path).expect("reads");
    poke(&path, ARENA + 100, b"torn");
    let damaged = fs::read(&path).expect("reads");

    let (code, text) = exit(&["btt", "check", &path]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("repairable") && text.contains("byte 8192: the info block is no good"), "{text}");
    let (code, text) = exit(&["btt", "check", &path, "--json"]);
    assert_eq!(code, 1);
    for part in [r#""kind":"info""#, r#""offset":8192"#, r#""worth":"repairable""#, r#""consistent":false"#] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for plan in [&["btt", "repair", &path][..], &["btt", "repair", &path, "--dry-run"]] {
        let (code, text) = exit(plan);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("byte 8192, 4096 bytes: info block from its copy"), "{text}");
    }
    assert!(fs::read(&path).expect("reads") == damaged, "a plan changes nothing");

    let text = ok(PAGELESS, &["btt", "repair", &path, "--apply"]);
    assert!(text.contains("pool.blk.btt-undo") && text.contains("consistent"), "{text}");
    assert!(fs::read(&path).expect("reads") == good);
    assert!(ok("pmempool", &["check", "-v", &path]).contains("consistent"));
    if have(&["xxd"]) {
        ok("xxd", &["-r", &scratch.path("pool.blk.btt-undo"), &path]);
        assert!(fs::read(&path).expect("reads") == damaged, "what was overwritten was kept");
    }
    // What an earlier repair kept is not overwritten.
    poke(&path, ARENA + 100, b"torn");
    assert!(ok(PAGELESS, &["btt", "repair", &path, "--apply"]).contains("pool.blk.btt-undo.1"));
}

#[test]
fn btt_repair_finishes_a_write_and_leaves_what_is_a_guess() {
    let scratch = Scratch::disk();
    let Some(path) = pool(&scratch, 4096) else { return };
    let (map, flog) = (ARENA + field(&path, 0x60), ARENA + field(&path, 0x68));
    let blocks = u32::from_le_bytes(field(&path, 0x3c).to_le_bytes()[..4].try_into().expect("4 bytes"));
    // Lane 2 wrote lba 7 into its free block, and was cut off before the map.
    let entry = |lba: u32, old: u32, new: u32, seq: u32| [lba, old, new, seq].map(u32::to_le_bytes).concat();
    poke(&path, flog + 2 * 64 + 16, &entry(7, 7, (blocks + 2) | 0xc000_0000, 2));
    let (code, text) = exit(&["btt", "check", &path]);
    assert_eq!(code, 0, "a cut is no damage: {text}");
    assert!(text.contains("lane 2: a write of lba 7 was cut off") && text.contains("1 unfinished write"), "{text}");

    poke(&path, map + 4 * 20, &0xc000_0005_u32.to_le_bytes());
    let (code, text) = exit(&["btt", "repair", &path, "--apply", "--undo", &scratch.path("kept")]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("map[20] is block 5, which another lba below it has too"), "{text}");
    assert!(text.contains("block 20 is neither free nor mapped"), "{text}");
    assert!(text.contains("cannot be repaired without a guess"), "{text}");
    let mut word = [0; 4];
    fs::File::open(&path).and_then(|file| file.read_exact_at(&mut word, map + 4 * 7)).expect("reads");
    assert_eq!(u32::from_le_bytes(word), (blocks + 2) | 0xc000_0000, "the write is finished");
    assert!(fs::read_to_string(scratch.path("kept")).expect("kept").ends_with(": 0000 0000\n"));
}

/// A BTT of ours in which map[9] is block 3, which map[3] is too.
fn owned_twice(scratch: &Scratch) -> String {
    let path = scratch.path("two.btt");
    ok(PAGELESS, &["btt", "create", &path, "--size", "24M"]);
    let mut mapoff = [0; 8];
    fs::File::open(&path).and_then(|file| file.read_exact_at(&mut mapoff, 4096 + 0x60)).expect("reads");
    poke(&path, 4096 + u64::from_le_bytes(mapoff) + 4 * 9, &0xc000_0003_u32.to_le_bytes());
    path
}

#[test]
fn btt_that_turns_out_to_be_damaged_when_it_is_written_says_so() {
    let scratch = Scratch::disk();
    let says = "map[9] is block 3, which another lba below it has too: the arena is read-only";
    let path = owned_twice(&scratch);
    let before = fs::read(&path).expect("reads");
    let noise = scratch.file("noise", &common::noise(1 << 20, 1));
    let (code, text) = exit(&["copy", &format!("file:{noise}"), &format!("btt:{path}")]);
    assert_eq!((code, text.matches(says).count()), (1, 1), "{text}");

    let server = Server::start(&format!("btt:{path}"));
    assert!(!server.said().contains(says), "not before it is written");
    let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &[1; 4096]), EPERM);
    eventually("the server says why", || server.said().contains(says).then_some(()));
    server.stop();
    assert!(fs::read(&path).expect("reads") == before);
}

#[test]
fn btt_media_that_are_none_are_refused_and_left_alone() {
    let scratch = Scratch::disk();
    let small = scratch.sparse("small", MIB);
    let none = scratch.sparse("none", 32 * MIB);
    let noise = scratch.file("noise", &common::noise(17 << 20, 1));
    for (path, says) in [
        (&small, "1048576 bytes are too small for a BTT: it takes 16777216"),
        (&none, "there is no BTT"),
        (&noise, "there is no BTT"),
        (&scratch.path("missing"), "there is no"),
        (&scratch.path(""), "neither a file nor a block device"),
    ] {
        let before = fs::read(path).ok();
        for command in [&["btt", "info", path][..], &["btt", "check", path], &["btt", "repair", path, "--apply"]] {
            let (code, text) = exit(command);
            assert_eq!(code, 1, "{command:?}: {text}");
            assert!(text.contains(says), "{command:?}: {text}");
        }
        assert!(fs::read(path).ok() == before);
    }
    assert_eq!(fs::read_dir(scratch.path("")).expect("lists").count(), 3, "nothing is left behind");
    for (args, says) in [
        (&["btt", "check"][..], "Usage: pageless btt check"),
        (&["btt", "check", "x", "--layout", "3"], "--layout"),
        (&["btt", "check", "x", "--parent-uuid", "7"], "is no UUID"),
        (&["btt", "repair", "x", "--dry-run", "--apply"], "--apply"),
        (&["btt", "repair", "x", "--undo", "y"], "--apply"),
    ] {
        let (code, text) = exit(args);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
}

#[test]
fn btt_that_another_process_has_is_left_alone() {
    let scratch = Scratch::disk();
    let Some(path) = pool(&scratch, 512) else { return };
    let server = Server::start(&format!("pmem:{path}"));
    for command in ["info", "check", "repair"] {
        let text = fails(PAGELESS, &["btt", command, &path]);
        assert!(text.contains(&server.pid().to_string()), "names the holder: {text}");
    }
    server.stop();
    ok(PAGELESS, &["btt", "check", &path]);
}

/// Bytes go in by `copy`, come out by `copy`, and the BTT is clean in between.
#[test]
fn btt_is_a_disk_for_copy() {
    let scratch = Scratch::disk();
    let image = common::patchy(20 << 20, 3);
    let source = scratch.file("source", &image);
    for options in ["", ",sector=512,layout=2.0", ",sector=4160,order=strict"] {
        let (path, back) = (scratch.path("disk.btt"), scratch.path("back"));
        let spec = format!("btt:{path}");
        let text = ok(PAGELESS, &["copy", &format!("file:{source}"), &format!("{spec},size=40M{options}"), "--verify"]);
        assert!(text.contains("verified"), "{text}");
        assert!(ok(PAGELESS, &["btt", "check", &path]).contains("consistent"));
        ok(PAGELESS, &["copy", &spec, &format!("file:{back}")]);
        assert!(fs::read(&back).expect("reads")[..image.len()] == image[..]);
        let wrong = fails(PAGELESS, &["copy", &format!("file:{source}"), &format!("{spec},sector=528")]);
        assert!(wrong.contains("not the 528 asked for"), "{wrong}");
        for file in [path, back] {
            fs::remove_file(file).expect("removes");
        }
    }
}

#[test]
fn btt_specs_that_cannot_be_opened_say_why_and_leave_nothing() {
    let scratch = Scratch::disk();
    let (none, missing) = (scratch.sparse("none", 32 * MIB), scratch.path("missing"));
    for (spec, says) in [
        (format!("btt:{none}"), "pageless btt create"),
        (format!("btt:{missing}"), "there is no"),
        (format!("btt:{missing},size=1M"), "too small for a BTT"),
        ("btt:ram:1M".into(), "too small for a BTT"),
    ] {
        let (code, text) = Serve::new(&spec).refused();
        assert_eq!(code, 1, "{spec}: {text}");
        assert!(text.contains(says), "{spec}: {text}");
    }
    assert!(!fs::exists(&missing).expect("looks"));
    let server = Server::start(&format!("btt:{missing},size=32M"));
    let (code, text) = Serve::new(&format!("btt:{missing}")).refused();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&server.pid().to_string()), "names the holder: {text}");
    assert!(server.said().contains("sectors are atomic if the process dies, not if power does"), "{}", server.said());
    server.stop();
    assert!(ok(PAGELESS, &["btt", "check", &missing]).contains("consistent"));
}
