// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium of stripes behind an output, and a socket that takes as much as the test likes. What arrives must not
//! depend on where sends were cut.

use pageless_mem::{Backing, Memory, Region};
use proptest::prelude::*;

use super::super::pool::SlotPool;
use super::super::wire::chunk;
use super::staging::Renumbered;
use super::*;

const SIZE: u64 = 4 << 20;

/// Frames whose content is a function of their place. Every third stripe of 64 KiB is a hole.
struct Stripes {
    region: Region,
    bad: Option<u64>,
}

impl Stripes {
    const STRIPE: u64 = 64 << 10;

    fn new() -> Stripes {
        let region = Memory::new().unwrap().register(Backing::anon(SIZE).unwrap()).unwrap();
        Stripes { region, bad: None }
    }

    fn hole(offset: u64) -> bool {
        offset / Stripes::STRIPE % 3 == 2
    }

    fn byte(offset: u64) -> u8 {
        if Stripes::hole(offset) { 0 } else { (offset / 7 % 251) as u8 + 1 }
    }

    fn lookup(&self, offset: u64, len: u64) -> Result<Direct, Status> {
        if self.bad == Some(offset / 4096) {
            return Err(Status::Media);
        }
        let stripe = Stripes::STRIPE - offset % Stripes::STRIPE;
        let bad = self.bad.map_or(u64::MAX, |bad| (bad * 4096).checked_sub(offset).unwrap_or(u64::MAX));
        let n = len.min(stripe).min(bad);
        if Stripes::hole(offset) {
            Ok(Direct::Hole(n))
        } else {
            Ok(Direct::Data(self.region.range(offset, n).unwrap()))
        }
    }

    /// The bytes that a socket would be given.
    fn bytes(&self, part: &Part<'_>) -> Vec<u8> {
        match part {
            Part::Bytes(bytes) => bytes.to_vec(),
            Part::Frames(range) => {
                let base = self.region.range(0, 1).unwrap().byte_address();
                let start = range.byte_address() - base;
                (start..start + u64::from(range.len())).map(Stripes::byte).collect()
            }
        }
    }

    /// Plans a send of which the socket takes `most` bytes, and returns those.
    fn send(&self, output: &mut Output, most: usize) -> Result<Vec<u8>, Broken> {
        let mut pieces = Vec::new();
        output.plan(&mut |offset, len| self.lookup(offset, len), &mut pieces)?;
        assert!(pieces.len() <= MAX_PIECES);
        let mut bytes: Vec<u8> = output.parts(&pieces).flat_map(|part| self.bytes(&part)).collect();
        assert_eq!(bytes.len(), pieces.iter().map(Piece::len).sum::<usize>());
        bytes.truncate(most);
        output.sent(bytes.len(), &pieces, &mut |_| panic!("nothing is staged"));
        Ok(bytes)
    }

    fn send_all(&self, output: &mut Output, cuts: &[usize]) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
        while !output.is_empty() {
            all.extend(self.send(output, cuts.next().unwrap_or(usize::MAX).max(1))?);
        }
        Ok(all)
    }
}

/// A chunk as it arrived: kind, done, offset, and data or a hole's length.
#[derive(Debug, PartialEq)]
struct Chunk {
    kind: u16,
    done: bool,
    offset: u64,
    data: Vec<u8>,
}

fn chunks(mut stream: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    while !stream.is_empty() {
        let head = stream.split_off(..20).unwrap();
        let length = u32::from_be_bytes(*head[16..].first_chunk().unwrap()) as usize;
        let body = stream.split_off(..length).unwrap();
        let kind = u16::from_be_bytes([head[6], head[7]]);
        let at = if kind == chunk::ERROR_OFFSET { 6 } else { 0 };
        let offset = u64::from_be_bytes(*body[at..].first_chunk().unwrap());
        let data = match kind {
            chunk::OFFSET_HOLE => vec![0; u32::from_be_bytes(*body[8..].first_chunk().unwrap()) as usize],
            _ => body[at + 8..].to_vec(),
        };
        chunks.push(Chunk { kind, done: head[5] == 1, offset, data });
    }
    chunks
}

fn media(offset: u64, left: u32, shape: Shape) -> Owed {
    Owed::Media(Media { cookie: 5, offset, left, shape, last: true })
}

fn expected(offset: u64, len: u32) -> Vec<u8> {
    (offset..offset + u64::from(len)).map(Stripes::byte).collect()
}

/// Checks that chunks are a whole read, in order.
fn assert_whole(chunks: &[Chunk], offset: u64, len: u32) {
    let mut at = offset;
    for chunk in chunks {
        assert_eq!(chunk.offset, at);
        assert_eq!(chunk.data, expected(at, u32::try_from(chunk.data.len()).unwrap()));
        assert!(chunk.kind != chunk::OFFSET_HOLE || Stripes::hole(at));
        at += chunk.data.len() as u64;
        assert_eq!(chunk.done, at == offset + u64::from(len));
    }
    assert_eq!(at, offset + u64::from(len));
}

