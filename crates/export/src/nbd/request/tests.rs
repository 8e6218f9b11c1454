// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

const SIZE: u64 = 1 << 30;

fn rules() -> Rules {
    let flags = TransmissionFlags::all() - TransmissionFlags::READ_ONLY;
    Rules { size: SIZE, flags, minimum: 512, maximum: wire::MAX_PAYLOAD, structured: true, block_status: true }
}

fn request(kind: u16, flags: u16, offset: u64, length: u32) -> Request {
    Request { flags, kind, cookie: 0xc00c1e, offset, length }
}

fn errno(request: Request, rules: &Rules) -> u32 {
    request.check(rules).map_or_else(|refusal| refusal.errno.number(), |_| 0)
}

#[test]
fn nbd_request_is_28_bytes_big_endian() {
    let bytes: [u8; REQUEST_LEN] =
        [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0];
    let parsed = Request::parse(&bytes).unwrap();
    let expected = Request { flags: 1, kind: 6, cookie: 0x0102_0304_0506_0708, offset: 65536, length: 512 };
    assert_eq!(parsed, expected);
}

#[test]
fn nbd_request_magic_is_checked() {
    let mut bytes = [0; REQUEST_LEN];
    assert_eq!(Request::parse(&bytes), Err(BadMagic(0)));
    bytes[..4].copy_from_slice(&0x2560_9514u32.to_be_bytes());
    assert_eq!(Request::parse(&bytes), Err(BadMagic(0x2560_9514)));
}

#[test]
fn nbd_every_command_is_understood() {
    let check = |kind, flags, offset, length| request(kind, flags, offset, length).check(&rules()).unwrap();
    let (offset, length) = (4096, 8192);
    assert_eq!(check(cmd::READ, 4, offset, length), Command::Read { offset, length, whole: true });
    assert_eq!(check(cmd::WRITE, 1, offset, length), Command::Write { offset, length, fua: true });
    assert_eq!(check(cmd::DISC, 0, 0, 0), Command::Disconnect);
    assert_eq!(check(cmd::FLUSH, 0, 0, 0), Command::Flush);
    assert_eq!(check(cmd::TRIM, 0, offset, length), Command::Trim { offset, length, fua: false });
    assert_eq!(check(cmd::CACHE, 0, offset, length), Command::Cache);
    let zeroes = Command::WriteZeroes { offset, length, fua: true, allocate: true, fast: true };
    assert_eq!(check(cmd::WRITE_ZEROES, 1 | 2 | 16, offset, length), zeroes);
    assert_eq!(check(cmd::BLOCK_STATUS, 8, offset, length), Command::BlockStatus { offset, length, one: true });
}

#[test]
fn nbd_error_values_past_the_end() {
    for (kind, expected) in [
        (cmd::READ, 22),
        (cmd::WRITE, 28),
        (cmd::TRIM, 22),
        (cmd::CACHE, 22),
        (cmd::WRITE_ZEROES, 28),
        (cmd::BLOCK_STATUS, 22),
    ] {
        assert_eq!(errno(request(kind, 0, SIZE - 512, 512), &rules()), 0);
        for offset in [SIZE - 512, SIZE, u64::MAX - 511, u64::MAX - 1023] {
            assert_eq!(errno(request(kind, 0, offset, 1024), &rules()), expected, "command {kind} at {offset}");
        }
    }
}

#[test]
fn nbd_error_values_unaligned_and_empty() {
    for kind in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
        assert_eq!(errno(request(kind, 0, 1, 512), &rules()), 22);
        assert_eq!(errno(request(kind, 0, 512, 511), &rules()), 22);
        assert_eq!(errno(request(kind, 0, 512, 0), &rules()), 22);
    }
}

#[test]
fn nbd_size_constraints_maximum_payload() {
    let over = wire::MAX_PAYLOAD + 512;
    assert_eq!(errno(request(cmd::READ, 0, 0, wire::MAX_PAYLOAD), &rules()), 0);
    assert_eq!(errno(request(cmd::READ, 0, 0, over), &rules()), 75);
    assert_eq!(errno(request(cmd::READ, 0, 0, over), &Rules { structured: false, ..rules() }), 22);
    assert_eq!(errno(request(cmd::WRITE, 0, 0, over), &rules()), 22);
    for kind in [cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
        assert_eq!(errno(request(kind, 0, 0, over), &rules()), 0, "no payload, no maximum");
    }
}

