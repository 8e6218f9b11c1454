// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line itself: help, exit codes, and one message for each sort of mistake.

mod common;

use common::{MIB, Scratch, fails, ok, run, said};

/// A mebibyte of a buffer.
const M: usize = 1 << 20;

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

/// Runs it in vain; the exit code and what it said.
fn refused(args: &[&str]) -> (i32, String) {
    let out = run(PAGELESS, args);
    assert!(out.stdout.is_empty(), "{args:?} printed a result: {}", said(&out));
    (out.status.code().expect("not a signal"), said(&out))
}

#[test]
fn every_command_has_help_with_examples() {
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["copy", "--help"],
        &["run", "--help"],
        &["region", "probe", "--help"],
        &["btt", "create", "--help"],
        &["btt", "info", "--help"],
        &["btt", "check", "--help"],
        &["btt", "repair", "--help"],
    ] {
        let help = ok(PAGELESS, args);
        assert!(help.contains("Examples:") && help.contains("pageless "), "{args:?}:\n{help}");
    }
    assert_eq!(ok(PAGELESS, &["help", "copy"]), ok(PAGELESS, &["copy", "--help"]));
    assert_eq!(ok(PAGELESS, &["help", "region", "probe"]), ok(PAGELESS, &["region", "probe", "--help"]));
    assert!(ok(PAGELESS, &["--version"]).starts_with("pageless "));
}

#[test]
fn help_specs_shows_every_kind_with_an_example() {
    let page = ok(PAGELESS, &["help", "specs"]);
    for about in &pageless::spec::KINDS {
        assert!(page.contains(about.form) && page.contains(about.example), "{}:\n{page}", about.name);
    }
    assert!(page.lines().all(|line| line.len() <= 120), "{page}");
}

/// What can never work is usage: exit code 2, before anything is touched.
#[test]
fn usage_errors() {
    let scratch = Scratch::disk();
    let image = scratch.sparse("x.img", MIB);
    let (same, linked) = (format!("file:{image}"), format!("pmem:{}", scratch.path("link")));
    std::os::unix::fs::symlink(&image, scratch.path("link")).expect("symlink");
    let cases: &[(&[&str], &str)] = &[
        (&["srve"], "serve"),
        (&["serve", "rma:16M"], "did you mean `ram:`?"),
        (&["serve", "disk.img"], "write KIND:WHERE"),
        (&["serve", "pmem:x,sise=1G"], "did you mean `size=`?"),
        (&["serve", "ram:1000"], "no multiple of 4096"),
        (&["serve", "ram:16M", "--nbd", "/run/p.sock"], "unix:PATH or tcp:HOST:PORT"),
        (&["serve", "ram:16M", "--nbd", "unx:/run/p.sock"], "did you mean `unix:`?"),
        (&["copy", "ram:16M"], "Usage: pageless copy"),
        (&["copy", "ram:16M", "ram:16"], "16 bytes is no multiple of 4096"),
        (&["copy", &same, &linked], "are the same place"),
        (&["copy", "devmem:0x3c000000,size=16M", "devmem:0x3c800000,size=16M"], "are the same place"),
        (&["copy", "ram:16M", "null:16M", "--block", "1000"], "--block 1000: 1000 bytes is no multiple of 4096"),
        (&["copy", "ram:16M", "null:16M", "--block", "1G"], "--block 1G: more than 64 MiB"),
        (&["copy", "ram:16M", "null:16M", "--depth", "0"], "--depth"),
        (&["region", "probe"], "Usage: pageless region probe"),
        (&["region", "probe", "file:x"], "nothing to probe"),
        (&["help", "nosuch"], "serve, copy, run, region, btt, help"),
    ];
    for (args, says) in cases {
        let (code, text) = refused(args);
        assert_eq!(code, 2, "{args:?}:\n{text}");
        assert!(text.contains(says), "{args:?}:\n{text}");
    }
}

