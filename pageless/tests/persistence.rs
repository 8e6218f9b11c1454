// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an acknowledged FLUSH or FUA is worth. For a mapped file strace shows the order of system calls and makes them fail; for
//! a file behind io_uring, whose calls strace does not see, a file system of our own making (nbdfuse over nbdkit) shows every
//! flush that reaches the medium, holds it back, and fails it.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

mod common;

use common::disks::Disk;
use common::nbd::{CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, EIO, FLAG_FUA, Peer, request};
use common::server::{Serve, Server};
use common::{MIB, Scratch, eventually, have, noise, ok, run, same, skip_here};

const SYNCS: [&str; 3] = ["msync", "fdatasync", "fsync"];
const SENDS: [&str; 4] = ["sendmsg", "sendto", "write", "writev"];

/// A server whose system calls are recorded.
struct Traced {
    server: Server,
    log: String,
    _folder: Scratch,
}

impl Traced {
    fn start(spec: &str, more: &[String]) -> Traced {
        let folder = Scratch::disk();
        let log = folder.path("strace");
        let calls = format!("trace={},{}", SYNCS.join(","), SENDS.join(","));
        // -D makes strace the child of nobody we wait for: the process that is started here is the server itself.
        let mut wrapper = vec!["strace", "-D", "-f", "-qq", "-s", "0", "-o", &log, "-e", &calls];
        wrapper.extend(more.iter().map(String::as_str));
        let server = Serve::new(spec).under(&wrapper).start();
        Traced { server, log, _folder: folder }
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.log).expect("strace writes its log").lines().map(str::to_owned).collect()
    }

    /// The calls made while `act` runs, up to the first message to a socket: what came before the reply.
    fn calls_before_the_reply(&self, act: impl FnOnce()) -> Vec<String> {
        let before = self.lines().len();
        act();
        let is_send = |line: &String| {
            SENDS.iter().any(|send| line.contains(&format!(" {send}(")) || line.contains(&format!("<... {send} ")))
        };
        // strace writes a line when the call is over, which may be after the client has seen its effect.
        eventually("strace logs the reply", || self.lines()[before..].iter().any(is_send).then_some(()));
        self.lines()[before..].iter().take_while(|line| !is_send(line)).cloned().collect()
    }
}

/// Whether one of the calls ended well and made something durable.
fn synced(calls: &[String]) -> bool {
    let sync =
        |line: &&String| SYNCS.iter().any(|s| line.contains(&format!(" {s}(")) || line.contains(&format!("<... {s} ")));
    calls.iter().filter(sync).any(|line| line.trim_end().ends_with("= 0"))
}

/// Whether strace may trace here at all.
fn can_trace() -> bool {
    if !have(&["strace"]) {
        return false;
    }
    let works = run("strace", &["-qq", "-o", "/dev/null", "true"]).status.success();
    if !works {
        skip_here("ptrace");
    }
    works
}

#[test]
fn a_mapped_file_is_synced_before_flush_and_fua_are_answered() {
    if !can_trace() {
        return;
    }
    let disk = Disk::pmem_disk(4 * MIB);
    let traced = Traced::start(&disk.spec, &[]);
    let (mut peer, _) = Peer::connect(traced.server.socket()).expect("connect");
    let block = noise(4096, 1);

    // The control: a plain write is answered without a sync, so a sync seen below belongs to what is asked there.
    let calls = traced.calls_before_the_reply(|| assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &block), 0));
    assert!(!synced(&calls), "{calls:?}");
    let calls = traced.calls_before_the_reply(|| assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), 0));
    assert!(synced(&calls), "FLUSH: {calls:?}");
    let calls = traced.calls_before_the_reply(|| assert_eq!(peer.ask(CMD_WRITE, FLAG_FUA, 8192, 4096, &block), 0));
    assert!(synced(&calls), "WRITE with FUA: {calls:?}");
    let calls = traced.calls_before_the_reply(|| assert_eq!(peer.ask(CMD_WRITE_ZEROES, FLAG_FUA, 4096, 4096, &[]), 0));
    assert!(synced(&calls), "WRITE_ZEROES with FUA: {calls:?}");
    let calls = traced.calls_before_the_reply(|| assert_eq!(peer.ask(CMD_TRIM, FLAG_FUA, 8192, 4096, &[]), 0));
    assert!(synced(&calls), "TRIM with FUA: {calls:?}");
    traced.server.stop();
}

