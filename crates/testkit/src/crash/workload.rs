// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Workload`]: what is done to a device while it is recorded.

use super::random::Random;
use crate::{Error, TestFrames};
use pageless_block::{Bio, BlockDevice, Completion, Flags, Queue, Sector, open_checked};
use pageless_mem::Memory;
use pageless_mem::testing::Recording;
use std::fmt;

/// What one operation does.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Stores its own pattern.
    Write,
    /// Makes zeroes, in whichever way the device likes best.
    WriteZeroes,
    /// Gives blocks back.
    Discard,
    /// Makes durable what was acknowledged before.
    Flush,
}

/// One operation.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct CrashOp {
    /// Which thread does it, through a queue of its own.
    pub thread: usize,
    /// What.
    pub kind: Kind,
    /// The first block.
    pub block: u64,
    /// How many blocks; of no meaning to a flush.
    pub blocks: u64,
    /// Durable when it is acknowledged.
    pub fua: bool,
    /// Submitted together with the thread's one before, so that they may share a fence.
    pub joined: bool,
}

impl CrashOp {
    /// A write of one block by the first thread, durable when it is acknowledged.
    pub fn write(block: u64) -> CrashOp {
        CrashOp { thread: 0, kind: Kind::Write, block, blocks: 1, fua: true, joined: false }
    }

    /// A flush by the first thread.
    pub fn flush() -> CrashOp {
        CrashOp { kind: Kind::Flush, fua: false, ..CrashOp::write(0) }
    }
}

impl fmt::Display for CrashOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrashOp { thread, kind, block, blocks, fua, joined } = self;
        write!(f, "thread {thread}: {kind:?}")?;
        match (kind, blocks) {
            (Kind::Flush, _) => {}
            (_, 1) => write!(f, " block {block}")?,
            _ => write!(f, " blocks {block}..{}", block + blocks)?,
        }
        let fua = if *fua && *kind != Kind::Flush { " FUA" } else { "" };
        let joined = if *joined { " (with the one before)" } else { "" };
        write!(f, "{fua}{joined}")
    }
}

/// Operations, in the order in which each thread does its own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Workload {
    /// All of them.
    pub ops: Vec<CrashOp>,
    /// Not 0: threads give way to each other at random.
    pub interleave: u64,
}

impl Workload {
    /// Operations of one thread.
    pub fn of(ops: impl IntoIterator<Item = CrashOp>) -> Workload {
        Workload { ops: ops.into_iter().collect(), interleave: 0 }
    }

    /// What a seed makes: `ops` operations of up to `threads` threads on the first `blocks` blocks.
    pub fn random(seed: u64, ops: usize, threads: usize, blocks: u64, kinds: &[Kind]) -> Workload {
        let mut random = Random::new(seed);
        let ops = (0..ops.max(1)).map(|_| {
            let kind = kinds[random.below(kinds.len())];
            let len = if random.chance(1, 4) { 1 + random.next() % blocks.min(3) } else { 1 };
            CrashOp {
                thread: random.below(threads),
                kind,
                block: random.next() % (blocks - len + 1),
                blocks: len,
                fua: kind != Kind::Flush && random.chance(2, 3),
                joined: random.chance(1, 3),
            }
        });
        Workload { ops: ops.collect(), interleave: if threads > 1 { seed | 1 } else { 0 } }
    }

