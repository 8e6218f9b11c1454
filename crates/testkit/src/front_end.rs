// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`FrontEnd`]: a vhost-user front-end that somebody else wrote, libblkio's `virtio-driver`, on memory that a test looks into.
//!
//! The driver names memory by the addresses it has in this process and touches none of it. So it is given addresses at which nothing is:
//! what the memory holds is seen through a region of the descriptor that the server was sent. A server that used a front-end's address
//! for more than a name would find zeroes there.

use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageless_mem::{Access, Backing, FilePart, Memory, PhysRange, Reader, Region};
use pageless_sys::epoll::{Epoll, Interest};
use pageless_sys::memfd;
use virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkReqBuf,
    VirtioFeatureFlags, VirtioTransport,
};

/// The transport, as `virtio-driver` has it for disks.
type Transport = VhostUser<VirtioBlkConfig, VirtioBlkReqBuf>;

/// What the memory of a front-end is.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum FrontKind {
    /// A memfd, as every virtual machine's.
    Ordinary,
    /// `memfd_secret`, which no kernel pins.
    Secret,
}

/// Memory of a front-end, which the server is sent the descriptor of.
#[derive(Debug)]
pub struct FrontMemory {
    /// Never touched: the addresses are all that counts.
    names: Vec<u8>,
    file: OwnedFd,
    region: Region,
    reader: Reader,
}

impl FrontMemory {
    /// `len` bytes, a multiple of 4096.
    ///
    /// # Errors
    /// When the kernel gives none: secret memory counts against `RLIMIT_MEMLOCK`, on either side.
    pub fn new(memory: &Memory, kind: FrontKind, len: u64) -> Result<FrontMemory, Error> {
        let file = match kind {
            FrontKind::Ordinary => memfd::memfd(len),
            FrontKind::Secret => memfd::secret(len),
        };
        let file = file.map_err(Error::other)?;
        let part = FilePart { offset: 0, len, reserve: len, read_only: false };
        let duplicate = pageless_sys::file::File::from(file.try_clone()?);
        let backing = Backing::part(&duplicate, Path::new("the memory of a front-end"), part).map_err(Error::other)?;
        let region = memory.register(backing).map_err(Error::other)?;
        let names = vec![0; usize::try_from(len).map_err(Error::other)?];
        Ok(FrontMemory { names, file, region, reader: memory.reader() })
    }

    /// The region that the bytes are seen through.
    pub fn region(&self) -> &Region {
        &self.region
    }

    fn range(&self, at: &Range<usize>) -> PhysRange {
        let range = self.region.range(at.start as u64, at.len() as u64);
        range.unwrap_or_else(|| panic!("{at:?} is not in {} bytes", self.region.len()))
    }

    /// Puts bytes in.
    ///
    /// # Panics
    /// Outside of the memory, or where it cannot be written.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        let range = self.range(&(at..at + bytes.len()));
        let online = self.reader.online();
        let window = online.kmap(range, Access::Write).unwrap_or_else(|fault| panic!("{fault:?}"));
        window.writer().write(bytes).unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Takes bytes out.
    ///
    /// # Panics
    /// Outside of the memory, or where it cannot be read.
    pub fn get(&mut self, at: usize, bytes: &mut [u8]) {
        let range = self.range(&(at..at + bytes.len()));
        let online = self.reader.online();
        let window = online.kmap(range, Access::Read).unwrap_or_else(|fault| panic!("{fault:?}"));
        window.reader().read(bytes).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// What is asked of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Bytes of the disk from an offset, into this part of the memory.
    Read(u64, Range<usize>),
    /// Bytes of the disk from an offset, out of this part of the memory.
    Write(u64, Range<usize>),
    /// What completed is to be durable.
    Flush,
    /// Offset and length.
    Discard(u64, u64),
    /// Offset, length, and whether the room may be given back.
    WriteZeroes(u64, u64, Unmap),
}

/// Whether what holds zeroes may be given back.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Unmap {
    /// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`.
    May,
    /// Without it.
    Not,
}

/// A request that came back.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Done {
    /// As it was given.
    pub tag: u64,
    /// 0, or an errno with a minus.
    pub result: i32,
}

/// One connection, and its queues until they are taken out.
pub struct FrontEnd {
    /// What the server says of the disk.
    pub config: VirtioBlkConfig,
    /// What was agreed on.
    pub features: VirtioBlkFeatureFlags,
    /// In their order. Each may go to a thread of its own.
    pub queues: Vec<FrontQueue>,
}

