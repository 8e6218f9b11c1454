// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests of every layout, through a ring, without a thread.

use super::*;
use crate::vhost_user::dirty::DirtyLog;
use crate::vhost_user::guest_map::{GuestAddr, GuestMap, Slot};
use crate::vhost_user::request::MAX_RANGES;
use crate::vhost_user::testing::{BASE, FREE, Guest, INDIRECT, LEN, NEXT, Notes, WRITE};
use pageless_block::{Op, Sector};
use pageless_drivers::RamDisk;
use pageless_mem::Backing;
use pageless_testkit::frames::TestFrames;
use proptest::prelude::*;
use std::sync::atomic::Ordering;

mod hostile;
mod recovery;

const ID: [u8; ID_BYTES] = *b"pageless-0123456789a";
const HEADER: u64 = FREE;
const DATA: u64 = FREE + 0x10000;
const STATUS: u64 = FREE + 0x8000;
const IN: u32 = 0;
const OUT: u32 = 1;

fn all() -> Features {
    Features::all()
}

fn engine(memory: &Memory, device: &dyn BlockDevice) -> Engine {
    Engine::new(device, ID, memory, (Arc::default(), Notices::new().0)).unwrap()
}

fn served(memory: &Memory, device: &dyn BlockDevice, features: Features) -> (Guest, Engine) {
    let guest = Guest::new(memory, 64, features);
    let mut engine = engine(memory, device);
    engine.start(guest.setup()).unwrap();
    (guest, engine)
}

fn run(engine: &mut Engine) {
    while engine.round() == Round::Worked {}
}

/// One request of the plainest layout; its used length and status.
fn request(
    guest: &mut Guest,
    engine: &mut Engine,
    kind: u32,
    sector: u64,
    readable: &[u8],
    writable: u32,
) -> (u32, u8) {
    guest.header(HEADER, kind, sector);
    guest.put(STATUS, &[0xee]);
    let mut runs = vec![(HEADER, 16, false)];
    if !readable.is_empty() {
        guest.put(DATA, readable);
        runs.push((DATA, readable.len() as u32, false));
    }
    if writable > 0 {
        runs.push((DATA, writable, true));
    }
    runs.push((STATUS, 1, true));
    guest.chain(0, &runs);
    guest.offer(0);
    run(engine);
    let used = guest.used();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, 0);
    (used[0].1, guest.get(STATUS, 1)[0])
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

fn disk(memory: &Memory, len: u64) -> RamDisk {
    RamDisk::new(memory, memory.register(Backing::memfd(len).unwrap()).unwrap(), "ram")
}

#[test]
fn virtio_blk_5_2_6_reads_and_writes_move_bytes_and_say_how_many() {
    let memory = Memory::new().unwrap();
    let disk = disk(&memory, 1 << 20);
    let (mut guest, mut engine) = served(&memory, &disk, all());
    let bytes: Vec<u8> = (0..8192u32).map(|n| (n * 7) as u8).collect();
    assert_eq!(request(&mut guest, &mut engine, OUT, 3, &bytes, 0), (1, 0));
    guest.put(DATA, &[0; 8192]);
    assert_eq!(request(&mut guest, &mut engine, IN, 3, &[], 8192), (8193, 0));
    assert_eq!(guest.get(DATA, 8192), bytes);
    assert!(guest.call.drain());
    // Past the end, into the end, not whole sectors, nothing at all: errors, and no byte more than the status.
    for (sector, len) in [(2048, 512), (2047, 1024), (u64::MAX, 512), (0, 513), (0, 0)] {
        assert_eq!(request(&mut guest, &mut engine, IN, sector, &[], len), (u32::from(len == 0), 1), "{sector} {len}");
    }
    let totals = &engine.counters;
    assert_eq!((totals.reads.get(), totals.writes.get(), totals.errors.get()), (6, 1, 5));
    assert_eq!((totals.bytes_read.get(), totals.bytes_written.get()), (8192, 8192));
    assert_eq!(totals.routes.totals().copy.bytes, 16384);
    assert_eq!(engine.end(), Some(7));
}

