// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless copy` as a user runs it: every kind of memory, the report, holes, and what is left when it is stopped.

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use common::{MIB, Scratch, eventually, noise, ok, patchy, run, said, same};
use serde_json::Value;

/// A mebibyte of a buffer.
const M: usize = 1 << 20;

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

/// Copies with a report in JSON; the report.
fn copy(src: &str, dst: &str) -> Value {
    let out = ok(PAGELESS, &["copy", src, dst, "--verify", "--json"]);
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).expect("JSON")
}

fn routes(report: &Value) -> [u64; 3] {
    ["direct", "bounce", "copy"].map(|route| report["routes"][route].as_u64().expect("bytes"))
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn blocks(path: &str) -> u64 {
    std::fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}")).blocks()
}

#[test]
fn the_report_has_exactly_its_fields() {
    let scratch = Scratch::disk();
    let src = format!("file:{}", scratch.file("x.img", &noise(4 * M, 1)));
    let report = copy(&src, "ram:4M");
    let Value::Object(fields) = &report else { panic!("{report}") };
    let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["bytes", "reasons", "routes", "seconds", "verified"]);
    assert_eq!(report["bytes"], 4 * MIB);
    assert_eq!(report["verified"], true);
    assert!(report["seconds"].as_f64().expect("seconds") > 0.0);
    assert_eq!(routes(&report).iter().sum::<u64>(), 4 * MIB, "{report}");

    let out = ok(PAGELESS, &["copy", &src, "ram:4M", "--json"]);
    assert!(out.contains(r#""verified":null"#), "{out}");
    let text = ok(PAGELESS, &["copy", &src, "ram:4M", "--verify"]);
    assert!(text.starts_with("copied 4 MiB in ") && text.contains(" GB/s\n"), "{text}");
    assert!(text.ends_with("verified: the destination reads the same\n"), "{text}");
}

#[test]
fn a_file_into_every_kind_of_memory() {
    let scratch = Scratch::disk();
    let src = format!("file:{}", scratch.file("x.img", &noise(2 * M, 2)));
    let shm = Scratch::shm();
    for dst in [
        "ram:2M".to_owned(),
        "memfd:2M".to_owned(),
        "secret:2M".to_owned(),
        format!("pmem:{}", scratch.path("disk.img")),
        format!("pmem:{},size=4M", shm.path("shm.img")),
        format!("file:{}", scratch.path("file.img")),
        format!("file:{}", shm.path("file.img")),
    ] {
        if dst.starts_with("secret") && !run(PAGELESS, &["region", "probe", &dst]).status.success() {
            common::skip("a kernel with memfd_secret and RLIMIT_MEMLOCK of 2 MiB");
            continue;
        }
        let report = copy(&src, &dst);
        assert_eq!((&report["bytes"], &report["verified"]), (&(2 * MIB).into(), &true.into()), "{dst}: {report}");
        let [direct, bounce, copied] = routes(&report);
        assert_eq!(direct + bounce + copied, 2 * MIB, "{dst}: {report}");
        // What was not direct is explained, and nothing else is.
        let reasons = report["reasons"].as_array().expect("a list");
        assert_eq!(bounce + copied > 0, !reasons.is_empty(), "{dst}: {report}");
    }
    for path in [scratch.path("disk.img"), scratch.path("file.img"), shm.path("file.img")] {
        same(&path, &read(&path), &noise(2 * M, 2));
    }
    let grown = read(&shm.path("shm.img"));
    same("shm.img", &grown[..2 * M], &noise(2 * M, 2));
    assert!(grown.len() == 4 * M && grown[2 * M..].iter().all(|b| *b == 0));
}

/// Both halves of the promise: direct where the kernel pins, bounced with the errno where it does not.
#[test]
fn secret_memory_is_bounced_and_says_why() {
    let scratch = Scratch::disk();
    let src = format!("file:{}", scratch.file("x.img", &noise(4 * M, 3)));
    let ram = copy(&src, "ram:4M");
    if routes(&ram) != [4 * MIB, 0, 0] {
        return common::skip("a file system with O_DIRECT below the build");
    }
    assert_eq!(ram["reasons"], Value::Array(vec![]));
    if !run(PAGELESS, &["region", "probe", "secret:4M"]).status.success() {
        return common::skip("a kernel with memfd_secret and RLIMIT_MEMLOCK of 4 MiB");
    }
    let secret = copy(&src, "secret:4M");
    assert_eq!(routes(&secret), [0, 4 * MIB, 0], "{secret}");
    assert_eq!(secret["reasons"], Value::Array(vec!["secret:4M is unpinnable (O_DIRECT: EFAULT), bounced".into()]));
}

#[test]
fn memory_to_memory_is_a_copy_by_the_cpu() {
    let scratch = Scratch::shm();
    let src = format!("pmem:{}", scratch.file("x.img", &noise(M, 4)));
    let report = copy(&src, "memfd:1M");
    assert_eq!(routes(&report), [0, 0, MIB], "{report}");
    assert_eq!(report["reasons"], Value::Array(vec!["memfd:1M is memory, copied by the CPU".into()]));
}

/// From and to every pair, through the smallest and the largest pipeline.
#[test]
fn whatever_the_depth_and_block() {
    let scratch = Scratch::disk();
    let image = patchy(3 * M + 5 * 512, 5);
    let src = scratch.file("x.img", &image);
    for (depth, block) in [("1", "4K"), ("3", "64K"), ("1024", "4K"), ("2", "64M")] {
        let dst = scratch.path(&format!("{depth}-{block}.img"));
        let (from, to) = (format!("file:{src}"), format!("file:{dst}"));
        let text = ok(PAGELESS, &["copy", &from, &to, "--verify", "--depth", depth, "--block", block]);
        assert!(text.contains("verified"), "{text}");
        same(&dst, &read(&dst), &image);
    }
}

#[test]
fn sparse_stays_sparse() {
    let disk = Scratch::disk();
    let shm = Scratch::shm();
    for (n, (from, to)) in [(&disk, &disk), (&shm, &shm), (&disk, &shm), (&shm, &disk)].into_iter().enumerate() {
        let src = from.sparse(&format!("src{n}"), 1 << 30);
        let file = std::fs::File::options().write(true).open(&src).expect("just made");
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(100_000, 6), 300 * MIB + 7).expect("space");
        drop(file);
        let before = blocks(&src);
        for (kind, name) in [("file", "a"), ("pmem", "b")] {
            let dst = to.path(&format!("{name}{n}"));
            let report = copy(&format!("{kind}:{src}"), &format!("{kind}:{dst}"));
            assert_eq!((&report["bytes"], &report["verified"]), (&(1u64 << 30).into(), &true.into()));
            assert!(routes(&report).iter().sum::<u64>() < MIB, "{report}");
            assert!(blocks(&dst) * 512 < MIB, "{dst} has {} blocks", blocks(&dst));
            assert_eq!(blocks(&src), before, "reading {src} filled holes");
        }
    }
}