#[test]
fn a_bad_spec_is_marked_where_it_is_bad() {
    let (code, text) = refused(&["copy", "file:x.img", "pmem:/mnt/disk.img,sise=1G"]);
    assert_eq!(code, 2);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "  pmem:/mnt/disk.img,sise=1G");
    assert_eq!(lines[2], "                     ^^^^");
}

/// What went wrong with arguments that could have worked: exit code 1, the argument, the errno, a remedy.
#[test]
fn runtime_errors() {
    let scratch = Scratch::disk();
    let odd = format!("file:{}", scratch.file("odd.img", &[1; 1000]));
    let mapped_odd = format!("pmem:{}", scratch.file("odd2.img", &[1; 1536]));
    let small = format!("pmem:{},size=8M", scratch.sparse("small.img", MIB));
    let empty = format!("file:{}", scratch.file("empty.img", &[]));
    let folder = format!("file:{}", scratch.path(""));
    let missing = format!("file:{}", scratch.path("none.img"));
    let nowhere = format!("pmem:{},size=1M", scratch.path("no/such/dir.img"));
    let cases: &[(&[&str], &str, &str)] = &[
        (&["serve", &missing], "ENOENT (2, ", "have it made"),
        (&["serve", &nowhere], "ENOENT (2, ", "mkdir -p"),
        (&["serve", &odd], "1000, is no multiple of 512", "truncate -s %512"),
        (&["serve", &mapped_odd], "1536, is no multiple of 4096", "truncate -s %4096"),
        (&["serve", &small], "smaller than the 8388608 bytes (8M) asked for", "truncate -s 8388608"),
        (&["serve", &empty], "is empty", "truncate -s"),
        (&["serve", &folder], "neither a file nor a block device", "regular file"),
        (&["serve", "bar:ffff:ff:1f.7/5"], "ENOENT (2, ", "lspci -D"),
        (&["serve", "dax:/dev/dax99.99"], "ENOENT (2, ", "daxctl list"),
        (
            &["copy", "null:2M", "ram:1M"],
            "ram:1M holds 1048576 bytes (1 MiB), null:2M has 2097152 (2 MiB)",
            "at least that large",
        ),
        (&["copy", &missing, "ram:1M"], "ENOENT (2, ", "check the name"),
        (&["copy", &format!("{missing},size=1M"), "ram:1M"], "ENOENT (2, ", "check the name"),
        (&["region", "probe", &missing.replace("file:", "pmem:")], "ENOENT (2, ", "size=1G"),
    ];
    for (args, says, remedy) in cases {
        let (code, text) = refused(args);
        assert_eq!(code, 1, "{args:?}:\n{text}");
        let argument = args.iter().find(|arg| arg.contains(':')).expect("a spec");
        assert!(text.starts_with("pageless: "), "{args:?}:\n{text}");
        assert!(text.contains(argument) && text.contains(says), "{args:?}:\n{text}");
        let help = text.split_once("help: ").unwrap_or_else(|| panic!("{args:?} proposes nothing:\n{text}")).1;
        assert!(help.contains(remedy), "{args:?}:\n{text}");
    }
}