#[test]
fn virtio_blk_5_2_6_the_name_of_the_device_fills_what_there_is() {
    let memory = Memory::new().unwrap();
    let (mut guest, mut engine) = served(&memory, &Notes::default(), all());
    for (room, told, written) in [(20, 20, 21), (7, 7, 8), (24, 20, 20), (0, 0, 1)] {
        guest.put(DATA, &[0xaa; 32]);
        assert_eq!(request(&mut guest, &mut engine, 8, 0, &[], room), (written, 0), "{room}");
        let found = guest.get(DATA, 32);
        assert_eq!((&found[..told], &found[told..]), (&ID[..told], &[0xaa; 32][told..]));
    }
}

#[test]
fn virtio_blk_5_2_6_flushes_unknown_requests_and_errors_of_the_device_have_their_codes() {
    let memory = Memory::new().unwrap();
    let notes = Notes { limits: Limits { flush: true, ..Limits::default() }, ..Notes::default() };
    let (mut guest, mut engine) = served(&memory, &notes, all());
    assert_eq!(request(&mut guest, &mut engine, 4, 0, &[], 0), (1, 0));
    assert_eq!(notes.taking()[0].op, Op::Flush);
    for unknown in [2, 3, 5, 9, 10, 14, 16, 1 << 31, u32::MAX] {
        assert_eq!(request(&mut guest, &mut engine, unknown, 0, &[], 512), (0, 2), "{unknown}");
    }
    let (mut guest, mut engine) = served(&memory, &Notes::default(), all());
    assert_eq!(request(&mut guest, &mut engine, 4, 0, &[], 0), (1, 2), "a device without a cache");
    let codes = [
        (Status::Ok, 0),
        (Status::Unsupported, 2),
        (Status::IoErr, 1),
        (Status::Media, 1),
        (Status::NoSpace, 1),
        (Status::ReadOnly, 1),
        (Status::OutOfRange, 1),
        (Status::Gone, 1),
        (Status::Aborted, 1),
    ];
    for (status, code) in codes {
        let (mut guest, mut engine) = served(&memory, &Notes { status: Some(status), ..Notes::default() }, all());
        assert_eq!(request(&mut guest, &mut engine, IN, 0, &[], 512), (if code == 0 { 513 } else { 0 }, code));
    }
}

#[test]
fn virtio_blk_5_2_6_discard_and_write_zeroes_are_judged_by_their_ranges_and_flags() {
    let memory = Memory::new().unwrap();
    let limits = Limits { discard: true, write_zeroes: true, flush: true, fua: true, ..Limits::default() };
    let notes = Notes { limits, ..Notes::default() };
    let (mut guest, mut engine) = served(&memory, &notes, all());
    let (discard, zeroes) = (11, 13);
    assert_eq!(request(&mut guest, &mut engine, discard, 99, &range(8, 16, 0), 0), (1, 0));
    let many = [range(0, 1, 1), range(7, 0, 0), range(4, 2, 0)].concat();
    assert_eq!(request(&mut guest, &mut engine, zeroes, 0, &many, 0), (1, 0));
    let seen: Vec<_> = notes.taking().into_iter().map(|bio| (bio.op, bio.sector, bio.len, bio.flags)).collect();
    assert_eq!(
        seen,
        [
            (Op::Discard, Sector(8), 8192, Flags::empty()),
            (Op::WriteZeroes, Sector(0), 512, Flags::empty()),
            (Op::WriteZeroes, Sector(4), 1024, Flags::NO_UNMAP),
        ]
    );
    // Unknown flags, unmap on a discard; half a range, none, too many; past the end.
    let too_many = range(0, 1, 0).repeat(MAX_RANGES as usize + 1);
    for (kind, ranges, code) in [
        (discard, range(0, 1, 1), 2),
        (discard, range(0, 1, 2), 2),
        (zeroes, range(0, 1, 2), 2),
        (zeroes, [range(0, 1, 0), range(0, 1, 1 << 31)].concat(), 2),
        (zeroes, range(0, 1, 0)[..15].to_vec(), 1),
        (discard, Vec::new(), 1),
        (discard, too_many, 1),
        (discard, range(2048, 1, 0), 1),
    ] {
        assert_eq!(request(&mut guest, &mut engine, kind, 0, &ranges, 0), (1, code), "{kind} {ranges:?}");
        assert_eq!(notes.taking().len(), 0, "nothing of it was begun");
    }
    let enough = range(0, 1, 0).repeat(MAX_RANGES as usize);
    assert_eq!(request(&mut guest, &mut engine, discard, 0, &enough, 0), (1, 0));
    assert_eq!(notes.taking().len(), MAX_RANGES as usize);
    // Not negotiated.
    let (mut guest, mut engine) = served(&memory, &notes, Features::empty());
    for kind in [discard, zeroes] {
        assert_eq!(request(&mut guest, &mut engine, kind, 0, &range(0, 1, 0), 0), (1, 2));
    }
}

