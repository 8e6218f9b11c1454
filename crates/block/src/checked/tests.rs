// SPDX-License-Identifier: MIT OR Apache-2.0
//! `Checked` over a driver that writes down what it is given and answers as it is told.

#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use super::*;
use crate::{Flags, Route, ScatterList, Sector, Status, Why};
use pageless_mem::{Pfn, PhysRange};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// How the driver answers the next request that reaches it.
#[derive(Copy, Clone, Debug)]
struct Answer {
    status: Status,
    /// Of the request's bytes, in 1/256.
    done: u8,
    route: Route,
}

const OK: Answer = Answer { status: Status::Ok, done: 255, route: Route::Direct };

#[derive(Debug, Default)]
struct Script {
    depth: usize,
    answers: VecDeque<Answer>,
    /// Answers to `submit` other than yes.
    refusals: VecDeque<Option<RefusedWhy>>,
    seen: Vec<Bio>,
    /// How each of `seen` was answered.
    given: Vec<Completion>,
    ready: Vec<Completion>,
    /// Completes the last submitted first.
    backwards: bool,
    /// A flush uses up no answer.
    flushes_work: bool,
    /// Completions given out by one poll.
    per_poll: usize,
}

#[derive(Debug, Clone)]
struct Driver(Rc<RefCell<Script>>);

impl Queue for Driver {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        let mut script = self.0.borrow_mut();
        if script.ready.len() >= script.depth {
            return Err(Refused::new(bio, RefusedWhy::Full));
        }
        if let Some(Some(why)) = script.refusals.pop_front() {
            return Err(Refused::new(bio, why));
        }
        let answer = match bio.op {
            Op::Flush if script.flushes_work => OK,
            _ => script.answers.pop_front().unwrap_or(OK),
        };
        let done = match answer.status {
            Status::Ok => bio.len,
            _ => bio.len * u64::from(answer.done) / 256,
        };
        let completion = Completion { tag: bio.tag, status: answer.status, done, route: answer.route };
        script.ready.push(completion);
        script.given.push(completion);
        script.seen.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let mut script = self.0.borrow_mut();
        let count = script.per_poll.min(script.ready.len());
        for _ in 0..count {
            let completion = match script.backwards {
                true => script.ready.pop().unwrap(),
                false => script.ready.remove(0),
            };
            out.push(completion);
        }
        Ok(count)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().ready.len()
    }
}

#[derive(Debug)]
struct Device {
    limits: Limits,
    capacity: u64,
}

impl BlockDevice for Device {
    fn name(&self) -> &str {
        "script"
    }
    fn capacity(&self) -> u64 {
        self.capacity
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Err(Error::device("script", "made by hand"))
    }
}

fn able() -> Limits {
    Limits { flush: true, fua: true, discard: true, write_zeroes: true, ..Limits::default() }
}

fn setup(limits: Limits, capacity: u64) -> (Checked, Rc<RefCell<Script>>) {
    let script = Rc::new(RefCell::new(Script { depth: usize::MAX, per_poll: usize::MAX, ..Script::default() }));
    let queue = Box::new(Driver(Rc::clone(&script)));
    let checked = Checked::new(queue, &Device { limits, capacity }).unwrap();
    (checked, script)
}

fn data(len: u32) -> ScatterList {
    PhysRange::new(Pfn::new(100).unwrap(), 0, len).unwrap().into()
}

/// As many ranges of `each` bytes, none touching another.
fn ranges(count: u64, each: u32) -> ScatterList {
    (0..count).map(|i| PhysRange::new(Pfn::new(1000 + 10 * i).unwrap(), 8, each).unwrap()).collect()
}

fn why(checked: &mut Checked, bio: Bio) -> RefusedWhy {
    let tag = bio.tag;
    let refused = checked.submit(bio).unwrap_err();
    assert_eq!(refused.bio.tag, tag, "the same bio comes back");
    refused.why
}

fn finish(checked: &mut Checked) -> Vec<Completion> {
    let mut out = Vec::new();
    for _ in 0..100_000 {
        if checked.in_flight() == 0 {
            return out;
        }
        let before = out.len();
        let added = checked.poll(&mut out).unwrap();
        assert_eq!(out.len() - before, added);
    }
    panic!("{} bios never came back", checked.in_flight());
}

fn run(checked: &mut Checked, bio: Bio) -> Completion {
    checked.submit(bio).unwrap();
    let out = finish(checked);
    assert_eq!(out.len(), 1, "{out:?}");
    out[0]
}

