// SPDX-License-Identifier: MIT OR Apache-2.0
//! The least NBD client: enough to send what no honest client sends, and to see what comes back. It shares no code with the
//! server: the numbers are typed in from the protocol document.

use std::io::{Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;

pub(crate) const FLAG_FUA: u16 = 1;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const REP_ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const REP_ERR_UNKNOWN: u32 = 0x8000_0006;

/// The client flags of the fixed newstyle handshake, with "no zeroes".
pub(crate) const CLIENT_FLAGS: u32 = 3;

const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// One connection, each message of which is written by hand.
#[derive(Debug)]
pub(crate) struct Peer(pub(crate) UnixStream);

/// The bytes of an option.
pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).expect("small").to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The data of INFO and GO: an export name and no information requests.
pub(crate) fn go_data(name: &str) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).expect("small").to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(0u16.to_be_bytes());
    data
}

/// The bytes of a request, without payload.
pub(crate) fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

impl Peer {
    /// Connects and reads the greeting.
    pub(crate) fn greet(socket: &str) -> Result<Peer> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut peer = Peer(stream);
        let greeting: [u8; 18] = peer.bytes()?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[17] & 3, 3, "fixed newstyle, no zeroes");
        Ok(peer)
    }

    /// Connects and goes through to transmission with simple replies; returns the size of the export with it.
    pub(crate) fn connect(socket: &str) -> Result<(Peer, u64)> {
        let mut peer = Peer::greet(socket)?;
        peer.0.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        peer.0.write_all(&option(OPT_GO, &go_data("")))?;
        let mut size = 0;
        loop {
            let (number, kind, data) = peer.option_reply()?;
            assert_eq!(number, OPT_GO);
            match kind {
                REP_ACK => return Ok((peer, size)),
                REP_INFO if data[..2] == [0, 0] => size = u64::from_be_bytes(data[2..10].try_into().expect("eight")),
                REP_INFO => {}
                other => panic!("GO was answered with {other:#x}: {}", String::from_utf8_lossy(&data)),
            }
        }
    }

    /// One reply to an option: option, kind, data.
    pub(crate) fn option_reply(&mut self) -> Result<(u32, u32, Vec<u8>)> {
        assert_eq!(u64::from_be_bytes(self.bytes()?), OPTION_REPLY_MAGIC);
        let number = u32::from_be_bytes(self.bytes()?);
        let kind = u32::from_be_bytes(self.bytes()?);
        let len = u32::from_be_bytes(self.bytes()?) as usize;
        assert!(len < 1 << 16, "an option reply of {len} bytes");
        let mut data = vec![0; len];
        self.0.read_exact(&mut data)?;
        Ok((number, kind, data))
    }

    /// Sends a request and its payload.
    pub(crate) fn send(&mut self, head: &[u8], payload: &[u8]) -> Result<()> {
        self.0.write_all(head)?;
        self.0.write_all(payload)
    }

    /// The header of a simple reply: error and cookie.
    pub(crate) fn reply(&mut self) -> Result<(u32, u64)> {
        assert_eq!(u32::from_be_bytes(self.bytes()?), SIMPLE_REPLY_MAGIC, "a simple reply");
        Ok((u32::from_be_bytes(self.bytes()?), u64::from_be_bytes(self.bytes()?)))
    }

    /// Reads from the disk; the error the server gave is the `Err`.
    pub(crate) fn read_at(&mut self, offset: u64, len: u32) -> std::result::Result<Vec<u8>, u32> {
        self.send(&request(CMD_READ, 0, offset ^ 7, offset, len), &[]).expect("the server reads requests");
        let (error, cookie) = self.reply().expect("the server answers");
        assert_eq!(cookie, offset ^ 7);
        if error != 0 {
            return Err(error);
        }
        let mut data = vec![0; len as usize];
        self.0.read_exact(&mut data).expect("the data follows its header");
        Ok(data)
    }

    /// Sends a request with payload and returns the error of its reply, 0 for success.
    pub(crate) fn ask(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> u32 {
        self.send(&request(command, flags, 99, offset, len), payload).expect("the server reads requests");
        let (error, cookie) = self.reply().expect("the server answers");
        assert_eq!(cookie, 99);
        error
    }

    /// True when the server has closed the connection and sent nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(n) => n == 0,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
