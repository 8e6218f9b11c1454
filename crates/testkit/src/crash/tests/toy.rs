// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small device with power-fail-atomic blocks, right or wrong in a way of choice: every write goes to a block that is
//! free, a log entry says so, and then the map does.

use crate::crash::CrashTarget;
use pageless_block::{Bio, BlockDevice, Completion, Error, Limits, Op, Queue, Refused, Route, Sector, Status};
use pageless_mem::persist::fence;
use pageless_mem::{Access, Memory, Reader, Region};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

/// Bytes of the medium.
pub(super) const LEN: u64 = 32 << 10;
const BLOCKS: u32 = 8;
const LANES: u32 = 2;
const MAP: u64 = 4096;
const DATA: u64 = 8192;
const MAGIC: u64 = 0x1122_3344_5566_7788;
const HEAD: u64 = 2048;

/// What is wrong with it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// The log entry may be durable before the data is.
    NoFence,
    /// The map names the block before there is data in it.
    MapBeforeData,
    /// The map changes before the log says from what to what.
    MapBeforeLog,
    /// Two queues use one lane.
    SharedLane,
    /// Acknowledged before the map is durable.
    EarlyAck,
    /// The map is stored, and not written back.
    NoWriteBack,
    /// Creating it says that it is there before it is.
    HeadFirst,
    /// Recovery notes which block is free before it has mended the map.
    CarelessRecovery,
}

#[derive(Debug)]
pub(super) struct Toy(pub(super) Bug);

/// What a lane does next.
#[derive(Debug, Copy, Clone)]
struct Lane {
    number: u32,
    free: u32,
    seq: u32,
}

#[derive(Debug)]
struct Device {
    bug: Bug,
    memory: Memory,
    region: Region,
    limits: Limits,
    lanes: Vec<Arc<Mutex<Lane>>>,
    map: Arc<Mutex<()>>,
    opened: Mutex<usize>,
}

/// The medium by words.
#[derive(Debug)]
struct Words {
    region: Region,
    reader: Reader,
}

impl Words {
    fn new(memory: &Memory, region: &Region) -> Words {
        Words { region: region.clone(), reader: memory.reader() }
    }

    fn get(&mut self, offset: u64) -> u64 {
        let online = self.reader.online();
        let window = online.kmap(self.region.range(offset, 8).unwrap(), Access::Read).unwrap();
        window.cell::<u64>(0).unwrap().load().unwrap()
    }

    fn put(&mut self, offset: u64, word: u64) {
        let online = self.reader.online();
        let window = online.kmap(self.region.range(offset, 8).unwrap(), Access::Write).unwrap();
        window.cell::<u64>(0).unwrap().store(word).unwrap();
    }

    fn persist(&self, offset: u64, len: u64) {
        self.region.persist(offset, len).unwrap();
    }

    fn map(&mut self, lba: u32) -> u32 {
        u32::try_from(self.get(MAP + 8 * u64::from(lba))).unwrap()
    }

    fn put_map(&mut self, lba: u32, block: u32) {
        self.put(MAP + 8 * u64::from(lba), u64::from(block));
    }

    fn persist_map(&self, lba: u32) {
        self.persist(MAP + 8 * u64::from(lba), 8);
    }

    /// `(lba, old, new, seq)` of the newest entry of a lane.
    fn log(&mut self, lane: u32) -> (u32, u32, u32, u32) {
        let mut slot = |slot: u64| {
            let at = u64::from(lane) * 64 + slot * 16;
            let [(lba, old), (new, seq)] = [self.get(at), self.get(at + 8)].map(halves);
            (lba, old, new, seq)
        };
        let (even, odd) = (slot(0), slot(1));
        if odd.3 == even.3 % 3 + 1 { odd } else { even }
    }