#[test]
fn without_huge_pages_it_says_how_to_reserve_them() {
    let free = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    if !free.lines().any(|line| line.starts_with("HugePages_Total:") && line.ends_with(" 0")) {
        return common::skip("a machine without reserved huge pages");
    }
    let (code, text) = refused(&["region", "probe", "hugetlb:4M"]);
    assert_eq!(code, 1);
    assert!(text.contains("hugetlb:4M: needs 2 huge pages of 2 MiB, 0 are free: ENOMEM (12, "), "{text}");
    assert!(text.contains("echo 2 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "{text}");
}

/// The limit is the shell's, so it is lowered by one.
#[test]
fn a_low_memlock_limit_names_the_ulimit_command() {
    let script = format!("ulimit -l 64 && exec {PAGELESS} region probe secret:1M");
    let mut words = vec!["sh", "-c", &script];
    if ok("id", &["-u"]).trim() == "0" {
        // Root locks what it likes.
        if !common::have(&["setpriv"]) {
            return;
        }
        words.splice(
            0..0,
            ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "--reuid=65534", "--clear-groups"],
        );
    }
    let text = fails(words[0], &words[1..]);
    if text.contains("has no memfd_secret") {
        return common::skip("a kernel with memfd_secret");
    }
    assert!(text.contains("secret:1M: RLIMIT_MEMLOCK is 64 KiB, 1024 KiB needed"), "{text}");
    assert!(text.contains("ulimit -l 1024"), "{text}");
}

#[test]
fn probe_says_what_memory_is() {
    let text = ok(PAGELESS, &["region", "probe", "ram:16M", "memfd:1M"]);
    assert_eq!(text.matches(": page-backed, ").count(), 2, "{text}");
    assert!(text.contains("CPU map (load)") && text.contains("bytes of metadata"), "{text}");
    for line in ok(PAGELESS, &["region", "probe", "--json", "ram:16M", "memfd:1M"]).lines() {
        let found: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        for key in ["cpu_map", "send"] {
            assert_eq!(found[key], "ok", "{line}");
        }
        assert_eq!(found["is"], "page-backed", "{line}");
        assert!(found["metadata_bytes"].as_u64().expect("a number") < 4096, "{line}");
        assert_eq!(
            (&found["durability"], &found["survives_power_loss"]),
            (&"volatile".into(), &false.into()),
            "{line}"
        );
        assert_eq!(found["flush_domain"], "anonymous memory: volatile", "{line}");
    }
}

#[test]
fn probe_says_what_makes_a_store_durable_and_why() {
    for (scratch, says) in [
        (Scratch::disk(), r"flush domain: page cache of "),
        (Scratch::shm(), "flush domain: file in memory (tmpfs): volatile, msync changes nothing"),
    ] {
        let text = ok(PAGELESS, &["region", "probe", &format!("pmem:{},size=1M", scratch.path("x.img"))]);
        assert!(text.contains(says), "{text}");
    }
    let scratch = Scratch::disk();
    let line = ok(PAGELESS, &["region", "probe", "--json", &format!("pmem:{},size=1M", scratch.path("x.img"))]);
    let found: serde_json::Value = serde_json::from_str(&line).expect("one object");
    assert_eq!((&found["durability"], &found["survives_power_loss"]), (&"msync".into(), &true.into()), "{line}");
}

#[test]
fn probe_fills_no_hole_and_changes_no_byte() {
    use std::os::unix::fs::MetadataExt as _;
    for scratch in [Scratch::disk(), Scratch::shm()] {
        let path = scratch.path("new.img");
        let spec = format!("pmem:{path},size=1G");
        let text = ok(PAGELESS, &["region", "probe", &spec]);
        assert_eq!(text.matches("untested (hole)").count(), 5, "{text}");
        let made = std::fs::metadata(&path).expect("it was made");
        assert_eq!((made.len(), made.blocks()), (1 << 30, 0));
        let full = scratch.file("full.img", &common::noise(M, 1));
        let text = ok(PAGELESS, &["region", "probe", &format!("pmem:{full}")]);
        assert!(text.contains("page-backed"), "{text}");
        common::same(&full, &std::fs::read(&full).expect("still there"), &common::noise(M, 1));
    }
}

#[test]
fn a_page_cache_is_mentioned_once() {
    let scratch = Scratch::disk();
    let spec = format!("pmem:{},size=1M", scratch.path("x.img"));
    let out = run(PAGELESS, &["region", "probe", &spec]);
    let told = String::from_utf8_lossy(&out.stderr);
    assert_eq!(told.matches("page cache: cold reads block the worker; FLUSH is msync; use file:").count(), 1, "{told}");
    let scratch = Scratch::shm();
    let shm = format!("pmem:{},size=1M", scratch.path("x.img"));
    assert!(run(PAGELESS, &["region", "probe", &shm]).stderr.is_empty(), "tmpfs is memory, not a cache");
}
