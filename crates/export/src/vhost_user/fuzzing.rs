// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Speaker`]: a front-end that says what some bytes mean, for the fuzzer and for the test that replays its seeds.
//!
//! Bytes are read as messages, not as the socket's stream: a number is a byte moved left by another, so that a few bits of the
//! input make a ring's address, a size or a flag. Half of the messages are given the payload that theirs has.

pub mod ring;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use pageless_block::BlockDevice;
use pageless_mem::Memory;
use pageless_sys::eventfd::EventFd;
use pageless_sys::memfd;

use super::config::Offer;
use super::message::Message;
use super::notice::Notices;
use super::session::Session;
use super::worker::{Polling, Worker};
use crate::Error;

const QUEUES: u16 = 2;
/// Bytes of the memory that is passed.
const SHARED: u64 = 1 << 16;

/// What became of some bytes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Messages that were followed.
    pub followed: u32,
    /// Messages that were none, or could not be followed.
    pub refused: u32,
    /// Rings that were served in the end.
    pub served: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Speaker {
    memory: Memory,
    workers: Vec<Worker>,
    offer: Offer,
}

impl Speaker {
    /// With workers of its own, which serve one input after the other.
    ///
    /// # Errors
    /// When a worker cannot be had.
    pub fn new(device: &Arc<dyn BlockDevice>, memory: &Memory) -> Result<Speaker, Error> {
        let owner = Notices::new().0;
        let spawn = |index| {
            Worker::spawn(
                index,
                Arc::clone(device),
                [0; 20],
                memory,
                Polling::Adaptive,
                (Arc::default(), owner.clone()),
            )
        };
        let workers = (0..usize::from(QUEUES)).map(spawn).collect::<Result<_, _>>()?;
        Ok(Speaker { memory: memory.clone(), workers, offer: Offer::of(&**device, QUEUES) })
    }

    /// Says all of it to a session, which ends with it.
    pub fn say(&self, bytes: &[u8]) -> Heard {
        let mut session = Session::new(&self.workers, &self.offer, &self.memory);
        let (mut words, mut heard) = (Words(bytes), Heard::default());
        while let Some(head) = words.byte() {
            let request = u32::from(head & 0x3f);
            let fds = words.fds();
            let payload = if head & 0x40 == 0 { words.payload(shape(request)) } else { words.raw() };
            let parsed = Message::parse(request, &payload, fds);
            match parsed.map(|message| session.handle(message)) {
                Ok(Ok(_)) => heard.followed += 1,
                Ok(Err(_)) | Err(_) => heard.refused += 1,
            }
        }
        heard.served = session.served_rings();
        heard
    }
}

/// The widths of the numbers in a message's payload.
fn shape(request: u32) -> &'static [usize] {
    match request {
        2 | 7 | 12..=14 | 16 => &[8],
        5 => &[4, 4, 8, 8, 8, 8],
        6 => &[8, 8],
        8 | 10 | 11 | 18 => &[4, 4],
        9 => &[4, 4, 8, 8, 8, 8],
        24 | 25 => &[4, 4, 4],
        31 | 32 => &[8, 8, 2, 2],
        37 | 38 => &[8, 8, 8, 8, 8],
        _ => &[],
    }
}

/// What is left of the input.
struct Words<'b>(&'b [u8]);

impl Words<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn number(&mut self) -> u64 {
        let (value, shift) = (self.byte().unwrap_or(0), self.byte().unwrap_or(0));
        u64::from(value) << (shift % 64)
    }

    fn payload(&mut self, widths: &[usize]) -> Vec<u8> {
        widths.iter().flat_map(|width| self.number().to_ne_bytes().into_iter().take(*width)).collect()
    }

    fn raw(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (raw, rest) = self.0.split_at(len);
        self.0 = rest;
        raw.to_vec()
    }

    fn fds(&mut self) -> Vec<OwnedFd> {
        let kind = self.byte().unwrap_or(0);
        let count = usize::from(kind >> 4 & 3);
        let make = |_| match kind & 3 {
            0 => memfd::memfd(SHARED).ok(),
            1 => EventFd::new().ok().and_then(|event| event.as_fd().try_clone_to_owned().ok()),
            2 => std::fs::File::open("/dev/null").ok().map(OwnedFd::from),
            _ => memfd::memfd(100).ok(),
        };
        (0..count).filter_map(make).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless_drivers::NullDisk;
    use std::path::Path;

    /// A seed's name ends with how many rings it leaves served.
    #[test]
    fn message_seeds_are_heard_as_their_names_say() {
        let memory = Memory::new().unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(NullDisk::new(&memory, 1 << 20));
        let speaker = Speaker::new(&device, &memory).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vhost_user_message");
        let before = memory.regions();
        let mut seeds = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let heard = speaker.say(&std::fs::read(&path).unwrap());
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.ends_with(&format!("-{}", heard.served)), "{name}: {heard:?}");
            assert!(heard.followed > 0 && (name.starts_with("bad") == (heard.refused > 0)), "{name}: {heard:?}");
            seeds += 1;
        }
        assert!(seeds >= 4, "{seeds}");
        assert_eq!(memory.regions(), before, "each leaves nothing behind");
    }
}