#[test]
fn virtio_blk_5_2_5_writes_are_durable_where_the_guest_has_no_cache_to_flush() {
    let memory = Memory::new().unwrap();
    let limits = Limits { discard: true, write_zeroes: true, flush: true, fua: true, ..Limits::default() };
    let notes = Notes { limits: limits.clone(), ..Notes::default() };
    let fua = |features: Features, wce: bool, notes: &Notes| {
        let (mut guest, mut engine) = served(&memory, notes, features);
        guest.wce.store(wce, Ordering::Relaxed);
        request(&mut guest, &mut engine, OUT, 0, &[1; 512], 0);
        request(&mut guest, &mut engine, 13, 0, &range(0, 1, 1), 0);
        let flags: Vec<_> = notes.taking().iter().map(|bio| bio.flags).collect();
        assert_eq!(flags[0], flags[1]);
        flags[0] == Flags::FUA
    };
    let ranges = Features::DISCARD | Features::WRITE_ZEROES;
    assert!(!fua(ranges | Features::FLUSH, true, &notes));
    assert!(!fua(ranges | Features::CONFIG_WCE, true, &notes));
    assert!(fua(ranges | Features::FLUSH | Features::CONFIG_WCE, false, &notes));
    assert!(fua(ranges, true, &notes), "a driver that knows no cache");
    let plain = Notes { limits: Limits { fua: false, flush: false, ..limits }, ..Notes::default() };
    assert!(!fua(ranges, true, &plain), "a device that has none");
}

#[test]
fn a_read_only_device_answers_writes_with_errors() {
    let memory = Memory::new().unwrap();
    let limits = Limits { read_only: true, discard: true, write_zeroes: true, ..Limits::default() };
    let notes = Notes { limits, ..Notes::default() };
    let (mut guest, mut engine) = served(&memory, &notes, all());
    assert_eq!(request(&mut guest, &mut engine, OUT, 0, &[1; 512], 0), (1, 1));
    assert_eq!(request(&mut guest, &mut engine, 13, 0, &range(0, 1, 0), 0), (1, 1));
    assert_eq!(notes.taking().len(), 0);
    assert_eq!(request(&mut guest, &mut engine, IN, 0, &[], 512), (513, 0));
}

#[test]
fn a_full_device_is_waited_for_and_nothing_is_lost() {
    let memory = Memory::new().unwrap();
    let notes = Notes { depth: Some(3), ..Notes::default() };
    let (mut guest, mut engine) = served(&memory, &notes, all());
    guest.header(HEADER, OUT, 0);
    for head in 0..20 {
        guest.chain(3 * head, &[(HEADER, 16, false), (DATA, 512, false), (STATUS + u64::from(head), 1, true)]);
        guest.stage(3 * head);
    }
    guest.show();
    run(&mut engine);
    let mut heads: Vec<_> = guest.used().into_iter().map(|(head, _)| head / 3).collect();
    heads.sort_unstable();
    assert_eq!(heads, (0..20).collect::<Vec<_>>());
    assert_eq!(notes.taking().len(), 20);
}

#[test]
fn a_device_that_breaks_ends_every_request_with_an_error() {
    let memory = Memory::new().unwrap();
    let notes = Notes::default();
    let (mut guest, mut engine) = served(&memory, &notes, all());
    notes.broken.store(true, Ordering::SeqCst);
    assert_eq!(request(&mut guest, &mut engine, IN, 0, &[], 512), (0, 1));
    assert_eq!(request(&mut guest, &mut engine, IN, 0, &[], 512), (0, 1), "from then on");
    assert!(engine.event().is_none());
}

