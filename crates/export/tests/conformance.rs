// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conformance suite through the NBD export: a client that is itself a block device, on every kind of disk.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests count in small numbers and may panic")]

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pageless_block::{
    Bio, BlockDevice, Completion, Error, Flags, Limits, Op, Queue, Refused, RefusedWhy, Route, Status, Why,
};
use pageless_drivers::{MemoryDisk, NullDisk, file::FileDisk, file::FileDiskOptions};
use pageless_export::nbd::{Export, Listen, Server, ServerConfig};
use pageless_mem::{Access, Memory, Reader};
use pageless_testkit::regions::{Kind, TempPath};
use pageless_testkit::{Config, Narrow, conformance};

/// What the server says of the disk, and how to reach it.
#[derive(Debug)]
struct NbdDisk {
    memory: Memory,
    socket: PathBuf,
    capacity: u64,
    limits: Limits,
}

#[derive(Debug)]
struct NbdQueue {
    stream: UnixStream,
    reader: Reader,
    pending: Vec<Bio>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Fixed newstyle handshake with `NBD_OPT_GO` and simple replies: size, transmission flags, smallest block.
fn connect(socket: &PathBuf) -> std::io::Result<(UnixStream, u64, u16, u32)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut hello = [0; 18];
    stream.read_exact(&mut hello)?;
    assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
    stream.write_all(&3u32.to_be_bytes())?; // fixed newstyle, no zeroes
    let mut go = b"IHAVEOPT".to_vec();
    go.extend(7u32.to_be_bytes()); // NBD_OPT_GO
    go.extend(8u32.to_be_bytes());
    go.extend(0u32.to_be_bytes()); // the export without a name
    go.extend(1u16.to_be_bytes());
    go.extend(3u16.to_be_bytes()); // NBD_INFO_BLOCK_SIZE
    stream.write_all(&go)?;
    let (mut size, mut flags, mut block) = (0, 0, 512);
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32_at(&head, 16) as usize];
        stream.read_exact(&mut payload)?;
        match (u32_at(&head, 12), payload.get(..2)) {
            (1, _) => return Ok((stream, size, flags, block)), // NBD_REP_ACK
            (3, Some([0, 0])) => (size, flags) = (u64_at(&payload, 2), u16_at(&payload, 10)),
            (3, Some([0, 3])) => block = u32_at(&payload, 2),
            (3, _) => {}
            (other, _) => panic!("the server answered GO with {other:#x}"),
        }
    }
}

impl NbdDisk {
    fn new(memory: &Memory, socket: PathBuf) -> NbdDisk {
        let (_stream, capacity, flags, block_size) = connect(&socket).unwrap();
        let has = |bit: u32| flags >> bit & 1 == 1;
        let limits = Limits {
            block_size,
            max_bytes: 32 << 20,
            read_only: has(1),
            flush: has(2),
            fua: has(3),
            discard: has(5),
            max_unmap: 1 << 30,
            write_zeroes: has(6),
            ..Limits::default()
        };
        NbdDisk { memory: memory.clone(), socket, capacity, limits }
    }
}

impl BlockDevice for NbdDisk {
    fn name(&self) -> &str {
        "nbd"
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        let (stream, ..) = connect(&self.socket).map_err(|error| Error::device("nbd", error))?;
        Ok(Box::new(NbdQueue { stream, reader: self.memory.reader(), pending: Vec::new() }))
    }
}

