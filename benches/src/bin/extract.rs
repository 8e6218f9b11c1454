// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs to turn a list of iovecs into frames.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin extract       (ROUNDS=15)
//! ```
//! Bar: an iovec of 64 segments in <= 1 µs, whether they lie in one region or each in another one. Beside it the least that
//! can be done: a loop over the same iovecs with a binary search each, in a sorted array of addresses, that makes no list.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, Offsets, interleave, ratios, verdict};
use pageless_block::{Bio, IovIter, Limits, Sector, UserIovec};
use pageless_mem::{Access, Backing, Memory, Reader, Region};
use pageless_sys::mmap::Mapping;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const SEGMENTS: usize = 64;
const LEN: usize = 512;
const EXTRACTIONS: u32 = 1 << 14;
/// Bytes between the first of one piece and of the next one of a mapping, and of a region where each has its own.
const STRIDE: usize = 8192;

fn main() -> Result<(), Failure> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    println!("median [min .. max] of {rounds} interleaved rounds");
    for (regions, order) in
        [(1, Order::Rising), (1, Order::Shuffled), (SEGMENTS, Order::Rising), (SEGMENTS, Order::Shuffled)]
    {
        extract(rounds, regions, order)?;
    }
    Ok(())
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Order {
    Rising,
    Shuffled,
}

/// Iovecs of 512 bytes, none of which touches another, in so many regions.
struct Setup {
    memory: Memory,
    _regions: Vec<Region>,
    iovecs: Vec<UserIovec>,
    /// Where each region starts and ends.
    places: Vec<(usize, usize)>,
}

impl Setup {
    fn new(regions: usize, order: Order) -> Result<Setup, Failure> {
        let memory = Memory::new()?;
        let mapping = Arc::new(Mapping::anonymous((SEGMENTS * STRIDE) as u64)?);
        let len = SEGMENTS * STRIDE / regions;
        let lend = |i| Ok(memory.register(Backing::lent(&mapping, i * len, len as u64, true)?)?);
        let registered: Vec<Region> = (0..regions).map(lend).collect::<Result<_, Failure>>()?;
        let mut iovecs: Vec<UserIovec> =
            (0..SEGMENTS).map(|i| UserIovec { addr: mapping.addr() + i * STRIDE + 512, len: LEN }).collect();
        if order == Order::Shuffled {
            let mut random = Offsets::new(5);
            for i in (1..iovecs.len()).rev() {
                iovecs.swap(i, usize::try_from(random.below(i as u64 + 1))?);
            }
        }
        let places = (0..regions).map(|i| (mapping.addr() + i * len, mapping.addr() + (i + 1) * len)).collect();
        Ok(Setup { memory, _regions: registered, iovecs, places })
    }

    /// The bytes that lie in some region: what extraction cannot do without.
    fn least(&self) -> usize {
        let mut bytes = 0;
        for iovec in &self.iovecs {
            let after = self.places.partition_point(|(start, _)| *start <= iovec.addr);
            if let Some((_, end)) = after.checked_sub(1).and_then(|at| self.places.get(at)) {
                bytes += iovec.len.min(end - iovec.addr);
            }
        }
        bytes
    }

    /// The iovecs as the frames of a bio.
    fn extract(&self, reader: &mut Reader) -> usize {
        let online = reader.online();
        let Ok(mut iter) = IovIter::user(black_box(&self.iovecs)) else { return 0 };
        let Ok(extracted) = iter.extract(&online, &Limits::default(), Access::Read) else { return 0 };
        let bio = Bio::write(Sector(0), extracted.into_parts().0, 0);
        black_box(&bio).data.as_slice().len()
    }

    fn segments(&self, reader: &mut Reader) -> usize {
        let online = reader.online();
        let Ok(iter) = IovIter::user(black_box(&self.iovecs)) else { return 0 };
        black_box(iter.segments(&online, &Limits::default()).unwrap_or(0))
    }
}

fn nanoseconds(mut run: impl FnMut() -> usize, expected: usize) -> f64 {
    let begin = Instant::now();
    let mut right = true;
    for _ in 0..EXTRACTIONS {
        right &= run() == expected;
    }
    let took = begin.elapsed().as_secs_f64() * 1e9 / f64::from(EXTRACTIONS);
    assert!(right, "not what was to be measured");
    took
}

fn extract(rounds: usize, regions: usize, order: Order) -> Result<(), Failure> {
    let setup = Setup::new(regions, order)?;
    let (mut a, mut b) = (setup.memory.reader(), setup.memory.reader());
    let [extracted, counted, least] = interleave(
        rounds,
        [
            &mut || nanoseconds(|| setup.extract(&mut a), SEGMENTS),
            &mut || nanoseconds(|| setup.segments(&mut b), SEGMENTS),
            &mut || nanoseconds(|| black_box(black_box(&setup).least()), SEGMENTS * LEN),
        ],
    );
    let order = if order == Order::Rising { "in order" } else { "shuffled" };
    verdict(&format!("extract 64 iovecs of {regions} regions, {order}"), "ns", &extracted, Bar::AtMost(1000.0));
    verdict("  counting them only", "ns", &counted, Bar::None);
    verdict("  a binary search each, no list", "ns", &least, Bar::None);
    verdict("  as a ratio", "x", &ratios(&extracted, &least), Bar::None);
    Ok(())
}