#[test]
fn a_bio_that_fits_passes_through_with_its_own_tag() {
    let (mut checked, script) = setup(able(), 1 << 20);
    let tag = (1 << 63) - 1;
    let done = run(&mut checked, Bio::read(Sector(3), data(1024), tag));
    assert_eq!((done.tag, done.status, done.done), (tag, Status::Ok, 1024));
    let seen = &script.borrow().seen;
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].tag, seen[0].sector, seen[0].len), (tag, Sector(3), 1024));
    assert_eq!(checked.parents.len(), 0);
}

#[test]
fn the_ends_of_the_device_are_exact() {
    let (mut checked, script) = setup(able(), 4096);
    run(&mut checked, Bio::read(Sector(0), data(4096), 1));
    run(&mut checked, Bio::read(Sector(7), data(512), 1));
    for (sector, len) in [(8, 512), (7, 1024), (u64::MAX / 512, 512), (u64::MAX, 512)] {
        let refused = why(&mut checked, Bio::read(Sector(sector), data(len), 1));
        assert!(matches!(refused, RefusedWhy::OutOfRange { capacity: 4096, .. }));
        assert_eq!(refused.status(), Status::OutOfRange);
        let refused = why(&mut checked, Bio::discard(Sector(sector), u64::from(len), 1));
        assert!(matches!(refused, RefusedWhy::OutOfRange { .. }));
    }
    let refused = why(&mut checked, Bio::discard(Sector(1), u64::MAX - 511, 1));
    assert!(matches!(refused, RefusedWhy::OutOfRange { .. }));
    assert_eq!(script.borrow().seen.len(), 2, "what is refused never reaches the driver");
}

#[test]
fn blocks_larger_than_a_sector_are_whole() {
    let limits = Limits { block_size: 4096, ..able() };
    let (mut checked, _) = setup(limits, 1 << 20);
    run(&mut checked, Bio::write(Sector(8), data(4096), 1));
    for (sector, len) in [(1, 4096), (8, 512), (8, 4608)] {
        assert_eq!(
            why(&mut checked, Bio::write(Sector(sector), data(len), 1)),
            RefusedWhy::Misaligned { offset: sector * 512, len: u64::from(len), block_size: 4096 }
        );
    }
}

#[test]
fn what_the_device_cannot_do_is_refused() {
    let (mut checked, _) = setup(Limits::default(), 1 << 20);
    let flush = why(&mut checked, Bio::flush(1));
    assert_eq!(flush, RefusedWhy::Unsupported(Op::Flush));
    let discard = why(&mut checked, Bio::discard(Sector(0), 512, 1));
    assert_eq!(discard, RefusedWhy::Unsupported(Op::Discard));
    let zeroes = why(&mut checked, Bio::write_zeroes(Sector(0), 512, 1));
    assert_eq!(zeroes, RefusedWhy::Unsupported(Op::WriteZeroes));
    let fua = Bio::write(Sector(0), data(512), 1).with_flags(Flags::FUA);
    assert_eq!(why(&mut checked, fua), RefusedWhy::NoFua);
    // On a read FUA means nothing.
    run(&mut checked, Bio::read(Sector(0), data(512), 1).with_flags(Flags::FUA));
}

#[test]
fn a_read_only_device_is_only_read_and_flushed() {
    let limits = Limits { read_only: true, ..able() };
    let (mut checked, _) = setup(limits, 1 << 20);
    for bio in
        [Bio::write(Sector(0), data(512), 1), Bio::discard(Sector(0), 512, 1), Bio::write_zeroes(Sector(0), 512, 1)]
    {
        assert_eq!(why(&mut checked, bio), RefusedWhy::ReadOnly);
    }
    run(&mut checked, Bio::read(Sector(0), data(512), 1));
    run(&mut checked, Bio::flush(1));
}

#[test]
fn malformed_bios_are_refused() {
    let (mut checked, _) = setup(able(), 1 << 20);
    assert_eq!(why(&mut checked, Bio::read(Sector(0), data(512), 1 << 63)), RefusedWhy::Tag(1 << 63));
    assert_eq!(why(&mut checked, Bio::flush(u64::MAX)), RefusedWhy::Tag(u64::MAX));
    assert_eq!(why(&mut checked, Bio::read(Sector(0), ScatterList::new(), 1)), RefusedWhy::Empty(Op::Read));
    assert_eq!(why(&mut checked, Bio::write_zeroes(Sector(0), 0, 1)), RefusedWhy::Empty(Op::WriteZeroes));
    let mut short = Bio::write(Sector(0), data(512), 1);
    short.len = 1024;
    assert_eq!(why(&mut checked, short), RefusedWhy::BadList { listed: 512, wanted: 1024 });
    let mut with_data = Bio::flush(1);
    with_data.data = data(512);
    assert_eq!(why(&mut checked, with_data), RefusedWhy::BadList { listed: 512, wanted: 0 });
    let limits = Limits { max_segments: 4, ..able() };
    let (mut checked, _) = setup(limits, 1 << 20);
    assert_eq!(
        why(&mut checked, Bio::read(Sector(0), ranges(8, 64), 1)),
        RefusedWhy::Fragmented { block_size: 512, max_segments: 4 }
    );
}