#[test]
fn a_flush_covers_what_another_connection_wrote() {
    if !can_trace() {
        return;
    }
    let disk = Disk::pmem_disk(4 * MIB);
    let traced = Traced::start(&disk.spec, &[]);
    let (mut writer, _) = Peer::connect(traced.server.socket()).expect("connect");
    let (mut flusher, _) = Peer::connect(traced.server.socket()).expect("connect");
    assert_eq!(writer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 1)), 0);
    let calls = traced.calls_before_the_reply(|| assert_eq!(flusher.ask(CMD_FLUSH, 0, 0, 0, &[]), 0));
    // Of the whole mapping or the whole file: not only of what this connection wrote, which is nothing.
    assert!(synced(&calls), "{calls:?}");
    traced.server.stop();
}

#[test]
fn stopping_makes_everything_durable() {
    if !can_trace() {
        return;
    }
    let disk = Disk::pmem_disk(4 * MIB);
    let traced = Traced::start(&disk.spec, &[]);
    let (mut peer, _) = Peer::connect(traced.server.socket()).expect("connect");
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 1)), 0);
    let before = traced.lines().len();
    let (log, folder) = (traced.log, traced._folder);
    traced.server.stop();
    let lines =
        || fs::read_to_string(&log).expect("strace writes its log").lines().map(str::to_owned).collect::<Vec<_>>();
    eventually("a sync after SIGTERM", || synced(&lines()[before..]).then_some(()));
    drop(folder);
}

/// strace options that make the first sync of each kind fail, or every one.
fn failing(when: &str) -> Vec<String> {
    SYNCS.iter().flat_map(|sync| ["-e".to_owned(), format!("inject={sync}:error=EIO:when={when}")]).collect()
}

#[test]
fn a_sync_that_fails_reaches_the_client_once() {
    if !can_trace() {
        return;
    }
    let disk = Disk::pmem_disk(4 * MIB);
    let traced = Traced::start(&disk.spec, &failing("1"));
    let (mut peer, _) = Peer::connect(traced.server.socket()).expect("connect");
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 1)), 0);
    assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), EIO, "the failed sync");
    assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), 0, "told once is told");
    assert_eq!(peer.read_at(0, 4096).expect("the disk goes on"), noise(4096, 1));
}

/// On a BTT in the page cache too, where the sync is of data, flog and map alike.
#[test]
fn btt_sync_that_fails_reaches_the_client_once() {
    if !can_trace() {
        return;
    }
    let scratch = Scratch::disk();
    let path = scratch.path("disk.btt");
    ok(env!("CARGO_BIN_EXE_pageless"), &["btt", "create", &path, "--size", "24M"]);
    let traced = Traced::start(&format!("btt:{path}"), &failing("1"));
    let (mut peer, _) = Peer::connect(traced.server.socket()).expect("connect");
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 1)), 0);
    assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), EIO, "the failed sync");
    assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), 0, "told once is told");
    assert_eq!(peer.ask(CMD_WRITE, FLAG_FUA, 0, 4096, &noise(4096, 2)), 0);
    assert_eq!(peer.read_at(0, 4096).expect("the disk goes on"), noise(4096, 2));
}