#[test]
fn nbd_command_flags_belong_to_their_command() {
    let own = |kind| match kind {
        cmd::READ => 1 | 4,
        cmd::WRITE_ZEROES => 1 | 2 | 16,
        cmd::BLOCK_STATUS => 1 | 8,
        _ => 1,
    };
    for kind in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
        for bit in 0..16 {
            let expected = if own(kind) & (1 << bit) != 0 { 0 } else { 22 };
            assert_eq!(errno(request(kind, 1 << bit, 0, 512), &rules()), expected, "command {kind} flag {bit}");
        }
    }
}

#[test]
fn nbd_transmission_flags_that_were_not_announced() {
    let without = |flag| Rules { flags: rules().flags - flag, ..rules() };
    for (flag, kind, bit, length) in [
        (TransmissionFlags::SEND_FLUSH, cmd::FLUSH, 0, 0),
        (TransmissionFlags::SEND_TRIM, cmd::TRIM, 0, 512),
        (TransmissionFlags::SEND_WRITE_ZEROES, cmd::WRITE_ZEROES, 0, 512),
        (TransmissionFlags::SEND_FUA, cmd::WRITE, 1, 512),
        (TransmissionFlags::SEND_DF, cmd::READ, 4, 512),
        (TransmissionFlags::SEND_FAST_ZERO, cmd::WRITE_ZEROES, 16, 512),
    ] {
        assert_eq!(errno(request(kind, bit, 0, length), &rules()), 0);
        assert_eq!(errno(request(kind, bit, 0, length), &without(flag)), 22, "{flag:?}");
    }
    let no_context = Rules { block_status: false, ..rules() };
    assert_eq!(errno(request(cmd::BLOCK_STATUS, 0, 0, 512), &no_context), 22);
}

#[test]
fn nbd_read_only_exports_refuse_writes_with_eperm() {
    let read_only = Rules { flags: rules().flags | TransmissionFlags::READ_ONLY, ..rules() };
    for kind in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
        assert_eq!(errno(request(kind, 0, 0, 512), &read_only), 1);
    }
    assert_eq!(errno(request(cmd::READ, 0, 0, 512), &read_only), 0);
    assert_eq!(errno(request(cmd::FLUSH, 0, 0, 0), &read_only), 0);
}

#[test]
fn nbd_cmd_flush_has_no_range_and_unknown_commands_are_einval() {
    assert_eq!(errno(request(cmd::FLUSH, 0, 0, 512), &rules()), 22);
    assert_eq!(errno(request(cmd::FLUSH, 0, 512, 0), &rules()), 22);
    for kind in [8, 9, 255, u16::MAX] {
        assert_eq!(errno(request(kind, 0, 0, 512), &rules()), 22);
    }
}

proptest! {
    #[test]
    fn what_is_let_through_lies_inside_the_export(
        kind in 0u16..10, flags: u16, offset: u64, length: u32, small: bool, structured: bool,
    ) {
        let offset = if small { offset % SIZE } else { offset } & !511;
        let request = request(kind, flags & 31, offset, length & !511);
        let rules = Rules { structured, ..rules() };
        if let Ok(Command::Read { offset, length, .. } | Command::Write { offset, length, .. }) = request.check(&rules) {
            prop_assert!(offset + u64::from(length) <= SIZE && length <= wire::MAX_PAYLOAD && length > 0);
        }
        prop_assert_eq!(request.payload(), if kind == cmd::WRITE { request.length } else { 0 });
    }

    #[test]
    fn a_header_survives_the_wire(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) {
        let header = RequestHeader {
            magic: wire::REQUEST_MAGIC.into(),
            flags: flags.into(),
            kind: kind.into(),
            cookie: cookie.into(),
            offset: offset.into(),
            length: length.into(),
        };
        let bytes = header.as_bytes().first_chunk().unwrap();
        prop_assert_eq!(Request::parse(bytes), Ok(Request { flags, kind, cookie, offset, length }));
    }
}