#[test]
fn memory_that_goes_away_fails_what_needs_it_and_nothing_else() {
    let memory = Memory::new().unwrap();
    let disk = disk(&memory, 1 << 20);
    let (mut guest, mut engine) = served(&memory, &disk, all());
    let extra = memory.register(Backing::memfd(1 << 16).unwrap()).unwrap();
    let slot = Slot { guest: GuestAddr(0x9000_0000), user: 0, region: extra, offset: 0, len: 1 << 16 };
    let mut slots = guest.map.slots().to_vec();
    let alone = Arc::new(GuestMap::new(slots.clone()).unwrap());
    slots.push(Arc::new(slot));
    engine.running().unwrap().set_map(Arc::new(GuestMap::new(slots).unwrap()));
    let read_into = |guest: &mut Guest, engine: &mut Engine, at: u64| {
        guest.header(HEADER, IN, 0);
        guest.chain(0, &[(HEADER, 16, false), (at.wrapping_sub(BASE), 4096, true), (STATUS, 1, true)]);
        guest.offer(0);
        run(engine);
        (guest.used()[0], guest.get(STATUS, 1)[0])
    };
    assert_eq!(read_into(&mut guest, &mut engine, 0x9000_0000), ((0, 4097), 0));
    engine.running().unwrap().set_map(alone);
    assert_eq!(read_into(&mut guest, &mut engine, 0x9000_0000), ((0, 0), 1));
    assert_eq!(read_into(&mut guest, &mut engine, BASE + DATA), ((0, 4097), 0));
}

#[test]
fn every_page_that_was_written_is_marked() {
    let memory = Memory::new().unwrap();
    let disk = disk(&memory, 1 << 20);
    let mut guest = Guest::new(&memory, 64, all());
    let bits = memory.register(Backing::memfd(1 << 20).unwrap()).unwrap();
    // The guest's memory starts at a page that is the log's first bit here.
    let mut log = TestFrames::of(&memory, bits.clone());
    let mut engine = engine(&memory, &disk);
    let mut setup = guest.setup();
    let used = setup.used;
    setup.log = DirtyLog::new(bits, 0, 1 << 20).map(Arc::new);
    setup.log_used = Some(used);
    engine.start(setup).unwrap();
    let mut taking = || {
        let whole = log.range(0, 1 << 20).into();
        let found = log.get(&whole).unwrap();
        log.put(&whole, &vec![0; 1 << 20]).unwrap();
        let pages = found
            .iter()
            .enumerate()
            .flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 != 0).map(move |bit| 8 * at as u64 + bit));
        pages.map(|page| page * 4096 - BASE).collect::<Vec<u64>>()
    };
    let used = (used.0 - BASE) & !0xfff;
    assert_eq!(taking(), [used], "an earlier server may not have come to it");
    let (status, data) = (STATUS & !0xfff, DATA);
    request(&mut guest, &mut engine, IN, 0, &[], 8192);
    assert_eq!(taking(), [used, status, data, data + 4096]);
    request(&mut guest, &mut engine, OUT, 0, &[1; 8192], 0);
    assert_eq!(taking(), [used, status]);
    request(&mut guest, &mut engine, 8, 0, &[], 20);
    assert_eq!(taking(), [used, status, data]);
    request(&mut guest, &mut engine, IN, 2047, &[], 1024);
    assert_eq!(taking(), [used, status, data], "what failed may have written");
    request(&mut guest, &mut engine, 99, 0, &[], 4096);
    assert_eq!(taking(), [used, status], "nothing was begun");
    assert!(!engine.sleep());
    assert_eq!(taking(), [used]);
}

/// How one side of a request is cut: piece lengths.
fn cut() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![0u32..3, 1u32..40, 100u32..700, Just(512), Just(4096)], 0..12)
}

/// Whether and where descriptors go through an indirect table: after so many of the ring's own.
fn indirect() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(0usize..4)
}

/// Lays `len` bytes at `at` out in pieces of these lengths, with gaps between, and what is left in the last.
fn pieces(mut at: u64, mut len: u32, cut: &[u32]) -> Vec<(u64, u32)> {
    let mut pieces = Vec::new();
    for piece in cut {
        let piece = (*piece).min(len);
        pieces.push((at, piece));
        at += u64::from(piece) + 3;
        len -= piece;
    }
    if len > 0 {
        pieces.push((at, len));
    }
    pieces
}

