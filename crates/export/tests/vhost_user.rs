// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server's side of the vhost-user protocol against somebody else's front-end: that of the `vhost` crate.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageless_drivers::RamDisk;
use pageless_export::vhost_user::{Notice, Polling, Server, ServerConfig};
use pageless_mem::{Backing, Memory};
use pageless_sys::scm;
use pageless_testkit::front_end::{Ask, FrontEnd, FrontKind, FrontMemory};
use pageless_testkit::regions::TempPath;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_driver::VirtioBlkFeatureFlags;
use vmm_sys_util::eventfd::EventFd;

const CAPACITY: u64 = 1 << 20;
const GUEST: u64 = 1 << 30;
const USER: u64 = 0x7f00_0000_0000;
const SIZE: u64 = 1 << 20;

struct Rig {
    server: Server,
    socket: TempPath,
    memory: Memory,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(false)
    }

    fn with(read_only: bool) -> Rig {
        let memory = Memory::new().unwrap();
        let socket = TempPath::within(&std::env::temp_dir());
        let config = ServerConfig {
            device: Arc::new(RamDisk::new(&memory, memory.register(Backing::anon(CAPACITY).unwrap()).unwrap(), "disk")),
            path: socket.path().to_owned(),
            queues: 2,
            polling: Polling::Adaptive,
            read_only,
        };
        Rig { server: Server::start(config, &memory).unwrap(), socket, memory }
    }

    /// A front-end that has agreed on everything.
    fn front_end(&self) -> Frontend {
        let mut front_end = Frontend::connect(self.socket.path(), 2).unwrap();
        front_end.set_owner().unwrap();
        let features = front_end.get_features().unwrap();
        front_end.set_features(features & !VhostUserVirtioFeatures::LOG_ALL.bits()).unwrap();
        let offered = front_end.get_protocol_features().unwrap();
        front_end.set_protocol_features(offered).unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        front_end
    }
}

fn memfd(len: u64) -> OwnedFd {
    pageless_sys::memfd::memfd(len).unwrap()
}

fn region(fd: &OwnedFd, index: u64) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST + index * SIZE,
        memory_size: SIZE,
        userspace_addr: USER + index * SIZE,
        mmap_offset: 0,
        mmap_handle: fd.as_raw_fd(),
    }
}

fn rings(at: u64) -> VringConfigData {
    VringConfigData {
        queue_max_size: 128,
        queue_size: 128,
        flags: 0,
        desc_table_addr: at,
        avail_ring_addr: at + 0x1000,
        used_ring_addr: at + 0x2000,
        log_addr: None,
    }
}

fn start(front_end: &mut Frontend, index: usize, at: u64) -> [EventFd; 2] {
    let events = [EventFd::new(0).unwrap(), EventFd::new(0).unwrap()];
    front_end.set_vring_num(index, 128).unwrap();
    front_end.set_vring_addr(index, &rings(at)).unwrap();
    front_end.set_vring_base(index, 5).unwrap();
    front_end.set_vring_call(index, &events[0]).unwrap();
    front_end.set_vring_kick(index, &events[1]).unwrap();
    front_end.set_vring_err(index, &events[0]).unwrap();
    front_end.set_vring_enable(index, true).unwrap();
    events
}