    fn put_log(&mut self, lane: u32, (lba, old, new, seq): (u32, u32, u32, u32), slot: u64) {
        let at = u64::from(lane) * 64 + slot * 16;
        self.put(at, u64::from(lba) | u64::from(old) << 32);
        self.put(at + 8, u64::from(new) | u64::from(seq) << 32);
    }
}

/// The low and the high half.
fn halves(word: u64) -> (u32, u32) {
    let half = |half: u64| u32::try_from(half & 0xffff_ffff).unwrap();
    (half(word), half(word >> 32))
}

impl CrashTarget for Toy {
    fn create(&self, memory: &Memory, region: &Region) -> Result<(), String> {
        let mut words = Words::new(memory, region);
        let head = |words: &mut Words| {
            words.put(HEAD, MAGIC);
            words.persist(HEAD, 8);
        };
        if self.0 == Bug::HeadFirst {
            head(&mut words);
        }
        (0..BLOCKS).for_each(|lba| words.put_map(lba, lba));
        (0..LANES).for_each(|lane| words.put_log(lane, (lane, BLOCKS + lane, BLOCKS + lane, 1), 0));
        words.persist(0, DATA);
        head(&mut words);
        Ok(())
    }

    fn recover(&self, memory: &Memory, region: &Region) -> Result<Box<dyn BlockDevice>, String> {
        let mut words = Words::new(memory, region);
        if words.get(HEAD) != MAGIC {
            return Err("no toy".to_owned());
        }
        let mut lanes = Vec::new();
        for number in 0..LANES {
            let (lba, old, new, seq) = words.log(number);
            if lba >= BLOCKS || seq == 0 {
                return Err(format!("lane {number} is at block {lba}, seq {seq}"));
            }
            let mend = old != new && words.map(lba) == old;
            if mend && self.0 == Bug::CarelessRecovery {
                // As if it had been complete: the next recovery sees no reason to mend.
                words.put_log(number, (lba, old, old, seq), u64::from(seq % 3 % 2));
                words.persist(u64::from(number) * 64, 64);
            }
            if mend {
                words.put_map(lba, new);
                words.persist_map(lba);
            }
            lanes.push(Arc::new(Mutex::new(Lane { number, free: old, seq })));
        }
        Ok(Box::new(Device {
            bug: self.0,
            memory: memory.clone(),
            region: region.clone(),
            limits: Limits { flush: true, fua: true, ..Limits::default() },
            lanes,
            map: Arc::default(),
            opened: Mutex::new(0),
        }))
    }

    fn check(&self, memory: &Memory, region: &Region) -> Result<(), String> {
        let mut words = Words::new(memory, region);
        let mut owners: Vec<u32> = (0..BLOCKS).map(|lba| words.map(lba)).collect();
        for lane in 0..LANES {
            let (lba, old, new, _) = words.log(lane);
            // A log entry that was never completed frees the new block, not the old one.
            owners.push(if old != new && words.map(lba) == old { new } else { old });
        }
        owners.sort_unstable();
        let all: Vec<u32> = (0..BLOCKS + LANES).collect();
        if owners == all { Ok(()) } else { Err(format!("blocks have owners {owners:?}")) }
    }

    fn place(&self, offset: u64) -> String {
        match offset {
            ..HEAD => format!("log of lane {}", offset / 64),
            HEAD..MAP => "head".to_owned(),
            MAP..DATA => format!("map of block {}", (offset - MAP) / 8),
            _ => format!("data block {}", (offset - DATA) / 512),
        }
    }
}

impl BlockDevice for Device {
    fn name(&self) -> &str {
        "toy"
    }

    fn capacity(&self) -> u64 {
        u64::from(BLOCKS) * 512
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        let mut opened = self.opened.lock().unwrap();
        let lane = *opened % self.lanes.len();
        *opened += 1;
        let lane = match self.bug {
            // Each believes that it is alone.
            Bug::SharedLane => Arc::new(Mutex::new(*self.lanes[0].lock().unwrap())),
            _ => Arc::clone(&self.lanes[lane]),
        };
        let (words, reader) = (Words::new(&self.memory, &self.region), self.memory.reader());
        let map = Arc::clone(&self.map);
        Ok(Box::new(ToyQueue { bug: self.bug, words, reader, lane, map, pending: Vec::new() }))
    }
}

