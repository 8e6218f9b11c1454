// SPDX-License-Identifier: MIT OR Apache-2.0
use std::fs::File;

use zerocopy::IntoBytes;

use super::*;

fn fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
}

fn refused(request: u32, payload: &[u8], count: usize) -> MessageError {
    Message::parse(request, payload, fds(count)).unwrap_err()
}

const REGION: MemRegion = MemRegion { guest: 0x1000, size: 0x2000, user: 0x7f00_0000, mmap_offset: 0x3000 };

#[test]
fn vhost_user_header_version_reply_and_length_are_judged() {
    let header = |request, flags, size| Header { request, flags, size };
    assert_eq!(header(1, 1, 0).payload(), Ok(0));
    assert_eq!(header(5, 1 | wire::NEED_REPLY, 264).payload(), Ok(264));
    assert_eq!(header(1, 0, 0).payload(), Err(MessageError::Version { request: 1, version: 0 }));
    assert_eq!(header(1, 3, 0).payload(), Err(MessageError::Version { request: 1, version: 3 }));
    assert_eq!(header(1, 1 | wire::REPLY, 0).payload(), Err(MessageError::Reply(1)));
    for size in [MAX_PAYLOAD as u32 + 1, u32::MAX] {
        assert_eq!(header(24, 1, size).payload(), Err(MessageError::TooLong { request: 24, size }));
    }
    // The largest that there are: a whole table, and all of the configuration space.
    assert!(header(5, 1, 8 + 8 * 32).payload().is_ok() && header(24, 1, 12 + 256).payload().is_ok());
}

#[test]
fn vhost_user_a_payload_is_as_long_as_its_message_says() {
    let sizes = [
        (id::GET_FEATURES, 0),
        (id::SET_FEATURES, 8),
        (id::SET_OWNER, 0),
        (id::SET_VRING_NUM, 8),
        (id::SET_VRING_ADDR, 40),
        (id::SET_VRING_BASE, 8),
        (id::GET_VRING_BASE, 8),
        (id::GET_PROTOCOL_FEATURES, 0),
        (id::SET_PROTOCOL_FEATURES, 8),
        (id::GET_QUEUE_NUM, 0),
        (id::SET_VRING_ENABLE, 8),
        (id::RESET_DEVICE, 0),
        (id::GET_MAX_MEM_SLOTS, 0),
    ];
    for (request, wanted) in sizes {
        assert!(Message::parse(request, &vec![0; wanted], Vec::new()).is_ok(), "{request}");
        assert_eq!(refused(request, &vec![0; wanted + 1], 0), MessageError::Size { request, size: wanted + 1, wanted });
        assert_eq!(refused(request, &vec![0; wanted], 1), MessageError::Descriptors { request, came: 1, wanted: 0 });
    }
    for request in [0, 19, 21, 33, 39, u32::MAX] {
        assert_eq!(refused(request, &[], 0), MessageError::Unknown(request));
    }
}

#[test]
fn vhost_user_a_memory_table_has_a_descriptor_for_each_entry() {
    let table = |count: u32, entries: usize| {
        let mut bytes = MemTableHead { count, padding: 0 }.as_bytes().to_vec();
        (0..entries).for_each(|_| bytes.extend(REGION.as_bytes()));
        bytes
    };
    let Ok(Message::SetMemTable(entries)) = Message::parse(id::SET_MEM_TABLE, &table(2, 2), fds(2)) else { panic!() };
    assert_eq!(entries.iter().map(|(entry, _)| *entry).collect::<Vec<_>>(), [REGION; 2]);
    // With room for all eight, as some send it.
    assert!(Message::parse(id::SET_MEM_TABLE, &table(1, 8), fds(1)).is_ok());
    let request = id::SET_MEM_TABLE;
    assert_eq!(refused(request, &table(2, 2), 1), MessageError::Descriptors { request, came: 1, wanted: 2 });
    assert_eq!(refused(request, &table(3, 2), 3), MessageError::Size { request, size: 72, wanted: 104 });
    assert_eq!(refused(request, &table(9, 8), 8), MessageError::Table(9));
    assert_eq!(refused(request, &table(u32::MAX, 0), 0), MessageError::Table(u32::MAX));
    assert_eq!(refused(request, &[0; 4], 0), MessageError::Size { request, size: 4, wanted: 8 });
}