impl NbdQueue {
    fn send(&mut self, bio: &Bio) {
        let (command, flags): (u16, u16) = match bio.op {
            Op::Read => (0, 0),
            Op::Write => (1, 0),
            Op::Flush => (3, 0),
            Op::Discard => (4, 0),
            Op::WriteZeroes => {
                let no_hole = u16::from(bio.flags.contains(Flags::NO_UNMAP)) << 1;
                (6, no_hole | u16::from(bio.flags.contains(Flags::FAST_ONLY)) << 4)
            }
        };
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend((flags | u16::from(bio.wants_fua())).to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(bio.tag.to_be_bytes());
        request.extend(if bio.op == Op::Flush { 0 } else { bio.sector.bytes() }.to_be_bytes());
        request.extend(u32::try_from(bio.len).unwrap().to_be_bytes());
        if bio.op == Op::Write {
            let online = self.reader.online();
            for range in bio.data.as_slice() {
                let start = request.len();
                request.resize(start + range.len() as usize, 0);
                let window = online.kmap(*range, Access::Read).unwrap();
                window.reader().read(&mut request[start..]).unwrap();
            }
        }
        self.stream.write_all(&request).unwrap();
    }

    fn receive(&mut self) -> Completion {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).unwrap();
        assert_eq!(u32_at(&reply, 0), 0x6744_6698, "a simple reply");
        let tag = u64_at(&reply, 8);
        let place = self.pending.iter().position(|bio| bio.tag == tag).expect("a reply to a request of ours");
        let bio = self.pending.swap_remove(place);
        let status = match u32_at(&reply, 4) {
            0 => Status::Ok,
            1 => Status::ReadOnly,
            5 => Status::IoErr,
            28 => Status::NoSpace,
            95 => Status::Unsupported,
            other => panic!("{} of {} bytes at {} ended with {other}", bio.op, bio.len, bio.sector.bytes()),
        };
        if bio.op == Op::Read && status == Status::Ok {
            let mut bytes = vec![0; bio.len as usize];
            self.stream.read_exact(&mut bytes).unwrap();
            let online = self.reader.online();
            let mut from = 0;
            for range in bio.data.as_slice() {
                let to = from + range.len() as usize;
                online.kmap(*range, Access::Write).unwrap().writer().write(&bytes[from..to]).unwrap();
                from = to;
            }
        }
        let done = if status == Status::Ok { bio.len } else { 0 };
        // The bytes came through a socket, by the CPU.
        let route = if bio.op.has_data() { Route::Copy(Why::NoDirectIo) } else { Route::None };
        Completion { tag, status, done, route }
    }
}

impl Queue for NbdQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        // What the server owes must fit the sockets, since nobody reads while this writes.
        let owed: u64 = self.pending.iter().filter(|bio| bio.op == Op::Read).map(|bio| bio.len).sum();
        if !self.pending.is_empty() && (self.pending.len() == 64 || owed + bio.len > 64 << 10) {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        self.send(&bio);
        self.pending.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let count = self.pending.len();
        for _ in 0..count {
            out.push(self.receive());
        }
        Ok(count)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

/// Serves the device and runs the suite against what a client sees of it.
fn through_nbd(memory: &Memory, device: Arc<dyn BlockDevice>, config: &Config) {
    let socket = TempPath::within(&std::env::temp_dir());
    let export = Export { name: "x".to_owned(), description: String::new(), device, read_only: false };
    let listen = vec![Listen::Unix(socket.path().to_owned())];
    let server =
        Server::start(ServerConfig { exports: vec![export], listen, ..ServerConfig::default() }, memory).unwrap();
    conformance(&NbdDisk::new(memory, socket.path().to_owned()), memory, config);
    server.stop(Duration::from_secs(10)).unwrap();
}

fn config() -> Config {
    Config { rounds: 12, ..Config::default() }
}

#[test]
fn nbd_disks_in_every_kind_of_memory_are_disks() {
    for kind in Kind::ALL {
        let memory = Memory::new().unwrap();
        let Some(region) = kind.make(&memory, 2 << 20) else { continue };
        let disk = MemoryDisk::new(&memory, region.region().clone(), format!("{kind:?}"));
        through_nbd(&memory, Arc::new(disk), &config());
    }
}

#[test]
fn nbd_a_file_is_a_disk() {
    let memory = Memory::new().unwrap();
    let path = TempPath::within(&std::env::temp_dir());
    let options = FileDiskOptions { create: true, size: Some(2 << 20), ..FileDiskOptions::default() };
    let disk = FileDisk::open(&memory, path.path(), options).unwrap();
    through_nbd(&memory, Arc::new(disk), &config());
}

#[test]
fn nbd_a_device_with_tight_limits_is_a_disk() {
    let memory = Memory::new().unwrap();
    let region = Kind::Ram.make(&memory, 2 << 20).unwrap();
    let disk = MemoryDisk::new(&memory, region.region().clone(), "narrow");
    through_nbd(&memory, Arc::new(Narrow::new(disk, 8, |_| ())), &config());
}

#[test]
fn nbd_null_forgets() {
    let memory = Memory::new().unwrap();
    let disk = NullDisk::new(&memory, 2 << 20);
    through_nbd(&memory, Arc::new(disk), &Config { forgets: true, ..config() });
}
