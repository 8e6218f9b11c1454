// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests that break the rules: a bad request fails alone, a bad ring is left alone, nobody else notices.

use super::*;
use crate::vhost_user::ring::Broken;
use crate::vhost_user::running::RingError;

fn broken(engine: &mut Engine) -> Option<Broken> {
    match engine.running().unwrap().broken {
        Some(RingError::Broken(broken)) => Some(broken),
        None => None,
        Some(other) => panic!("{other}"),
    }
}

/// A ring that breaks so: told once, nothing used, nothing taken any more; who goes on there does nothing again.
fn breaks(guest: &mut Guest, engine: &mut Engine, how: Broken) {
    run(engine);
    assert_eq!(broken(engine), Some(how));
    assert!(guest.err.drain());
    assert!(guest.used().is_empty());
    guest.header(HEADER, 4, 0);
    guest.chain(0, &[(HEADER, 16, false), (STATUS, 1, true)]);
    guest.offer(0);
    run(engine);
    assert!(!engine.sleep());
    assert!(guest.used().is_empty() && !guest.err.drain());
    assert!(engine.end().is_some_and(|next| next <= 1), "there, or behind what broke it");
}

fn fresh() -> (Memory, Guest, Engine) {
    let memory = Memory::new().unwrap();
    let (guest, engine) = served(&memory, &Notes::default(), all());
    (memory, guest, engine)
}

#[test]
fn an_index_that_jumps_breaks_the_ring() {
    let (_memory, mut guest, mut engine) = fresh();
    guest.jump(65);
    breaks(&mut guest, &mut engine, Broken::Jumped { from: 0, to: 65, size: 64 });
    let (_memory, mut guest, mut engine) = fresh();
    guest.jump(u16::MAX);
    breaks(&mut guest, &mut engine, Broken::Jumped { from: 0, to: u16::MAX, size: 64 });
}

#[test]
fn a_head_or_a_next_outside_the_table_breaks_the_ring() {
    let (_memory, mut guest, mut engine) = fresh();
    guest.offer(64);
    breaks(&mut guest, &mut engine, Broken::Index { index: 64, size: 64 });
    let (_memory, mut guest, mut engine) = fresh();
    guest.describe(0, BASE, 16, NEXT, 64);
    guest.offer(0);
    breaks(&mut guest, &mut engine, Broken::Index { index: 64, size: 64 });
    let (_memory, mut guest, mut engine) = fresh();
    guest.describe_at(DATA, BASE, 16, NEXT, 2);
    guest.describe(0, BASE + DATA, 32, INDIRECT, 0);
    guest.offer(0);
    breaks(&mut guest, &mut engine, Broken::Index { index: 2, size: 2 });
}

#[test]
fn a_chain_that_runs_in_a_circle_breaks_the_ring() {
    let (_memory, mut guest, mut engine) = fresh();
    guest.describe(5, BASE, 16, NEXT, 6);
    guest.describe(6, BASE, 16, NEXT, 5);
    guest.offer(5);
    breaks(&mut guest, &mut engine, Broken::Loop { size: 64 });
    let (_memory, mut guest, mut engine) = fresh();
    guest.describe_at(DATA, BASE, 16, NEXT, 0);
    guest.describe(0, BASE + DATA, 16, INDIRECT, 0);
    guest.offer(0);
    breaks(&mut guest, &mut engine, Broken::Loop { size: 1 });
}

