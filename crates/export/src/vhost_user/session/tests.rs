// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages in orders that are sent, and in orders that are not.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use pageless_block::BlockDevice;
use pageless_drivers::NullDisk;
use pageless_sys::epoll::{Epoll, Interest};
use proptest::prelude::*;

use super::*;
use crate::vhost_user::notice::Notices;
use crate::vhost_user::wire::{Log, MemRegion};
use crate::vhost_user::worker::Polling;

const GUEST: u64 = 1 << 20;
const USER: u64 = 0x7f12_3456_0000;
const SIZE: u64 = 1 << 16;

struct Rig {
    memory: Memory,
    workers: Vec<Worker>,
    offer: Offer,
}

impl Rig {
    fn new() -> Rig {
        let memory = Memory::new().unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(NullDisk::new(&memory, 1 << 20));
        let spawn = |index| {
            Worker::spawn(
                index,
                Arc::clone(&device),
                [0; 20],
                &memory,
                Polling::Adaptive,
                (Arc::default(), Notices::new().0),
            )
            .unwrap()
        };
        Rig { workers: (0..2).map(spawn).collect(), offer: Offer::of(&*device, 2), memory }
    }

    fn session(&self) -> Session<'_> {
        Session::new(&self.workers, &self.offer, &self.memory)
    }
}

fn region(guest: u64, user: u64) -> (MemRegion, OwnedFd) {
    (MemRegion { guest, size: SIZE, user, mmap_offset: 0 }, memfd::memfd(SIZE).unwrap())
}

fn table() -> Message {
    Message::SetMemTable(vec![region(GUEST, USER)])
}

fn addresses(index: u32) -> VringAddr {
    VringAddr { index, flags: 0, descriptor: USER, available: USER + 0x1000, used: USER + 0x2000, log: GUEST + 0x2000 }
}

fn event() -> OwnedFd {
    EventFd::new().unwrap().as_fd().try_clone_to_owned().unwrap()
}

fn number(answer: Option<Answer>) -> u64 {
    u64::from_ne_bytes(answer.unwrap().payload.try_into().unwrap())
}

/// What a ring needs, in the order in which QEMU sends it.
fn ring(index: u32) -> Vec<Message> {
    let state = |num| VringState { index, num };
    let kick = u8::try_from(index).unwrap();
    vec![
        Message::SetVringNum(state(128)),
        Message::SetVringBase(state(7)),
        Message::SetVringAddr(addresses(index)),
        Message::SetVringKick(kick, Some(event())),
        Message::SetVringCall(kick, Some(event())),
        Message::SetVringEnable(state(1)),
    ]
}

fn base(session: &mut Session<'_>, index: u32) -> u32 {
    let answer = session.handle(Message::GetVringBase(VringState { index, num: 0 })).unwrap().unwrap();
    u32::from_ne_bytes(answer.payload[4..8].try_into().unwrap())
}

#[test]
fn vhost_user_what_is_offered_is_told_and_nothing_else_taken() {
    let rig = Rig::new();
    let mut session = rig.session();
    let features = number(session.handle(Message::GetFeatures).unwrap());
    assert_ne!(features & Offered::VERSION_1.bits(), 0);
    assert_eq!(number(session.handle(Message::GetQueueNum).unwrap()), 2);
    assert_eq!(number(session.handle(Message::GetMaxMemSlots).unwrap()), MAX_SLOTS);
    session.handle(Message::SetFeatures(features)).unwrap();
    let packed = 1 << 34;
    let refused = session.handle(Message::SetFeatures(features | packed)).unwrap_err();
    assert!(matches!(refused, SessionError::Features { unknown } if unknown == packed), "{refused}");
    assert!(!session.acknowledges());
    session.handle(Message::SetProtocolFeatures(ProtocolFeatures::REPLY_ACK.bits())).unwrap();
    assert!(session.acknowledges());
    assert!(session.handle(Message::SetProtocolFeatures(1 << 7)).is_err(), "crypto is not offered");
}

#[test]
fn vhost_user_a_ring_is_served_from_its_kick_until_its_base_is_asked_for() {
    let rig = Rig::new();
    let mut session = rig.session();
    session.handle(table()).unwrap();
    for message in ring(0) {
        session.handle(message).unwrap();
    }
    assert!(session.rings[0].served && !session.rings[1].served);
    assert_eq!(base(&mut session, 0), 7);
    assert!(!session.rings[0].served);
    // It needs a new kick to start again, and goes on where it was.
    session.handle(Message::SetVringAddr(addresses(0))).unwrap();
    assert!(!session.rings[0].served);
    session.handle(Message::SetVringKick(0, None)).unwrap();
    assert!(session.rings[0].served);
    assert_eq!((base(&mut session, 0), base(&mut session, 1)), (7, 0));
}

