// SPDX-License-Identifier: MIT OR Apache-2.0
//! `IovIter`: what it refuses, with which numbers, and what becomes of what it names. Against a model: [`model`].

mod arena;
mod model;

use super::*;
use crate::{Limits, ScatterList, Status};
use arena::{Arena, FRAME, Part};
use pageless_mem::{Access, Backing, Fault, FileOptions, Region};

fn bytes(size: u64) -> Limits {
    Limits { max_bytes: size, ..Limits::default() }
}

#[test]
fn impossible_iovecs_are_refused_with_their_numbers() {
    let iovec = |addr, len| UserIovec { addr, len };
    let refused = |iovecs: &[UserIovec]| IovIter::user(iovecs).unwrap_err();
    let last = usize::MAX - 10;
    assert_eq!(refused(&[iovec(0, 1), iovec(last, 11)]), IovError::Wraps { index: 1, addr: last, len: 11 });
    let most = isize::MAX.unsigned_abs();
    let long = refused(&[iovec(0, most), iovec(5, 1)]);
    assert_eq!(long, IovError::TooLong { index: 1, len: 1, before: most });
    assert!(long.to_string().contains("9223372036854775807"), "{long}");
    assert_eq!(refused(&[iovec(0, usize::MAX)]), IovError::TooLong { index: 0, len: usize::MAX, before: 0 });
    assert_eq!(refused(&[iovec(0, 0); 1025]), IovError::TooMany { count: 1025 });

    assert_eq!(IovIter::user(&[iovec(0, 1); 1024]).unwrap().len(), 1024);
    assert_eq!(IovIter::user(&[iovec(0, most), iovec(usize::MAX, 0)]).unwrap().len(), most);
    assert!(IovIter::user(&[]).unwrap().is_empty());
}

#[test]
fn overlapping_iovecs_are_a_source_but_no_destination() {
    let arena = Arena::new(&[(4, Part::Writable)]);
    let limits = Limits::default();
    let mut reader = arena.reader();
    let cases =
        [([(0, 512), (4096, 512), (100, 512)], Some((0, 2, 100, 412))), ([(512, 512), (0, 512), (1024, 512)], None)];
    for (places, overlap) in cases {
        let iovecs = places.map(|(at, len)| arena.iovec(at, len));
        let iter = IovIter::user(&iovecs).unwrap();
        // Of a destination too: who wants it refused asks.
        for access in [Access::Read, Access::Write] {
            let extracted = iter.clone().extract(&reader.online(), &limits, access).unwrap();
            assert_eq!(extracted.list().len_bytes(), 1536);
        }
        let base = arena.mapping.addr() as u64;
        let expected = overlap.map_or(Ok(()), |(first, second, at, len)| {
            Err(IovError::Overlapping { first, second, at: base + at, len })
        });
        assert_eq!(iter.check_disjoint(), expected);
        // what is passed, or cut off, is not written
        let mut rest = iter.clone();
        rest.advance(512);
        assert_eq!(rest.check_disjoint(), Ok(()));
        let mut head = iter;
        head.truncate(1024);
        assert_eq!(head.check_disjoint(), Ok(()));
    }
    let (_, region) = &arena.regions[0];
    let twice = [(0, 600), (8192, 100), (599, 100)].map(|(at, len)| region.range(at, len).unwrap());
    let error = IovIter::frames(&twice).unwrap().check_disjoint().unwrap_err();
    assert!(matches!(error, IovError::Overlapping { first: 0, second: 2, len: 1, .. }), "{error}");
}

#[test]
fn what_is_in_no_region_is_named_with_what_came_before() {
    let arena = Arena::new(&[(2, Part::Writable), (2, Part::Nobodys), (1, Part::Writable)]);
    let iovecs = [arena.iovec(4096, 1024), arena.iovec(7000, 5000)];
    let mut iter = IovIter::user(&iovecs).unwrap();
    let mut reader = arena.reader();
    let online = reader.online();
    // 1192 bytes of the second lie in the first region
    let error = iter.extract(&online, &Limits::default(), Access::Read).unwrap_err();
    let expected = IovError::Unregistered { addr: arena.mapping.addr() + 8192, len: 3808, after: 2216 };
    assert_eq!((error, error.status()), (expected, Status::Gone));
    assert_eq!(iter.segments(&online, &Limits::default()), Err(expected));
    assert_eq!(iter.len(), 6024, "it has not moved");
    iter.truncate(2048);
    assert_eq!(iter.extract(&online, &Limits::default(), Access::Read).unwrap().list().len_bytes(), 2048);
}

