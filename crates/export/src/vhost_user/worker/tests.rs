// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers on their own threads: woken, given orders, halted.

use super::*;
use crate::vhost_user::guest_map::{GuestAddr, Slot};
use crate::vhost_user::request::Features;
use crate::vhost_user::testing::{BASE, FREE, Guest, Notes};
use pageless_block::Status;
use pageless_drivers::RamDisk;
use pageless_mem::Backing;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

const HEADER: u64 = FREE;
const STATUS: u64 = FREE + 0x8000;
const DATA: u64 = FREE + 0x10000;

fn worker(memory: &Memory, device: impl BlockDevice + 'static, polling: Polling) -> (Worker, Arc<Counters>) {
    let (worker, counters, _) = told(memory, device, polling);
    (worker, counters)
}

/// The owner listens.
fn told(
    memory: &Memory,
    device: impl BlockDevice + 'static,
    polling: Polling,
) -> (Worker, Arc<Counters>, Receiver<Notice>) {
    let (counters, (owner, notices)) = (Arc::new(Counters::default()), Notices::new());
    let tell = (Arc::clone(&counters), owner);
    let worker = Worker::spawn(0, Arc::new(device), [0; ID_BYTES], memory, polling, tell).unwrap();
    (worker, counters, notices)
}

fn disk(memory: &Memory) -> RamDisk {
    RamDisk::new(memory, memory.register(Backing::memfd(1 << 20).unwrap()).unwrap(), "ram")
}

/// Reads a sector with each of these heads' descriptors, three a head.
fn offer(guest: &mut Guest, heads: impl Iterator<Item = u16>) {
    guest.header(HEADER, 0, 0);
    for head in heads {
        let at = u64::from(head);
        guest.chain(3 * head, &[(HEADER, 16, false), (DATA + 512 * at, 512, true), (STATUS + at, 1, true)]);
        guest.stage(3 * head);
    }
    guest.show();
}

#[test]
fn a_worker_is_kicked_awake_and_calls_back_with_and_without_indices() {
    for features in [Features::all(), Features::all() - Features::EVENT_IDX] {
        for polling in [Polling::Adaptive, Polling::Busy(Duration::from_micros(100))] {
            let memory = Memory::new().unwrap();
            let (worker, counters) = worker(&memory, disk(&memory), polling);
            let mut guest = Guest::new(&memory, 64, features);
            worker.start(guest.setup()).unwrap();
            for round in 0..50 {
                guest.call_at(guest.seen());
                offer(&mut guest, 0..1 + round % 7);
                // As a driver that does not look whether it must.
                guest.kick.signal();
                guest.wait(usize::from(1 + round % 7));
            }
            assert_eq!(worker.halt(), Some(guest.seen()));
            assert_eq!(worker.halt(), None);
            assert!(counters.calls.get() > 0);
            worker.stop().unwrap();
        }
    }
}

#[test]
fn an_owner_is_told_of_a_broken_ring_and_of_memory_that_went_away() {
    let memory = Memory::new().unwrap();
    let notes = Notes { status: Some(Status::Gone), ..Notes::default() };
    let (worker, _, notices) = told(&memory, notes, Polling::default());
    let mut guest = Guest::new(&memory, 64, Features::all());
    for round in 0..2 {
        worker.start(guest.setup()).unwrap();
        offer(&mut guest, 0..3);
        guest.kick.signal();
        guest.wait(3);
        guest.jump(65);
        guest.kick.signal();
        let told = || notices.recv_timeout(Duration::from_secs(60)).unwrap();
        if round == 0 {
            assert_eq!(told(), Notice::Gone);
        }
        let Notice::Broken { queue: 0, why } = told() else { panic!("the ring is broken") };
        assert!(why.contains("from 3 to 68 in a ring of 64"), "{why}");
        assert_eq!(worker.halt(), Some(3));
        guest.wind(0);
    }
    worker.stop().unwrap();
    assert!(notices.try_recv().is_err(), "each is told once");
}

#[test]
fn kicks_without_work_do_no_harm() {
    let memory = Memory::new().unwrap();
    let (worker, counters) = worker(&memory, disk(&memory), Polling::default());
    let mut guest = Guest::new(&memory, 64, Features::all());
    guest.kick.signal();
    worker.start(guest.setup()).unwrap();
    while counters.kicks.get() < 10 {
        guest.kick.signal();
        std::thread::yield_now();
    }
    offer(&mut guest, 0..3);
    guest.kick.signal();
    guest.wait(3);
}

