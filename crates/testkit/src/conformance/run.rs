// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Run`]: one list of steps, done to a device and to the model.

use super::Config;
use super::step::{Bad, Io, Shape, Step};
use crate::blocking::PATIENCE;
use crate::{ModelDisk, TestFrames};
use pageless_block::{
    Bio, BlockDevice, Checked, Completion, Flags, Op, Queue, RefusedWhy, Route, ScatterList, Sector, Status,
    open_checked,
};
use pageless_mem::Memory;
use std::collections::HashMap;
use std::time::Instant;

/// Memory for the requests in flight.
const ARENA: u64 = 16 << 20;

/// What is around the frames of a request, and in them before a read.
const CANARY: u8 = 0xc5;

pub(super) type Outcome = Result<(), String>;

/// The state of one run.
pub(super) struct Run<'d> {
    pub(super) device: &'d dyn BlockDevice,
    config: &'d Config,
    pub(super) block: u64,
    queues: [Checked; 2],
    frames: TestFrames,
    /// Bytes of the arena given out since nothing was in flight.
    used: u64,
    pub(super) model: ModelDisk,
    flying: HashMap<u64, Flying>,
    tags: u64,
}

/// A request in flight.
struct Flying {
    io: Io,
    list: ScatterList,
    /// What is written.
    data: Vec<u8>,
    /// All the memory around the list.
    window: (u64, u64),
    /// What that must still be around the list.
    before: Vec<u8>,
}

impl<'d> Run<'d> {
    pub(super) fn all(device: &'d dyn BlockDevice, memory: &Memory, config: &'d Config, steps: &[Step]) -> Outcome {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let capacity = usize::try_from(device.capacity()).map_err(|error| text(&error))?;
        let open = || open_checked(device).map_err(|error| text(&error));
        let mut run = Run {
            device,
            config,
            block: u64::from(device.limits().block_size),
            queues: [open()?, open()?],
            frames: TestFrames::new(memory, ARENA).map_err(|error| text(&error))?,
            used: 0,
            model: ModelDisk::new(capacity),
            flying: HashMap::new(),
            tags: 0,
        };
        run.reset()?;
        for step in steps {
            match step {
                Step::Io(io) => run.start(io.clone())?,
                Step::Wait => run.wait()?,
                Step::Bad(bad) => run.must_refuse(*bad)?,
            }
        }
        run.wait()?;
        run.look()
    }

    /// Makes the device hold what the model does.
    fn reset(&mut self) -> Outcome {
        let limits = self.device.limits();
        let all = self.device.capacity() / self.block;
        if limits.read_only || self.config.forgets {
            return if limits.read_only { self.learn() } else { Ok(()) };
        }
        let op = if limits.write_zeroes { Op::WriteZeroes } else { Op::Write };
        let mut block = 0;
        let mut attempts = 0;
        while block < all {
            // Once is not enough where requests may fail.
            attempts += 1;
            let blocks = (all - block).min((1 << 20) / self.block);
            let io = Io { op, block, blocks, flags: Flags::empty(), shape: Shape::plain(), fill: 0, queue: 0 };
            self.start(io)?;
            self.wait()?;
            let (offset, len) = (block * self.block, blocks * self.block);
            let settled =
                !self.config.failures || self.read_back(offset, len)?.is_some_and(|data| data.iter().all(|b| *b == 0));
            if settled {
                block += blocks;
            } else if attempts > 10_000 {
                return Err("it cannot be zeroed".to_owned());
            }
        }
        Ok(())
    }

    /// Makes the model hold what the device does.
    fn learn(&mut self) -> Outcome {
        let capacity = self.device.capacity();
        for offset in (0..capacity).step_by(1 << 20) {
            let len = (capacity - offset).min(1 << 20);
            let list = ScatterList::from(self.frames.range(0, narrow(len)));
            let completion = self.one(Bio::read(sector(offset), list.clone(), 1))?;
            if !completion.status.is_ok() {
                return Err(format!("{completion:?} for a read"));
            }
            let data = self.get(&list)?;
            self.model.write(at(offset), &data);
        }
        Ok(())
    }

