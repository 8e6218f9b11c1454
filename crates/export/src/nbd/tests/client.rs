// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain NBD client, and a server to try it on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pageless_block::BlockDevice;
use pageless_drivers::RamDisk;
use pageless_mem::{Backing, Memory};
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::super::wire::{self, ChunkHeader, OptionHeader, OptionReply, RequestHeader, chunk, cmd, opt};
use super::super::{Export, Listen, Server, ServerConfig};

/// How long anything may take that nothing should make slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a socket of its own.
pub(super) struct Host {
    pub(super) server: Server,
    pub(super) path: PathBuf,
}

impl Host {
    pub(super) fn new(device: Arc<dyn BlockDevice>, memory: &Memory) -> Host {
        Host::with(device, memory, |_| ())
    }

    pub(super) fn with(device: Arc<dyn BlockDevice>, memory: &Memory, change: impl FnOnce(&mut ServerConfig)) -> Host {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pageless-nbd-{}-{number}.sock", std::process::id()));
        let export = Export { name: "disk".into(), description: String::new(), device, read_only: false };
        let mut config =
            ServerConfig { exports: vec![export], listen: vec![Listen::Unix(path.clone())], ..Default::default() };
        change(&mut config);
        Host { server: Server::start(config, memory).unwrap(), path }
    }

    /// A disk in memory of so many bytes.
    pub(super) fn ram(size: u64) -> Host {
        let memory = Memory::new().unwrap();
        Host::new(ram(&memory, size), &memory)
    }

    pub(super) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client in transmission.
    pub(super) fn client(&self, structured: bool) -> Client {
        let mut client = Client { stream: self.connect(), structured };
        let mut greeting = [0; 18];
        client.stream.read_exact(&mut greeting).unwrap();
        client.stream.write_all(&3u32.to_be_bytes()).unwrap();
        if structured {
            client.option(opt::STRUCTURED_REPLY, b"");
            client.option(opt::SET_META_CONTEXT, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation");
        }
        client.option(opt::GO, b"\0\0\0\0\0\0");
        client
    }

    /// Stops a server whose medium lost what was written: its last flush says so.
    pub(super) fn stop_after_loss(self) {
        assert!(self.server.stop(PATIENCE).is_err(), "what was lost is no success");
    }

    pub(super) fn stop(self) -> super::super::Totals {
        let totals = self.server.stop(PATIENCE).unwrap();
        assert!(!self.path.exists(), "the socket goes with its server");
        totals
    }
}

pub(super) fn ram(memory: &Memory, size: u64) -> Arc<RamDisk> {
    let region = memory.register(Backing::anon(size).unwrap()).unwrap();
    Arc::new(RamDisk::new(memory, region, "ram"))
}

/// One reply, put together from whatever it came as.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) cookie: u64,
    pub(super) errno: u32,
    /// Of a read: where and what, in the order it came.
    pub(super) data: Vec<(u64, Vec<u8>)>,
    /// Holes among it.
    pub(super) holes: usize,
    /// Of a block status: lengths and flags.
    pub(super) extents: Vec<(u32, u32)>,
    /// Where it failed.
    pub(super) failed_at: Option<u64>,
}

impl Reply {
    /// The data of a read that began at `offset`.
    pub(super) fn bytes(&self, offset: u64) -> Vec<u8> {
        let end = self.data.iter().map(|(at, data)| at - offset + data.len() as u64).max().unwrap_or(0);
        let mut bytes = vec![0; end as usize];
        for (at, data) in &self.data {
            bytes[(at - offset) as usize..][..data.len()].copy_from_slice(data);
        }
        bytes
    }
}

pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) structured: bool,
}

pub(super) fn header(kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let header = RequestHeader {
        magic: wire::REQUEST_MAGIC.into(),
        flags: flags.into(),
        kind: kind.into(),
        cookie: cookie.into(),
        offset: offset.into(),
        length: length.into(),
    };
    header.as_bytes().to_vec()
}

impl Client {
    fn take<T: FromBytes>(&mut self) -> Option<T> {
        let mut bytes = vec![0; size_of::<T>()];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => T::read_from_bytes(&bytes).ok(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => None,
        }
    }