#[test]
fn impossible_limits_are_an_error() {
    let device = Device { limits: Limits { block_size: 100, ..able() }, capacity: 4096 };
    let queue = Box::new(Driver(Rc::default()));
    assert!(matches!(Checked::new(queue, &device), Err(Error::Limits { value: 100, .. })));
}

fn small_pieces() -> Limits {
    Limits { max_bytes: 1024, max_unmap: 2048, max_segments: 3, ..able() }
}

#[test]
fn a_failing_piece_says_how_far_it_got_and_stops_the_rest() {
    let (mut checked, script) = setup(small_pieces(), 1 << 20);
    script.borrow_mut().depth = 2;
    script.borrow_mut().answers.extend([OK, Answer { status: Status::Media, done: 128, route: Route::Direct }]);
    let done = run(&mut checked, Bio::read(Sector(0), data(8192), 9));
    assert_eq!((done.tag, done.status, done.done), (9, Status::Media, 1024 + 512));
    assert_eq!(script.borrow().seen.len(), 2, "nothing is read behind a failure");
}

#[test]
fn the_earliest_failure_counts_in_whatever_order_they_come() {
    for backwards in [false, true] {
        let (mut checked, script) = setup(small_pieces(), 1 << 20);
        script.borrow_mut().backwards = backwards;
        let fail = |status, done| Answer { status, done, route: Route::None };
        script.borrow_mut().answers.extend([OK, fail(Status::NoSpace, 0), OK, fail(Status::Media, 64)]);
        let done = run(&mut checked, Bio::write(Sector(0), data(4096), 9));
        assert_eq!((done.status, done.done), (Status::NoSpace, 1024));
    }
}

#[test]
fn the_route_is_the_worst_of_the_pieces() {
    let (mut checked, script) = setup(small_pieces(), 1 << 20);
    let route = |route| Answer { route, ..OK };
    script.borrow_mut().answers.extend([
        route(Route::Direct),
        route(Route::Bounce(Why::Misaligned)),
        route(Route::Direct),
        route(Route::Bounce(Why::Requested)),
    ]);
    let done = run(&mut checked, Bio::write(Sector(0), data(4096), 9));
    assert_eq!(done.route, Route::Bounce(Why::Misaligned));
}

#[test]
fn a_full_driver_gets_the_rest_when_it_has_room_again() {
    let (mut checked, script) = setup(small_pieces(), 1 << 20);
    script.borrow_mut().depth = 1;
    script.borrow_mut().per_poll = 1;
    checked.submit(Bio::write(Sector(0), data(4096), 9)).unwrap();
    assert_eq!(checked.in_flight(), 1);
    let refused = why(&mut checked, Bio::read(Sector(0), data(512), 1));
    assert_eq!(refused, RefusedWhy::Full, "first come, first served");
    let out = finish(&mut checked);
    assert_eq!(out.len(), 1);
    assert_eq!(script.borrow().seen.len(), 4);
    run(&mut checked, Bio::read(Sector(0), data(512), 1));
}

#[test]
fn a_piece_the_driver_refuses_fails_the_bio() {
    for nth in [0usize, 2] {
        let (mut checked, script) = setup(small_pieces(), 1 << 20);
        script.borrow_mut().refusals = (0..nth).map(|_| None).collect();
        let no = RefusedWhy::Unsupported(Op::Write);
        script.borrow_mut().refusals.push_back(Some(no));
        let done = run(&mut checked, Bio::write(Sector(0), data(8192), 9));
        assert_eq!((done.tag, done.status), (9, Status::Unsupported));
        assert_eq!(done.done, 1024 * nth as u64);
        assert_eq!(script.borrow().seen.len(), nth);
    }
}

#[test]
fn fua_is_handed_on_where_it_exists() {
    let (mut checked, script) = setup(small_pieces(), 1 << 20);
    run(&mut checked, Bio::write(Sector(0), data(2048), 1).with_flags(Flags::FUA));
    let seen = &script.borrow().seen;
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|bio| bio.flags == Flags::FUA));
}