    /// One request on an idle queue.
    fn one(&mut self, bio: Bio) -> Result<Completion, String> {
        let queue = &mut self.queues[0];
        let mut out = Vec::new();
        let mut bio = Some(bio);
        let since = Instant::now();
        loop {
            if let Some(waiting) = bio.take()
                && let Err(refused) = queue.submit(waiting)
            {
                match refused.why {
                    RefusedWhy::Full => bio = Some(refused.bio),
                    why => return Err(format!("refused: {why}")),
                }
            }
            queue.poll(&mut out).map_err(|error| error.to_string())?;
            match out[..] {
                [completion] if queue.in_flight() == 0 => return Ok(completion),
                [] if since.elapsed() < PATIENCE => std::thread::yield_now(),
                _ => return Err(format!("{out:?} for one read, {} in flight", queue.in_flight())),
            }
        }
    }

    pub(super) fn start(&mut self, mut io: Io) -> Outcome {
        if io.op == Op::Flush {
            (io.block, io.blocks) = (0, 0);
        }
        let limits = self.device.limits();
        let supported = match io.op {
            Op::Read => true,
            Op::Write => !limits.read_only,
            Op::Flush => limits.flush,
            Op::Discard => limits.discard && !limits.read_only,
            Op::WriteZeroes => limits.write_zeroes && !limits.read_only,
        };
        if !limits.fua && !limits.flush {
            io.flags.remove(Flags::FUA);
        }
        if self.flying.values().any(|flying| flying.conflicts(&io)) {
            self.wait()?;
        }
        let len = io.blocks * self.block;
        let shape = if io.op.has_data() { io.shape.clone() } else { Shape::plain() };
        let bytes = if io.op.has_data() { len } else { 0 };
        let (list, window) = self.place(&shape, bytes)?;
        let mut before = vec![CANARY; at(window.1)];
        let data = if io.op == Op::Write { pattern(&io, at(len)) } else { Vec::new() };
        self.put_window(window, &before)?;
        if io.op == Op::Write {
            self.frames.put(&list, &data).map_err(|error| error.to_string())?;
            before = self.get_window(window)?;
        }
        self.tags += 1;
        // Any 63 bits are a tag, and no two of these are the same.
        let tag = self.tags.wrapping_mul(0x9e37_79b9_7f4a_7c15) & (u64::MAX >> 1);
        let bio =
            Bio { op: io.op, flags: io.flags, sector: sector(io.block * self.block), len, data: list.clone(), tag };
        let (queue, segments) = (io.queue, list.as_slice().len());
        self.flying.insert(tag, Flying { io, list, data, window, before });
        match self.submit(queue, bio)? {
            None if supported => return Ok(()),
            Some(RefusedWhy::Unsupported(_)) if !supported => {}
            Some(RefusedWhy::Fragmented { max_segments, .. }) if segments > max_segments as usize => {}
            None => return Err("what the device does not have was accepted".to_owned()),
            Some(why) => return Err(format!("refused: {why}")),
        }
        self.flying.remove(&tag);
        Ok(())
    }

    /// Until it is accepted or refused for good.
    fn submit(&mut self, queue: usize, mut bio: Bio) -> Result<Option<RefusedWhy>, String> {
        let since = Instant::now();
        loop {
            let tag = bio.tag;
            match self.queues[queue].submit(bio) {
                Ok(()) => return Ok(None),
                Err(refused) if refused.bio.tag != tag => {
                    return Err(format!("{} came back for {tag}", refused.bio.tag));
                }
                Err(refused) if refused.why != RefusedWhy::Full => return Ok(Some(refused.why)),
                Err(refused) => bio = refused.bio,
            }
            if since.elapsed() > PATIENCE {
                return Err("the queue stays full".to_owned());
            }
            self.poll(queue)?;
        }
    }

    fn poll(&mut self, queue: usize) -> Result<usize, String> {
        let mut out = Vec::new();
        let added = self.queues[queue].poll(&mut out).map_err(|error| error.to_string())?;
        if added != out.len() {
            return Err(format!("poll says {added} and appended {}", out.len()));
        }
        for completion in out {
            self.finish(queue, completion)?;
        }
        Ok(added)
    }

    /// Until nothing is in flight.
    pub(super) fn wait(&mut self) -> Outcome {
        for queue in 0..2 {
            let mut since = Instant::now();
            while self.queues[queue].in_flight() > 0 {
                match self.poll(queue)? {
                    0 if since.elapsed() > PATIENCE => return Err("a request does not come back".to_owned()),
                    0 => std::thread::yield_now(),
                    _ => since = Instant::now(),
                }
            }
        }
        self.used = 0;
        match self.flying.values().next() {
            Some(lost) => Err(format!("{:?} never came back", lost.io)),
            None => Ok(()),
        }
    }