impl FrontEnd {
    /// Connects, sends the table of the memories and starts queues of `size` descriptors each: a request takes two or three.
    ///
    /// # Errors
    /// What the driver says.
    pub fn connect(socket: &str, memories: &[&FrontMemory], queues: usize, size: u16) -> Result<FrontEnd, Error> {
        let wanted = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
        let mut transport = Transport::new(socket, wanted.bits() | VirtioBlkFeatureFlags::all().bits())?;
        let features = VirtioBlkFeatureFlags::from_bits_truncate(transport.get_features());
        let config = transport.get_config()?;
        let started = VirtioBlkQueue::setup_queues(&mut transport, queues, size)?;
        // Memory may come after the queues: this driver's own order, and libblkio's.
        for memory in memories {
            let address = memory.names.as_ptr().addr();
            transport.map_mem_region(address, memory.names.len(), memory.file.as_raw_fd(), 0)?;
        }
        let transport = Arc::new(transport);
        let queue = |(index, queue)| FrontQueue::new(queue, index, &transport);
        let queues = started.into_iter().enumerate().map(queue).collect();
        Ok(FrontEnd { config, features, queues })
    }

    /// Bytes.
    pub fn capacity(&self) -> u64 {
        let sectors = self.config.capacity;
        u64::from(sectors) * 512
    }
}

impl std::fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontEnd").field("features", &self.features).finish_non_exhaustive()
    }
}

/// One queue.
pub struct FrontQueue {
    queue: VirtioBlkQueue<'static, u64>,
    kick: Box<dyn QueueNotifier>,
    call: Arc<EventFd>,
    in_flight: usize,
    /// Holds the memory of the ring; goes last.
    _transport: Arc<Transport>,
}

impl std::fmt::Debug for FrontQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontQueue").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl FrontQueue {
    fn new(queue: VirtioBlkQueue<'static, u64>, index: usize, transport: &Arc<Transport>) -> FrontQueue {
        FrontQueue {
            queue,
            kick: transport.get_submission_notifier(index),
            call: transport.get_completion_fd(index),
            in_flight: 0,
            _transport: Arc::clone(transport),
        }
    }

    /// Requests that have not come back.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Puts a request into the ring; the server looks at it after a [`kick`](Self::kick) at the latest.
    ///
    /// # Errors
    /// When the ring is full, or what is asked for is not in whole sectors.
    pub fn start(&mut self, ask: &Ask, memory: &mut FrontMemory, tag: u64) -> Result<(), Error> {
        match ask {
            Ask::Read(offset, at) => self.queue.read(*offset, &mut memory.names[at.clone()], tag),
            Ask::Write(offset, at) => self.queue.write(*offset, &memory.names[at.clone()], tag),
            Ask::Flush => self.queue.flush(tag),
            Ask::Discard(offset, len) => self.queue.discard(*offset, *len, tag),
            Ask::WriteZeroes(offset, len, unmap) => self.queue.write_zeroes(*offset, *len, *unmap == Unmap::May, tag),
        }?;
        self.in_flight += 1;
        Ok(())
    }

    /// Tells the server of new requests, unless it looks for them anyway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kick(&mut self) -> Result<(), Error> {
        if self.queue.avail_notif_needed() { self.kick.notify() } else { Ok(()) }
    }

    /// Takes what came back, without waiting.
    pub fn poll(&mut self, out: &mut Vec<Done>) -> usize {
        let before = out.len();
        out.extend(self.queue.completions().map(|done| Done { tag: done.context, result: done.ret }));
        let count = out.len() - before;
        self.in_flight -= count;
        count
    }

    /// Sleeps until something came back.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when nothing comes for so long.
    pub fn wait(&mut self, out: &mut Vec<Done>, patience: Duration) -> Result<usize, Error> {
        let until = Instant::now() + patience;
        loop {
            let count = self.poll(out);
            if count > 0 || self.in_flight == 0 {
                return Ok(count);
            }
            self.queue.set_used_notif_enabled(true);
            // What came before it was asked to call raises no call.
            if !self.queue.completions().has_next() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Error::new(ErrorKind::TimedOut, format!("{} requests did not end", self.in_flight)));
                }
                let (mut epoll, mut ready) = (Epoll::new(1).map_err(Error::other)?, Vec::new());
                epoll.add(self.call.as_fd(), 0, Interest::Read).map_err(Error::other)?;
                epoll.wait(Some(left), &mut ready).map_err(Error::other)?;
                if !ready.is_empty() {
                    self.call.read()?;
                }
            }
            self.queue.set_used_notif_enabled(false);
        }
    }
}
