// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conformance passes a disk, also one that fails honestly, and finds out every sort of liar.

use super::*;
use crate::{Fault, Faulty, Narrow, What};
use pageless_block::{
    Bio, Completion, Error, Extent, ExtentMap, Flags, Limits, Op, Queue, Refused, RefusedWhy, Route, Status, Why,
};
use pageless_mem::{Access, Reader};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

/// What is wrong with a disk.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Bug {
    None,
    DropsTheLastByte,
    WritesTooFar,
    CompletesTwice,
    Forgets,
    SaysLess,
    SaysNothingOfRoutes,
    ForgetsZeroes,
    DiscardsNeighbours,
    SpoilsTheSource,
    HolesInData,
    QueuesDisagree,
    FailsSilently,
}

#[derive(Clone, Debug)]
struct Disk {
    memory: Memory,
    bytes: Arc<Mutex<Vec<u8>>>,
    limits: Limits,
    bug: Bug,
}

impl Disk {
    fn new(memory: &Memory, bug: Bug) -> Disk {
        let limits = Limits { flush: true, fua: true, discard: true, write_zeroes: true, ..Limits::default() };
        Disk { memory: memory.clone(), bytes: Arc::new(Mutex::new(vec![1; 256 << 10])), limits, bug }
    }
}

impl BlockDevice for Disk {
    fn name(&self) -> &str {
        "a disk of the tests"
    }
    fn capacity(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        let mine = self.bytes.lock().unwrap().clone();
        Ok(Box::new(DiskQueue { disk: self.clone(), mine, reader: self.memory.reader(), pending: Vec::new() }))
    }
    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        (self.bug == Bug::HolesInData).then(|| Box::new(self.clone()) as Box<dyn ExtentMap>)
    }
}

impl ExtentMap for Disk {
    fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status> {
        let inside = len > 0 && offset + len <= self.capacity();
        if inside { Ok(Extent::Hole(len)) } else { Err(Status::OutOfRange) }
    }
}

#[derive(Debug)]
struct DiskQueue {
    disk: Disk,
    /// What was there when the queue was opened.
    mine: Vec<u8>,
    reader: Reader,
    pending: Vec<Bio>,
}

impl DiskQueue {
    fn execute(&mut self, bio: &Bio) {
        let bug = self.disk.bug;
        let start = usize::try_from(bio.sector.bytes()).unwrap();
        let end = start + usize::try_from(bio.len).unwrap();
        let mut shared = self.disk.bytes.lock().unwrap();
        let bytes = if bug == Bug::QueuesDisagree { &mut self.mine } else { &mut *shared };
        let mut at = start;
        let online = self.reader.online();
        for range in &bio.data {
            let len = range.len() as usize;
            let short = usize::from(bug == Bug::DropsTheLastByte && at + len == end);
            let window = online.kmap(range, Access::Write).unwrap();
            match bio.op {
                Op::Read => window.writer().write(&bytes[at..at + len - short]).unwrap(),
                _ => window.reader().read(&mut bytes[at..at + len]).unwrap(),
            }
            if bug == Bug::SpoilsTheSource {
                window.writer().write(&[0]).unwrap();
            }
            at += len;
        }
        let more = match bug {
            Bug::DiscardsNeighbours if bio.op == Op::Discard => 512,
            Bug::WritesTooFar if bio.op == Op::Write => 1,
            _ => 0,
        };
        let last = (end + more).min(bytes.len());
        match bio.op {
            Op::WriteZeroes if bug == Bug::ForgetsZeroes && bio.flags.contains(Flags::NO_UNMAP) => {}
            Op::WriteZeroes => bytes[start..end].fill(0),
            Op::Discard => bytes[start..last].fill(0),
            Op::Write => bytes[end..last].fill(0x5a),
            Op::Read | Op::Flush => {}
        }
    }
}

