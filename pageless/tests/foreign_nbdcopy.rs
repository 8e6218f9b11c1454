// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nbdcopy` of libnbd in both directions, directly and through nbdkit's `nbd` plugin.

use std::fs;
use std::os::unix::fs::MetadataExt;

mod common;

use common::disks::{self, Disk};
use common::server::{Serve, Server};
use common::{MIB, Scratch, have, ok, patchy, rounds, same};

/// Copies an image to the disk and back and compares the bytes.
fn there_and_back(what: &str, uri: &str, len: u64, seed: u64, options: &[&str]) {
    let scratch = Scratch::disk();
    let image = patchy(usize::try_from(len).expect("test disks are small"), seed);
    let from = scratch.file("from", &image);
    let to = scratch.path("to");
    let with = |ends: [&str; 2]| -> Vec<String> { options.iter().chain(&ends).map(|s| (*s).to_owned()).collect() };
    ok("nbdcopy", &with([&from, uri]));
    ok("nbdcopy", &with([uri, &to]));
    same(what, &fs::read(&to).expect("the copy"), &image);
}

#[test]
fn both_ways_on_every_disk_with_one_and_four_connections() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for disk in disks::all(32 * MIB) {
        let server = Server::start(&disk.spec);
        for round in 0..u64::from(rounds()) {
            for connections in ["1", "4"] {
                let what = format!("{}, {connections} connections", disk.name);
                there_and_back(&what, server.uri(), disk.len, round, &["--flush", "--connections", connections]);
            }
        }
        there_and_back(disk.name, server.uri(), disk.len, 77, &["--synchronous"]);
        server.stop();
    }
}

#[test]
fn both_ways_over_tcp() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for disk in [Disk::ram(32 * MIB), Disk::file(32 * MIB)] {
        let server = Serve::new(&disk.spec).tcp().start();
        for connections in ["1", "4"] {
            there_and_back(disk.name, server.uri(), disk.len, 5, &["--connections", connections]);
        }
        server.stop();
    }
}

#[test]
fn largest_requests_of_32_mib() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for disk in [Disk::ram(96 * MIB), Disk::pmem_shm(96 * MIB), Disk::file(96 * MIB)] {
        let server = Server::start(&disk.spec);
        there_and_back(disk.name, server.uri(), disk.len, 6, &["--request-size", "33554432", "--requests", "4"]);
        server.stop();
    }
}

#[test]
fn what_arrived_is_in_the_file_after_the_server_stopped() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for disk in [Disk::pmem_shm(16 * MIB), Disk::pmem_disk(16 * MIB), Disk::file(16 * MIB)] {
        let scratch = Scratch::disk();
        let image = patchy(16 << 20, 8);
        let server = Server::start(&disk.spec);
        ok("nbdcopy", &[&scratch.file("from", &image), server.uri()]);
        server.stop();
        same(disk.name, &fs::read(disk.file.as_ref().expect("a file")).expect("the image"), &image);
    }
}

#[test]
fn a_sparse_image_stays_sparse() {
    if !have(&["nbdcopy"]) {
        return;
    }
    for disk in [Disk::pmem_shm(64 * MIB), Disk::pmem_disk(64 * MIB), Disk::file(64 * MIB)] {
        let scratch = Scratch::disk();
        let from = scratch.sparse("from", disk.len);
        let file = fs::OpenOptions::new().write(true).open(&from).expect("open");
        std::os::unix::fs::FileExt::write_all_at(&file, &common::noise(1 << 20, 3), 40 * MIB).expect("write");
        drop(file);
        let server = Server::start(&disk.spec);
        ok("nbdcopy", &["--destination-is-zero", &from, server.uri()]);
        ok("nbdcopy", &[&from, server.uri()]);
        server.stop();
        let path = disk.file.as_ref().expect("a file");
        same(disk.name, &fs::read(path).expect("the image"), &fs::read(&from).expect("the source"));
        let allocated = fs::metadata(path).expect("stat").blocks() * 512;
        assert!(allocated <= 2 * MIB, "{}: {allocated} bytes allocated for 1 MiB of data", disk.name);
    }
}

#[test]
fn from_one_of_ours_to_another() {
    if !have(&["nbdcopy"]) {
        return;
    }
    let scratch = Scratch::disk();
    let image = patchy(32 << 20, 9);
    let from = Server::start(&format!("file:{}", scratch.file("image", &image)));
    let to = Server::start("ram:32M");
    ok("nbdcopy", &[from.uri(), to.uri()]);
    let out = scratch.path("out");
    ok("nbdcopy", &[to.uri(), &out]);
    same("file to ram", &fs::read(&out).expect("the copy"), &image);
    from.stop();
    to.stop();
}

#[test]
fn behind_the_nbd_plugin_of_nbdkit() {
    if !have(&["nbdcopy", "nbdkit"]) {
        return;
    }
    for disk in disks::all(16 * MIB) {
        let scratch = Scratch::disk();
        let image = patchy(usize::try_from(disk.len).expect("small"), 10);
        let from = scratch.file("from", &image);
        let to = scratch.path("to");
        let server = Server::start(&disk.spec);
        let socket = format!("socket={}", server.socket());
        let script = format!("nbdcopy '{from}' \"$uri\" && nbdcopy \"$uri\" '{to}'");
        ok("nbdkit", &["-U", "-", "nbd", &socket, "shared=true", "--run", &script]);
        same(disk.name, &fs::read(&to).expect("the copy"), &image);

        // The filter compares every write, zero and trim with what our disk already holds: it sees our reads and extents.
        let again = format!("nbdcopy '{from}' \"$uri\"");
        ok("nbdkit", &["-U", "-", "--filter=checkwrite", "nbd", &socket, "--run", &again]);
        server.stop();
    }
}
