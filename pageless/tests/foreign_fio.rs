// SPDX-License-Identifier: MIT OR Apache-2.0
//! fio with its `nbd` engine: four jobs that verify every block by checksum, and a server killed under that load.

use std::process::{Child, Command, Stdio};

mod common;

use common::disks::{self, Disk};
use common::server::{Serve, Server};
use common::{KIB, MIB, have, ok, rounds};

/// Four jobs, each on its own quarter of the disk.
fn jobs(uri: &str, len: u64, extra: &[&str]) -> Vec<String> {
    let quarter = len / 4 / (64 * KIB) * (64 * KIB);
    let mut args: Vec<String> =
        ["--name=verify", "--ioengine=nbd", "--thread", "--numjobs=4", "--group_reporting", "--iodepth=16"]
            .map(str::to_owned)
            .into();
    args.push(format!("--uri={uri}"));
    // A job that verifies saves its state when it is cut short: below target/, not into the tree.
    args.push(format!("--aux-path={}", env!("CARGO_TARGET_TMPDIR")));
    args.push(format!("--size={quarter}"));
    args.push(format!("--offset_increment={quarter}"));
    args.extend(extra.iter().map(|a| (*a).to_owned()));
    args
}

#[test]
fn four_jobs_verify_crc32c_on_every_disk() {
    if !have(&["fio"]) {
        return;
    }
    for disk in disks::all(64 * MIB) {
        let server = Server::start(&disk.spec);
        for _ in 0..rounds() {
            let random =
                ["--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=0", "--verify=crc32c", "--verify_fatal=1"];
            ok("fio", &jobs(server.uri(), disk.len, &random));
            let mixed =
                ["--rw=randrw", "--bs=4k", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--fsync=32"];
            ok("fio", &jobs(server.uri(), disk.len, &mixed));
        }
        server.stop();
    }
}

#[test]
fn four_jobs_verify_over_tcp() {
    if !have(&["fio"]) {
        return;
    }
    let server = Serve::new("ram:64M").tcp().start();
    ok("fio", &jobs(server.uri(), 64 * MIB, &["--rw=randwrite", "--bs=4k", "--verify=crc32c", "--verify_fatal=1"]));
    server.stop();
}

fn load(uri: &str, len: u64) -> Child {
    let mut args = jobs(uri, len, &["--rw=randwrite", "--bs=4k", "--fsync=64", "--time_based", "--runtime=600"]);
    args.push("--eta=never".to_owned());
    Command::new("fio")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fio starts")
}

/// Waits until the server has used some processor time: the load has reached it.
fn busy(server: &Server) {
    common::eventually("the load reaches the server", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("the server runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        (ticks >= 20).then_some(())
    });
}

#[test]
fn killed_under_load_it_starts_again_on_the_same_image_and_socket() {
    if !have(&["fio"]) {
        return;
    }
    for disk in [Disk::pmem_shm(64 * MIB), Disk::pmem_disk(64 * MIB), Disk::file(64 * MIB)] {
        let short = common::Scratch::short();
        let socket = short.path("s");
        for _ in 0..2 * rounds() {
            let server = Serve::new(&disk.spec).at(&socket).start();
            let mut fio = load(server.uri(), disk.len);
            busy(&server);
            server.kill();
            let status = common::eventually("fio gives up", || fio.try_wait().expect("wait for fio"));
            assert!(!status.success(), "fio noticed that its server died");
            // The socket is stale and the lock went with the process: neither is in the way of the next server.
            assert!(std::fs::exists(&socket).expect("stat"), "SIGKILL leaves the socket behind");
        }
        let server = Serve::new(&disk.spec).at(&socket).start();
        ok(
            "fio",
            &jobs(server.uri(), disk.len, &["--rw=randwrite", "--bs=64k", "--verify=crc32c", "--verify_fatal=1"]),
        );
        server.stop();
    }
}

#[test]
fn a_client_killed_under_load_leaves_nothing_behind() {
    if !have(&["fio"]) {
        return;
    }
    let disk = Disk::file(64 * MIB);
    let server = Server::start(&disk.spec);
    let killed = || {
        let mut fio = load(server.uri(), disk.len);
        busy(&server);
        fio.kill().expect("fio runs");
        fio.wait().expect("wait for fio");
    };
    // Workers open their queues when they first have something to do.
    killed();
    let before = common::settled(|| server.open_files());
    for _ in 0..2 * rounds() {
        killed();
    }
    common::eventually("the connections are closed", || (server.open_files() <= before + 1).then_some(()));
    ok("fio", &jobs(server.uri(), disk.len, &["--rw=randwrite", "--bs=4k", "--verify=crc32c", "--verify_fatal=1"]));
    server.stop();
}