    /// Does all of it to `device`, and marks in the recording when each operation begins and is acknowledged.
    ///
    /// # Errors
    /// When an operation does not end well.
    pub(super) fn run(&self, device: &dyn BlockDevice, memory: &Memory, recording: &Recording) -> Result<(), Error> {
        recording.interleave(self.interleave);
        let threads = self.ops.iter().map(|op| op.thread + 1).max().unwrap_or(0);
        let result = if threads < 2 {
            self.run_thread(0, device, memory, recording)
        } else {
            let start = &std::sync::Barrier::new(threads);
            std::thread::scope(|scope| {
                let work = |thread| {
                    move || {
                        start.wait();
                        self.run_thread(thread, device, memory, recording)
                    }
                };
                let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread))).collect();
                threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Error::Panicked)))
            })
        };
        recording.interleave(0);
        result
    }

    /// What [`run`](Self::run) does in one of its threads.
    pub(super) fn run_thread(
        &self,
        thread: usize,
        device: &dyn BlockDevice,
        memory: &Memory,
        recording: &Recording,
    ) -> Result<(), Error> {
        let mine: Vec<_> = self.ops.iter().enumerate().filter(|(_, op)| op.thread == thread).collect();
        let block = u64::from(device.limits().block_size);
        let len = mine.iter().map(|(_, op)| op.blocks * block).sum::<u64>().max(1).next_multiple_of(4096);
        let mut frames = TestFrames::new(memory, len)?;
        let mut queue = open_checked(device)?;
        let (mut used, mut batch) = (0, 0);
        for (at, (index, op)) in mine.iter().enumerate() {
            let bio = self.bio(*index, op, block, &mut frames, &mut used)?;
            recording.mark(Mark::Begun(*index).number());
            queue.submit(bio).map_err(|refused| Error::Refused(refused.why))?;
            batch += 1;
            if mine.get(at + 1).is_none_or(|(_, next)| !next.joined || batch == 4) {
                batch = 0;
                finish(&mut queue, recording)?;
            }
        }
        Ok(())
    }

    fn bio(
        &self,
        index: usize,
        op: &CrashOp,
        block: u64,
        frames: &mut TestFrames,
        used: &mut u64,
    ) -> Result<Bio, Error> {
        let (sector, len, tag) = (Sector(op.block * block / Sector::SIZE), op.blocks * block, index as u64);
        let flags = if op.fua { Flags::FUA } else { Flags::empty() };
        Ok(match op.kind {
            Kind::Flush => Bio::flush(tag),
            Kind::Discard => Bio::discard(sector, len, tag).with_flags(flags),
            Kind::WriteZeroes => Bio::write_zeroes(sector, len, tag).with_flags(flags),
            Kind::Write => {
                let range = frames.range(*used, u32::try_from(len).unwrap_or(u32::MAX));
                let bytes: Vec<u8> =
                    (op.block..op.block + op.blocks).flat_map(|at| pattern(Value::Op(index), at, block)).collect();
                frames.put(&range.into(), &bytes)?;
                *used += len;
                Bio::write(sector, range, tag).with_flags(flags)
            }
        })
    }
}

fn finish(queue: &mut dyn Queue, recording: &Recording) -> Result<(), Error> {
    let mut out: Vec<Completion> = Vec::new();
    while queue.in_flight() > 0 {
        queue.poll(&mut out)?;
        for done in out.drain(..) {
            if !done.status.is_ok() {
                return Err(Error::Failed(done));
            }
            recording.mark(Mark::Done(super::medium::to_usize(done.tag)).number());
        }
    }
    Ok(())
}

/// Where a recording is with an operation.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Begun(usize),
    Done(usize),
}

impl Mark {
    fn number(self) -> u64 {
        match self {
            Mark::Begun(op) => 2 * op as u64,
            Mark::Done(op) => 2 * op as u64 + 1,
        }
    }

    pub(super) fn of(number: u64) -> Mark {
        let op = super::medium::to_usize(number / 2);
        if number.is_multiple_of(2) { Mark::Begun(op) } else { Mark::Done(op) }
    }
}

/// What a block may hold.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// What it held before the recording.
    Before,
    /// What an operation wrote.
    Op(usize),
    /// What was written after a recovery.
    After,
    /// Nothing.
    Zero,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Before => f.write_str("what was there before"),
            Value::Op(op) => write!(f, "what op {op} wrote"),
            Value::After => f.write_str("what was written after the recovery"),
            Value::Zero => f.write_str("zeroes"),
        }
    }
}

/// The bytes of a block that holds this: each 8 of them say whose they are.
pub(super) fn pattern(value: Value, block: u64, block_size: u64) -> Vec<u8> {
    (0..block_size / 8).flat_map(|unit| word(value, block, unit).to_le_bytes()).collect()
}

fn word(value: Value, block: u64, unit: u64) -> u64 {
    let whose = match value {
        Value::Zero => return 0,
        Value::Before => 0xfffe,
        Value::After => 0xffff,
        Value::Op(op) => op as u64 + 1,
    };
    whose << 48 | (block & 0xffff_ffff) << 16 | unit
}

/// Whose pattern 8 bytes are, where they are anybody's.
pub(super) fn whose(bytes: &[u8]) -> String {
    let mut word = [0; 8];
    word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let word = u64::from_le_bytes(word);
    let (whose, block) = (word >> 48, word >> 16 & 0xffff_ffff);
    match whose {
        0 if word == 0 => Value::Zero.to_string(),
        0xfffe => format!("{} in block {block}", Value::Before),
        0xffff => format!("{} to block {block}", Value::After),
        0 => format!("{word:#x}, which nobody wrote"),
        op => format!("{} to block {block}", Value::Op(usize::try_from(op - 1).unwrap_or(usize::MAX))),
    }
}
