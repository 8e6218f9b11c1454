// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file is a disk, whichever way its bytes go.

use super::rig::{Loop, Scratch, Tmpfs};
use crate::file::bounce::SLOT;
use crate::file::{FileDisk, FileDiskOptions};
use pageless_block::{Op, Status};
use pageless_mem::Memory;
use pageless_testkit::{Config, Fault, Faulty, Narrow, What, conformance};
use std::path::Path;

const MIB: u64 = 1 << 20;

fn disk(memory: &Memory, path: &Path, size: u64) -> FileDisk {
    let options = FileDiskOptions { size: Some(size), create: true, ..FileDiskOptions::default() };
    FileDisk::open(memory, path, options).unwrap()
}

fn rounds(rounds: u32) -> Config {
    Config { rounds, ..Config::default() }
}

#[test]
fn a_file_is_a_disk() {
    let (memory, file) = (Memory::new().unwrap(), Scratch::new());
    conformance(&disk(&memory, file.path(), 4 * MIB), &memory, &rounds(24));
}

#[test]
fn a_file_is_a_disk_with_one_slot_and_a_shallow_queue() {
    let (memory, file) = (Memory::new().unwrap(), Scratch::new());
    let options = FileDiskOptions {
        size: Some(MIB),
        create: true,
        bounce_bytes: u64::from(SLOT),
        queue_depth: 3,
        ..FileDiskOptions::default()
    };
    conformance(&FileDisk::open(&memory, file.path(), options).unwrap(), &memory, &rounds(12));
}

#[test]
fn a_file_is_a_disk_in_pieces() {
    let (memory, file) = (Memory::new().unwrap(), Scratch::new());
    let narrow = Narrow::new(disk(&memory, file.path(), MIB), 4, |limits| {
        limits.max_bytes = 8192 + 512;
        limits.max_unmap = 64 << 10;
        limits.max_segments = 6;
        limits.fua = false;
    });
    conformance(&narrow, &memory, &rounds(12));
}

#[test]
fn a_file_in_memory_is_a_disk() {
    let Some(tmpfs) = Tmpfs::mount("16m") else { return };
    let memory = Memory::new().unwrap();
    conformance(&disk(&memory, &tmpfs.path("disk"), 2 * MIB), &memory, &rounds(16));
}

#[test]
fn a_block_device_is_a_disk() {
    let (memory, file) = (Memory::new().unwrap(), Scratch::with(&[0; 2 << 20]));
    for block in ["512", "4096"] {
        let Some(device) = Loop::new(file.path(), block) else { return };
        let disk = FileDisk::open(&memory, device.path(), FileDiskOptions::default()).unwrap();
        conformance(&disk, &memory, &rounds(8));
    }
}

#[test]
fn a_read_only_file_is_read() {
    let (memory, file) = (Memory::new().unwrap(), Scratch::with(&super::rig::pattern(1 << 20, 0)));
    let options = FileDiskOptions { read_only: true, ..FileDiskOptions::default() };
    conformance(&FileDisk::open(&memory, file.path(), options).unwrap(), &memory, &rounds(8));
}

#[test]
fn a_file_that_fails_says_how_far_it_got() {
    let (memory, file) = (Memory::new().unwrap(), Scratch::new());
    let narrow = Narrow::new(disk(&memory, file.path(), MIB), 8, |limits| limits.max_bytes = 4096);
    let disk = Faulty::new(narrow);
    for nth in 0..400 {
        disk.inject(Fault::nth(Op::Write, 9 * nth, What::Fail { status: Status::Media, done: 512 * (nth % 5) }));
        disk.inject(Fault { op: None, first: 13 * nth, count: 1, what: What::Full });
        disk.inject(Fault { op: None, first: 17 * nth, count: 3, what: What::Delay(2) });
    }
    conformance(&disk, &memory, &Config { failures: true, ..rounds(8) });
}
