// SPDX-License-Identifier: MIT OR Apache-2.0
//! libblkio's driver against our vhost-user export, from ordinary and from secret memory; and what `qemu-storage-daemon` makes of the same.

use std::ops::Add;
use std::thread;

use pageless_mem::Memory;

mod common;

use common::disks::Disk;
use common::front_end::FrontKind::{Ordinary, Secret};
use common::front_end::{FrontEnd, FrontKind, FrontMemory};
use common::load::{Load, Tally, memory_of};
use common::qsd::StorageDaemon;
use common::server::{Serve, Server};
use common::{MIB, Scratch, have, noise, ok, rounds};
use virtio_driver::VirtioBlkFeatureFlags as Features;

/// Requests in flight on each queue.
const DEPTH: usize = 32;

/// Descriptors of a ring: three for each request.
const RING: u16 = 128;

/// A load on every queue at once, each in its own memory of this kind.
#[derive(Debug, Clone, Copy)]
struct Trial {
    kind: FrontKind,
    queues: usize,
    count: usize,
    block: u64,
    skew: usize,
    /// Discards and zeroes too, where they are offered.
    everything: bool,
}

impl Trial {
    fn of(kind: FrontKind, queues: usize, count: u32) -> Trial {
        Trial { kind, queues, count: count as usize, block: 512, skew: 0, everything: true }
    }

    fn run(self, socket: &str) -> Tally {
        let memory = Memory::new().expect("a frame space");
        let len = memory_of(DEPTH) as u64 + 4096;
        let mut memories: Vec<FrontMemory> =
            (0..self.queues).map(|_| FrontMemory::new(&memory, self.kind, len).expect("memory")).collect();
        let table: Vec<&FrontMemory> = memories.iter().collect();
        let front = FrontEnd::connect(socket, &table, self.queues, RING).expect("the server takes us");
        let load = Load {
            part: 0..0,
            memory: 0,
            depth: DEPTH,
            count: self.count,
            seed: 7 + self.queues as u64,
            block: self.block.max(u64::from(u32::from(front.config.blk_size))),
            skew: self.skew,
            discard: self.everything && front.features.contains(Features::DISCARD),
            write_zeroes: self.everything && front.features.contains(Features::WRITE_ZEROES),
        };
        let loads = load.divided(self.queues, front.capacity().min(8 * MIB));
        thread::scope(|scope| {
            let work = front.queues.into_iter().zip(&mut memories).zip(&loads);
            let threads: Vec<_> =
                work.map(|((mut queue, memory), load)| scope.spawn(move || load.run(&mut queue, memory))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a load")).fold(Tally::default(), Add::add)
        })
    }

    /// Runs it, and fails unless every request was right.
    fn verify(self, server: &Server, disk: &str) {
        let tally = self.run(server.socket());
        assert_eq!((tally.failed, tally.wrong), (0, 0), "{disk}, {self:?}: {tally:?}");
        assert!(tally.moved > self.count / 2, "{disk}, {self:?}: {tally:?}");
    }
}

/// By which ways the server says that bytes went: `direct 16 MiB`, without the number.
fn ways(said: &str) -> Vec<&str> {
    let lines = said.lines().filter_map(|line| line.trim().split_once(' '));
    let of_bytes = |(way, rest): (_, &str)| rest.trim().starts_with(|c: char| c.is_ascii_digit()).then_some(way);
    lines.filter_map(of_bytes).collect()
}

fn btt(len: u64) -> (Scratch, String) {
    let scratch = Scratch::shm();
    let path = scratch.path("disk.btt");
    let size = len.to_string();
    ok(
        env!("CARGO_BIN_EXE_pageless"),
        &["btt", "create", &path, "--size", &size, "--sector-size", "4096", "--volatile"],
    );
    let spec = format!("btt:{path}");
    (scratch, spec)
}

fn serve(spec: &str, queues: usize) -> Server {
    Serve::new(spec).vhost_user().args(&["--queues", &queues.to_string()]).start()
}

#[test]
fn every_disk_serves_ordinary_and_secret_memory_on_one_queue_and_on_two() {
    let (_btt, btt) = btt(24 * MIB);
    let disks = [Disk::ram(16 * MIB), Disk::pmem_shm(16 * MIB), Disk::pmem_disk(16 * MIB), Disk::file(16 * MIB)];
    let specs = disks.iter().map(|disk| (disk.name, disk.spec.as_str())).chain([("btt", btt.as_str())]);
    for (name, spec) in specs {
        for (queues, kind) in [(1, Ordinary), (2, Ordinary), (1, Secret), (2, Secret)] {
            let server = serve(spec, queues);
            Trial { block: 4096, ..Trial::of(kind, queues, 1000 * rounds()) }.verify(&server, name);
            let said = server.stop_and_say();
            // A CPU that stores into the disk, or fetches from it, has done what is asked for.
            let way = match (name, kind) {
                ("file", Ordinary) => "direct",
                ("file", Secret) => "bounce",
                _ => "copy",
            };
            assert_eq!(ways(&said), [way], "{name}, {queues} queues, {kind:?}:\n{said}");
        }
    }
}

#[test]
fn data_lies_at_any_byte_of_memory() {
    for disk in [Disk::ram(16 * MIB), Disk::pmem_disk(16 * MIB), Disk::file(16 * MIB)] {
        for (kind, skew) in [(Ordinary, 1), (Secret, 4093)] {
            let server = serve(&disk.spec, 2);
            Trial { skew, ..Trial::of(kind, 2, 500) }.verify(&server, disk.name);
            server.stop();
        }
    }
}

#[test]
fn one_front_end_after_the_other() {
    let server = serve("ram:16M", 2);
    for round in 0..20 * rounds() {
        let kind = if round % 2 == 0 { Ordinary } else { Secret };
        Trial::of(kind, 2, 50).verify(&server, "ram");
    }
    server.stop();
}

#[test]
fn the_peer_serves_ordinary_memory_and_fails_every_request_from_secret_memory() {
    if !have(&["qemu-storage-daemon"]) {
        return;
    }
    for queues in [1, 2] {
        let scratch = Scratch::disk();
        // No holes: reading one moves nothing, so it works.
        let daemon = StorageDaemon::direct(&scratch.file("disk.img", &noise(8 << 20, 1)), queues);
        let tally = Trial::of(Ordinary, queues, 500).run(daemon.socket());
        assert_eq!((tally.failed, tally.wrong), (0, 0), "{queues} queues: {tally:?}");

        let daemon = StorageDaemon::direct(&scratch.file("disk.img", &noise(8 << 20, 1)), queues);
        // In whole blocks of the file system: others it bounces, and that works too.
        let trial = Trial { block: 4096, everything: false, ..Trial::of(Secret, queues, 500) };
        let tally = trial.run(daemon.socket());
        assert!(tally.failed == tally.moved && tally.moved > 500, "{queues} queues: {tally:?}");
    }
}
