// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless run` with programs that are not ours, on memory that the kernel refuses to pin, and with C programs that
//! do what a program may do at the wrong moment. What a case shows to work is first seen to be EFAULT without us.

mod common;

#[path = "run/programs.rs"]
mod programs;

use common::{Scratch, have, note, ok, run, said, skip_kernel};
use programs::{PAGELESS, Program, SecretMemory, counted};

/// The code with which the programs say that something was EFAULT that had to work.
const EFAULT: i32 = 3;
/// And that something is not possible here.
const NOT_HERE: i32 = 77;

/// Runs a case without us, where it must be EFAULT, and with us, where it must hold.
fn helps(program: &Program, memory: &str, file: &str, case: &str) {
    let alone = run("timeout", &["60", program.path(), memory, file, case]);
    if alone.status.code() == Some(NOT_HERE) {
        let lacks = format!("{memory} memory for {} {case}: {}", program.name(), said(&alone).trim());
        return skip_kernel(&lacks, "guest/run-c");
    }
    assert_eq!(alone.status.code(), Some(EFAULT), "{case} alone: {}", said(&alone));
    holds(program, memory, file, case);
    let counted = counted(program, memory, file, case);
    assert!(counted["reads"].as_u64() > Some(0) || counted["writes"].as_u64() > Some(0), "{case}: {counted}");
    // The pool is enough for one thread, whatever it does: what is taken is given back.
    let outruns_the_pool =
        ["threads", "closes_everything", "forks_in_signal_handlers", "vforks_that_close", "small_file_limit"]
            .contains(&case);
    assert!(counted["own_slots"] == 0 || outruns_the_pool, "{case}: {counted}");
}

/// Runs a case with us.
fn holds(program: &Program, memory: &str, file: &str, case: &str) {
    let ours = run("timeout", &["60", PAGELESS, "run", "--", program.path(), memory, file, case]);
    assert_eq!(ours.status.code(), Some(0), "{case}: {}", said(&ours));
}

/// Every case of a program but these; these must hold both ways.
fn all_cases(name: &str, both_ways: &[&str]) {
    let Some(program) = Program::build(name) else { return };
    let scratch = Scratch::disk();
    for case in ok(program.path(), &["--list"]).lines() {
        let file = scratch.path(case);
        if both_ways.contains(&case) {
            let alone = run(program.path(), &["secret", &file, case]);
            assert_eq!(alone.status.code(), Some(0), "{case} alone: {}", said(&alone));
            holds(&program, "secret", &file, case);
        } else {
            helps(&program, "secret", &file, case);
        }
    }
}

#[test]
fn every_call_and_its_corners() {
    all_cases("direct", &[]);
}

#[test]
fn libaio_events() {
    all_cases("aio", &["stays_refused"]);
}

/// A buffer unmapped during the call, bad pointers, fork, vfork, signals, threads, a daemon that closes everything.
#[test]
fn programs_at_their_worst() {
    all_cases("hostile", &["bad_pointers", "cancelled"]);
}

/// One real VM_PFNMAP page.
#[test]
fn page_less_memory_of_a_perf_event() {
    let scratch = Scratch::disk();
    for (name, cases) in [("direct", &["reads", "writes", "flags"][..]), ("aio", &["reads_and_writes", "end_of_file"])]
    {
        let Some(program) = Program::build(name) else { return };
        for case in cases {
            helps(&program, "perf", &scratch.path(case), case);
        }
    }
}

#[test]
fn block_devices() {
    let scratch = Scratch::disk();
    let Some(device) = programs::LoopDevice::over(&scratch.sparse("image", 16 << 20)) else { return };
    for (name, cases) in [
        ("direct", &["reads", "writes", "large", "many_iovecs", "half_done", "flags"][..]),
        ("aio", &["reads_and_writes", "deep", "large"]),
    ] {
        let Some(program) = Program::build(name) else { return };
        for case in cases {
            helps(&program, "secret", device.path(), case);
        }
    }
}

/// `os.preadv` into an `mmap` object over a descriptor of secret memory.
#[test]
fn python_reads_into_an_mmap_object() {
    const SCRIPT: &str = r"
import ctypes, mmap, os, sys
fd = ctypes.CDLL(None, use_errno=True).syscall(447, 0)
if fd < 0:
    sys.exit(77)
os.ftruncate(fd, 1 << 20)
secret = mmap.mmap(fd, 1 << 20)
file = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
try:
    got = os.preadv(file, [memoryview(secret)[4096:12288], memoryview(secret)[65536:69632]], 4096)
except OSError as error:
    sys.exit(3 if error.errno == 14 else 1)
want = open(sys.argv[1], 'rb').read()
assert got == 12288 and secret[4096:12288] == want[4096:12288] and secret[65536:69632] == want[12288:16384]
secret[0:8192] = bytes(range(256)) * 32
assert os.pwritev(file, [secret[:0], memoryview(secret)[0:8192]], 32768) == 8192
assert open(sys.argv[1], 'rb').read()[32768:40960] == bytes(range(256)) * 32
";
    if !have(&["python3"]) {
        return;
    }
    let scratch = Scratch::disk();
    let file = scratch.file("data", &common::noise(1 << 18, 3));
    let alone = run("python3", &["-c", SCRIPT, &file]);
    if alone.status.code() == Some(NOT_HERE) {
        return skip_kernel("memfd_secret", "guest/run-python");
    }
    assert_eq!(alone.status.code(), Some(EFAULT), "{}", said(&alone));
    ok(PAGELESS, &["run", "--", "python3", "-c", SCRIPT, &file]);
}

/// fio with its buffers in secret memory, by four engines, every block verified. Another library is preloaded already.
#[test]
fn fio_verifies_with_its_buffers_in_secret_memory() {
    if !have(&["fio"]) {
        return;
    }
    let scratch = Scratch::disk();
    let Some(secret) = SecretMemory::for_others() else { return };
    for engine in ["psync", "pvsync", "pvsync2", "libaio"] {
        let args = [
            "--name=secret",
            "--direct=1",
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--bs_unaligned=0",
            "--iodepth=8",
            "--size=8m",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--output-format=terse",
            &format!("--ioengine={engine}"),
            &format!("--filename={}", scratch.path(engine)),
            &format!("--iomem=mmapshared:{}", secret.path()),
            &format!("--aux-path={}", scratch.path("")),
        ];
        let alone = secret.run("fio", &args);
        let what = said(&alone);
        assert!(!alone.status.success() && what.contains("Bad address"), "{engine} alone: {what}");
        let mut words = vec!["run", "--stats", "--", "fio"];
        words.extend(args);
        let ours = secret.run(PAGELESS, &words);
        assert!(ours.status.success(), "{engine}: {}", said(&ours));
        let report = String::from_utf8_lossy(&ours.stderr).into_owned();
        let line = report.lines().find(|line| line.starts_with("  wrote   8 MiB by "));
        assert!(line.is_some(), "{engine}: fio wrote 8 MiB from secret memory: {report}");
        note(&format!("fio {engine}: {}", line.unwrap_or_default().trim()));
    }
}