#[test]
fn nbd_cmd_read_in_chunks_announces_holes_and_sends_data() {
    let stripes = Stripes::new();
    let mut output = Output::default();
    output.push(media(4096, 3 << 20, Shape::Chunks));
    let chunks = chunks(&stripes.send_all(&mut output, &[]).unwrap());
    assert_whole(&chunks, 4096, 3 << 20);
    assert!(chunks.iter().any(|c| c.kind == chunk::OFFSET_HOLE));
    assert_eq!(chunks[0].data.len(), (128 << 10) - 4096, "neighbouring extents of data are one chunk");
}

#[test]
fn nbd_cmd_flag_df_is_one_chunk_with_its_zeroes() {
    let stripes = Stripes::new();
    let mut output = Output::default();
    output.push(media(0, 1 << 20, Shape::Whole));
    let read = chunks(&stripes.send_all(&mut output, &[]).unwrap());
    assert_eq!((read.len(), read[0].kind), (1, chunk::OFFSET_DATA));
    assert_whole(&read, 0, 1 << 20);

    output.push(media(128 << 10, 4096, Shape::Whole));
    let hole = chunks(&stripes.send_all(&mut output, &[]).unwrap());
    assert_eq!((hole.len(), hole[0].kind), (1, chunk::OFFSET_HOLE), "a hole alone may be announced as one");
}

#[test]
fn nbd_simple_reply_is_header_and_all_data() {
    let stripes = Stripes::new();
    let mut output = Output::default();
    output.push(media(60 << 10, 200 << 10, Shape::Simple));
    let all = stripes.send_all(&mut output, &[]).unwrap();
    assert_eq!(all[..16], Head::ok(5).as_bytes()[..]);
    assert_eq!(all[16..], expected(60 << 10, 200 << 10));
}

#[test]
fn nbd_cmd_read_error_before_anything_was_sent_is_an_error_reply() {
    let stripes = Stripes { bad: Some(3), ..Stripes::new() };
    let mut output = Output::default();
    output.push(media(0, 32 << 10, Shape::Simple));
    output.push(media(0, 32 << 10, Shape::Whole));
    output.push(Owed::Head(Head::ok(6)));
    let all = stripes.send_all(&mut output, &[]).unwrap();
    assert_eq!(all[..16], reply::error(false, 5, Errno::Io, "")[..]);
    let error = chunks(&all[16..all.len() - 16]);
    let bad = Chunk { kind: chunk::ERROR_OFFSET, done: true, offset: 12288, data: vec![] };
    assert_eq!(error, [bad]);
    assert_eq!(all[all.len() - 16..], Head::ok(6).as_bytes()[..], "what is behind it is not disturbed");
    assert_eq!(output.heap(), 0);
}

#[test]
fn nbd_cmd_read_error_between_chunks_keeps_the_good_part() {
    let stripes = Stripes { bad: Some(3), ..Stripes::new() };
    for cuts in [&[][..], &[1, 5000, 3], &[12288 + 28]] {
        let mut output = Output::default();
        output.push(media(0, 32 << 10, Shape::Chunks));
        let read = chunks(&stripes.send_all(&mut output, cuts).unwrap());
        assert_eq!(read[0].data, expected(0, 12288));
        assert!(!read[0].done);
        assert_eq!(read[1..], [Chunk { kind: chunk::ERROR_OFFSET, done: true, offset: 12288, data: vec![] }]);
    }
}

#[test]
fn nbd_a_medium_that_goes_away_at_any_moment_ends_the_reply_once() {
    let stripes = Stripes::new();
    for (shape, before) in [Shape::Whole, Shape::Chunks].into_iter().flat_map(|shape| (0..40).map(move |n| (shape, n)))
    {
        let mut output = Output::default();
        output.push(media(0, 512 << 10, shape));
        output.push(media(0, 4096, shape));
        let (mut lookups, mut stream, mut pieces) = (0, Vec::new(), Vec::new());
        while !output.is_empty() {
            let mut lookup = |offset, len| {
                lookups += 1;
                if lookups <= before { stripes.lookup(offset, len) } else { Err(Status::Gone) }
            };
            output.plan(&mut lookup, &mut pieces).unwrap();
            stream.extend(output.parts(&pieces).flat_map(|part| stripes.bytes(&part)));
            output.sent(usize::MAX, &pieces, &mut |_| panic!("nothing is staged"));
        }
        let arrived = chunks(&stream);
        assert_eq!(arrived.iter().filter(|chunk| chunk.done).count(), 2, "{shape:?}, {before} lookups: {arrived:?}");
        assert_eq!(output.heap(), 0);
    }
}

