// SPDX-License-Identifier: MIT OR Apache-2.0
//! `IovIter` against a model that knows nothing but bytes: the list of all of them, one by one.

#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use proptest::prelude::*;

use super::arena::{Arena, FRAME, Part};
use crate::iov_iter::{IovError, IovIter, RegisterError, UserIovec};
use crate::{Limits, ScatterList};
use pageless_mem::{Access, Region};

/// Offsets in the arena of all bytes, and where the cursor is among them.
#[derive(Clone, Debug)]
struct Model {
    bytes: Vec<usize>,
    at: usize,
    end: usize,
}

/// What extraction must give: so many bytes and ranges, or this error.
type Expected = Result<(usize, usize), IovError>;

impl Model {
    fn new(bytes: Vec<usize>) -> Model {
        Model { at: 0, end: bytes.len(), bytes }
    }

    fn left(&self) -> &[usize] {
        &self.bytes[self.at..self.end]
    }

    /// Byte by byte.
    fn extract(&self, arena: &Arena, limits: &Limits, access: Access, user: bool) -> Expected {
        let block = limits.block_size as usize;
        let most = usize::try_from(limits.max_bytes).unwrap() / block * block;
        let left = self.left();
        let (mut taken, mut last, mut segments, mut whole) = (0, None, 0, (0, 0));
        for &offset in left.iter().take(most) {
            let found = arena.frame_byte(offset);
            let joins = found.is_some_and(|(_, byte)| last == Some(byte));
            if !joins && segments == limits.max_segments {
                break;
            }
            let addr = arena.mapping.addr() + offset;
            let Some((region, byte)) = found else {
                return Err(IovError::Unregistered { addr, len: 0, after: taken });
            };
            if access == Access::Write && !region.writable() {
                let range = region.range(0, 1).unwrap();
                return Err(match user {
                    true => IovError::ReadOnly { addr, len: 0, after: taken },
                    false => IovError::ReadOnlyFrames { range, after: taken },
                });
            }
            segments += u32::from(!joins);
            taken += 1;
            last = Some(byte + 1);
            if taken % block == 0 {
                whole = (taken, segments as usize);
            }
        }
        match whole.0 {
            0 if left.is_empty() => Ok((0, 0)),
            0 if left.len() < block => Err(IovError::PartBlock { left: left.len(), block_size: limits.block_size }),
            0 => Err(IovError::Fragmented { block_size: limits.block_size, max_segments: limits.max_segments }),
            _ => Ok(whole),
        }
    }
}

/// Errors without what a model of single bytes cannot know.
fn plain<T>(result: Result<T, IovError>) -> Result<T, IovError> {
    result.map_err(|error| match error {
        IovError::Unregistered { addr, after, .. } => IovError::Unregistered { addr, len: 0, after },
        IovError::ReadOnly { addr, after, .. } => IovError::ReadOnly { addr, len: 0, after },
        error => error,
    })
}

fn same(ours: &Result<(usize, usize), IovError>, model: &Expected) -> bool {
    match (ours, model) {
        (Err(IovError::ReadOnlyFrames { after: a, .. }), Err(IovError::ReadOnlyFrames { after: b, .. })) => a == b,
        (ours, model) => ours == model,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Advance(usize),
    Revert(usize),
    Truncate(usize),
    Reexpand,
    Remainder,
    Extract(Limits, Access),
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (0..2_u32, 0..6000_u64, prop_oneof![1..9_u32, 9..40_u32, Just(u32::MAX)]).prop_map(|(shift, more, max_segments)| {
        let block_size = 512 << shift;
        Limits { block_size, max_bytes: u64::from(block_size) + more, max_segments, ..Limits::default() }
    })
}

fn any_access() -> impl Strategy<Value = Access> {
    prop_oneof![3 => Just(Access::Read), 1 => Just(Access::Write)]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..5000_usize).prop_map(Step::Advance),
        2 => (0..5000_usize).prop_map(Step::Revert),
        1 => (0..9000_usize).prop_map(Step::Truncate),
        1 => Just(Step::Reexpand),
        1 => Just(Step::Remainder),
        6 => (any_limits(), any_access()).prop_map(|(limits, access)| Step::Extract(limits, access)),
    ]
}

/// Mostly regions, side by side.
fn any_parts() -> impl Strategy<Value = Vec<(usize, Part)>> {
    let part = prop_oneof![1 => Just(Part::Nobodys), 8 => Just(Part::Writable), 2 => Just(Part::ReadOnly)];
    prop::collection::vec((1..4_usize, part), 1..7)
}

/// Places in an arena of 21 frames: anywhere, of no bytes, or behind the one before.
fn any_places() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let len = prop_oneof![1 => Just(0_usize), 6 => 1..700_usize, 2 => 4000..9000_usize];
    prop::collection::vec((0..21 * FRAME, len, prop::bool::weighted(0.3)), 0..24).prop_map(|places| {
        let mut behind = 0;
        let mut follow = |(at, len, follows): (usize, usize, bool)| {
            let at = if follows { behind } else { at };
            behind = at + len;
            (at, len)
        };
        places.into_iter().map(&mut follow).collect()
    })
}

/// The places that lie in the arena, cut where it ends.
fn within(arena: &Arena, places: &[(usize, usize)]) -> Vec<(usize, usize)> {
    places.iter().map(|&(at, len)| (at % arena.len(), len.min(arena.len() - at % arena.len()))).collect()
}

fn flat(places: &[(usize, usize)]) -> Vec<usize> {
    places.iter().flat_map(|&(at, len)| at..at + len).collect()
}