#[test]
fn halting_finishes_what_is_in_flight() {
    let memory = Memory::new().unwrap();
    let notes = Notes::default();
    notes.pace.store(0, Ordering::SeqCst);
    let (pace, seen) = (Arc::clone(&notes.pace), Arc::clone(&notes.seen));
    let (worker, _) = worker(&memory, notes, Polling::default());
    let mut guest = Guest::new(&memory, 64, Features::all());
    worker.start(guest.setup()).unwrap();
    offer(&mut guest, 0..5);
    guest.kick.signal();
    while seen.lock().unwrap().len() < 5 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let halt = scope.spawn(|| worker.halt());
        pace.store(1, Ordering::SeqCst);
        assert_eq!(halt.join().unwrap(), Some(5));
    });
    assert_eq!(guest.used().len(), 5);
    // And it goes on from there.
    worker.start(guest.setup()).unwrap();
    offer(&mut guest, 0..2);
    guest.kick.signal();
    guest.wait(2);
}

#[test]
fn a_ring_takes_requests_only_while_it_is_enabled() {
    let memory = Memory::new().unwrap();
    let (worker, counters) = worker(&memory, disk(&memory), Polling::default());
    let mut guest = Guest::new(&memory, 64, Features::all());
    let mut setup = guest.setup();
    setup.enabled = false;
    worker.start(setup).unwrap();
    offer(&mut guest, 0..2);
    guest.kick.signal();
    while counters.kicks.get() == 0 {
        std::thread::yield_now();
    }
    assert!(guest.used().is_empty());
    // Without a kick: it looks for itself.
    worker.change(Change::Enabled(true));
    guest.wait(2);
    worker.change(Change::Enabled(false));
    offer(&mut guest, 0..2);
    assert_eq!(worker.halt(), Some(2));
}

#[test]
fn after_a_change_nothing_old_is_used() {
    let memory = Memory::new().unwrap();
    let (worker, _) = worker(&memory, disk(&memory), Polling::default());
    let mut guest = Guest::new(&memory, 64, Features::all());
    worker.start(guest.setup()).unwrap();
    let call = EventFd::new().unwrap();
    guest.kick = EventFd::new().unwrap();
    worker.change(Change::Kick(guest.setup().kick));
    offer(&mut guest, 0..1);
    guest.kick.signal();
    guest.wait(1);
    let before = std::mem::replace(&mut guest.call, call);
    before.drain();
    worker.change(Change::Call(guest.setup().call));
    assert!(guest.call.drain() && !before.drain(), "what may have been missed is told again");
    // The same memory, mapped anew; the old mapping goes away.
    let slot = &guest.map.slots()[0];
    let moved = memory.register(Backing::memfd(slot.len).unwrap()).unwrap();
    let moved = Slot { guest: GuestAddr(BASE), user: slot.user, region: moved, offset: 0, len: slot.len };
    let mut other = Guest::on(&memory, Arc::new(moved), 64, Features::all());
    other.wind(guest.seen());
    worker.change(Change::Memory(Arc::clone(&other.map)));
    guest.region.revoke(Duration::from_secs(10)).unwrap();
    offer(&mut other, 0..3);
    guest.kick.signal();
    other.call = EventFd::adopt(guest.call.as_fd().try_clone_to_owned().unwrap()).unwrap();
    other.wait(3);
    // With a map that has no ring nothing is taken, until there is one that has.
    worker.change(Change::Memory(Arc::default()));
    offer(&mut other, 0..2);
    guest.kick.signal();
    std::thread::sleep(Duration::from_millis(50));
    assert!(other.used().is_empty() && !guest.err.drain());
    worker.change(Change::Memory(Arc::clone(&other.map)));
    other.wait(2);
    let next = worker.halt().unwrap();
    assert_eq!(next, other.seen());
}

#[test]
fn a_ring_without_a_kick_is_looked_at_every_now_and_then() {
    let memory = Memory::new().unwrap();
    let (worker, _) = worker(&memory, disk(&memory), Polling::default());
    let mut guest = Guest::new(&memory, 64, Features::all());
    let mut setup = guest.setup();
    setup.kick = None;
    worker.start(setup).unwrap();
    offer(&mut guest, 0..2);
    guest.wait(2);
    assert_eq!(worker.halt(), Some(2));
}

#[test]
fn whoever_asks_a_worker_that_ended_is_not_kept_waiting() {
    let memory = Memory::new().unwrap();
    let (worker, _) = worker(&memory, disk(&memory), Polling::default());
    worker.give(Order::Stop);
    let guest = Guest::new(&memory, 64, Features::all());
    assert_eq!(worker.start(guest.setup()), Err(RingError::Worker));
    worker.change(Change::Enabled(true));
    assert_eq!(worker.halt(), None);
}