#[test]
fn virtio_2_7_5_3_tables_where_none_may_be_break_the_ring() {
    let table = |at, len, flags| {
        let (_memory, mut guest, mut engine) = fresh();
        guest.describe_at(DATA, BASE + DATA, 16, INDIRECT, 0);
        guest.describe(0, at, len, flags, 1);
        guest.offer(0);
        run(&mut engine);
        assert!(guest.used().is_empty() && guest.err.drain());
        match broken(&mut engine) {
            Some(Broken::Table { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(table(BASE + DATA, 16, INDIRECT), "inside an indirect table");
    assert_eq!(table(BASE + DATA, 16, INDIRECT | NEXT), "something follows it");
    for len in [0, 15, 17] {
        assert_eq!(table(BASE + DATA, len, INDIRECT), "no whole descriptors");
    }
    assert_eq!(table(BASE + DATA, 1025 * 16, INDIRECT), "longer than any request");
    for at in [BASE - 1, BASE + LEN - 15, 0, u64::MAX, u64::MAX - 15] {
        assert_eq!(table(at, 16, INDIRECT), "outside the guest's memory");
    }
    let memory = Memory::new().unwrap();
    let (mut guest, mut engine) = served(&memory, &Notes::default(), all() - Features::INDIRECT_DESC);
    guest.describe(0, BASE + DATA, 16, INDIRECT, 0);
    guest.offer(0);
    breaks(&mut guest, &mut engine, Broken::Table { at: BASE + DATA, len: 16, why: "not negotiated" });
}

#[test]
fn a_head_made_available_twice_breaks_the_ring_and_what_is_in_work_ends() {
    let memory = Memory::new().unwrap();
    let notes = Notes::default();
    let (mut guest, mut engine) = served(&memory, &notes, all());
    guest.header(HEADER, IN, 0);
    guest.chain(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    notes.pace.store(0, Ordering::SeqCst);
    guest.offer(0);
    run(&mut engine);
    guest.offer(0);
    run(&mut engine);
    assert_eq!(broken(&mut engine), Some(Broken::Twice { head: 0 }));
    assert!(engine.busy());
    notes.pace.store(usize::MAX, Ordering::SeqCst);
    run(&mut engine);
    assert_eq!((guest.used(), engine.busy()), (vec![(0, 513)], false));
}

#[test]
fn a_request_that_points_anywhere_fails_alone() {
    let (_memory, mut guest, mut engine) = fresh();
    let wild = [0, BASE - 1, BASE + LEN - 511, BASE + LEN, u64::MAX, u64::MAX - 511, u64::MAX - 512];
    for at in wild.map(|at| at.wrapping_sub(BASE)) {
        guest.header(HEADER, IN, 0);
        guest.chain(0, &[(HEADER, 16, false), (at, 512, true), (STATUS, 1, true)]);
        guest.offer(0);
        run(&mut engine);
        assert_eq!((guest.used(), guest.get(STATUS, 1)), (vec![(0, 0)], vec![1]), "data at {at:#x}");
        guest.chain(0, &[(at, 512, false), (DATA, 512, true), (STATUS, 1, true)]);
        guest.offer(0);
        guest.put(STATUS, &[9]);
        run(&mut engine);
        // Where sixteen bytes can be read they are a header.
        let some = u8::from(at == LEN - 511);
        assert_eq!(
            (guest.used(), guest.get(STATUS, 1)),
            (vec![(0, 513 * u32::from(some))], vec![1 - some]),
            "header at {at:#x}"
        );
    }
    for at in [0, BASE - 1, BASE + LEN, u64::MAX] {
        guest.chain(0, &[(HEADER, 16, false), (DATA, 512, true), (at.wrapping_sub(BASE), 1, true)]);
        guest.offer(0);
        run(&mut engine);
        assert_eq!(guest.used(), [(0, 512)], "it was done, and there is nowhere to say so");
    }
    assert_eq!(broken(&mut engine), None);
}

#[test]
fn lengths_that_wrap_fail_alone() {
    let (_memory, mut guest, mut engine) = fresh();
    guest.header(HEADER, IN, 0);
    let huge = (DATA, u32::MAX, true);
    guest.chain(0, &[(HEADER, 16, false), huge, huge, huge, (STATUS, 1, true)]);
    guest.offer(0);
    run(&mut engine);
    assert_eq!((guest.used(), guest.get(STATUS, 1)), (vec![(0, 0)], vec![1]));
    // The last byte that may be written is not one of the guest's.
    guest.chain(0, &[(HEADER, 16, false), (0u64.wrapping_sub(BASE + 1), u32::MAX, true)]);
    guest.offer(0);
    run(&mut engine);
    assert_eq!((guest.used(), broken(&mut engine)), (vec![(0, 0)], None));
}

#[test]
fn requests_without_header_status_or_order_fail_alone() {
    let (_memory, mut guest, mut engine) = fresh();
    guest.header(HEADER, IN, 0);
    let status = (STATUS, 1, true);
    let cases = [
        (vec![(HEADER, 15, false), status], 1, 1),
        (vec![status], 1, 1),
        (vec![(HEADER, 16, false)], 0, 9),
        (vec![(HEADER, 16, false), (STATUS, 0, true)], 0, 9),
        (vec![(HEADER, 16, false), (DATA, 512, true), (DATA, 16, false), status], 0, 1),
    ];
    for (runs, written, code) in cases {
        guest.put(STATUS, &[9]);
        guest.chain(0, &runs);
        guest.offer(0);
        run(&mut engine);
        assert_eq!((guest.used(), guest.get(STATUS, 1)), (vec![(0, written)], vec![code]), "{runs:?}");
    }
    assert_eq!(broken(&mut engine), None);
}

#[test]
fn rings_that_cannot_be_are_not_started() {
    let (_memory, guest, mut engine) = fresh();
    let mut refused = |change: fn(&mut RingSetup)| {
        let mut setup = guest.setup();
        change(&mut setup);
        engine.start(setup).unwrap_err().to_string()
    };
    assert!(refused(|setup| setup.size = 0).contains("0 entries"));
    assert!(refused(|setup| setup.size = 63).contains("63 entries"));
    assert!(refused(|setup| setup.desc = GuestAddr(BASE + 8)).contains("descriptor table"));
    assert!(refused(|setup| setup.avail = GuestAddr(BASE + 1)).contains("misaligned"));
    assert!(refused(|setup| setup.used = GuestAddr(BASE + 2)).contains("misaligned"));
    assert!(refused(|setup| setup.used = GuestAddr(BASE + LEN - 64)).contains("not in one piece"));
}

#[test]
fn a_ring_whose_memory_goes_away_is_broken_and_its_requests_are_let_go() {
    let memory = Memory::new().unwrap();
    let notes = Notes::default();
    let (mut guest, mut engine) = served(&memory, &notes, all());
    guest.header(HEADER, IN, 0);
    guest.chain(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    notes.pace.store(0, Ordering::SeqCst);
    guest.offer(0);
    run(&mut engine);
    guest.region.revoke(std::time::Duration::from_secs(10)).unwrap();
    notes.pace.store(usize::MAX, Ordering::SeqCst);
    run(&mut engine);
    assert_eq!(broken(&mut engine), Some(Broken::Memory(Status::Gone)));
    assert!(!engine.busy() && guest.err.drain());
}

/// A chain of `pieces`, each of them the same megabyte of the guest's.
fn long(guest: &mut Guest, first: u16, pieces: u16) {
    let data = std::iter::repeat_n((DATA, 1 << 20, true), usize::from(pieces));
    let runs: Vec<_> = std::iter::once((HEADER, 16, false)).chain(data).chain([(STATUS, 1, true)]).collect();
    guest.chain(first, &runs);
}

#[test]
fn much_is_taken_in_more_than_one_round_and_far_too_much_not_at_all() {
    let memory = Memory::new().unwrap();
    let notes = Notes::default();
    let mut guest = Guest::new(&memory, 2048, all());
    let mut engine = engine(&memory, &notes);
    engine.start(guest.setup()).unwrap();
    guest.header(HEADER, IN, 0);
    for head in 0..4 {
        long(&mut guest, 200 * head, 150);
        guest.stage(200 * head);
    }
    guest.show();
    // What was refused by the device was taken as well: two of these are more than a round takes.
    for _ in 0..2 {
        assert_eq!(engine.round(), Round::Worked);
        assert_eq!(guest.used().len(), 2);
    }
    long(&mut guest, 0, 1025);
    guest.put(STATUS, &[0xee]);
    guest.offer(0);
    run(&mut engine);
    assert_eq!((guest.used(), guest.get(STATUS, 1), notes.taking().len()), (vec![(0, 0)], vec![1], 0));
}

#[test]
fn heads_left_by_a_killed_server_are_all_done_again_however_much_they_are() {
    let memory = Memory::new().unwrap();
    let mut guest = Guest::new(&memory, 2048, all());
    let mut engine = engine(&memory, &Notes::default());
    engine.start(guest.setup()).unwrap();
    guest.header(HEADER, IN, 0);
    for head in 0..4 {
        long(&mut guest, 200 * head, 150);
    }
    engine.running().unwrap().again = vec![600, 400, 200, 0];
    run(&mut engine);
    let heads: Vec<u32> = guest.used().iter().map(|(head, _)| *head).collect();
    assert_eq!(heads, [0, 200, 400, 600]);
}