#[derive(Debug)]
struct ToyQueue {
    bug: Bug,
    words: Words,
    reader: Reader,
    lane: Arc<Mutex<Lane>>,
    map: Arc<Mutex<()>>,
    pending: Vec<Bio>,
}

impl ToyQueue {
    fn store(&mut self, block: u32, data: &[u8]) {
        let online = self.reader.online();
        let range = self.words.region.range(DATA + u64::from(block) * 512, 512).unwrap();
        online.kmap(range, Access::Write).unwrap().writer().write(data).unwrap();
    }

    fn write(&mut self, lba: u32, data: &[u8]) {
        let lane = Arc::clone(&self.lane);
        let mut lane = lane.lock().unwrap();
        let new = lane.free;
        if self.bug != Bug::MapBeforeData {
            self.store(new, data);
        }
        if self.bug != Bug::NoFence {
            fence();
        }
        let map = Arc::clone(&self.map);
        let _map = map.lock().unwrap();
        let old = self.words.map(lba);
        let seq = lane.seq % 3 + 1;
        let log = |words: &mut Words| {
            // Seqs go 1, 2, 3, 1: the entry before the last is overwritten.
            let newest = u64::from(words.get(u64::from(lane.number) * 64 + 24) >> 32 == u64::from(lane.seq));
            words.put_log(lane.number, (lba, old, new, seq), 1 - newest);
            words.persist(u64::from(lane.number) * 64, 64);
        };
        let map = |words: &mut Words| {
            words.put_map(lba, new);
            match self.bug {
                Bug::EarlyAck => {}
                Bug::NoWriteBack => fence(),
                _ => words.persist_map(lba),
            }
        };
        if self.bug == Bug::MapBeforeLog {
            map(&mut self.words);
            log(&mut self.words);
        } else {
            log(&mut self.words);
            map(&mut self.words);
        }
        if self.bug == Bug::MapBeforeData {
            self.store(new, data);
            fence();
        }
        (lane.free, lane.seq) = (old, seq);
    }

    fn execute(&mut self, bio: &Bio) {
        let first = u32::try_from(bio.sector.0).unwrap();
        let blocks = u32::try_from(bio.len / Sector::SIZE).unwrap();
        let mut bytes = Vec::new();
        if bio.op == Op::Write {
            for range in &bio.data {
                let online = self.reader.online();
                let start = bytes.len();
                bytes.resize(start + range.len() as usize, 0);
                online.kmap(range, Access::Read).unwrap().reader().read(&mut bytes[start..]).unwrap();
            }
            for (lba, data) in (first..first + blocks).zip(bytes.chunks(512)) {
                self.write(lba, data);
            }
            return;
        }
        for lba in first..first + blocks {
            let block = self.words.map(lba);
            let online = self.reader.online();
            let range = self.words.region.range(DATA + u64::from(block) * 512, 512).unwrap();
            let start = bytes.len();
            bytes.resize(start + 512, 0);
            online.kmap(range, Access::Read).unwrap().reader().read(&mut bytes[start..]).unwrap();
        }
        let mut rest = &bytes[..];
        for range in &bio.data {
            let online = self.reader.online();
            let (now, later) = rest.split_at(range.len() as usize);
            online.kmap(range, Access::Write).unwrap().writer().write(now).unwrap();
            rest = later;
        }
    }
}

impl Queue for ToyQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        self.pending.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let pending = std::mem::take(&mut self.pending);
        for bio in &pending {
            if bio.op != Op::Flush {
                self.execute(bio);
            }
            out.push(Completion { tag: bio.tag, status: Status::Ok, done: bio.len, route: Route::None });
        }
        Ok(pending.len())
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}