#[test]
fn a_fault_after_the_head_went_out_breaks_the_connection() {
    for (shape, head) in [(Shape::Simple, 16), (Shape::Whole, 28), (Shape::Chunks, 28)] {
        let mut stripes = Stripes::new();
        let mut output = Output::default();
        output.push(media(0, 32 << 10, shape));
        assert_eq!(stripes.send(&mut output, head + 100).unwrap().len(), head + 100);
        stripes.bad = Some(3);
        assert_eq!(stripes.send_all(&mut output, &[]), Err(Broken), "{shape:?}");
    }
}

#[test]
fn a_fault_the_socket_met_becomes_an_error_of_that_reply_alone() {
    let stripes = Stripes::new();
    for (shape, errors) in [(Shape::Simple, 16), (Shape::Whole, 34), (Shape::Chunks, 34)] {
        let mut output = Output::default();
        output.push(Owed::Head(Head::ok(1)));
        output.push(media(0, 4096, shape));
        output.push(Owed::Head(Head::ok(2)));
        let mut pieces = Vec::new();
        output.plan(&mut |offset, len| stripes.lookup(offset, len), &mut pieces).unwrap();
        let bad = output.parts(&pieces).position(|part| matches!(part, Part::Frames(_))).unwrap();
        output.failed(&pieces[bad], Status::Media, &mut |_| panic!("nothing is staged")).unwrap();
        let all = stripes.send_all(&mut output, &[]).unwrap();
        assert_eq!(all.len(), 16 + errors + 16);
        assert_eq!(all[all.len() - 16..], Head::ok(2).as_bytes()[..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn where_sends_are_cut_makes_no_difference(
        reads in proptest::collection::vec((0..SIZE / 512 - 1024, 1u32..800, 0usize..3), 1..8),
        cuts in proptest::collection::vec(1usize..100_000, 0..200),
    ) {
        let stripes = Stripes::new();
        let fill = || {
            let mut output = Output::default();
            for &(sector, sectors, shape) in &reads {
                let shape = [Shape::Simple, Shape::Whole, Shape::Chunks][shape];
                output.push(media(sector * 512, sectors * 512, shape));
                output.push(Owed::Bytes(Box::new([1, 2, 3])));
            }
            output
        };
        let whole = stripes.send_all(&mut fill(), &[]).unwrap();
        let cut = stripes.send_all(&mut fill(), &cuts).unwrap();
        prop_assert_eq!(whole, cut);
    }
}

/// Staged parts, with slots of a real pool.
struct Stage {
    output: Output,
    pool: SlotPool,
    /// Flights' names: only their difference matters.
    next: u64,
}

impl Stage {
    fn new(reads: &[(u64, u32, Lead)]) -> Stage {
        let mut output = Output::default();
        for &(cookie, len, lead) in reads {
            output.push(Owed::Staged(Staged { cookie, offset: cookie * 1000, len, lead, data: Fetched::Wanted }));
        }
        Stage { output, pool: SlotPool::new(&Memory::new().unwrap(), 16).unwrap(), next: 0 }
    }

    fn fetch(&mut self) -> Vec<u64> {
        let wanted: Vec<u64> = self.output.wanted(u32::MAX).map(|(number, ..)| number).collect();
        for &number in &wanted {
            self.output.coming(number, Key::from_tag(self.next));
            self.next += 1;
        }
        wanted
    }

    fn arrive(&mut self, number: u64, len: u32) -> Option<Renumbered> {
        let slot = self.pool.take().unwrap();
        let range = self.pool.range(slot, 0, len).unwrap();
        self.output.arrived(number, slot, range).unwrap()
    }

    /// Sends what it can: the cookies of the heads that went out, and the bytes of data.
    fn send(&mut self) -> (Vec<u64>, usize) {
        let (mut cookies, mut data) = (Vec::new(), 0);
        loop {
            let mut pieces = Vec::new();
            self.output.plan(&mut |_, _| Err(Status::Unsupported), &mut pieces).unwrap();
            if pieces.is_empty() {
                return (cookies, data);
            }
            for part in self.output.parts(&pieces) {
                match part {
                    Part::Bytes(head) => cookies.push(u64::from_be_bytes(*head[8..].first_chunk().unwrap())),
                    Part::Frames(range) => data += range.len() as usize,
                }
            }
            let n = pieces.iter().map(Piece::len).sum();
            let pool = &mut self.pool;
            self.output.sent(n, &pieces, &mut |slot| pool.release(slot));
        }
    }

    fn missing(&mut self, number: u64) -> Result<(), Broken> {
        let pool = &mut self.pool;
        self.output.missing(number, 0, Status::IoErr, &mut |slot| pool.release(slot))
    }
}

fn alone(cookie: u64) -> (u64, u32, Lead) {
    (cookie, 4096, Lead::Simple { total: 4096 })
}

#[test]
fn a_reply_that_is_here_overtakes_one_that_is_not() {
    let mut stage = Stage::new(&[alone(1), alone(2), alone(3)]);
    let numbers = stage.fetch();
    assert_eq!(stage.arrive(numbers[2], 4096), Some(Renumbered { bio: Key::from_tag(0), number: 2 }));
    assert_eq!(stage.send(), (vec![3], 4096));
    // Number 0 left with reply 3; reply 1 has its number now.
    assert_eq!(stage.arrive(2, 4096), Some(Renumbered { bio: Key::from_tag(1), number: 2 }));
    assert_eq!(stage.send(), (vec![1], 4096));
    assert_eq!(stage.arrive(2, 4096), None);
    assert_eq!(stage.send(), (vec![2], 4096));
    assert!(stage.output.is_empty());
    assert_eq!(stage.pool.free(), 16);
}

#[test]
fn nbd_simple_reply_of_many_parts_is_not_interleaved() {
    let total = Lead::Simple { total: 12288 };
    let mut stage = Stage::new(&[(1, 4096, total), (1, 4096, Lead::Follow), (1, 4096, Lead::Follow), alone(2)]);
    let numbers = stage.fetch();
    assert_eq!(stage.arrive(numbers[3], 4096), None, "it may not overtake");
    assert_eq!(stage.arrive(numbers[1], 4096), None);
    assert_eq!(stage.send(), (vec![], 0));
    stage.arrive(numbers[0], 4096);
    assert_eq!(stage.send(), (vec![1], 8192));
    stage.arrive(numbers[2], 4096);
    assert_eq!(stage.send(), (vec![2], 8192));
    assert_eq!(stage.pool.free(), 16);
}

#[test]
fn data_that_was_evicted_is_wanted_again() {
    let mut stage = Stage::new(&[alone(1), alone(2)]);
    for number in stage.fetch() {
        stage.arrive(number, 4096);
    }
    // Half of the first reply goes out; then its slot is taken.
    let mut pieces = Vec::new();
    stage.output.plan(&mut |_, _| Err(Status::Unsupported), &mut pieces).unwrap();
    stage.output.sent(16 + 1000, &pieces, &mut |_| panic!("nothing is done with"));
    let pool = &mut stage.pool;
    stage.output.evict(&mut |slot| pool.release(slot));
    assert_eq!(stage.pool.free(), 16);
    assert!(stage.output.stalled());
    assert_eq!(stage.send(), (vec![], 0));
    let numbers = stage.fetch();
    assert_eq!(numbers, [0, 1]);
    assert_eq!(stage.arrive(1, 4096), None, "a reply that was begun keeps its place");
    stage.arrive(0, 4096);
    assert_eq!(stage.send(), (vec![2], 3096 + 4096));
}

#[test]
fn a_part_that_cannot_be_fetched_fails_its_whole_reply_if_it_was_not_begun() {
    let reads = [(1, 4096, Lead::Simple { total: 8192 }), (1, 4096, Lead::Follow), alone(2)];
    let mut stage = Stage::new(&reads);
    let numbers = stage.fetch();
    stage.arrive(numbers[0], 4096);
    stage.missing(numbers[1]).unwrap();
    stage.arrive(numbers[2], 4096);
    assert_eq!(stage.send(), (vec![1, 2], 4096));
    assert_eq!(stage.pool.free(), 16);

    let mut stage = Stage::new(&reads);
    let numbers = stage.fetch();
    stage.arrive(numbers[0], 4096);
    assert_eq!(stage.send(), (vec![1], 4096));
    assert_eq!(stage.missing(numbers[1]), Err(Broken));
}

#[test]
fn nbd_structured_parts_fail_one_by_one() {
    let piece = |done| (1, 4096, Lead::Chunk { done });
    let mut stage = Stage::new(&[piece(false), piece(false), piece(true)]);
    let numbers = stage.fetch();
    stage.arrive(numbers[0], 4096);
    stage.missing(numbers[1]).unwrap();
    stage.arrive(numbers[2], 4096);
    let (cookies, data) = stage.send();
    assert_eq!((cookies, data), (vec![1, 1, 1], 8192));
    assert!(stage.output.is_empty());
}

#[test]
fn data_nobody_waits_for_comes_back() {
    let mut stage = Stage::new(&[alone(1)]);
    let slot = stage.pool.take().unwrap();
    let range = stage.pool.range(slot, 0, 4096).unwrap();
    assert_eq!(stage.output.arrived(0, slot, range), Err(slot), "not asked for");
    assert_eq!(stage.output.arrived(9, slot, range), Err(slot), "not there");
}