/// SPDK's initiator enables rings, with their size for a number, before there is memory.
#[test]
fn vhost_user_rings_wait_for_the_memory_they_are_in() {
    let rig = Rig::new();
    let mut session = rig.session();
    session.handle(Message::SetVringEnable(VringState { index: 1, num: 256 })).unwrap();
    for message in ring(1) {
        session.handle(message).unwrap();
    }
    assert!(!session.rings[1].served);
    session.handle(table()).unwrap();
    assert!(session.rings[1].served && session.rings[1].enabled == Some(true));
}

#[test]
fn vhost_user_memory_comes_and_goes_a_region_at_a_time() {
    let rig = Rig::new();
    let mut session = rig.session();
    let before = rig.memory.regions();
    for (guest, user) in [(GUEST, USER), (4 * GUEST, 2 * USER)] {
        let (entry, fd) = region(guest, user);
        session.handle(Message::AddMemRegion(entry, fd)).unwrap();
    }
    ring(0).into_iter().for_each(|message| assert!(session.handle(message).unwrap().is_none()));
    assert!(session.rings[0].served);
    let (entry, fd) = region(GUEST + SIZE - 4096, 3 * USER);
    assert!(matches!(session.handle(Message::AddMemRegion(entry, fd)), Err(SessionError::Map(_))), "it overlaps");
    assert_eq!(rig.memory.regions(), before + 2);
    let entry = region(4 * GUEST, 2 * USER).0;
    session.handle(Message::RemoveMemRegion(entry)).unwrap();
    assert!(matches!(session.handle(Message::RemoveMemRegion(entry)), Err(SessionError::NoRegion { .. })));
    assert_eq!(rig.memory.regions(), before + 1);
    drop(session);
    assert_eq!(rig.memory.regions(), before, "it all goes with the front-end");
}

#[test]
fn vhost_user_a_region_may_start_anywhere_in_what_is_mapped() {
    let rig = Rig::new();
    let mut session = rig.session();
    let entry = MemRegion { guest: GUEST, size: 4096, user: USER, mmap_offset: 5000 };
    session.handle(Message::AddMemRegion(entry, memfd::memfd(SIZE).unwrap())).unwrap();
    let found = session.map.range(GuestAddr(GUEST), 4096).unwrap();
    assert_eq!(found.offset(), 5000 - 4096);
    for (mmap_offset, size) in [(SIZE, 4096), (0, SIZE + 1), (u64::MAX, 4096), (5000, u64::MAX)] {
        let entry = MemRegion { guest: 8 * GUEST, size, user: 2 * USER, mmap_offset };
        let refused = session.handle(Message::AddMemRegion(entry, memfd::memfd(SIZE).unwrap()));
        let named = |error: &SessionError| match error {
            SessionError::Entry { guest, .. } => *guest == 8 * GUEST,
            other => matches!(other, SessionError::Wraps { .. }),
        };
        assert!(refused.as_ref().is_err_and(named), "{refused:?}");
    }
}

#[test]
fn vhost_user_numbers_that_are_none_are_refused() {
    let rig = Rig::new();
    let mut session = rig.session();
    let state = |index, num| VringState { index, num };
    for index in [2, 255, u32::MAX] {
        assert!(matches!(session.handle(Message::SetVringNum(state(index, 8))), Err(SessionError::Ring { .. })));
        assert!(matches!(session.handle(Message::GetVringBase(state(index, 0))), Err(SessionError::Ring { .. })));
    }
    for size in [0, 3, 1 << 16, u32::MAX] {
        assert!(matches!(session.handle(Message::SetVringNum(state(0, size))), Err(SessionError::Size { .. })));
    }
    assert!(matches!(session.handle(Message::SetVringBase(state(0, 1 << 16))), Err(SessionError::Base { .. })));
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert!(matches!(session.handle(Message::SetVringCall(0, Some(null()))), Err(SessionError::Sys(_))));
    let log = Log { size: 1 << 20, offset: 0 };
    assert!(session.handle(Message::SetLogBase(log, memfd::memfd(4096).unwrap())).is_err(), "it is too short");
    // Misaligned rings are told at the kick that would start them.
    session.handle(table()).unwrap();
    session.handle(Message::SetVringNum(state(0, 8))).unwrap();
    session.handle(Message::SetVringAddr(VringAddr { descriptor: USER + 1, ..addresses(0) })).unwrap();
    assert!(matches!(session.handle(Message::SetVringKick(0, None)), Err(SessionError::Start { ring: 0, .. })));
}

#[test]
fn vhost_user_the_cache_is_switched_by_its_byte() {
    let rig = Rig::new();
    let mut session = rig.session();
    let read = |session: &mut Session<'_>| {
        let head = ConfigHead { offset: 0, size: 256, flags: 0 };
        let answer = session.handle(Message::GetConfig(head)).unwrap().unwrap();
        assert_eq!(answer.payload.len(), 12 + 256);
        answer.payload[12 + 32]
    };
    let has = rig.offer.features.contains(Offered::CONFIG_WCE);
    assert_eq!(read(&mut session), 1);
    let head = ConfigHead { offset: 32, size: 1, flags: 0 };
    assert_eq!(session.handle(Message::SetConfig(head, vec![0])).is_ok(), has);
    assert_eq!(read(&mut session), u8::from(!has));
    let elsewhere = ConfigHead { offset: 0, size: 8, flags: 0 };
    assert!(matches!(session.handle(Message::SetConfig(elsewhere, vec![0; 8])), Err(SessionError::Config { .. })));
}