fn run(
    arena: &Arena,
    mut iter: IovIter<'_>,
    bytes: Vec<usize>,
    steps: Vec<Step>,
    user: bool,
) -> Result<(), TestCaseError> {
    let mut model = Model::new(bytes);
    let mut reader = arena.reader();
    let online = reader.online();
    for step in steps {
        match step {
            Step::Advance(n) => {
                let moved = n.min(model.end - model.at);
                prop_assert_eq!(iter.advance(n), moved);
                model.at += moved;
            }
            Step::Revert(n) => {
                let moved = n.min(model.at);
                prop_assert_eq!(iter.revert(n), moved);
                model.at -= moved;
            }
            Step::Truncate(len) => {
                iter.truncate(len);
                model.end = model.end.min(model.at + len);
            }
            Step::Reexpand => {
                iter.reexpand();
                model.end = model.bytes.len();
            }
            Step::Remainder => {
                iter = iter.remainder();
                model = Model::new(model.left().to_vec());
            }
            Step::Extract(limits, access) => {
                let expected = model.extract(arena, &limits, access, user);
                let counted = plain(iter.segments(&online, &limits));
                let readable = model.extract(arena, &limits, Access::Read, user);
                prop_assert_eq!(counted, readable.map(|(_, segments)| segments));
                let before = iter.clone();
                let result = plain(iter.extract(&online, &limits, access));
                let list = result.map(|extracted| extracted.into_parts().0);
                let sizes =
                    list.as_ref().map(|list| (list.len_bytes() as usize, list.as_slice().len())).map_err(|e| *e);
                prop_assert!(same(&sizes, &expected), "{:?} {:?}", sizes, expected);
                let Ok(list) = list else {
                    prop_assert_eq!((iter.at, iter.index, iter.passed), (before.at, before.index, before.passed));
                    continue;
                };
                let taken = list.len_bytes() as usize;
                prop_assert_eq!(arena.offsets(list.as_slice(), &[]), &model.left()[..taken]);
                model.at += taken;
            }
        }
        prop_assert_eq!(iter.len(), model.left().len());
        prop_assert_eq!(iter.is_empty(), model.left().is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn addresses_give_every_byte_once_and_in_order(
        parts in any_parts(),
        places in any_places(),
        steps in prop::collection::vec(any_step(), 1..24),
    ) {
        let arena = Arena::new(&parts);
        let places = within(&arena, &places);
        let iovecs: Vec<UserIovec> = places.iter().map(|&(at, len)| arena.iovec(at, len)).collect();
        run(&arena, IovIter::user(&iovecs).unwrap(), flat(&places), steps, true)?;
    }

    #[test]
    fn frames_give_every_byte_once_and_in_order(
        parts in any_parts(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0..3 * FRAME as u64, 1..5000_u64), 0..24),
        steps in prop::collection::vec(any_step(), 1..24),
    ) {
        let arena = Arena::new(&parts);
        let (mut ranges, mut bytes) = (Vec::new(), Vec::new());
        for (pick, at, len) in picks.into_iter().filter(|_| !arena.regions.is_empty()) {
            let (start, region) = &arena.regions[pick.index(arena.regions.len())];
            let at = at % region.len();
            let range = region.range(at, len.min(region.len() - at)).unwrap();
            ranges.push(range);
            bytes.extend((0..range.len() as usize).map(|i| start + at as usize + i));
        }
        run(&arena, IovIter::frames(&ranges).unwrap(), bytes, steps, false)?;
    }

    #[test]
    fn registering_on_the_spot_leaves_no_gap_and_no_trace(
        parts in any_parts(),
        places in any_places(),
        limits in any_limits(),
        skip in 0..3000_usize,
    ) {
        let arena = Arena::new(&parts);
        let places = within(&arena, &places);
        let iovecs: Vec<UserIovec> = places.iter().map(|&(at, len)| arena.iovec(at, len)).collect();
        let mut iter = IovIter::user(&iovecs).unwrap();
        let skipped = iter.advance(skip);
        let bytes = flat(&places).split_off(skipped);
        let mut reader = arena.reader();
        let mut made: Vec<(usize, Region)> = Vec::new();
        let mut registrar = arena.registrar();
        let result = iter.extract_or_register(&mut reader, &limits, Access::Read, |at| {
            // A frame that is in a region already is an error of the table, and of this test.
            let region = registrar(at)?;
            made.push((at.addr - arena.mapping.addr(), region.clone()));
            Ok::<_, pageless_mem::Error>(region)
        });
        let list = match result {
            Ok(extracted) => extracted,
            Err(RegisterError::Iov(IovError::PartBlock { left, .. })) => {
                prop_assert_eq!(left, bytes.len());
                return Ok(());
            }
            Err(RegisterError::Iov(IovError::Fragmented { max_segments, .. })) => {
                prop_assert!(bytes.len() > max_segments as usize);
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let ranges: ScatterList = list.list().clone();
        let taken = ranges.len_bytes() as usize;
        prop_assert_eq!(arena.offsets(ranges.as_slice(), &made), &bytes[..taken]);
        let block = limits.block_size as usize;
        let most = (limits.max_bytes as usize).min(bytes.len()) / block * block;
        let full = ranges.as_slice().len() <= limits.max_segments as usize;
        prop_assert!(full && (taken == most || taken < most && limits.max_segments < 40), "{} of {}", taken, most);
        drop(made);
        drop(list);
        prop_assert_eq!(arena.memory.regions(), arena.regions.len());
    }
}