#[test]
fn a_destination_must_be_writable() {
    let arena = Arena::new(&[(1, Part::Writable), (1, Part::ReadOnly)]);
    let iovecs = [arena.iovec(0, 8192)];
    let mut iter = IovIter::user(&iovecs).unwrap();
    let mut reader = arena.reader();
    let online = reader.online();
    let expected = IovError::ReadOnly { addr: arena.mapping.addr() + 4096, len: 4096, after: 4096 };
    assert_eq!(iter.extract(&online, &Limits::default(), Access::Write).unwrap_err(), expected);
    assert_eq!(expected.status(), Status::ReadOnly);
    let ranges = [1, 0].map(|i: usize| arena.regions[i].1.range(0, 512).unwrap());
    let mut frames = IovIter::frames(&ranges).unwrap();
    let refused = frames.extract(&online, &Limits::default(), Access::Write).unwrap_err();
    assert_eq!(refused, IovError::ReadOnlyFrames { range: ranges[0], after: 0 });
    for iter in [&mut iter, &mut frames] {
        assert_eq!(iter.extract(&online, &Limits::default(), Access::Read).unwrap().list().as_slice().len(), 2);
    }
}

#[test]
fn a_file_mapped_for_reading_is_no_destination() {
    let path = std::env::temp_dir().join(format!("pageless-iov-{}", std::process::id()));
    std::fs::write(&path, [7; 4096]).unwrap();
    let memory = pageless_mem::Memory::new().unwrap();
    let options = FileOptions { read_only: true, ..FileOptions::default() };
    let region = memory.register(Backing::file(&path, options).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let range = [region.range(0, 512).unwrap()];
    let mut reader = memory.reader();
    let mut iter = IovIter::frames(&range).unwrap();
    let mut refused = || iter.extract(&reader.online(), &Limits::default(), Access::Write).unwrap_err();
    assert_eq!(refused(), IovError::ReadOnlyFrames { range: range[0], after: 0 });
    drop(region);
    let gone = refused();
    assert_eq!((gone, gone.status()), (IovError::Gone { range: range[0], after: 0 }, Status::Gone));
}

#[test]
fn a_region_revoked_between_extraction_and_submit_is_gone() {
    let mut arena = Arena::new(&[(1, Part::Writable), (1, Part::Writable)]);
    let iovecs = [arena.iovec(0, 8192)];
    let mut reader = arena.reader();
    let mut iter = IovIter::user(&iovecs).unwrap();
    let (list, _) = iter.extract(&reader.online(), &Limits::default(), Access::Write).unwrap().into_parts();
    drop(reader.online().pin(list.as_slice(), Access::Write).unwrap());
    let (_, last) = arena.regions.pop().unwrap();
    drop(last.revoke(std::time::Duration::from_secs(10)).unwrap());
    assert_eq!(reader.online().pin(list.as_slice(), Access::Write).unwrap_err(), Fault::Gone);
    drop(last);
    // Registered anew, the same addresses are other frames: the old list does not reach them.
    let again = arena.register(FRAME, FRAME, true).unwrap();
    assert_eq!(reader.online().pin(list.as_slice(), Access::Write).unwrap_err(), Fault::Gone);
    iter.revert(8192);
    let (list, _) = iter.extract(&reader.online(), &Limits::default(), Access::Write).unwrap().into_parts();
    assert_eq!(reader.online().pin(list.as_slice(), Access::Write).unwrap().bytes(), 8192);
    drop(again);
}

#[test]
fn a_request_holds_whole_blocks_within_its_limits() {
    let arena = Arena::new(&[(4, Part::Writable)]);
    let mut reader = arena.reader();
    let online = reader.online();
    // 100 bytes every 200: six to a block of 512, which ends in the middle of one
    let iovecs: Vec<_> = (0..30).map(|i| arena.iovec(i * 200, 100)).collect();
    let mut iter = IovIter::user(&iovecs).unwrap();
    let few = Limits { max_segments: 5, ..Limits::default() };
    let fragmented = IovError::Fragmented { block_size: 512, max_segments: 5 };
    assert_eq!(iter.extract(&online, &few, Access::Read).unwrap_err(), fragmented);
    assert_eq!(iter.len(), 3000, "it has not moved");
    for (limits, len, segments) in [
        (Limits { max_segments: 12, ..Limits::default() }, 1024, 11),
        (bytes(1535), 1024, 11),
        (Limits { max_segments: 6, ..Limits::default() }, 512, 6),
    ] {
        let before = iter.len();
        assert_eq!(iter.segments(&online, &limits), Ok(segments));
        let list = iter.extract(&online, &limits, Access::Read).unwrap().into_parts().0;
        assert_eq!((list.len_bytes(), list.as_slice().len(), before - iter.len()), (len as u64, segments, len));
    }
    let part = IovError::PartBlock { left: 440, block_size: 512 };
    assert_eq!(iter.extract(&online, &Limits::default(), Access::Read).unwrap_err(), part);
    iter.truncate(0);
    assert!(iter.extract(&online, &Limits::default(), Access::Read).unwrap().list().is_empty());
    assert_eq!(iter.segments(&online, &Limits::default()), Ok(0));
}

#[test]
fn more_than_one_range_can_name_is_two() {
    let memory = pageless_mem::Memory::new().unwrap();
    let len = 9 << 30;
    let mapping = std::sync::Arc::new(pageless_sys::mmap::Mapping::anonymous(len).unwrap());
    let region = memory.register(Backing::lent(&mapping, 0, len, true).unwrap()).unwrap();
    let iovecs = [UserIovec { addr: mapping.addr() + 1, len: usize::try_from(len).unwrap() - 512 }];
    let mut reader = memory.reader();
    let online = reader.online();
    let mut iter = IovIter::user(&iovecs).unwrap();
    assert_eq!(iter.segments(&online, &Limits::default()), Ok(3));
    let list = iter.extract(&online, &Limits::default(), Access::Write).unwrap().into_parts().0;
    let most = u64::from(PhysRange::MAX_LEN);
    let expected: ScatterList =
        (0..3).map(|i| region.range(1 + i * most, most.min(len - 512 - i * most)).unwrap()).collect();
    assert_eq!(list, expected);
    assert!(iter.is_empty());
}

#[test]
fn what_nobody_registered_is_registered_on_the_spot_and_given_back() {
    let arena = Arena::new(&[(1, Part::Writable), (3, Part::Nobodys), (1, Part::Writable), (2, Part::Nobodys)]);
    let mut reader = arena.reader();
    // The edges of the gap, one frame of it twice, and the tail.
    let places = [(4000, 200), (4500, 40), (12288 + 4000, 200), (20480, 4096), (4196, 72)];
    let iovecs = places.map(|(at, len)| arena.iovec(at, len));
    let mut iter = IovIter::user(&iovecs).unwrap();
    let mut asked = Vec::new();
    let mut registrar = arena.registrar();
    let extracted = iter
        .extract_or_register(&mut reader, &Limits::default(), Access::Write, |at| {
            asked.push((at.addr - arena.mapping.addr(), at.len));
            registrar(at)
        })
        .unwrap();
    assert_eq!(asked, [(4096, 4096), (12288, 4096), (20480, 4096)], "whole frames, each once");
    let mut own = 0;
    for range in extracted.list() {
        match extracted.release(range) {
            Release::Nothing => own += range.len(),
            Release::Unregister(region) => {
                assert!(
                    (0..region.len()).any(|at| region.range(at, 1).unwrap().byte_address() == range.byte_address())
                );
            }
        }
    }
    assert_eq!(own, 96 + 104, "only what its owner registered is nobody's to drop");
    let (list, registered) = extracted.into_parts();
    assert_eq!((list.len_bytes(), arena.memory.regions()), (4608, 5));
    let inflight = reader.online().pin(list.as_slice(), Access::Write).unwrap();
    drop(registered);
    assert_eq!(arena.memory.regions(), 2);
    assert_eq!(inflight.bytes(), 4608, "what is in flight stays mapped");
    assert_eq!(reader.online().pin(list.as_slice(), Access::Write).unwrap_err(), Fault::Gone);
}

#[test]
fn nothing_stays_registered_when_extraction_fails() {
    let arena = Arena::new(&[(1, Part::Nobodys), (1, Part::ReadOnly), (1, Part::Nobodys)]);
    let mut reader = arena.reader();
    let limits = Limits::default();
    let iovecs = [arena.iovec(0, 12288)];
    let mut iter = IovIter::user(&iovecs).unwrap();
    let refused = iter.extract_or_register(&mut reader, &limits, Access::Write, arena.registrar()).unwrap_err();
    assert!(matches!(refused, RegisterError::Iov(IovError::ReadOnly { after: 4096, .. })), "{refused}");
    assert_eq!((arena.memory.regions(), iter.len()), (1, 12288));

    let mut calls = 0;
    let picky = |at: UserIovec| -> Result<Region, &'static str> {
        calls += 1;
        if calls == 2 { Err("not that") } else { arena.registrar()(at).map_err(|_| "unreached") }
    };
    let refused = iter.extract_or_register(&mut reader, &limits, Access::Read, picky).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("4096 bytes at {:#x} cannot be registered: not that", iovecs[0].addr + 8192)
    );
    assert_eq!((arena.memory.regions(), iter.len()), (1, 12288));

    // A registrar that gives something else is no way to other memory.
    let elsewhere = Arena::new(&[(1, Part::Nobodys)]);
    let wrong = |_| arena.memory.register(Backing::lent(&elsewhere.mapping, 0, 4096, true)?);
    let refused = iter.extract_or_register(&mut reader, &limits, Access::Read, wrong).unwrap_err();
    assert!(matches!(refused, RegisterError::Registrar { .. } | RegisterError::Iov(IovError::Unregistered { .. })));
    assert_eq!(arena.memory.regions(), 1);
}