/// A hole of the source replaces what a destination held before.
#[test]
fn holes_overwrite_old_data() {
    for scratch in [Scratch::disk(), Scratch::shm()] {
        let image = patchy(8 * M, 7);
        let src = scratch.sparse("src", 8 * MIB);
        let file = std::fs::File::options().write(true).open(&src).expect("just made");
        for at in (0..image.len()).step_by(4096).filter(|at| image[*at..at + 4096].iter().any(|b| *b != 0)) {
            std::os::unix::fs::FileExt::write_all_at(&file, &image[at..at + 4096], at as u64).expect("space");
        }
        drop(file);
        for kind in ["file", "pmem"] {
            let dst = scratch.file(kind, &noise(9 * M, 8));
            let report = copy(&format!("file:{src}"), &format!("{kind}:{dst}"));
            assert_eq!(report["verified"], true);
            let after = read(&dst);
            same(&dst, &after[..image.len()], &image);
            same("the rest of it", &after[image.len()..], &noise(9 * M, 8)[image.len()..]);
            assert!(blocks(&dst) * 512 < 5 * MIB, "holes became holes: {} blocks", blocks(&dst));
        }
    }
}

/// A null disk forgets, so nothing but zeroes can be verified on it.
#[test]
fn a_difference_is_exit_code_1_and_names_the_byte() {
    let scratch = Scratch::disk();
    let mut image = vec![0; M];
    image[777_777] = 1;
    image[900_000] = 1;
    let src = format!("file:{}", scratch.file("x.img", &image));
    let out = run(PAGELESS, &["copy", &src, "null:1M", "--verify", "--json", "--block", "4K"]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).expect("the report is still printed");
    assert_eq!(report["verified"], false);
    assert!(said(&out).contains(&format!("null:1M differs from {src}, first at byte 777777")), "{}", said(&out));
}