#[test]
fn vhost_user_records_are_given_and_taken_back() {
    let rig = Rig::new();
    let mut session = rig.session();
    let asked = Inflight { mmap_size: 0, mmap_offset: 0, queues: 2, queue_size: 128, padding: 0 };
    let answer = session.handle(Message::GetInflightFd(asked, 20)).unwrap().unwrap();
    assert_eq!(answer.payload.len(), 20);
    let size = u64::from_ne_bytes(answer.payload[..8].try_into().unwrap());
    let told = Inflight { mmap_size: size, ..asked };
    session.handle(Message::SetInflightFd(told, answer.fd.unwrap())).unwrap();
    session.handle(table()).unwrap();
    ring(0).into_iter().for_each(|message| assert!(session.handle(message).unwrap().is_none()));
    assert!(session.rings[0].served);
    for wrong in
        [Inflight { queues: 3, ..told }, Inflight { queue_size: 100, ..told }, Inflight { mmap_size: 64, ..told }]
    {
        let fd = memfd::memfd(size).unwrap();
        assert!(matches!(session.handle(Message::SetInflightFd(wrong, fd)), Err(SessionError::Records { .. })));
    }
}

#[test]
fn vhost_user_a_reset_device_is_as_new() {
    let rig = Rig::new();
    let mut session = rig.session();
    session.handle(table()).unwrap();
    for index in 0..2 {
        ring(index).into_iter().for_each(|message| drop(session.handle(message).unwrap()));
    }
    session.handle(Message::ResetDevice).unwrap();
    assert!(session.rings.iter().all(|ring| !ring.served && ring.size == 0));
    ring(1).into_iter().for_each(|message| drop(session.handle(message).unwrap()));
    assert!(session.rings[1].served, "its memory is still there");
}

#[test]
fn vhost_user_a_record_that_does_not_hold_a_ring_is_refused_with_it() {
    let rig = Rig::new();
    let told = Inflight { mmap_size: 1 << 16, mmap_offset: 0, queues: 1, queue_size: 64, padding: 0 };
    for (index, told) in
        [(0, told), (1, Inflight { queue_size: 128, ..told }), (0, Inflight { mmap_offset: 4, ..told })]
    {
        let mut session = rig.session();
        session.handle(Message::SetInflightFd(told, memfd::memfd(1 << 17).unwrap())).unwrap();
        session.handle(table()).unwrap();
        let mut refused = ring(index).into_iter().filter_map(|message| session.handle(message).err());
        assert!(matches!(refused.next(), Some(SessionError::Records { .. })), "ring {index}, {told:?}");
    }
}

#[test]
fn vhost_user_a_ring_that_starts_again_tells_errors_where_it_was_told_to() {
    let rig = Rig::new();
    let mut session = rig.session();
    let (entry, fd) = region(GUEST, USER);
    let guest = std::fs::File::from(fd.try_clone().unwrap());
    let mut told = Epoll::new(1).unwrap();
    let error = EventFd::new().unwrap();
    told.add(&error, 0, Interest::Read).unwrap();
    session.handle(Message::SetMemTable(vec![(entry, fd)])).unwrap();
    session.handle(Message::SetVringErr(0, Some(error.as_fd().try_clone_to_owned().unwrap()))).unwrap();
    for round in 1..=2 {
        for message in ring(0) {
            session.handle(message).unwrap();
        }
        // More than there is room for.
        guest.write_all_at(&9999_u16.to_le_bytes(), 0x1002).unwrap();
        session.handle(Message::SetVringKick(0, None)).unwrap();
        let mut ready = Vec::new();
        told.wait(Some(Duration::from_secs(60)), &mut ready).unwrap();
        assert!(error.drain(), "round {round}");
        base(&mut session, 0);
        guest.write_all_at(&7_u16.to_le_bytes(), 0x1002).unwrap();
    }
}

proptest! {
    /// Whatever comes in whatever order, a ring is served exactly when it has all it needs.
    #[test]
    fn vhost_user_any_order_of_messages_is_safe(order in proptest::collection::vec((0..9_u8, 0..3_u32), 0..24)) {
        let rig = Rig::new();
        let mut session = rig.session();
        for (what, index) in order {
            let message = match what {
                0..=5 => ring(index).swap_remove(what.into()),
                6 => table(),
                7 => Message::GetVringBase(VringState { index, num: 0 }),
                _ => Message::SetMemTable(Vec::new()),
            };
            prop_assert_eq!(session.handle(message).is_err(), index == 2 && what != 6 && what < 8);
        }
        session.handle(table()).unwrap();
        for ring in &session.rings {
            let complete = ring.size > 0 && ring.addresses.is_some() && !matches!(ring.kick, Kick::Unset);
            prop_assert_eq!(ring.served, complete);
        }
    }
}
