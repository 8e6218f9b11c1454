// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain NBD client of named exports: pipelined requests, simple or structured replies, and what became of each.

use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

/// `NBD_EIO`: what a client is told whose disk is gone.
pub(crate) const EIO: u32 = 5;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    structured: bool,
}

/// How one request ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) errno: u32,
    pub(crate) data: Vec<u8>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Client {
    pub(crate) fn connect(socket: &Path, export: &str, structured: bool) -> Client {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Client { stream, structured };
        assert_eq!(&client.take(18).unwrap()[..16], b"NBDMAGICIHAVEOPT");
        client.stream.write_all(&3u32.to_be_bytes()).unwrap();
        let name = u32::try_from(export.len()).unwrap().to_be_bytes();
        if structured {
            client.option(8, &[]);
            client.option(10, &[&name[..], export.as_bytes(), &[0, 0, 0, 1, 0, 0, 0, 15], b"base:allocation"].concat());
        }
        client.option(7, &[&name[..], export.as_bytes(), &[0, 0]].concat());
        client
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let head = [&b"IHAVEOPT"[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat();
        self.stream.write_all(&head).unwrap();
        loop {
            let head = self.take(20).unwrap();
            self.take(u32_at(&head, 16) as usize).unwrap();
            match u32_at(&head, 12) {
                1 => return,
                kind => assert!(kind < 1 << 31, "option {option} was refused with {kind:#x}"),
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends a request. `payload` is what a write carries.
    pub(crate) fn send(
        &mut self,
        kind: u16,
        flags: u16,
        cookie: u64,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<(), Error> {
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend(flags.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        request.extend(payload);
        self.stream.write_all(&request)
    }

    /// The next reply; `None` when the server hung up. `length` says how much a simple reply carries that has this
    /// cookie.
    pub(crate) fn reply(&mut self, length: impl Fn(u64) -> u32) -> Option<Reply> {
        match self.try_reply(length) {
            Ok(reply) => Some(reply),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("no answer"),
            Err(_) => None,
        }
    }

    fn try_reply(&mut self, length: impl Fn(u64) -> u32) -> Result<Reply, Error> {
        let (mut errno, mut data) = (0, Vec::new());
        loop {
            let magic = self.take(4)?;
            if magic == 0x6744_6698u32.to_be_bytes() {
                let rest = self.take(12)?;
                errno = u32_at(&rest, 0);
                let cookie = u64::from_be_bytes(rest[4..].try_into().unwrap());
                if errno == 0 && !self.structured {
                    data = self.take(length(cookie) as usize)?;
                }
                return Ok(Reply { cookie, errno, data });
            }
            assert_eq!(magic, 0x668e_33efu32.to_be_bytes(), "neither sort of reply");
            let head = self.take(16)?;
            let cookie = u64::from_be_bytes(head[4..12].try_into().unwrap());
            let body = self.take(u32_at(&head, 12) as usize)?;
            match u16::from_be_bytes([head[2], head[3]]) {
                0 | 5 => {}
                1 => data.extend(&body[8..]),
                2 => data.resize(data.len() + u32_at(&body, 8) as usize, 0),
                kind if kind >= 1 << 15 => errno = u32_at(&body, 0),
                kind => panic!("chunk of kind {kind}"),
            }
            if head[1] & 1 == 1 {
                return Ok(Reply { cookie, errno, data });
            }
        }
    }

    /// One request and its reply.
    pub(crate) fn call(&mut self, kind: u16, offset: u64, len: u32, payload: &[u8]) -> Option<Reply> {
        self.send(kind, 0, 77, offset, len, payload).ok()?;
        self.reply(|_| if kind == READ { len } else { 0 })
    }
}