#[test]
fn a_destination_in_use_is_refused_with_its_holder() {
    let scratch = Scratch::disk();
    let image = scratch.file("x.img", &noise(M, 9));
    let server = common::server::Server::start(&format!("file:{image}"));
    for kind in ["file", "pmem"] {
        let out = run(PAGELESS, &["copy", "null:1M", &format!("{kind}:{image}")]);
        assert_eq!(out.status.code(), Some(1), "{}", said(&out));
        assert!(said(&out).contains(&format!("in use by process {} (pageless)", server.pid())), "{}", said(&out));
    }
    server.stop();
    same(&image, &read(&image), &noise(M, 9));
}

/// Interrupts a copy that takes a while: 4 KiB at a time, one at a time.
fn interrupted(src: &str, dst: &str) -> String {
    let mut child = Command::new(PAGELESS)
        .args(["copy", &format!("file:{src}"), &format!("file:{dst}"), "--depth", "1", "--block", "4K"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let status = format!("/proc/{}/status", child.id());
    eventually("the copy listens to signals, and has begun", || {
        let text = std::fs::read_to_string(&status).expect("it runs");
        let blocked = text.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
        let listens = u64::from_str_radix(blocked.trim(), 16).expect("hex") & 2 != 0;
        let ended = child.try_wait().expect("wait").is_some();
        assert!(!ended, "the copy ended before it could be interrupted");
        (listens && std::fs::metadata(dst).is_ok_and(|there| there.blocks() > 0)).then_some(())
    });
    ok("kill", &["-INT", &child.id().to_string()]);
    let out = child.wait_with_output().expect("ends");
    assert_eq!(out.status.code(), Some(130), "{}", said(&out));
    assert!(out.stdout.is_empty(), "no report of what did not happen");
    said(&out)
}

#[test]
fn ctrl_c_says_how_far_it_got_and_leaves_nothing_half_made() {
    let scratch = Scratch::disk();
    let src = scratch.file("x.img", &noise(128 * M, 10));
    let made = scratch.path("made.img");
    let text = interrupted(&src, &made);
    assert!(text.contains("stopped: copied ") && text.contains(" of 128 MiB ("), "{text}");
    assert!(text.contains(&format!("removed {made}")), "{text}");
    assert!(!std::fs::exists(&made).expect("stat"));

    let there = scratch.file("there.img", &vec![0; 128 * M]);
    let text = interrupted(&src, &there);
    assert!(text.contains(&format!("file:{there} is left partly overwritten")), "{text}");
    assert_eq!(std::fs::metadata(&there).expect("not removed").len(), 128 * MIB);
}

/// A file system of 1 MiB, filled: what the copy made is removed again.
#[test]
fn no_space_names_the_byte_and_removes_what_it_made() {
    let script = "mkdir -p $0 && mount -t tmpfs -o size=1M tmpfs $0 && $1 copy $2 pmem:$0/full.img --block 64K; \
                  echo code=$?; ls $0; umount $0";
    let scratch = Scratch::disk();
    let src = format!("file:{}", scratch.file("x.img", &noise(4 * M, 11)));
    let out = run("unshare", &["-rm", "sh", "-c", script, &scratch.path("full"), PAGELESS, &src]);
    let text = said(&out);
    if !text.contains("code=") || text.contains("mount:") {
        return common::skip("a kernel that lets this user mount a tmpfs of its own");
    }
    assert!(text.contains("code=1\n") && text.contains("no space"), "{text}");
    assert!(text.contains("removed ") && text.contains("make room"), "{text}");
    assert!(!text.lines().any(|line| line == "full.img"), "{text}");
}

#[test]
fn nothing_but_the_result_goes_to_stdout() {
    let out = run(PAGELESS, &["copy", "null:64K", "ram:64K", "--json"]);
    assert!(out.stderr.is_empty(), "no progress where there is no terminal: {}", said(&out));
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 1);
}

/// A source with a typo in its name is an error, not a new disk of zeroes that replaces the destination.
#[test]
fn a_source_that_is_not_there_is_not_made() {
    let scratch = Scratch::disk();
    let good = scratch.file("good.img", &noise(M, 12));
    let typo = scratch.path("typo.img");
    for (from, to) in [("file", "file"), ("pmem", "file"), ("file", "pmem"), ("pmem", "pmem")] {
        let out = run(PAGELESS, &["copy", &format!("{from}:{typo},size=1M"), &format!("{to}:{good}")]);
        let text = said(&out);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains("typo.img: ENOENT (2, ") && text.contains("check the name"), "{text}");
        assert!(!std::fs::exists(&typo).expect("stat"), "{from}: was made");
        same(&good, &read(&good), &noise(M, 12));
    }
}

