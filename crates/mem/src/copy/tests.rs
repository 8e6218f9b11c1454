// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::persist::Durability;
use crate::{Access, Backing, FRAME_SIZE, Fault, FileOptions, MemKind, Memory, Region};

fn memory(backing: Backing) -> (Memory, Region) {
    let memory = Memory::new().unwrap();
    let region = memory.register(backing).unwrap();
    (memory, region)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 131 + seed * 7 + (i >> 8)) % 251).unwrap()).collect()
}

/// A file region of one readable frame followed by frames past the end of the file, which fault.
fn cliff() -> (Memory, Region, std::path::PathBuf) {
    let path =
        std::env::temp_dir().join(format!("pageless-cliff-{}-{:?}", std::process::id(), std::thread::current().id()));
    let options = FileOptions { size: Some(4 * FRAME_SIZE), create: true, read_only: false };
    let (memory, region) = memory(Backing::file(&path, options).unwrap());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(FRAME_SIZE).unwrap();
    (memory, region, path)
}

#[test]
fn every_offset_and_length_at_the_edge_of_mapped_memory_moves_exactly_what_is_there() {
    let (memory, region, path) = cliff();
    let (_keep, plain) = self::memory(Backing::anon(1 << 16).unwrap());
    let other = {
        let backing = Backing::anon(1 << 16).unwrap();
        memory.register(backing).unwrap()
    };
    drop(plain);
    let edge = FRAME_SIZE;
    let mut reader = memory.reader();
    let data = pattern(4096, 3);
    {
        let online = reader.online();
        let window = online.kmap(region.range(0, FRAME_SIZE).unwrap(), Access::Write).unwrap();
        window.writer().write(&data).unwrap();
    }
    for way in ["plain", "streaming", "ahead"] {
        for before in (0..=80).chain([127, 128, 129, 511, 512, 513, 575, 576, 1000, 2048, 4095, 4096]) {
            for past in [1u64, 2, 63, 64, 65, 600, 4096] {
                let start = edge - before;
                let online = reader.online();
                let source = online.kmap(region.range(start, before + past).unwrap(), Access::Read).unwrap();
                for shift in [0u64, 1, 63] {
                    let target = online.kmap(other.range(shift, before + past).unwrap(), Access::Write).unwrap();
                    let writer = target.writer();
                    let mut writer = if way == "streaming" { writer.streaming() } else { writer };
                    let result = match way {
                        "ahead" => super::copy_ahead(&mut source.reader(), &mut writer, &source),
                        _ => super::copy(&mut source.reader(), &mut writer),
                    };
                    let error = result.unwrap_err();
                    let what = format!("{way} {before}+{past} >> {shift}");
                    assert_eq!((error.moved as u64, error.fault), (before, Fault::Media), "{what}");
                    let mut got = vec![0; before as usize];
                    target.reader().read(&mut got).unwrap();
                    assert_eq!(got, &data[start as usize..], "{what}");
                }
            }
        }
    }
    assert_eq!(region.bad_ranges(), [(edge, FRAME_SIZE)]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn stores_past_the_end_stop_at_the_very_byte_and_change_no_size() {
    let (memory, region, path) = cliff();
    let other = memory.register(Backing::anon(1 << 16).unwrap()).unwrap();
    let mut reader = memory.reader();
    for way in ["plain", "streaming", "ahead"] {
        for before in [0u64, 1, 7, 63, 64, 65, 512, 600, 2049, 4096] {
            for past in [1u64, 64, 700] {
                let online = reader.online();
                let source = online.kmap(other.range(5, before + past).unwrap(), Access::Read).unwrap();
                let target =
                    online.kmap(region.range(FRAME_SIZE - before, before + past).unwrap(), Access::Write).unwrap();
                let writer = target.writer();
                let mut writer = if way == "streaming" { writer.streaming() } else { writer };
                let result = match way {
                    "ahead" => super::copy_ahead(&mut source.reader(), &mut writer, &source),
                    _ => super::copy(&mut source.reader(), &mut writer),
                };
                let error = result.unwrap_err();
                assert_eq!((error.moved as u64, error.fault), (before, Fault::Media));
                let error = target.writer().zero((before + past) as usize).unwrap_err();
                assert_eq!((error.moved as u64, error.fault), (before, Fault::Media));
            }
        }
    }
    assert_eq!(region.bad_ranges(), [(FRAME_SIZE, FRAME_SIZE)], "the frame that faulted, not where the store began");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), FRAME_SIZE);
    std::fs::remove_file(path).unwrap();
}