#[test]
fn fua_is_made_from_a_flush_where_it_does_not_exist() {
    for len in [512, 4096] {
        let limits = Limits { fua: false, ..small_pieces() };
        let (mut checked, script) = setup(limits, 1 << 20);
        let bio = Bio::write(Sector(0), data(len), 4).with_flags(Flags::FUA);
        let done = run(&mut checked, bio);
        assert_eq!((done.tag, done.done), (4, u64::from(len)));
        let seen = &script.borrow().seen;
        let (last, before) = seen.split_last().unwrap();
        assert_eq!(last.op, Op::Flush);
        assert!(!before.is_empty());
        assert!(before.iter().all(|bio| bio.op == Op::Write && bio.flags.is_empty()));
    }
}

#[test]
fn the_flush_of_a_made_fua_follows_the_completion_of_every_piece() {
    let limits = Limits { fua: false, ..small_pieces() };
    let (mut checked, script) = setup(limits, 1 << 20);
    script.borrow_mut().per_poll = 1;
    let bio = Bio::write(Sector(0), data(3072), 4).with_flags(Flags::FUA);
    checked.submit(bio).unwrap();
    let mut out = Vec::new();
    for completed in 1..=3 {
        let flushes = |script: &Script| script.seen.iter().filter(|b| b.op == Op::Flush).count();
        assert_eq!(flushes(&script.borrow()), 0, "after {} pieces", completed - 1);
        checked.parents_poll_once(&mut out);
    }
    assert!(out.is_empty());
    assert_eq!(finish(&mut checked).len(), 1);
    assert_eq!(script.borrow().seen.last().unwrap().op, Op::Flush);
}

impl Checked {
    /// One poll of the driver, without giving it anything new.
    fn parents_poll_once(&mut self, out: &mut Vec<Completion>) {
        let from = out.len();
        self.inner.poll(out).unwrap();
        self.parents.gather(out, from).unwrap();
    }
}

#[test]
fn a_made_fua_whose_flush_fails_has_done_nothing() {
    let limits = Limits { fua: false, ..able() };
    let (mut checked, script) = setup(limits, 1 << 20);
    let failed = Answer { status: Status::IoErr, done: 0, route: Route::None };
    script.borrow_mut().answers.extend([OK, failed]);
    let bio = Bio::write(Sector(0), data(512), 4).with_flags(Flags::FUA);
    let done = run(&mut checked, bio);
    assert_eq!((done.status, done.done), (Status::IoErr, 0));
    // The flush itself refused, for good and for now.
    for (refusal, status, done_bytes) in
        [(RefusedWhy::Unsupported(Op::Flush), Status::Unsupported, 0), (RefusedWhy::Full, Status::Ok, 512)]
    {
        script.borrow_mut().refusals.extend([None, Some(refusal)]);
        let bio = Bio::write(Sector(0), data(512), 5).with_flags(Flags::FUA);
        let done = run(&mut checked, bio);
        assert_eq!((done.status, done.done), (status, done_bytes));
    }
}

#[test]
fn a_failed_write_is_not_flushed() {
    let limits = Limits { fua: false, ..able() };
    let (mut checked, script) = setup(limits, 1 << 20);
    let failed = Answer { status: Status::Media, done: 128, route: Route::Direct };
    script.borrow_mut().answers.push_back(failed);
    let bio = Bio::write(Sector(0), data(1024), 4).with_flags(Flags::FUA);
    let done = run(&mut checked, bio);
    assert_eq!((done.status, done.done), (Status::Media, 512));
    assert_eq!(script.borrow().seen.len(), 1);
}

#[test]
fn only_so_many_bios_are_in_pieces_at_once() {
    let (mut checked, script) = setup(small_pieces(), 1 << 20);
    for tag in 0..512 {
        checked.submit(Bio::write(Sector(0), data(2048), tag)).unwrap();
    }
    let refused = why(&mut checked, Bio::write(Sector(0), data(2048), 512));
    assert_eq!(refused, RefusedWhy::Full);
    // What needs no pieces still passes.
    checked.submit(Bio::write(Sector(0), data(512), 600)).unwrap();
    assert_eq!(checked.in_flight(), 513);
    script.borrow_mut().backwards = true;
    let mut tags: Vec<u64> = finish(&mut checked).iter().map(|c| c.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..512).chain([600]).collect::<Vec<_>>());
}