#[test]
fn part_of_a_frame_is_not_mapped_and_nothing_is_made() {
    let scratch = Scratch::disk();
    let image = noise(M + 512, 13);
    let src = format!("file:{}", scratch.file("x.img", &image));
    let dst = scratch.path("new.img");
    let out = run(PAGELESS, &["copy", &src, &format!("pmem:{dst}")]);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("{dst} cannot be made of 1049088 bytes, no multiple of 4096")), "{text}");
    assert!(text.contains("size=1052672; or keep the size") && text.contains(&format!("file:{dst}")), "{text}");
    assert!(!std::fs::exists(&dst).expect("stat"), "half made");

    // Both remedies work.
    copy(&src, &format!("pmem:{dst},size=1052672"));
    same(&dst, &read(&dst)[..image.len()], &image);
    let kept = scratch.path("kept.img");
    copy(&src, &format!("file:{kept}"));
    same(&kept, &read(&kept), &image);
}

/// A loop device, which root can make.
struct Loop(String);

impl Loop {
    fn new(file: &str, sector: &str) -> Option<Loop> {
        let out = Command::new("losetup").args(["-f", "--show", "--sector-size", sector, file]).output().ok()?;
        out.status.success().then(|| Loop(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_source_that_ends_within_a_block_is_refused_before_anything_is_written() {
    let scratch = Scratch::disk();
    let backing = scratch.file("backing.img", &noise(2 * M, 14));
    let Some(device) = Loop::new(&backing, "4096") else {
        return common::skip_here("permission to make a loop device");
    };
    let dst = format!("file:{}", device.0);
    let part = format!("file:{}", scratch.file("part.img", &noise(M + 512, 15)));
    let out = run(PAGELESS, &["copy", &part, &dst]);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("has 1049088 bytes") && text.contains("blocks of 4096"), "{text}");
    assert!(text.contains("help: pad the source with zeroes to 1052672 bytes"), "{text}");
    ok("sync", &[&device.0]);
    same(&backing, &read(&backing), &noise(2 * M, 14));

    let whole = format!("file:{}", scratch.file("whole.img", &noise(M + 4096, 16)));
    copy(&whole, &dst);
}