#[test]
fn vhost_user_a_region_comes_with_its_descriptor_and_goes_with_or_without() {
    let one = OneMemRegion { padding: 0, region: REGION };
    let Ok(Message::AddMemRegion(region, _)) = Message::parse(id::ADD_MEM_REG, one.as_bytes(), fds(1)) else {
        panic!()
    };
    assert_eq!(region, REGION);
    let request = id::ADD_MEM_REG;
    assert_eq!(refused(request, one.as_bytes(), 0), MessageError::Descriptors { request, came: 0, wanted: 1 });
    assert_eq!(refused(request, one.as_bytes(), 2), MessageError::Descriptors { request, came: 2, wanted: 1 });
    for count in [0, 1] {
        assert!(Message::parse(id::REM_MEM_REG, one.as_bytes(), fds(count)).is_ok());
    }
}

#[test]
fn vhost_user_a_kick_without_a_descriptor_says_so() {
    let parse = |payload: u64, count| Message::parse(id::SET_VRING_KICK, payload.as_bytes(), fds(count));
    assert!(matches!(parse(3, 1), Ok(Message::SetVringKick(3, Some(_)))));
    assert!(matches!(parse(3 | NO_FD, 0), Ok(Message::SetVringKick(3, None))));
    let request = id::SET_VRING_KICK;
    assert_eq!(parse(3, 0).unwrap_err(), MessageError::Descriptors { request, came: 0, wanted: 1 });
    assert_eq!(parse(3 | NO_FD, 1).unwrap_err(), MessageError::Descriptors { request, came: 1, wanted: 0 });
}

#[test]
fn vhost_user_the_configuration_space_ends_where_it_ends() {
    let config = |offset, size, bytes| {
        let mut payload = ConfigHead { offset, size, flags: 0 }.as_bytes().to_vec();
        payload.resize(payload.len() + bytes, 7);
        payload
    };
    let get = |offset, size, bytes| Message::parse(id::GET_CONFIG, &config(offset, size, bytes), Vec::new());
    assert!(matches!(get(0, 256, 256), Ok(Message::GetConfig(ConfigHead { size: 256, .. }))));
    assert!(get(32, 1, 0).is_ok(), "without room for the answer");
    let request = id::SET_CONFIG;
    for (offset, size) in [(1, 256), (u32::MAX, 2)] {
        assert!(get(offset, size, size as usize).is_ok(), "it is answered with nothing");
        let set = Message::parse(request, &config(offset, size, size as usize), Vec::new());
        assert_eq!(set.unwrap_err(), MessageError::Config { offset, size });
    }
    let set = |bytes| Message::parse(request, &config(32, 1, bytes), Vec::new());
    assert!(matches!(set(1), Ok(Message::SetConfig(ConfigHead { offset: 32, .. }, bytes)) if bytes == [7]));
    assert_eq!(set(0).unwrap_err(), MessageError::Size { request, size: 12, wanted: 13 });
}

#[test]
fn vhost_user_records_are_asked_for_with_and_without_padding() {
    let told = Inflight { mmap_size: 4096, mmap_offset: 0, queues: 2, queue_size: 128, padding: 0 };
    for bytes in [20, 24] {
        let parsed = Message::parse(id::GET_INFLIGHT_FD, &told.as_bytes()[..bytes], Vec::new());
        assert!(matches!(parsed, Ok(Message::GetInflightFd(asked, wire)) if asked == told && wire == bytes));
    }
    let request = id::GET_INFLIGHT_FD;
    assert_eq!(refused(request, &[0; 22], 0), MessageError::Size { request, size: 22, wanted: 20 });
    assert!(matches!(
        refused(id::SET_INFLIGHT_FD, told.as_bytes(), 0),
        MessageError::Descriptors { came: 0, wanted: 1, .. }
    ));
}