#[test]
fn nothing_is_registered_that_the_request_has_no_room_for() {
    let arena = Arena::new(&[(8, Part::Nobodys)]);
    let mut reader = arena.reader();
    let iovecs: Vec<_> = (0..4).map(|i| arena.iovec(i * 8192, 512)).collect();
    let mut iter = IovIter::user(&iovecs).unwrap();
    for limits in [Limits { max_segments: 1, ..Limits::default() }, bytes(512)] {
        let extracted = iter.extract_or_register(&mut reader, &limits, Access::Read, arena.registrar()).unwrap();
        assert_eq!((extracted.list().len_bytes(), arena.memory.regions()), (512, 1));
    }
    // Two that touch, in different frames, are one range: there is room for both.
    let iovecs = [arena.iovec(4096, 4096), arena.iovec(8192, 4096)];
    let one = Limits { max_segments: 1, ..Limits::default() };
    let mut iter = IovIter::user(&iovecs).unwrap();
    let extracted = iter.extract_or_register(&mut reader, &one, Access::Read, arena.registrar()).unwrap();
    assert_eq!((extracted.list().len_bytes(), extracted.list().as_slice().len()), (8192, 1));
}

#[test]
fn a_part_is_released_by_its_own_region_in_whatever_order_they_were_made() {
    let arena = Arena::new(&[(3, Part::Nobodys)]);
    let iovecs = [arena.iovec(0, 512), arena.iovec(8192, 512)];
    let mut made: Vec<Region> = Vec::new();
    let extracted = IovIter::user(&iovecs)
        .unwrap()
        .extract_or_register(&mut arena.reader(), &Limits::default(), Access::Read, |_| {
            if made.is_empty() {
                made = [0, 8192].map(|offset| arena.register(offset, FRAME, true).unwrap()).into();
                made.swap(0, 1);
                return Ok::<_, ()>(made[0].clone());
            }
            Ok(made[1].clone())
        })
        .unwrap();
    for range in extracted.list() {
        let Release::Unregister(region) = extracted.release(range) else { panic!("{range:?}") };
        assert_eq!(region.frames().start(), range.pfn());
    }
}

#[test]
fn the_bytes_named_are_the_bytes_at_the_addresses() {
    let arena = Arena::new(&[(1, Part::Writable), (2, Part::Writable)]);
    let text: Vec<u8> = (0..12288_usize).map(|i| (i ^ i >> 8).to_le_bytes()[0]).collect();
    arena.store(0, &text[..4096]);
    arena.store(4096, &text[4096..]);
    let places = [(1, 511), (4000, 1000), (9000, 537)];
    let iovecs = places.map(|(at, len)| arena.iovec(at, len));
    let mut reader = arena.reader();
    let online = reader.online();
    let list = IovIter::user(&iovecs).unwrap().extract(&online, &Limits::default(), Access::Read).unwrap();
    let mut seen = Vec::new();
    for range in list.list() {
        let mut bytes = vec![0; range.len() as usize];
        online.kmap(range, Access::Read).unwrap().reader().read(&mut bytes).unwrap();
        seen.append(&mut bytes);
    }
    assert_eq!(seen, places.map(|(at, len)| &text[at..at + len]).concat());
    assert_eq!(list.list().as_slice().len(), 4, "the second crosses into another region");
}
