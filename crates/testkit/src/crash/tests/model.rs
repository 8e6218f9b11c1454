// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the model allows, on media of a few words: every state of every granule is enumerated.

use crate::crash::medium::Medium;
use crate::crash::random::Random;
use crate::crash::states::States;
use pageless_mem::Durability;
use pageless_mem::testing::record::{Event, What};
use std::collections::BTreeSet;

const LEN: usize = 2 * 4096;

fn store(thread: u32, offset: u64, bytes: &[u8]) -> Event {
    Event { thread, what: What::Store { offset, bytes: bytes.into(), streamed: false } }
}

fn stream(thread: u32, offset: u64, bytes: &[u8]) -> Event {
    Event { thread, what: What::Store { offset, bytes: bytes.into(), streamed: true } }
}

fn write_back(thread: u32, offset: u64) -> Event {
    Event { thread, what: What::WriteBack { offset, len: 1 } }
}

fn fence(thread: u32) -> Event {
    Event { thread, what: What::Fence }
}

/// What the first byte of each of these words may be after all events.
fn after(mode: Durability, events: &[Event], words: &[usize]) -> BTreeSet<Vec<u8>> {
    let mut medium = Medium::new(mode, vec![0; LEN]);
    events.iter().for_each(|event| medium.step(event));
    let states = States::of(&mut medium);
    let all = states.choose(&mut medium, 100_000, &mut Random::new(1));
    let state = |state: &crate::crash::states::State| {
        let mut bytes = medium.durable(0, LEN).to_vec();
        for (offset, held) in state {
            let offset = usize::try_from(*offset).unwrap();
            bytes[offset..offset + held.content.len()].copy_from_slice(&held.content);
        }
        words.iter().map(|word| bytes[*word]).collect()
    };
    all.iter().map(state).collect()
}

fn set<const N: usize>(all: &[[u8; N]]) -> BTreeSet<Vec<u8>> {
    all.iter().map(|one| one.to_vec()).collect()
}

#[test]
fn plain_stores_to_a_line_are_kept_in_their_order_and_lines_in_none() {
    let events = [store(0, 0, &[1]), store(0, 8, &[2]), store(0, 64, &[3])];
    let kept = after(Durability::Clwb, &events, &[0, 8, 64]);
    assert_eq!(kept, set(&[[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 0, 3], [1, 0, 3], [1, 2, 3]]));
}

#[test]
fn one_store_tears_at_words_and_only_there() {
    let kept = after(Durability::Clwb, &[store(0, 4, &[7; 8])], &[0, 4, 7, 8, 11, 12]);
    assert_eq!(kept, set(&[[0; 6], [0, 7, 7, 0, 0, 0], [0, 0, 0, 7, 7, 0], [0, 7, 7, 7, 7, 0]]));
}

#[test]
fn a_write_back_is_worth_something_after_the_same_threads_fence() {
    let both = set(&[[0], [1]]);
    assert_eq!(after(Durability::Clwb, &[store(0, 0, &[1]), write_back(0, 0)], &[0]), both);
    assert_eq!(after(Durability::Clwb, &[store(0, 0, &[1]), fence(0)], &[0]), both);
    assert_eq!(after(Durability::Clwb, &[store(0, 0, &[1]), write_back(0, 0), fence(1)], &[0]), both);
    assert_eq!(after(Durability::Clwb, &[store(0, 0, &[1]), write_back(0, 64), fence(0)], &[0]), both);
    assert_eq!(after(Durability::Clwb, &[write_back(0, 0), store(0, 0, &[1]), fence(0)], &[0]), both);
    assert_eq!(after(Durability::Clwb, &[store(0, 0, &[1]), write_back(0, 0), fence(0)], &[0]), set(&[[1]]));
    assert_eq!(after(Durability::Clwb, &[store(1, 0, &[1]), write_back(0, 0), fence(0)], &[0]), set(&[[1]]));
    let later = [store(0, 0, &[1]), write_back(0, 0), store(0, 0, &[2]), fence(0)];
    assert_eq!(
        after(Durability::Clwb, &later, &[0]),
        set(&[[1], [2]]),
        "what came after the write-back is not covered"
    );
}

#[test]
fn streamed_words_come_in_any_order_until_their_threads_fence() {
    let two = [stream(0, 0, &[1; 16])];
    for mode in [Durability::Clwb, Durability::Fence] {
        assert_eq!(after(mode, &two, &[0, 8]), set(&[[0, 0], [1, 0], [0, 1], [1, 1]]));
        assert_eq!(after(mode, &[two[0].clone(), fence(1)], &[0, 8]).len(), 4);
        assert_eq!(after(mode, &[two[0].clone(), write_back(0, 0), fence(0)], &[0, 8]), set(&[[1, 1]]));
    }
    let over = [stream(0, 0, &[1; 16]), store(1, 0, &[2; 8]), write_back(1, 0), fence(1)];
    assert_eq!(after(Durability::Clwb, &over, &[0, 8]), set(&[[2, 0], [2, 1]]), "what is past does not come back");
}

#[test]
fn where_the_caches_survive_only_the_last_store_may_be_torn() {
    let events = [store(0, 0, &[1; 16]), store(0, 64, &[2; 16])];
    let kept = after(Durability::Fence, &events, &[0, 8, 64, 72]);
    assert_eq!(kept, set(&[[1, 1, 0, 0], [1, 1, 2, 0], [1, 1, 0, 2], [1, 1, 2, 2]]));
    assert_eq!(after(Durability::Fence, &[events[0].clone(), fence(0)], &[0, 8]), set(&[[1, 1]]));
}

#[test]
fn a_page_holds_what_it_held_at_some_moment_until_it_is_synced() {
    let sync = |offset, len| Event { thread: 0, what: What::SyncStart { offset, len } };
    let synced = Event { thread: 0, what: What::SyncEnd };
    let events = [store(0, 0, &[1]), store(0, 2048, &[2]), store(0, 4096, &[3])];
    let kept = after(Durability::Msync, &events, &[0, 2048, 4096]);
    assert_eq!(kept, set(&[[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 0, 3], [1, 0, 3], [1, 2, 3]]));
    let mut first = events.to_vec();
    first.extend([write_back(0, 0), fence(0), sync(0, 4096)]);
    assert_eq!(after(Durability::Msync, &first, &[0, 2048, 4096]).len(), 6, "a sync is worth nothing until it ends");
    first.extend([store(0, 0, &[4]), synced]);
    let kept = after(Durability::Msync, &first, &[0, 2048, 4096]);
    assert_eq!(kept, set(&[[1, 2, 0], [4, 2, 0], [1, 2, 3], [4, 2, 3]]));
}

#[test]
fn holes_may_come_back_until_a_sync() {
    let events = [
        store(0, 0, &[1]),
        write_back(0, 0),
        fence(0),
        Event { thread: 0, what: What::Punch { offset: 0, len: 4096 } },
    ];
    let mut all = events.to_vec();
    all.push(fence(0));
    assert_eq!(after(Durability::Clwb, &all, &[0]), set(&[[0], [1]]));
    all.push(Event { thread: 0, what: What::SyncStart { offset: 0, len: 8192 } });
    all.push(Event { thread: 0, what: What::SyncEnd });
    assert_eq!(after(Durability::Clwb, &all, &[0]), set(&[[0]]));
}