#[test]
fn a_failed_fua_is_told_to_its_writer_and_to_the_next_flush_of_another() {
    if !can_trace() {
        return;
    }
    let disk = Disk::pmem_disk(4 * MIB);
    let traced = Traced::start(&disk.spec, &failing("1"));
    let (mut writer, _) = Peer::connect(traced.server.socket()).expect("connect");
    let (mut other, _) = Peer::connect(traced.server.socket()).expect("connect");
    // Both are being served before anything fails.
    assert!(writer.read_at(0, 512).is_ok() && other.read_at(0, 512).is_ok());
    assert_eq!(writer.ask(CMD_WRITE, FLAG_FUA, 0, 4096, &noise(4096, 1)), EIO);
    assert_eq!(other.ask(CMD_FLUSH, 0, 0, 0, &[]), EIO, "its data may have gone with the writer's");
    assert_eq!(other.ask(CMD_FLUSH, 0, 0, 0, &[]), 0, "told once is told");
}

#[test]
fn a_medium_that_never_syncs_fails_every_flush_and_the_exit_code() {
    if !can_trace() {
        return;
    }
    let disk = Disk::pmem_disk(4 * MIB);
    let mut traced = Traced::start(&disk.spec, &failing("1+"));
    let (mut peer, _) = Peer::connect(traced.server.socket()).expect("connect");
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 1)), 0);
    for _ in 0..3 {
        assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), EIO);
    }
    traced.server.terminate();
    assert_eq!(traced.server.wait().code(), Some(1), "nobody may believe that the data is safe");
    eventually("it says so", || traced.server.said().contains("flush").then_some(()));
}

/// A file whose flushes are held back or failed by a file in a folder: nbdkit answers for the medium, nbdfuse makes it a file.
struct Medium {
    folder: Scratch,
    nbdkit: Child,
    nbdfuse: Child,
}

impl Medium {
    fn mount() -> Option<Medium> {
        if !have(&["nbdkit", "nbdfuse", "umount"]) {
            return None;
        }
        if !fs::exists("/dev/fuse").unwrap_or(false) {
            skip_here("/dev/fuse");
            return None;
        }
        let folder = Scratch::short();
        let at = |name: &str| folder.path(name);
        // `held` keeps a flush waiting, `broken` makes it fail.
        let flush = format!(
            "flush=while test -e {0}; do sleep 0.02; done; if test -e {1}; then echo EIO broken >&2; exit 1; fi",
            at("held"),
            at("broken")
        );
        let image = at("image");
        fs::write(&image, vec![0; 4 << 20]).expect("the medium's bytes");
        let nbdkit = Command::new("nbdkit")
            .args([
                "-f",
                "-U",
                &at("socket"),
                "--filter=log",
                "eval",
                &format!("logfile={}", at("log")),
                "get_size=echo 4194304",
            ])
            .arg(format!("pread=dd if={image} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k status=none"))
            .arg(format!("pwrite=dd of={image} oflag=seek_bytes seek=$4 bs=64k conv=notrunc status=none"))
            .args(["can_write=exit 0", "can_flush=exit 0", "can_fua=echo none", &flush])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdkit starts");
        let mut medium = Medium { nbdkit, nbdfuse: Command::new("true").spawn().expect("true"), folder };
        eventually("nbdkit listens", || fs::exists(medium.folder.path("socket")).ok().filter(|e| *e));
        fs::create_dir(medium.folder.path("mnt")).expect("mkdir");
        medium.nbdfuse.wait().expect("true ends");
        medium.nbdfuse = Command::new("nbdfuse")
            .args([medium.disk(), format!("nbd+unix:///?socket={}", medium.folder.path("socket"))])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdfuse starts");
        let mounted = eventually("nbdfuse mounts or gives up", || {
            let there = fs::exists(medium.disk()).unwrap_or(false);
            let ended = medium.nbdfuse.try_wait().expect("wait for nbdfuse").is_some();
            (there || ended).then_some(there)
        });
        if !mounted {
            skip_here("permission to mount with FUSE");
        }
        mounted.then_some(medium)
    }

    fn disk(&self) -> String {
        self.folder.path("mnt/disk")
    }

    fn set(&self, name: &str) {
        fs::write(self.folder.path(name), b"").expect("a marker");
    }

    fn clear(&self, name: &str) {
        fs::remove_file(self.folder.path(name)).expect("a marker");
    }

