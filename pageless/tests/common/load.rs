// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random requests at depth on one queue of a vhost-user front-end, each read compared with what a model holds.

use std::ops::Range;

use super::front_end::{Ask, Done, FrontMemory, FrontQueue, Unmap};
use super::{DEADLINE, KIB, noise};

/// The most bytes of one request, and the room that each has in memory.
const SLOT: usize = 32 << 10;

/// What one queue does.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The part of the disk that is this queue's own. It is zeroed first.
    pub(crate) part: Range<u64>,
    /// Where in memory its slots begin.
    pub(crate) memory: usize,
    /// Requests in flight.
    pub(crate) depth: usize,
    /// Requests in all.
    pub(crate) count: usize,
    pub(crate) seed: u64,
    /// What requests are in multiples of.
    pub(crate) block: u64,
    /// Bytes that data is off its slot, to be of no alignment.
    pub(crate) skew: usize,
    /// Whether discards and zeroes are among them.
    pub(crate) discard: bool,
    pub(crate) write_zeroes: bool,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) done: usize,
    /// How many of them moved bytes.
    pub(crate) moved: usize,
    /// Requests that ended with an error.
    pub(crate) failed: usize,
    /// Reads that were not what the model holds.
    pub(crate) wrong: usize,
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            done: self.done + other.done,
            moved: self.moved + other.moved,
            failed: self.failed + other.failed,
            wrong: self.wrong + other.wrong,
        }
    }
}

/// How much memory the slots of one queue take.
pub(crate) const fn memory_of(depth: usize) -> usize {
    depth * (SLOT + 4096)
}

struct Flying {
    ask: Ask,
    range: Range<u64>,
    data: Vec<u8>,
}

struct Run<'l> {
    load: &'l Load,
    model: Vec<u8>,
    slots: Vec<Option<Flying>>,
    random: u64,
    tally: Tally,
}

impl Load {
    /// The same for each of several queues, each on its own part of so many bytes of the disk.
    pub(crate) fn divided(&self, queues: usize, len: u64) -> Vec<Load> {
        let share = len / queues as u64 / (64 * KIB) * (64 * KIB);
        let part = |n: u64| n * share..(n + 1) * share;
        (0..queues as u64).map(|n| Load { part: part(n), seed: self.seed + 1000 * n, ..self.clone() }).collect()
    }

    /// Does it all, and reads the whole part at the end.
    pub(crate) fn run(&self, queue: &mut FrontQueue, memory: &mut FrontMemory) -> Tally {
        let len = usize::try_from(self.part.end - self.part.start).expect("small");
        let mut run = Run {
            load: self,
            model: vec![0; len],
            slots: (0..self.depth).map(|_| None).collect(),
            random: self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            tally: Tally::default(),
        };
        run.all_of_it(queue, memory, Ask::Write);
        for _ in 0..self.count {
            run.next(queue, memory, Run::any);
        }
        run.drain(queue, memory);
        run.all_of_it(queue, memory, Ask::Read);
        run.drain(queue, memory);
        run.tally
    }
}

impl Run<'_> {
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % n
    }

    /// Reads all of the part, or fills it with zeroes.
    fn all_of_it(&mut self, queue: &mut FrontQueue, memory: &mut FrontMemory, ask: fn(u64, Range<usize>) -> Ask) {
        let Range { start, end } = self.load.part;
        for at in (start..end).step_by(SLOT) {
            let len = usize::try_from(end - at).expect("small").min(SLOT);
            self.next(queue, memory, |_, slot| (ask(at, slot), vec![0; len]));
        }
    }

    /// A request of any kind; `slot` is cut to its length.
    fn any(&mut self, slot: Range<usize>) -> (Ask, Vec<u8>) {
        let block = self.load.block;
        let blocks = (self.load.part.end - self.load.part.start) / block;
        let count = 1 + self.below((SLOT as u64 / block).min(blocks));
        let at = self.load.part.start + self.below(blocks - count + 1) * block;
        let len = count * block;
        let seed = self.below(u64::MAX);
        let data = |seed| noise(usize::try_from(len).expect("small"), seed);
        match self.below(16) {
            0 if self.load.discard => (Ask::Discard(at, len), Vec::new()),
            1 if self.load.write_zeroes => (Ask::WriteZeroes(at, len, Unmap::May), Vec::new()),
            2 if self.load.write_zeroes => (Ask::WriteZeroes(at, len, Unmap::Not), Vec::new()),
            3 => (Ask::Flush, Vec::new()),
            4..10 => (Ask::Read(at, slot), data(1)),
            _ => (Ask::Write(at, slot), data(seed)),
        }
    }

    /// Starts one request in the next free slot, as soon as nothing in flight is in its way.
    fn next(
        &mut self,
        queue: &mut FrontQueue,
        memory: &mut FrontMemory,
        make: impl FnOnce(&mut Self, Range<usize>) -> (Ask, Vec<u8>),
    ) {
        while self.slots.iter().all(Option::is_some) {
            self.reap(queue, memory);
        }
        let number = self.slots.iter().position(Option::is_none).expect("a free slot");
        let start = self.load.memory + number * (SLOT + 4096) + self.load.skew;
        let (mut ask, data) = make(self, start..start + SLOT);
        let range = match &mut ask {
            Ask::Read(at, slot) | Ask::Write(at, slot) => {
                slot.end = slot.start + data.len();
                *at..*at + data.len() as u64
            }
            Ask::Discard(at, len) | Ask::WriteZeroes(at, len, _) => *at..*at + *len,
            Ask::Flush => 0..0,
        };
        let in_the_way = |flying: &Flying| flying.range.start < range.end && range.start < flying.range.end;
        while self.slots.iter().flatten().any(in_the_way) {
            self.reap(queue, memory);
        }
        match &ask {
            Ask::Write(_, slot) => memory.put(slot.start, &data),
            // Whatever was there before is not what is read.
            Ask::Read(_, slot) => memory.put(slot.start, &vec![0xa5; data.len()]),
            _ => {}
        }
        queue.start(&ask, memory, number as u64).expect("room in the ring");
        queue.kick().expect("an eventfd");
        self.slots[number] = Some(Flying { ask, range, data });
    }

    fn drain(&mut self, queue: &mut FrontQueue, memory: &mut FrontMemory) {
        while self.slots.iter().any(Option::is_some) {
            self.reap(queue, memory);
        }
    }

    fn reap(&mut self, queue: &mut FrontQueue, memory: &mut FrontMemory) {
        let mut out = Vec::new();
        queue.wait(&mut out, DEADLINE).expect("requests come back");
        for Done { tag, result } in out {
            let number = usize::try_from(tag).expect("a slot");
            let flying = self.slots[number].take().expect("each comes back once");
            self.tally.done += 1;
            self.tally.moved += usize::from(matches!(flying.ask, Ask::Read(..) | Ask::Write(..)));
            if result == 0 { self.check(&flying, memory) } else { self.tally.failed += 1 }
        }
    }

    fn check(&mut self, flying: &Flying, memory: &mut FrontMemory) {
        let place = |at: u64| usize::try_from(at - self.load.part.start).expect("small");
        let range = match flying.ask {
            Ask::Flush => return,
            _ => place(flying.range.start)..place(flying.range.end),
        };
        match &flying.ask {
            Ask::Read(_, slot) => {
                let mut got = vec![0; slot.len()];
                memory.get(slot.start, &mut got);
                self.tally.wrong += usize::from(got != self.model[range]);
            }
            Ask::Write(..) => self.model[range].copy_from_slice(&flying.data),
            _ => self.model[range].fill(0),
        }
    }
}