impl Queue for DiskQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if self.pending.len() == 16 {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        self.pending.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let (start, bug) = (out.len(), self.disk.bug);
        for bio in std::mem::take(&mut self.pending) {
            let fails = bug == Bug::FailsSilently && bio.op == Op::Write && bio.sector.0 == 0;
            if !fails {
                self.execute(&bio);
            }
            let route = match bio.op {
                Op::Read if bug != Bug::SaysNothingOfRoutes => Route::Copy(Why::MemoryDisk),
                _ => Route::None,
            };
            let less = if bug == Bug::SaysLess && bio.op == Op::Write { 512 } else { 0 };
            let completion = Completion { tag: bio.tag, status: Status::Ok, done: bio.len - less, route };
            if !(bug == Bug::Forgets && bio.op == Op::Flush) {
                out.push(completion);
            }
            if bug == Bug::CompletesTwice && bio.op == Op::Flush {
                out.push(completion);
            }
        }
        Ok(out.len() - start)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

fn quick() -> Config {
    Config { rounds: 24, ..Config::default() }
}

#[test]
fn a_disk_passes() {
    let memory = Memory::new().unwrap();
    conformance(&Disk::new(&memory, Bug::None), &memory, &quick());
}

#[test]
fn every_liar_is_found_out() {
    let memory = Memory::new().unwrap();
    for (bug, says) in [
        (Bug::DropsTheLastByte, "is 0xc5 and should be"),
        (Bug::WritesTooFar, "should be"),
        (Bug::CompletesTwice, "came twice"),
        (Bug::Forgets, "never came back"),
        (Bug::SaysLess, "done and not done"),
        (Bug::SaysNothingOfRoutes, "no route"),
        (Bug::ForgetsZeroes, "and should be 0x00"),
        (Bug::DiscardsNeighbours, "is 0x00 and should be"),
        (Bug::SpoilsTheSource, "memory was changed"),
        (Bug::HolesInData, "holds data"),
        (Bug::QueuesDisagree, "should be"),
        (Bug::FailsSilently, "should be"),
    ] {
        let why = try_conformance(&Disk::new(&memory, bug), &memory, &quick()).unwrap_err();
        assert!(why.contains(says), "{bug:?}: {why}");
        assert!(why.contains(&format!("{SEED}=")), "{why}");
        let steps = why.lines().filter(|line| line.starts_with("  ")).count();
        assert!((1..=4).contains(&steps), "{bug:?} needs no {steps} steps: {why}");
    }
}

#[test]
fn the_same_seed_finds_the_same() {
    let memory = Memory::new().unwrap();
    let found = |seed| {
        let disk = Disk::new(&memory, Bug::DiscardsNeighbours);
        try_conformance(&disk, &memory, &Config { seed, ..quick() }).unwrap_err()
    };
    assert_eq!(found(7), found(7));
}

#[test]
fn a_narrow_disk_passes_in_pieces() {
    let memory = Memory::new().unwrap();
    let disk = Narrow::new(Disk::new(&memory, Bug::None), 3, |limits| {
        limits.max_bytes = 4096 + 512;
        limits.max_unmap = 8192;
        limits.max_segments = 5;
        limits.fua = false;
    });
    conformance(&disk, &memory, &quick());
    let large_blocks = Narrow::new(Disk::new(&memory, Bug::None), 1, |limits| {
        limits.block_size = 4096;
        limits.max_bytes = 8192;
        limits.discard = false;
        limits.write_zeroes = false;
    });
    conformance(&large_blocks, &memory, &quick());
    let read_only = Narrow::new(Disk::new(&memory, Bug::None), 8, |limits| limits.read_only = true);
    conformance(&read_only, &memory, &quick());
}

#[test]
fn a_disk_that_fails_honestly_passes_where_failures_are_allowed() {
    let memory = Memory::new().unwrap();
    let disk = Faulty::new(Disk::new(&memory, Bug::None));
    let fail = |status, done| What::Fail { status, done };
    for nth in 0..200 {
        disk.inject(Fault::nth(Op::Write, 5 * nth, fail(Status::Media, 1024)));
        disk.inject(Fault::nth(Op::Read, 11 * nth, fail(Status::IoErr, 512 * nth)));
        disk.inject(Fault::nth(Op::WriteZeroes, 3 * nth, fail(Status::NoSpace, 4096)));
        disk.inject(Fault { op: None, first: 7 * nth, count: 1, what: What::Full });
        disk.inject(Fault { op: None, first: 6 * nth, count: 2, what: What::Delay(3) });
    }
    let config = Config { failures: true, ..quick() };
    conformance(&disk, &memory, &config);
    disk.inject(Fault::every(Op::Flush, fail(Status::IoErr, 0)));
    let why = try_conformance(&disk, &memory, &quick()).unwrap_err();
    assert!(why.contains("failed"), "{why}");
    disk.heal();
    conformance(&disk, &memory, &quick());
}