    /// How many flushes have reached the medium and how many are over.
    fn flushes(&self) -> (usize, usize) {
        let log = fs::read_to_string(self.folder.path("log")).expect("nbdkit logs");
        (log.matches(" Flush id=").count(), log.matches(" ...Flush id=").count())
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.path("held"));
        let _ = Command::new("umount").arg("-l").arg(self.folder.path("mnt")).stderr(Stdio::null()).status();
        for child in [&mut self.nbdfuse, &mut self.nbdkit] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a request while the medium holds flushes back: its flush arrives there, and no reply comes until it may end.
fn is_answered_after_the_flush(medium: &Medium, peer: &mut Peer, head: &[u8], payload: &[u8]) {
    let (begun, over) = medium.flushes();
    assert_eq!(begun, over, "the medium is quiet");
    medium.set("held");
    peer.send(head, payload).expect("the server reads requests");
    eventually("the flush reaches the medium", || (medium.flushes().0 > begun).then_some(()));
    peer.0.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket option");
    assert!(peer.reply().is_err(), "answered while the medium was still flushing");
    peer.0.set_read_timeout(Some(common::DEADLINE)).expect("a socket option");
    medium.clear("held");
    assert_eq!(peer.reply().expect("a reply").0, 0);
    assert!(medium.flushes().1 > over, "the flush was over before the reply");
}

#[test]
fn a_file_is_synced_before_flush_and_fua_are_answered() {
    let Some(medium) = Medium::mount() else { return };
    let server = Server::start(&format!("file:{}", medium.disk()));
    let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
    let block = noise(4096, 1);

    let quiet = medium.flushes();
    assert_eq!(peer.ask(CMD_WRITE, 0, 4096, 4096, &block), 0);
    assert_eq!(medium.flushes(), quiet, "the control: a plain write does not flush");
    is_answered_after_the_flush(&medium, &mut peer, &request(CMD_FLUSH, 0, 1, 0, 0), &[]);
    is_answered_after_the_flush(&medium, &mut peer, &request(CMD_WRITE, FLAG_FUA, 2, 8192, 4096), &block);
    assert_eq!(peer.read_at(4096, 4096).expect("a read"), block);

    peer.send(&request(CMD_DISC, 0, 3, 0, 0), &[]).expect("goodbye");
    server.stop();
    let image = fs::read(medium.folder.path("image")).expect("the medium's bytes");
    same("what reached the medium", &image[4096..12288], &[block.clone(), block].concat());
}

#[test]
fn a_file_whose_flush_fails_tells_every_client_once() {
    let Some(medium) = Medium::mount() else { return };
    let server = Server::start(&format!("file:{}", medium.disk()));
    let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
    let (mut other, _) = Peer::connect(server.socket()).expect("connect");
    assert!(peer.read_at(0, 512).is_ok() && other.read_at(0, 512).is_ok());
    assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &noise(4096, 1)), 0);
    medium.set("broken");
    assert_eq!(peer.ask(CMD_FLUSH, 0, 0, 0, &[]), EIO);
    assert_eq!(peer.ask(CMD_WRITE, FLAG_FUA, 0, 4096, &noise(4096, 2)), EIO, "FUA on a broken medium");
    medium.clear("broken");
    assert_eq!(other.ask(CMD_FLUSH, 0, 0, 0, &[]), EIO, "its data may have gone with the peer's");
    assert_eq!(other.ask(CMD_FLUSH, 0, 0, 0, &[]), 0, "told once is told");
}

#[test]
fn what_was_flushed_survives_a_kill() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for disk in [Disk::pmem_shm(4 * MIB), Disk::pmem_disk(4 * MIB), Disk::file(4 * MIB)] {
        let scratch = Scratch::disk();
        let image = noise(4 << 20, 3);
        let server = Server::start(&disk.spec);
        ok("nbdcopy", &["--flush", &scratch.file("from", &image), server.uri()]);
        server.kill();
        // A killed process proves that we buffer nothing ourselves; power loss is what the tests above are about.
        same(disk.name, &fs::read(disk.file.as_ref().expect("a file")).expect("the image"), &image);
    }
}