    fn finish(&mut self, queue: usize, completion: Completion) -> Outcome {
        let Some(flying) = self.flying.remove(&completion.tag).filter(|flying| flying.io.queue == queue) else {
            return Err(format!("{completion:?} is nobody's, or came twice"));
        };
        let io = &flying.io;
        let (offset, len) = (at(io.block * self.block), at(io.blocks * self.block));
        let says = |what: &str| Err(format!("{what}: {completion:?} for {io:?}"));
        let done = at(completion.done);
        match completion.status {
            Status::Ok if done != len => return says("done and not done"),
            Status::Ok => {}
            _ if done > len => return says("more than all was done"),
            Status::Unsupported if io.op == Op::WriteZeroes && io.flags.contains(Flags::FAST_ONLY) => {
                return if done == 0 { Ok(()) } else { says("unsupported and done") };
            }
            _ if !self.config.failures => return says("failed"),
            _ => {}
        }
        let moved = completion.status.is_ok() && io.op == Op::Read;
        if moved && completion.route == Route::None {
            return says("bytes came by no route");
        }
        let around = self.get_window(flying.window)?;
        flying.untouched(self.frames.range(0, 1).byte_address(), &around, io.op == Op::Read)?;
        if io.op == Op::Read {
            let data = self.get(&flying.list)?;
            return match self.model.read(offset, &data[..done]) {
                Ok(()) => Ok(()),
                Err(mismatch) => says(&mismatch.to_string()),
            };
        }
        if !self.config.forgets {
            self.remember(&flying, offset, len, done, completion.status);
        }
        Ok(())
    }

    /// What the device now holds.
    fn remember(&mut self, flying: &Flying, offset: usize, len: usize, done: usize, status: Status) {
        match flying.io.op {
            Op::Read | Op::Flush => {}
            Op::Write => {
                self.model.write(offset, &flying.data[..done]);
                if done < len {
                    self.model.maybe_write(offset + done, &flying.data[done..]);
                }
            }
            Op::WriteZeroes if status.is_ok() => self.model.zero(offset, len),
            Op::WriteZeroes | Op::Discard => self.model.maybe_zero(offset, len),
        }
    }

    fn must_refuse(&mut self, bad: Bad) -> Outcome {
        let capacity = self.device.capacity();
        let block = narrow(self.block);
        let range = |len: u32| ScatterList::from(self.frames.range(ARENA - 65536, len));
        let bio = match bad {
            Bad::AtTheEnd => Bio::read(sector(capacity), range(block), 1),
            Bad::OverTheEnd => Bio::read(sector(capacity - self.block), range(2 * block), 1),
            Bad::FarOut => Bio::read(Sector(u64::MAX / 512 - 7), range(block), 1),
            Bad::HalfBlock => Bio::read(Sector(0), range(block / 2), 1),
            Bad::Nothing => Bio::read(Sector(0), ScatterList::new(), 1),
            Bad::ShortList => Bio { len: 2 * self.block, ..Bio::read(Sector(0), range(block), 1) },
            Bad::Tag => Bio::read(Sector(0), range(block), 1 << 63),
        };
        let Some(why) = self.submit(0, bio)? else { return Err(format!("{bad:?} was accepted")) };
        let fits = match bad {
            Bad::AtTheEnd | Bad::OverTheEnd | Bad::FarOut => matches!(why, RefusedWhy::OutOfRange { .. }),
            Bad::HalfBlock => matches!(why, RefusedWhy::Misaligned { .. }),
            Bad::Nothing => matches!(why, RefusedWhy::Empty(_)),
            // On a device of one block it is out of range before it is anything else.
            Bad::ShortList => matches!(why, RefusedWhy::BadList { .. } | RefusedWhy::OutOfRange { .. }),
            Bad::Tag => matches!(why, RefusedWhy::Tag(_)),
        };
        if fits { Ok(()) } else { Err(format!("{bad:?} was refused because {why}")) }
    }

    /// Reads through a queue, past the model; `None` when that fails.
    fn read_back(&mut self, offset: u64, len: u64) -> Result<Option<Vec<u8>>, String> {
        let list = ScatterList::from(self.frames.range(0, narrow(len)));
        let completion = self.one(Bio::read(sector(offset), list.clone(), 1))?;
        if !completion.status.is_ok() {
            return Ok(None);
        }
        self.get(&list).map(Some)
    }