#[test]
fn the_offset_of_a_piece_survives_the_largest_device() {
    let (mut checked, script) = setup(able(), (1 << 63) - 512);
    checked.bounds = Bounds::new(&Limits { max_unmap: 1 << 62, ..able() });
    let failed = Answer { status: Status::IoErr, done: 0, route: Route::None };
    script.borrow_mut().answers.extend([OK, failed]);
    let done = run(&mut checked, Bio::discard(Sector(0), (1 << 63) - 512, 1));
    assert_eq!((done.status, done.done), (Status::IoErr, 1 << 62));
}

#[test]
fn a_tag_the_driver_made_up_is_an_error() {
    for tag in [1 << 63, u64::MAX, (1 << 63) | (1 << 54)] {
        let (mut checked, script) = setup(small_pieces(), 1 << 20);
        checked.submit(Bio::write(Sector(0), data(1024), 3)).unwrap();
        checked.submit(Bio::write(Sector(0), data(2048), 4)).unwrap();
        let (mut out, mut made_up) = (Vec::new(), script.borrow().ready[0]);
        made_up.tag = tag | (5 << 54);
        script.borrow_mut().ready.insert(1, made_up);
        let error = checked.poll(&mut out).unwrap_err();
        assert!(matches!(error, Error::UnknownTag(t) if t == made_up.tag));
        let tags: Vec<u64> = out.iter().map(|c| c.tag).collect();
        assert_eq!(tags, [3, 4], "the honest completions stand");
    }
}

fn any_answer() -> impl Strategy<Value = Answer> {
    (
        prop::sample::select(vec![Status::Ok, Status::Ok, Status::Ok, Status::Ok, Status::Media, Status::NoSpace]),
        any::<u8>(),
    )
        .prop_map(|(status, done)| Answer { status, done, route: Route::Direct })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the driver's depth, order and answers: each bio comes back once, with the outcome that its
    /// pieces, laid end to end, had.
    #[test]
    fn completions_are_what_the_pieces_make_together(
        bios in prop::collection::vec((1u64..24, any::<bool>()), 1..12),
        answers in prop::collection::vec(any_answer(), 0..40),
        refusals in prop::collection::vec(prop::option::weighted(0.2, Just(RefusedWhy::Full)), 0..40),
        depth in 1usize..6,
        per_poll in 1usize..4,
        backwards in any::<bool>(),
        fua in any::<bool>(),
    ) {
        let limits = Limits { fua, ..small_pieces() };
        let (mut checked, script) = setup(limits, 1 << 20);
        *script.borrow_mut() = Script {
            depth,
            answers: answers.into(),
            refusals: refusals.into(),
            backwards,
            flushes_work: true,
            per_poll,
            ..Script::default()
        };
        let mut out = Vec::new();
        for (tag, (blocks, wants_fua)) in bios.iter().enumerate() {
            let flags = if *wants_fua { Flags::FUA } else { Flags::empty() };
            // Each bio has 32 sectors of its own, which tell its pieces from the others'.
            let mut bio = Bio::write(Sector(32 * tag as u64), data(*blocks as u32 * 512), tag as u64).with_flags(flags);
            for attempt in 0.. {
                prop_assert!(attempt < 1000, "never accepted");
                match checked.submit(bio) {
                    Ok(()) => break,
                    Err(refused) => {
                        prop_assert_eq!(refused.why, RefusedWhy::Full);
                        bio = refused.bio;
                        checked.poll(&mut out).unwrap();
                    }
                }
            }
        }
        out.extend(finish(&mut checked));
        out.sort_by_key(|c| c.tag);
        prop_assert_eq!(out.len(), bios.len());
        let script = script.borrow();
        for (completion, (tag, (blocks, _))) in out.iter().zip(bios.iter().enumerate()) {
            prop_assert_eq!(completion.tag, tag as u64);
            let mut pieces: Vec<_> = script
                .seen
                .iter()
                .zip(&script.given)
                .filter(|(bio, _)| bio.op == Op::Write && bio.sector.0 / 32 == tag as u64)
                .collect();
            pieces.sort_by_key(|(bio, _)| bio.sector);
            let (mut status, mut done) = (Status::Ok, 0);
            for (bio, answer) in pieces {
                prop_assert_eq!(bio.sector.bytes() - 32 * 512 * tag as u64, done);
                done += answer.done;
                status = answer.status;
                if !status.is_ok() {
                    break;
                }
            }
            prop_assert_eq!((completion.status, completion.done), (status, done));
            prop_assert!(!status.is_ok() || done == blocks * 512);
        }
    }
}
