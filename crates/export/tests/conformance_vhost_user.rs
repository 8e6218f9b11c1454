// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conformance suite through the vhost-user export: a driver that somebody else wrote, behind which there is a block device again.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests count in small numbers and may panic")]

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pageless_block::{
    Bio, BlockDevice, Completion, Error, Flags, Limits, Op, Queue, Refused, RefusedWhy, Route, Status, Why,
};
use pageless_drivers::{MemoryDisk, NullDisk, file::FileDisk, file::FileDiskOptions};
use pageless_export::vhost_user::{Polling, Server, ServerConfig};
use pageless_mem::{Access, Backing, Memory, Reader};
use pageless_testkit::front_end::{Ask, Done, FrontEnd, FrontKind, FrontMemory, FrontQueue, Unmap};
use pageless_testkit::regions::{Kind, TempPath};
use pageless_testkit::{Config, Narrow, conformance, require};
use virtio_driver::VirtioBlkFeatureFlags as Features;

/// As many queues as the suite ever has open.
const QUEUES: usize = 4;

/// Memory of each queue, and the longest request.
const ARENA: usize = 1 << 20;
const LONGEST: u64 = 512 << 10;

/// A queue and its memory, in turn with whoever opens it.
type Lane = (FrontQueue, FrontMemory);

/// What the server says of the disk, and the queues that nobody has open.
#[derive(Debug)]
struct VhostDisk {
    memory: Memory,
    capacity: u64,
    limits: Limits,
    lanes: Arc<Mutex<Vec<Lane>>>,
}

impl VhostDisk {
    fn new(memory: &Memory, socket: &Path, kind: FrontKind) -> VhostDisk {
        let memories: Vec<_> = (0..QUEUES).map(|_| FrontMemory::new(memory, kind, ARENA as u64).unwrap()).collect();
        let table: Vec<_> = memories.iter().collect();
        let front = FrontEnd::connect(socket.to_str().unwrap(), &table, QUEUES, 256).unwrap();
        let (config, has) = (front.config, |feature| front.features.contains(feature));
        let zeroes = u32::from(config.max_write_zeroes_sectors).min(u32::from(config.max_discard_sectors));
        let limits = Limits {
            block_size: u32::from(config.blk_size),
            max_bytes: LONGEST,
            read_only: has(Features::RO),
            flush: has(Features::FLUSH),
            discard: has(Features::DISCARD),
            write_zeroes: has(Features::WRITE_ZEROES),
            max_unmap: if zeroes == 0 { Limits::UNLIMITED } else { u64::from(zeroes) * 512 },
            ..Limits::default()
        };
        let capacity = front.capacity();
        let lanes = front.queues.into_iter().zip(memories).collect();
        VhostDisk { memory: memory.clone(), capacity, limits, lanes: Arc::new(Mutex::new(lanes)) }
    }
}

impl BlockDevice for VhostDisk {
    fn name(&self) -> &str {
        "vhost-user"
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        let lane = self.lanes.lock().unwrap().pop();
        Ok(Box::new(VhostQueue {
            lane: Some(lane.expect("a queue that nobody has open")),
            lanes: Arc::clone(&self.lanes),
            reader: self.memory.reader(),
            pending: Vec::new(),
            refused: Vec::new(),
        }))
    }
}

#[derive(Debug)]
struct VhostQueue {
    /// Until it is dropped.
    lane: Option<Lane>,
    lanes: Arc<Mutex<Vec<Lane>>>,
    reader: Reader,
    /// Each with its part of the arena.
    pending: Vec<(Bio, Range<usize>)>,
    /// What virtio has no word for, and nobody was asked.
    refused: Vec<u64>,
}

impl Drop for VhostQueue {
    fn drop(&mut self) {
        let (mut queue, memory) = self.lane.take().unwrap();
        let mut late = Vec::new();
        while queue.in_flight() > 0 {
            queue.wait(&mut late, Duration::from_secs(60)).unwrap();
        }
        self.lanes.lock().unwrap().push((queue, memory));
    }
}

impl VhostQueue {
    /// Bytes of the arena that nothing in flight has. Where they begin depends on the tag, so that data lies at every alignment.
    fn room(&self, bio: &Bio) -> Option<Range<usize>> {
        let len = if bio.op.has_data() { bio.len as usize } else { 0 };
        let starts = [0].into_iter().chain(self.pending.iter().map(|(_, part)| part.end));
        starts.map(|start| start + (bio.tag as usize & 511)).map(|start| start..start + len).find(|part| {
            let free = |(_, other): &(Bio, Range<usize>)| other.end <= part.start || part.end <= other.start;
            part.end <= ARENA && self.pending.iter().all(free)
        })
    }

    /// Moves bytes between the frames of a bio and the arena.
    fn move_data(&mut self, bio: &Bio, part: &Range<usize>) {
        let (_, memory) = self.lane.as_mut().unwrap();
        let mut bytes = vec![0; part.len()];
        if bio.op == Op::Read {
            memory.get(part.start, &mut bytes);
        }
        let mut from = 0;
        for range in bio.data.as_slice() {
            let to = from + range.len() as usize;
            let online = self.reader.online();
            match bio.op {
                Op::Read => online.kmap(*range, Access::Write).unwrap().writer().write(&bytes[from..to]).unwrap(),
                _ => online.kmap(*range, Access::Read).unwrap().reader().read(&mut bytes[from..to]).unwrap(),
            }
            from = to;
        }
        if bio.op == Op::Write {
            memory.put(part.start, &bytes);
        }
    }