impl Guest {
    fn scatter(&mut self, pieces: &[(u64, u32)], mut bytes: &[u8]) {
        for (at, len) in pieces {
            let (now, later) = bytes.split_at(*len as usize);
            self.put(*at, now);
            bytes = later;
        }
    }

    fn gather(&mut self, pieces: &[(u64, u32)]) -> Vec<u8> {
        pieces.iter().flat_map(|(at, len)| self.get(*at, *len)).collect()
    }

    /// Describes these runs, the ones after the first `direct` in a table of their own.
    fn describe_all(&mut self, runs: &[(u64, u32, bool)], direct: Option<usize>) {
        let direct = direct.unwrap_or(usize::MAX).min(runs.len());
        let (own, rest) = runs.split_at(direct);
        self.chain(0, own);
        if rest.is_empty() {
            return;
        }
        let table = LEN - 0x10000;
        for (index, (at, len, write)) in rest.iter().enumerate() {
            let flags = if *write { WRITE } else { 0 } | if index + 1 == rest.len() { 0 } else { NEXT };
            self.describe_at(table + 16 * index as u64, BASE + at, *len, flags, index as u16 + 1);
        }
        if let Some((at, len, write)) = own.last() {
            let last = own.len() as u16 - 1;
            self.describe(last, BASE + at, *len, NEXT | if *write { WRITE } else { 0 }, last + 1);
        }
        self.describe(own.len() as u16, BASE + table, 16 * rest.len() as u32, INDIRECT | WRITE, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Header, data and status may share descriptors or be split over many, directly or through a table.
    #[test]
    fn virtio_blk_2_7_4_any_layout_is_the_same_request(
        sectors in 1u32..20, sector in 0u64..64, write in any::<bool>(),
        readable in cut(), writable in cut(), direct in indirect(), seed in any::<u8>(),
    ) {
        let memory = Memory::new().unwrap();
        let disk = disk(&memory, 64 << 10);
        let mut on_disk = TestFrames::of(&memory, disk.region().clone());
        let (mut guest, mut engine) = served(&memory, &disk, all());
        let len = 512 * sectors;
        let bytes: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect();
        let before: Vec<u8> = (0..64u32 << 10).map(|n| (n / 512) as u8 ^ n as u8).collect();
        let whole = on_disk.range(0, 64 << 10).into();
        on_disk.put(&whole, &before).unwrap();

        let kind: u32 = if write { OUT } else { IN };
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let (out_bytes, in_len) = if write { ([header, bytes.clone()].concat(), 1) } else { (header, len + 1) };
        let out_pieces = pieces(FREE, out_bytes.len() as u32, &readable);
        let in_pieces = pieces(FREE + 0x40000, in_len, &writable);
        guest.scatter(&out_pieces, &out_bytes);
        guest.scatter(&in_pieces, &vec![0xee; in_len as usize]);
        let runs: Vec<_> = out_pieces.iter().map(|(at, len)| (*at, *len, false)).chain(in_pieces.iter().map(|(at, len)| (*at, *len, true))).collect();
        guest.describe_all(&runs, direct);
        guest.offer(0);
        run(&mut engine);

        let used = guest.used();
        let answer = guest.gather(&in_pieces);
        let fits = sector * 512 + u64::from(len) <= 64 << 10;
        prop_assert_eq!(used.len(), 1);
        prop_assert_eq!(*answer.last().unwrap(), u8::from(!fits));
        let now = on_disk.get(&whole).unwrap();
        let at = (sector * 512) as usize;
        match (fits, write) {
            (true, true) => {
                prop_assert_eq!(&now[at..at + len as usize], &bytes[..]);
                prop_assert_eq!((&now[..at], &now[at + len as usize..]), (&before[..at], &before[at + len as usize..]));
                prop_assert_eq!(used[0].1, 1);
            }
            (true, false) => {
                prop_assert_eq!(&answer[..len as usize], &before[at..at + len as usize]);
                prop_assert_eq!(used[0].1, len + 1);
            }
            (false, _) => prop_assert_eq!(used[0].1, u32::from(write)),
        }
        if !(fits && write) {
            prop_assert_eq!(now, before);
        }
    }
}
