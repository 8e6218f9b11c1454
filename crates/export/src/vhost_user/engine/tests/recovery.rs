// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server killed between any two stores, and again while its successor recovers: each request is done, and is used once.

use std::collections::BTreeMap;

use super::*;
use crate::vhost_user::inflight::{InflightQueue, queue_bytes};
use crate::vhost_user::testing::Fuse;
use pageless_mem::Region;

const SIZE: u16 = 8;
/// Requests in all, and at once.
const TOTAL: u64 = 14;
const AT_ONCE: usize = 5;

/// The guest's view.
struct View {
    guest: Guest,
    /// Head to request.
    outstanding: BTreeMap<u32, u64>,
    offered: u64,
    done: u64,
}

impl View {
    /// The status byte of a head; headers of two descriptors start at even ones.
    fn status(head: u32) -> u64 {
        STATUS + u64::from(head)
    }

    fn collect(&mut self) {
        for (head, written) in self.guest.used() {
            let request = self.outstanding.remove(&head);
            assert!(request.is_some(), "descriptor {head} was used and is not in work");
            let status = self.guest.get(View::status(head), 1)[0];
            assert_eq!((status, written), (0, 1), "request {request:?}");
            self.done += 1;
        }
    }

    fn offer(&mut self) {
        while self.outstanding.len() < AT_ONCE.min(usize::from(SIZE / 2)) && self.offered < TOTAL {
            let free = (0..u32::from(SIZE)).step_by(2).find(|head| !self.outstanding.contains_key(head)).unwrap();
            let header = HEADER + 16 * u64::from(free);
            self.guest.header(header, 4, 0);
            // A flush names no sector, so a discard tells the device which request it is.
            self.guest.header(header, 11, 0);
            self.guest.put(DATA + 16 * u64::from(free), &range(self.offered, 1, 0));
            self.guest.put(View::status(free), &[0xff]);
            let table = LEN - 0x1000 + 64 * u64::from(free);
            let runs = [(header, 16, 0), (DATA + 16 * u64::from(free), 16, 0), (View::status(free), 1, WRITE)];
            for (index, (at, len, write)) in runs.into_iter().enumerate() {
                let flags = write | if index == 2 { 0 } else { NEXT };
                self.guest.describe_at(table + 16 * index as u64, BASE + at, len, flags, index as u16 + 1);
            }
            self.guest.describe(free as u16, BASE + table, 48, INDIRECT, 0);
            self.outstanding.insert(free, self.offered);
            self.offered += 1;
            self.guest.stage(free as u16);
        }
        self.guest.show();
    }
}

fn serve(view: &View, engine: &mut Engine, record: &Region, fuse: &Fuse) -> bool {
    let mut setup = view.guest.setup();
    let mut inflight = InflightQueue::new(record.clone(), 0, SIZE).unwrap();
    inflight.fuse = fuse.clone();
    setup.inflight = Some(inflight);
    engine.start(setup).is_ok()
}

/// Runs all requests through servers that die after so many stores each; the last one does not. How many died.
fn live_through(fuses: &[u32], from: u16) -> usize {
    let memory = Memory::new().unwrap();
    let record = memory.register(Backing::memfd(queue_bytes(SIZE).next_multiple_of(4096)).unwrap()).unwrap();
    let notes = Notes { limits: Limits { discard: true, ..Limits::default() }, ..Notes::default() };
    let mut view = View { guest: Guest::new(&memory, SIZE, all()), outstanding: BTreeMap::new(), offered: 0, done: 0 };
    view.guest.wind(from);
    let mut seen = vec![0; TOTAL as usize];
    let mut deaths = 0;
    let mut fuses = fuses.iter().map(|stores| Fuse::of(*stores)).chain([Fuse::default()]);
    let (mut life, mut moment) = (None, 0);
    while view.done < TOTAL {
        let Some((engine, fuse)) = &mut life else {
            let mut engine = engine(&memory, &notes);
            let fuse = fuses.next().unwrap();
            // In flight when the last one died, and not seen done: begun again in the order in which they were taken.
            if serve(&view, &mut engine, &record, &fuse) {
                notes.taking();
                notes.pace.store(0, Ordering::SeqCst);
                let again = engine.running().unwrap().again.len();
                if again > 0 {
                    engine.round();
                }
                let order: Vec<u64> = notes.taking().iter().map(|bio| bio.sector.0).collect();
                assert_eq!(order.len(), again);
                assert!(order.is_sorted(), "{order:?}");
                order.iter().for_each(|request| seen[*request as usize] += 1);
                life = Some((engine, fuse));
            } else {
                deaths += 1;
            }
            continue;
        };
        // The device completes out of order, and not everything.
        notes.pace.store([0, 1, 2, 1][moment % 4], Ordering::SeqCst);
        moment += 1;
        view.collect();
        view.offer();
        engine.round();
        notes.taking().iter().for_each(|bio| seen[bio.sector.0 as usize] += 1);
        assert!(fuse.burnt() || engine.running().unwrap().broken.is_none(), "{:?}", engine.running());
        if fuse.burnt() {
            // Killed: nothing is finished, nothing is told.
            deaths += 1;
            life = None;
        }
    }
    view.collect();
    assert!(view.outstanding.is_empty());
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
    deaths
}