#[test]
fn vhost_user_features_queues_and_configuration_are_what_the_device_is() {
    let rig = Rig::new();
    let mut front_end = rig.front_end();
    assert_eq!(front_end.get_queue_num().unwrap(), 2);
    assert!(front_end.get_max_mem_slots().unwrap() >= 8);
    let (_, config) = front_end.get_config(0, 256, VhostUserConfigFlags::empty(), &[0; 256]).unwrap();
    assert_eq!(config.len(), 256, "all that was asked for");
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), CAPACITY / 512);
    let (_, queues) = front_end.get_config(34, 2, VhostUserConfigFlags::empty(), &[0; 2]).unwrap();
    assert_eq!(queues, [2, 0]);
    front_end.set_config(32, VhostUserConfigFlags::WRITABLE, &[0]).unwrap();
    let (_, writeback) = front_end.get_config(32, 1, VhostUserConfigFlags::empty(), &[1]).unwrap();
    assert_eq!(writeback, [0]);
    front_end.set_config(0, VhostUserConfigFlags::WRITABLE, &[0; 8]).unwrap_err();
    let offered = front_end.get_protocol_features().unwrap();
    for needed in [
        VhostUserProtocolFeatures::MQ,
        VhostUserProtocolFeatures::CONFIG,
        VhostUserProtocolFeatures::REPLY_ACK,
        VhostUserProtocolFeatures::LOG_SHMFD,
        VhostUserProtocolFeatures::INFLIGHT_SHMFD,
        VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS,
        VhostUserProtocolFeatures::RESET_DEVICE,
    ] {
        assert!(offered.contains(needed), "{needed:?}");
    }
}

#[test]
fn vhost_user_rings_start_move_and_stop() {
    let rig = Rig::new();
    let mut front_end = rig.front_end();
    let fds = [memfd(SIZE), memfd(SIZE)];
    front_end.set_mem_table(&[region(&fds[0], 0)]).unwrap();
    let _events = [start(&mut front_end, 0, USER), start(&mut front_end, 1, USER + 0x4000)];
    // Memory may come and go while they are served.
    front_end.add_mem_region(&region(&fds[1], 1)).unwrap();
    front_end.remove_mem_region(&region(&fds[1], 1)).unwrap();
    front_end.remove_mem_region(&region(&fds[1], 1)).unwrap_err();
    let log = memfd(1 << 16);
    let log = VhostUserDirtyLogRegion { mmap_size: 1 << 16, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    front_end.set_log_base(0, Some(log)).unwrap();
    assert_eq!((front_end.get_vring_base(0).unwrap(), front_end.get_vring_base(1).unwrap()), (5, 5));
    front_end.reset_device().unwrap();
}

#[test]
fn vhost_user_records_outlive_the_front_end() {
    let rig = Rig::new();
    let mut front_end = rig.front_end();
    let asked = VhostUserInflight { mmap_size: 0, mmap_offset: 0, num_queues: 2, queue_size: 128 };
    let (told, file): (VhostUserInflight, File) = front_end.get_inflight_fd(&asked).unwrap();
    let (size, queues) = (told.mmap_size, told.num_queues);
    assert!(size >= 2 * 16 * 129 && queues == 2);
    drop(front_end);
    let mut front_end = rig.front_end();
    front_end.set_inflight_fd(&told, file.as_raw_fd()).unwrap();
    let fd = memfd(SIZE);
    front_end.set_mem_table(&[region(&fd, 0)]).unwrap();
    let _events = start(&mut front_end, 0, USER);
    // A record that nobody used yet knows no better.
    assert_eq!(front_end.get_vring_base(0).unwrap(), 5);
}

#[test]
fn vhost_user_what_is_wrong_is_told_to_who_asks_and_ends_the_connection_of_who_does_not() {
    let rig = Rig::new();
    let notices = rig.server.notices().unwrap();
    let front_end = rig.front_end();
    let fd = memfd(SIZE);
    front_end.set_mem_table(&[region(&fd, 0), region(&fd, 0)]).unwrap_err();
    front_end.set_mem_table(&[VhostUserMemoryRegionInfo { memory_size: 2 * SIZE, ..region(&fd, 0) }]).unwrap_err();
    front_end.set_vring_num(0, 3).unwrap_err();
    front_end.set_mem_table(&[region(&fd, 0)]).unwrap();
    front_end.set_hdr_flags(VhostUserHeaderFlag::empty());
    front_end.set_vring_num(0, 3).unwrap();
    let Ok(Notice::Left { why }) = notices.recv_timeout(Duration::from_secs(60)) else { panic!("it was not left") };
    assert!(why.contains("ring 0") && why.contains('3'), "{why}");
    drop(front_end);
    // The next one finds a server as before.
    rig.front_end().get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap();
}

#[test]
fn vhost_user_a_stream_of_nonsense_costs_a_connection_and_nothing_else() {
    let rig = Rig::new();
    let before = rig.memory.regions();
    let mut random = 7_u64;
    for round in 0..200_u32 {
        let mut bytes = Vec::new();
        for _ in 0..round % 40 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&random.to_le_bytes());
        }
        if round % 3 == 0 && bytes.len() >= 12 {
            // As far as the head goes it is a message.
            bytes[..4].copy_from_slice(&(round % 42).to_ne_bytes());
            bytes[4..8].copy_from_slice(&9_u32.to_ne_bytes());
            bytes[8..12].copy_from_slice(&(round % 64).to_ne_bytes());
        }
        let mut socket = UnixStream::connect(rig.socket.path()).unwrap();
        // It may have hung up on us already.
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
    rig.front_end().get_queue_num().unwrap();
    assert_eq!(rig.memory.regions(), before);
}

