// SPDX-License-Identifier: MIT OR Apache-2.0
use super::{Event, What, record};
use crate::persist::fence;
use crate::{Access, Backing, Durability, Memory, Region};

fn region(durability: Durability) -> (Memory, Region) {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd_as(16 << 12, durability).unwrap()).unwrap();
    (memory, region)
}

fn store(offset: u64, bytes: &[u8], streamed: bool) -> What {
    What::Store { offset, bytes: bytes.into(), streamed }
}

fn whats(events: Vec<Event>) -> Vec<What> {
    events.into_iter().map(|event| event.what).collect()
}

#[test]
fn a_streamed_run_is_plain_at_its_edges_and_these_are_written_back() {
    let (memory, region) = region(Durability::Clwb);
    let recording = record(&region);
    let mut reader = memory.reader();
    {
        let online = reader.online();
        let window = online.kmap(region.range(100, 1000).unwrap(), Access::Write).unwrap();
        window.writer().write(&[7; 1000]).unwrap();
    }
    fence();
    fence();
    recording.mark(5);
    assert_eq!(
        whats(recording.take()),
        [
            store(100, &[7; 28], false),
            store(128, &[7; 960], true),
            store(1088, &[7; 12], false),
            What::WriteBack { offset: 100, len: 1 },
            What::WriteBack { offset: 1099, len: 1 },
            What::Fence,
            What::Mark(5),
        ]
    );
}

#[test]
fn words_zeroes_punches_and_syncs_are_seen_and_other_regions_are_not() {
    let (memory, region) = region(Durability::Msync);
    let other = memory.register(Backing::memfd(4096).unwrap()).unwrap();
    let recording = record(&region);
    let mut reader = memory.reader();
    {
        let online = reader.online();
        let window = online.kmap(region.range(4096, 4096).unwrap(), Access::Write).unwrap();
        window.cell::<u32>(8).unwrap().store(0x0403_0201).unwrap();
        window.cell::<u16>(8).unwrap().fetch_or(0x1000).unwrap();
        window.writer().zero(3).unwrap();
        let window = online.kmap(other.range(0, 64).unwrap(), Access::Write).unwrap();
        window.writer().write(&[1; 64]).unwrap();
    }
    region.persist(4096, 8).unwrap();
    region.flusher().flush().unwrap();
    region.punch(8192, 4096).unwrap();
    let events = whats(recording.take());
    assert_eq!(
        events[..3],
        [store(4104, &[1, 2, 3, 4], false), store(4104, &[1, 0x12], false), store(4096, &[0; 3], false)]
    );
    assert_eq!(
        events[3..],
        [
            What::Fence,
            What::SyncStart { offset: 4096, len: 8 },
            What::SyncEnd,
            What::SyncStart { offset: 0, len: 16 << 12 },
            What::SyncEnd,
            What::Punch { offset: 8192, len: 4096 },
        ]
    );
    drop(recording);
    region.zero(0, 64).unwrap();
    assert_eq!(record(&region).take(), []);
}

#[test]
fn each_thread_has_its_own_fence() {
    let (memory, region) = region(Durability::Fence);
    let recording = record(&region);
    let word = |offset: u64| {
        let mut reader = memory.reader();
        let online = reader.online();
        let window = online.kmap(region.range(offset, 8).unwrap(), Access::Write).unwrap();
        window.cell::<u64>(0).unwrap().store(offset).unwrap();
    };
    word(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            word(64);
            fence();
        });
    });
    fence();
    let threads: Vec<_> = recording.take().into_iter().map(|event| (event.thread, event.what)).collect();
    assert_eq!(
        threads,
        [
            (0, store(0, &0u64.to_le_bytes(), false)),
            (1, store(64, &64u64.to_le_bytes(), false)),
            (1, What::Fence),
            (0, What::Fence),
        ]
    );
}