    /// Room in the arena for `len` bytes of this shape: the list, and where in the arena it lies.
    fn place(&mut self, shape: &Shape, len: u64) -> Result<(ScatterList, (u64, u64)), String> {
        let mut lengths = shape.cut(len);
        let mut room = shape.room(&lengths);
        let mut shape = shape.clone();
        if room > ARENA {
            shape = Shape::plain();
            lengths = shape.cut(len);
            room = len;
        }
        if self.used + room > ARENA {
            self.wait()?;
        }
        let start = self.used;
        self.used = (start + room).next_multiple_of(4096);
        let mut at = start + shape.offset;
        let mut ranges = Vec::new();
        for len in lengths {
            ranges.push((at, len));
            at += u64::from(len) + shape.gap;
        }
        if shape.backwards {
            ranges.reverse();
        }
        let list = ranges.into_iter().map(|(at, len)| self.frames.range(at, len)).collect();
        Ok((list, (start, room)))
    }

    pub(super) fn get(&mut self, list: &ScatterList) -> Result<Vec<u8>, String> {
        self.frames.get(list).map_err(|error| error.to_string())
    }

    fn window(&self, (start, len): (u64, u64)) -> ScatterList {
        match len {
            0 => ScatterList::new(),
            len => self.frames.range(start, narrow(len)).into(),
        }
    }

    fn get_window(&mut self, window: (u64, u64)) -> Result<Vec<u8>, String> {
        let list = self.window(window);
        self.get(&list)
    }

    fn put_window(&mut self, window: (u64, u64), bytes: &[u8]) -> Outcome {
        let list = self.window(window);
        self.frames.put(&list, bytes).map_err(|error| error.to_string())
    }
}

impl Flying {
    /// Whether both cannot be in flight at once without the outcome depending on their order.
    fn conflicts(&self, io: &Io) -> bool {
        let apart = self.io.block + self.io.blocks <= io.block || io.block + io.blocks <= self.io.block;
        !apart && (self.io.op.modifies() || io.op.modifies())
    }

    /// The memory around the list, and in the list of a write, must be as it was.
    fn untouched(&self, arena: u64, around: &[u8], read: bool) -> Outcome {
        let mut expected = self.before.clone();
        if read {
            for range in &self.list {
                let start = at(range.byte_address() - arena - self.window.0);
                let mine = start..start + range.len() as usize;
                expected[mine.clone()].copy_from_slice(&around[mine]);
            }
        }
        if expected == around {
            return Ok(());
        }
        let index = expected.iter().zip(around).position(|(expected, now)| expected != now);
        Err(format!("memory was changed at byte {} of what is around {:?}", index.unwrap_or(0), self.io))
    }
}

impl Shape {
    pub(super) fn plain() -> Shape {
        Shape { offset: 0, lengths: Vec::new(), gap: 0, backwards: false }
    }

    /// `len` bytes in ranges of these lengths, in turn.
    fn cut(&self, mut len: u64) -> Vec<u32> {
        let mut cut = Vec::new();
        let mut lengths = self.lengths.iter().cycle();
        while len > 0 {
            let next = u64::from(*lengths.next().unwrap_or(&u32::MAX)).min(len);
            cut.push(narrow(next));
            len -= next;
        }
        cut
    }

    fn room(&self, lengths: &[u32]) -> u64 {
        self.offset + lengths.iter().map(|len| u64::from(*len) + self.gap).sum::<u64>()
    }
}

/// Bytes that tell where they belong: which block of which write they are.
fn pattern(io: &Io, len: usize) -> Vec<u8> {
    let mut bytes = vec![io.fill; len];
    let mut ramp = [0; 1024];
    ramp.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251).to_le_bytes()[0]);
    for (index, block) in bytes.chunks_mut(512).enumerate() {
        let start = (index * 7 + usize::from(io.fill) + at(io.block)) % 512;
        block.copy_from_slice(&ramp[start..start + 512]);
        block[..8].copy_from_slice(&(io.block + index as u64).to_le_bytes());
        block[8] = io.fill;
    }
    bytes
}

fn sector(offset: u64) -> Sector {
    Sector(offset / Sector::SIZE)
}

/// Devices under test are small.
pub(super) fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn narrow(len: u64) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