#[test]
fn vhost_user_front_ends_are_served_one_after_the_other_and_the_server_ends_under_all_of_them() {
    let rig = Rig::new();
    let mut first = rig.front_end();
    let fd = memfd(SIZE);
    first.set_mem_table(&[region(&fd, 0)]).unwrap();
    let _events = start(&mut first, 0, USER);
    let waiting = Frontend::connect(rig.socket.path(), 2).unwrap();
    let begun = Instant::now();
    let totals = rig.server.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60) && totals.errors == 0);
    assert!(!rig.socket.path().exists(), "the socket goes with its server");
    waiting.get_features().unwrap_err();
    first.get_features().unwrap_err();
}

#[test]
fn vhost_user_a_driver_that_ignores_read_only_changes_nothing() {
    let rig = Rig::with(true);
    let theirs = Memory::new().unwrap();
    let mut memory = FrontMemory::new(&theirs, FrontKind::Ordinary, SIZE).unwrap();
    let front = FrontEnd::connect(rig.socket.path().to_str().unwrap(), &[&memory], 1, 64).unwrap();
    assert!(front.features.contains(VirtioBlkFeatureFlags::RO));
    let mut queue = front.queues.into_iter().next().unwrap();
    let mut result = |ask, memory: &mut FrontMemory| {
        let mut done = Vec::new();
        queue.start(&ask, memory, 1).unwrap();
        queue.kick().unwrap();
        while done.is_empty() {
            queue.wait(&mut done, Duration::from_secs(60)).unwrap();
        }
        done[0].result
    };
    memory.put(0, &[7; 4096]);
    assert_ne!(result(Ask::Write(0, 0..4096), &mut memory), 0);
    assert_eq!(result(Ask::Read(0, 0..4096), &mut memory), 0);
    let mut found = [1; 4096];
    memory.get(0, &mut found);
    assert!(found.iter().all(|byte| *byte == 0), "it was stored");
}

#[test]
fn vhost_user_descriptors_are_not_hoarded() {
    let rig = Rig::new();
    let notices = rig.server.notices().unwrap();
    let socket = UnixStream::connect(rig.socket.path()).unwrap();
    let file = memfd(4096);
    let fds = [file.as_fd(); 8];
    // SET_CONFIG of all there is, a byte at a time.
    let message = [[25_u32, 1, 268].map(u32::to_ne_bytes).concat(), vec![0; 268]].concat();
    for byte in message.chunks(1) {
        if scm::send(socket.as_fd(), byte, &fds).is_err() {
            break;
        }
    }
    let Ok(Notice::Left { why }) = notices.recv_timeout(Duration::from_secs(60)) else { panic!("it was not left") };
    assert!(why.contains("descriptors") && why.contains("16"), "{why}");
}