/// Each of four runs ends as it would have by itself.
#[test]
fn of_runs_copied_abreast_each_stops_at_its_own_byte() {
    let (memory, bad, path) = cliff();
    let good = memory.register(Backing::anon(1 << 20).unwrap()).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    let edge = FRAME_SIZE;
    let window = |region: &Region, at, len, access| online.kmap(region.range(at, len).unwrap(), access).unwrap();
    window(&bad, 0, edge, Access::Write).writer().write(&pattern(4096, 9)).unwrap();
    for len in [128u64, 1023, 1024, 1100, 2048, 4096, 5000] {
        // Which of the four ends at the cliff, and whether that is where it reads or where it writes.
        for (which, reads) in (0..4).flat_map(|which| [(which, true), (which, false), (4, true)]) {
            for before in
                [0u64, 1, 127, 128, 129, 1000, 1024, 1025, 2000, 4095].into_iter().filter(|before| *before < len)
            {
                let run = |index: u64| 16384 * index + 13 * index;
                let fill = |at, seed| {
                    window(&good, at, len, Access::Write).writer().write(&pattern(len as usize, seed)).unwrap()
                };
                (0..4).for_each(|index| fill(run(index), index as usize));
                (4..8).for_each(|index| fill(run(index), 77));
                let place = |index: u64, source: bool| match index == which && source == reads {
                    true => (&bad, edge - before),
                    false => (&good, run(if source { index } else { 4 + index })),
                };
                let open = |index: usize, source, access| {
                    let (region, at) = place(index as u64, source);
                    window(region, at, len, access)
                };
                let sources: [_; 4] = std::array::from_fn(|index| open(index, true, Access::Read));
                let targets: [_; 4] = std::array::from_fn(|index| open(index, false, Access::Write));
                let wanted = sources.each_ref().map(|source| {
                    let mut bytes = vec![0; len as usize];
                    match source.reader().read(&mut bytes) {
                        Ok(()) => bytes,
                        Err(error) => bytes[..error.moved].to_vec(),
                    }
                });
                let mut from = sources.each_ref().map(crate::Kmap::reader);
                let mut to = targets.each_ref().map(crate::Kmap::writer);
                let ends = super::copy_abreast(&mut from, &mut to);
                for (index, end) in ends.into_iter().enumerate() {
                    let what = format!("run {index} of {len}, cliff in {which} after {before}, reading {reads}");
                    assert_eq!(from[index].remaining(), to[index].remaining(), "{what}");
                    let (moved, fault) = match end {
                        Ok(moved) => (moved, None),
                        Err(error) => (error.moved, Some(error.fault)),
                    };
                    let stops = index as u64 == which;
                    assert_eq!(moved as u64, if stops { before } else { len }, "{what}");
                    assert_eq!(from[index].remaining() as u64, len - moved as u64, "{what}");
                    assert_eq!(fault, stops.then_some(Fault::Media), "{what}");
                    let mut got = vec![0; moved];
                    targets[index].reader().read(&mut got).unwrap();
                    assert!(got == wanted[index][..got.len()], "{what}");
                }
            }
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[cfg(feature = "testing")]
#[test]
fn runs_that_are_not_to_be_copied_abreast_are_left_to_others() {
    let (memory, ram) = memory(Backing::anon(1 << 20).unwrap());
    let durable = memory.register(Backing::memfd_as(1 << 16, Durability::Clwb).unwrap()).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    let window = |region: &Region, at, len, access| online.kmap(region.range(at, len).unwrap(), access).unwrap();
    for (len, streaming, target, moved) in [
        (4096u64, false, &ram, 4096usize),
        (4100, false, &ram, 4096),
        (1000, false, &ram, 0),
        (65536, false, &ram, 0),
        (4096, true, &ram, 0),
        (4096, false, &durable, 0),
    ] {
        let sources: [_; 4] = std::array::from_fn(|index| window(&ram, 65536 * index as u64, len, Access::Read));
        let targets: [_; 4] = std::array::from_fn(|index| match index {
            3 => window(target, 0, len, Access::Write),
            _ => window(&ram, 65536 * (8 + index as u64), len, Access::Write),
        });
        let mut from = sources.each_ref().map(crate::Kmap::reader);
        let mut to =
            targets.each_ref().map(|target| if streaming { target.writer().streaming() } else { target.writer() });
        assert_eq!(super::abreast::side_by_side(&mut from, &mut to), moved);
        let left = len as usize - moved;
        assert!(
            from.iter().all(|from| from.remaining() == left) && to.iter().all(|to| to.remaining() == left),
            "{len}"
        );
    }
}

#[test]
fn copies_equal_a_slice_copy_at_every_alignment() {
    let (memory, a) = memory(Backing::anon(1 << 16).unwrap());
    let b = memory.register(Backing::memfd(1 << 16).unwrap()).unwrap();
    let mut reader = memory.reader();
    for way in ["plain", "streaming", "ahead"] {
        for (from, to) in [(0u64, 0u64), (1, 0), (0, 1), (13, 51), (63, 64), (64, 63)] {
            for len in (1u64..=130).chain([511, 512, 513, 700, 4095, 4096, 4097, 20000]) {
                let data = pattern(len as usize, len as usize);
                let online = reader.online();
                let source = online.kmap(a.range(from, len).unwrap(), Access::Write).unwrap();
                source.writer().write(&data).unwrap();
                let target = online.kmap(b.range(to, len + 1).unwrap(), Access::Write).unwrap();
                target.writer().zero(len as usize + 1).unwrap();
                let writer = target.writer();
                let mut writer = if way == "streaming" { writer.streaming() } else { writer };
                let moved = match way {
                    "ahead" => super::copy_ahead(&mut source.reader(), &mut writer, &source),
                    _ => super::copy(&mut source.reader(), &mut writer),
                };
                assert_eq!(moved, Ok(len as usize));
                assert_eq!(writer.remaining(), 1);
                let mut got = vec![0xff; len as usize + 1];
                target.reader().read(&mut got).unwrap();
                assert_eq!((&got[..len as usize], got[len as usize]), (&data[..], 0), "{way} {from}->{to} {len}");
            }
        }
    }
}

#[test]
fn write_back_reaches_every_line_and_survives_a_fault() {
    let (_memory, region, path) = cliff();
    let addr = region.inner().addr();
    let how = pageless_sys::cpu::write_back();
    assert!(super::write_back(addr, 4096, how).is_ok());
    assert!(super::write_back(addr + 4095, 1, how).is_ok());
    let fault = super::write_back(addr + 4000, 200, how).unwrap_err();
    assert_eq!(fault.address() & !63, addr + 4096, "the first line that is not there");
    assert_eq!((region.kind(), region.durability()), (MemKind::File, Durability::Msync));
    std::fs::remove_file(path).unwrap();
}

#[cfg(feature = "testing")]
#[test]
fn a_window_writes_back_where_stores_need_it_and_nowhere_else() {
    use crate::testing::record;
    let memory = Memory::new().unwrap();
    for (durability, lines) in [(Durability::Clwb, 3), (Durability::Fence, 0), (Durability::Volatile, 0)] {
        let region = memory.register(Backing::memfd_as(8192, durability).unwrap()).unwrap();
        let recording = record::record(&region);
        let mut reader = memory.reader();
        let online = reader.online();
        let window = online.kmap(region.range(64, 4096).unwrap(), Access::Write).unwrap();
        let cell = window.cell::<u32>(8).unwrap();
        cell.store(1).unwrap();
        assert_eq!(window.write_back(8, 4), Ok(()));
        assert_eq!(cell.store_back(2), Ok(()));
        assert_eq!(window.write_back(0, 4096), Ok(()));
        assert_eq!(
            (window.write_back(0, 4097), window.write_back(usize::MAX, 2)),
            (Err(Fault::Gone), Err(Fault::Gone))
        );
        let events = recording.take();
        let written_back = events.iter().filter(|event| matches!(event.what, record::What::WriteBack { .. })).count();
        assert_eq!(written_back, lines, "{durability:?}: {events:?}");
        assert!(!events.iter().any(|event| event.what == record::What::Fence), "the fence is the batch's");
    }
}