    fn finish(&mut self, done: Done) -> Completion {
        let place = self.pending.iter().position(|(bio, _)| bio.tag == done.tag).expect("a request of ours");
        let (bio, part) = self.pending.swap_remove(place);
        let status = match done.result {
            0 => Status::Ok,
            -5 => Status::IoErr,
            -95 => Status::Unsupported,
            other => panic!("{} of {} bytes at {} ended with {other}", bio.op, bio.len, bio.sector.bytes()),
        };
        if bio.op == Op::Read && status.is_ok() {
            self.move_data(&bio, &part);
        }
        let route = if bio.op.has_data() { Route::Copy(Why::NoDirectIo) } else { Route::None };
        Completion { tag: bio.tag, status, done: if status.is_ok() { bio.len } else { 0 }, route }
    }
}

impl Queue for VhostQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        if bio.op == Op::WriteZeroes && bio.flags.contains(Flags::FAST_ONLY) {
            self.refused.push(bio.tag);
            return Ok(());
        }
        let Some(part) = self.room(&bio).filter(|_| self.pending.len() < 64) else {
            return Err(Refused::new(bio, RefusedWhy::Full));
        };
        if bio.op == Op::Write {
            self.move_data(&bio, &part);
        }
        let (at, unmap) = (bio.sector.bytes(), bio.flags.contains(Flags::NO_UNMAP));
        let ask = match bio.op {
            Op::Read => Ask::Read(at, part.clone()),
            Op::Write => Ask::Write(at, part.clone()),
            Op::Flush => Ask::Flush,
            Op::Discard => Ask::Discard(at, bio.len),
            Op::WriteZeroes => Ask::WriteZeroes(at, bio.len, if unmap { Unmap::Not } else { Unmap::May }),
        };
        let (queue, memory) = self.lane.as_mut().unwrap();
        queue.start(&ask, memory, bio.tag).unwrap();
        queue.kick().unwrap();
        self.pending.push((bio, part));
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let before = out.len();
        let unsupported = |tag| Completion { tag, status: Status::Unsupported, done: 0, route: Route::None };
        out.extend(self.refused.drain(..).map(unsupported));
        let mut back = Vec::new();
        self.lane.as_mut().unwrap().0.poll(&mut back);
        for done in back {
            let completion = self.finish(done);
            out.push(completion);
        }
        Ok(out.len() - before)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len() + self.refused.len()
    }
}

/// Serves the device and runs the suite against what a virtual machine with memory of this kind sees of it.
fn through_vhost_user(memory: &Memory, device: Arc<dyn BlockDevice>, kind: FrontKind, config: &Config) {
    let socket = TempPath::within(&std::env::temp_dir());
    let server = Server::start(
        ServerConfig {
            device,
            path: socket.path().to_owned(),
            queues: QUEUES as u16,
            polling: Polling::default(),
            read_only: false,
        },
        memory,
    );
    let server = server.unwrap();
    // Its memory is of a frame space of its own, as another process has it.
    let theirs = Memory::new().unwrap();
    conformance(&VhostDisk::new(&theirs, socket.path(), kind), &theirs, config);
    server.stop().unwrap();
}

fn config() -> Config {
    Config { rounds: 12, ..Config::default() }
}

#[test]
fn vhost_user_disks_in_every_kind_of_memory_are_disks() {
    for kind in Kind::ALL {
        let memory = Memory::new().unwrap();
        let Some(region) = kind.make(&memory, 2 << 20) else { continue };
        let disk = MemoryDisk::new(&memory, region.region().clone(), format!("{kind:?}"));
        through_vhost_user(&memory, Arc::new(disk), FrontKind::Ordinary, &config());
    }
}

#[test]
fn vhost_user_secret_memory_of_a_machine_is_served() {
    let memory = Memory::new().unwrap();
    // What there is of it is shared by both sides of this process.
    let made = FrontMemory::new(&memory, FrontKind::Secret, (QUEUES * ARENA) as u64);
    let Some(region) = require::kernel("memfd_secret", "guest/vhost-user-secret", made) else { return };
    drop(region);
    let disk = MemoryDisk::new(&memory, memory.register(Backing::memfd(2 << 20).unwrap()).unwrap(), "memfd");
    through_vhost_user(&memory, Arc::new(disk), FrontKind::Secret, &config());
    let (_path, disk) = file(&memory);
    through_vhost_user(&memory, Arc::new(disk), FrontKind::Secret, &config());
}

fn file(memory: &Memory) -> (TempPath, FileDisk) {
    let path = TempPath::within(&std::env::temp_dir());
    let options = FileDiskOptions { create: true, size: Some(2 << 20), ..FileDiskOptions::default() };
    let disk = FileDisk::open(memory, path.path(), options).unwrap();
    (path, disk)
}

#[test]
fn vhost_user_a_file_is_a_disk() {
    let memory = Memory::new().unwrap();
    let (_path, disk) = file(&memory);
    through_vhost_user(&memory, Arc::new(disk), FrontKind::Ordinary, &config());
}

#[test]
fn vhost_user_a_device_with_tight_limits_is_a_disk() {
    let memory = Memory::new().unwrap();
    let region = Kind::Ram.make(&memory, 2 << 20).unwrap();
    let disk = MemoryDisk::new(&memory, region.region().clone(), "narrow");
    through_vhost_user(&memory, Arc::new(Narrow::new(disk, 8, |_| ())), FrontKind::Ordinary, &config());
}

#[test]
fn vhost_user_null_forgets() {
    let memory = Memory::new().unwrap();
    let disk = NullDisk::new(&memory, 2 << 20);
    let config = Config { forgets: true, ..config() };
    through_vhost_user(&memory, Arc::new(disk), FrontKind::Ordinary, &config);
}
