// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;

impl Segments for &[Segment] {
    fn count(self) -> usize {
        self.len()
    }

    fn segment(self, index: usize) -> Segment {
        self[index]
    }
}

fn segments(list: &[(usize, usize)]) -> Vec<Segment> {
    list.iter().map(|&(addr, len)| Segment { addr, len }).collect()
}

/// Every chunk of a call, checked piece by piece against the bytes of the call in order.
fn walk(list: &[(usize, usize)], capacity: usize) -> Vec<usize> {
    let owned = segments(list);
    let segments = owned.as_slice();
    let wanted = total(segments).expect("addresses that exist");
    let mut bytes = list.iter().flat_map(|&(addr, len)| addr..addr + len);
    let (mut cursor, mut done, mut chunks) = (Cursor::START, 0, Vec::new());
    while done < wanted {
        let chunk = chunk(segments, cursor, capacity, wanted - done);
        if chunk == 0 {
            break;
        }
        let mut end = 0;
        for piece in pieces(segments, cursor, capacity, chunk) {
            assert!(piece.at >= end && piece.at + piece.len <= capacity, "{piece:?} after {end}");
            assert_eq!(piece.at % PAGE, piece.addr % PAGE);
            end = piece.at + piece.len;
            for byte in piece.addr..piece.addr + piece.len {
                assert_eq!(bytes.next(), Some(byte));
            }
        }
        cursor = cursor.advance(segments, chunk);
        done += chunk;
        chunks.push(chunk);
    }
    assert_eq!(bytes.next().is_none(), done == wanted);
    chunks
}

#[test]
fn one_segment_is_cut_at_whole_blocks() {
    assert_eq!(walk(&[(0x10000, 300_000)], 128 << 10), [131_072, 131_072, 37_856]);
    assert_eq!(walk(&[(0x10200, 300_000)], 128 << 10), [65_536, 65_536, 65_536, 103_392]);
    assert_eq!(walk(&[(0x10e00, 5000)], 8192), [4096, 904]);
    assert_eq!(walk(&[(0x10000, 0)], 8192), []);
}

#[test]
fn segments_keep_their_offset_in_the_page_and_pack_where_they_can() {
    let list = segments(&[(0x1000, 512), (0x9200, 512), (0x5000, 0), (0x3400, 1024), (0x8008, 8)]);
    let laid: Vec<_> = pieces(list.as_slice(), Cursor::START, 1 << 20, 1 << 20).map(|p| (p.at, p.len)).collect();
    assert_eq!(laid, [(0, 512), (512, 512), (1024, 1024), (4096 + 8, 8)]);
    assert_eq!(room(list.as_slice()), 4096 + 16);
}

#[test]
fn mixed_segments_are_walked_to_the_last_byte_whatever_the_capacity() {
    let mut seed = 7usize;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..500 {
        let list: Vec<_> = (0..1 + next(20)).map(|_| (0x10_0000 + next(9000) * 8, 512 * next(40))).collect();
        let wanted: usize = list.iter().map(|s| s.1).sum();
        for capacity in [96 << 10, 224 << 10, 1 << 20] {
            let chunks = walk(&list, capacity);
            assert_eq!(chunks.iter().sum::<usize>(), wanted);
            assert!(chunks.iter().rev().skip(1).all(|c| c % PAGE == 0), "{chunks:?}");
        }
    }
}

#[test]
fn what_holds_no_whole_block_is_no_chunk() {
    let list: Vec<_> = (0..64).map(|n| (0x10_0000 + n * 0x1000, 8)).collect();
    assert_eq!(walk(&list, 16 << 10), []);
    assert_eq!(walk(&list, 64 * PAGE), [512]);
}

#[test]
fn addresses_that_wrap_are_nobodys() {
    assert_eq!(total(segments(&[(usize::MAX - 10, 100)]).as_slice()), None);
    assert_eq!(total(segments(&[(1 << 63, 1)]).as_slice()), None);
    assert_eq!(total(segments(&[(0x1000, 1 << 56)]).as_slice()), None);
    assert_eq!(total(segments(&[(0x1000, 1 << 40)]).as_slice()), Some(MOST));
}

#[test]
fn a_cursor_stops_inside_a_segment_and_skips_empty_ones() {
    let list = segments(&[(0x1000, 10), (0x2000, 0), (0x3000, 10)]);
    let cursor = Cursor::START.advance(list.as_slice(), 10).advance(list.as_slice(), 3);
    let left: Vec<_> = pieces(list.as_slice(), cursor, 1 << 20, 1 << 20).map(|p| (p.addr, p.len)).collect();
    assert_eq!(left, [(0x3003, 7)]);
}