    fn exactly(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let head = OptionHeader { magic: wire::OPTION_MAGIC.into(), option: option.into(), length: length.into() };
        self.send(&[head.as_bytes(), data].concat());
        loop {
            let reply: OptionReply = self.take().unwrap();
            self.exactly(reply.length.get() as usize);
            match reply.kind.get() {
                wire::rep::ACK => return,
                kind => assert!(kind < 1 << 31, "option {option} was refused with {kind:#x}"),
            }
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(super) fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) {
        self.send(&header(kind, flags, cookie, offset, length));
    }

    /// The next reply. `None` when the server hung up. `data` says what a simple reply to a read carries, given its
    /// cookie: from where, and how much.
    pub(super) fn reply(&mut self, data: impl Fn(u64) -> (u64, u32)) -> Option<Reply> {
        let mut reply = Reply::default();
        loop {
            let magic: U32 = self.take()?;
            if magic.get() == wire::SIMPLE_REPLY_MAGIC {
                let rest: [u8; 12] = self.take()?;
                reply.errno = u32::from_be_bytes(*rest.first_chunk()?);
                reply.cookie = u64::from_be_bytes(*rest.last_chunk()?);
                let (offset, length) = data(reply.cookie);
                if reply.errno == 0 && !self.structured && length > 0 {
                    let mut bytes = vec![0; length as usize];
                    self.stream.read_exact(&mut bytes).ok()?;
                    reply.data.push((offset, bytes));
                }
                return Some(reply);
            }
            assert_eq!(magic.get(), wire::STRUCTURED_REPLY_MAGIC);
            assert!(self.structured);
            let rest: [u8; 16] = self.take()?;
            let head = ChunkHeader::read_from_bytes(&[magic.as_bytes(), &rest].concat()).ok()?;
            reply.cookie = head.cookie.get();
            let mut body = vec![0; head.length.get() as usize];
            self.stream.read_exact(&mut body).ok()?;
            reply.chunk(head.kind.get(), &body);
            if head.flags.get() == 1 {
                return Some(reply);
            }
        }
    }

    /// One request and its reply.
    pub(super) fn call(&mut self, kind: u16, flags: u16, offset: u64, length: u32) -> Reply {
        self.request(kind, flags, 77, offset, length);
        let carries = if kind == cmd::READ { length } else { 0 };
        let reply = self.reply(|_| (offset, carries)).expect("the server hung up");
        assert_eq!(reply.cookie, 77);
        reply
    }

    pub(super) fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let reply = self.call(cmd::READ, 0, offset, length);
        assert_eq!(reply.errno, 0);
        let bytes = reply.bytes(offset);
        assert_eq!(bytes.len(), length as usize);
        bytes
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.write_with(0, offset, data)
    }

    pub(super) fn write_with(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let length = u32::try_from(data.len()).unwrap();
        self.send(&[&header(cmd::WRITE, flags, 78, offset, length), data].concat());
        let reply = self.reply(|_| (0, 0)).expect("the server hung up");
        assert_eq!(reply.cookie, 78);
        reply.errno
    }

    /// Has the server hung up?
    pub(super) fn hung_up(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl Reply {
    fn chunk(&mut self, kind: u16, body: &[u8]) {
        let word = |at: usize| u32::from_be_bytes(*body[at..].first_chunk().unwrap());
        let long = |at: usize| u64::from_be_bytes(*body[at..].first_chunk().unwrap());
        match kind {
            chunk::NONE => {}
            chunk::OFFSET_DATA => self.data.push((long(0), body[8..].to_vec())),
            chunk::OFFSET_HOLE => {
                self.holes += 1;
                self.data.push((long(0), vec![0; word(8) as usize]));
            }
            chunk::BLOCK_STATUS => {
                assert_eq!(word(0), wire::BASE_ALLOCATION_ID);
                self.extents = (4..body.len()).step_by(8).map(|at| (word(at), word(at + 4))).collect();
            }
            chunk::ERROR | chunk::ERROR_OFFSET => {
                assert_ne!(word(0), 0);
                self.errno = word(0);
                if kind == chunk::ERROR_OFFSET {
                    let words = usize::from(u16::from_be_bytes([body[4], body[5]]));
                    self.failed_at = Some(long(6 + words));
                }
            }
            kind => panic!("chunk of kind {kind}"),
        }
    }
}