#[test]
fn vhost_user_inflight_each_request_is_used_once_wherever_the_server_dies() {
    let mut first = 0;
    while live_through(&[first], 0) > 0 {
        first += 1;
    }
    assert!(first > 100, "stores of a whole life: {first}");
    // The successor dies too, in its recovery or later; the used index wraps meanwhile.
    for first in 0..first {
        for second in (0..40).step_by(3) {
            live_through(&[first, second], u16::MAX - 5);
        }
    }
}

proptest! {
    #[test]
    fn vhost_user_inflight_any_number_of_deaths(fuses in prop::collection::vec(0u32..120, 0..8), from in any::<u16>()) {
        live_through(&fuses, from);
    }

    /// Whatever the record says, recovery ends, and begins nothing twice.
    #[test]
    fn vhost_user_inflight_a_record_of_anything_is_survived(bytes in prop::collection::vec(any::<u8>(), 144), used in any::<u16>()) {
        let memory = Memory::new().unwrap();
        let record = memory.register(Backing::memfd(queue_bytes(SIZE).next_multiple_of(4096)).unwrap()).unwrap();
        let mut frames = TestFrames::of(&memory, record.clone());
        let range = frames.range(0, 144).into();
        frames.put(&range, &bytes).unwrap();
        let good = frames.range(8, 4).into();
        frames.put(&good, &[1, 0, SIZE as u8, 0]).unwrap();
        let notes = Notes::default();
        let mut view = View { guest: Guest::new(&memory, SIZE, all()), outstanding: BTreeMap::new(), offered: 0, done: 0 };
        view.guest.wind(used);
        let mut engine = engine(&memory, &notes);
        prop_assert!(serve(&view, &mut engine, &record, &Fuse::default()));
        let mut again = engine.running().unwrap().again.clone();
        again.sort_unstable();
        again.dedup();
        prop_assert_eq!(again.len(), engine.running().unwrap().again.len());
        run(&mut engine);
        prop_assert!(!engine.busy());
    }
}

#[test]
fn vhost_user_inflight_records_of_something_else_are_refused() {
    let memory = Memory::new().unwrap();
    let record = memory.register(Backing::memfd(4096).unwrap()).unwrap();
    let mut frames = TestFrames::of(&memory, record.clone());
    let guest = Guest::new(&memory, SIZE, all());
    let mut engine = engine(&memory, &Notes::default());
    let mut refused = |header: [u8; 4]| {
        let range = frames.range(8, 4).into();
        frames.put(&range, &header).unwrap();
        let mut setup = guest.setup();
        setup.inflight = InflightQueue::new(record.clone(), 0, SIZE);
        engine.start(setup).unwrap_err().to_string()
    };
    assert!(refused([2, 0, SIZE as u8, 0]).contains("version 2"));
    assert!(refused([1, 0, 16, 0]).contains("a ring of 16, and this one has 8"));
    assert!(InflightQueue::new(record.clone(), 4, SIZE).is_none(), "words would be misaligned");
    assert!(InflightQueue::new(record, 4096 - 64, SIZE).is_none(), "outside");
}
