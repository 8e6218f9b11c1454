// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::{Backing, FRAME_SIZE, Fault, Memory};

#[test]
fn persisting_outside_the_region_is_refused() {
    let memory = Memory::new().unwrap();
    let region = memory.register(Backing::memfd(FRAME_SIZE).unwrap()).unwrap();
    assert_eq!(region.persist(0, FRAME_SIZE), Ok(()));
    assert_eq!(region.persist(1, FRAME_SIZE), Err(Fault::Gone));
    assert_eq!(region.persist(u64::MAX, 2), Err(Fault::Gone));
}

#[cfg(feature = "testing")]
mod recorded {
    use super::*;
    use crate::persist::{DeepFlush, Durability, copy_persist};
    use crate::testing::record::{What, record};
    use crate::{Access, FileOptions};

    fn kinds(events: &[crate::testing::record::Event]) -> String {
        let letter = |event: &crate::testing::record::Event| match event.what {
            What::Store { streamed: false, .. } => 's',
            What::Store { streamed: true, .. } => 'n',
            What::WriteBack { .. } => 'w',
            What::Fence => 'f',
            What::SyncStart { .. } => '(',
            What::SyncEnd => ')',
            _ => '?',
        };
        events.iter().map(letter).collect()
    }

    #[test]
    fn copying_and_persisting_do_what_the_memory_needs_in_that_order() {
        let memory = Memory::new().unwrap();
        let source = memory.register(Backing::anon(1 << 16).unwrap()).unwrap();
        for (durability, offset, len, expected) in [
            (Durability::Volatile, 0, 64, "sf"),
            (Durability::Fence, 0, 64, "sf"),
            (Durability::Fence, 0, 4096, "nf"),
            (Durability::Clwb, 0, 63, "swf"),
            (Durability::Clwb, 8, 64, "swf"),
            (Durability::Clwb, 0, 64, "nf"),
            (Durability::Clwb, 64, 100, "nwf"),
            (Durability::Clwb, 65, 255, "swf"),
            (Durability::Clwb, 64, 256, "nf"),
            (Durability::Clwb, 8, 4096, "nwwf"),
            (Durability::Clwb, 64, 4100, "nwf"),
            (Durability::Msync, 4096, 100, "sf()"),
        ] {
            let region = memory.register(Backing::memfd_as(1 << 16, durability).unwrap()).unwrap();
            let recording = record(&region);
            let mut reader = memory.reader();
            let online = reader.online();
            let from = online.kmap(source.range(3, len).unwrap(), Access::Read).unwrap();
            let to = online.kmap(region.range(offset, len).unwrap(), Access::Write).unwrap();
            assert_eq!(copy_persist(&mut from.reader(), &mut to.writer()), Ok(len as usize));
            let events = recording.take();
            // Edges are stored with the run that they are edges of; what matters is what follows.
            let seen = kinds(&events);
            let seen: String = seen.chars().skip_while(|kind| "sn".contains(*kind)).collect();
            let expected: String = expected.chars().skip_while(|kind| "sn".contains(*kind)).collect();
            assert_eq!(seen, expected, "{durability:?} {offset}+{len}: {events:?}");
        }
    }

    #[test]
    fn a_batch_is_written_back_piece_by_piece_and_drained_once() {
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::memfd_as(1 << 16, Durability::Clwb).unwrap()).unwrap();
        region.zero(0, 1 << 16).unwrap();
        let recording = record(&region);
        for offset in [0, 4096, 100] {
            assert_eq!(region.write_back(offset, 64), Ok(()));
        }
        assert_eq!(region.write_back(1 << 16, 1), Err(Fault::Gone));
        region.drain();
        assert_eq!(kinds(&recording.take()), "wwwf");
    }

    #[test]
    fn a_deep_flush_says_where_there_is_none() {
        let memory = Memory::new().unwrap();
        for backing in [Backing::anon(FRAME_SIZE), Backing::memfd_as(FRAME_SIZE, Durability::Clwb)] {
            let region = memory.register(backing.unwrap()).unwrap();
            assert_eq!(region.deep_flush().unwrap(), DeepFlush::NothingToDo);
        }
    }

    #[test]
    fn what_is_mapped_is_told_from_what_is_assumed() {
        let memory = Memory::new().unwrap();
        let says = |backing: Backing| memory.register(backing).unwrap().flush_domain().to_string();
        assert_eq!(says(Backing::anon(FRAME_SIZE).unwrap()), "anonymous memory: volatile");
        let assumed = Backing::memfd(FRAME_SIZE).unwrap().assuming(Durability::Clwb);
        assert_eq!(says(assumed), "assumed on request: CLWB and fence");
        let options = FileOptions { size: Some(FRAME_SIZE), create: true, read_only: false };
        let path = std::path::Path::new("/dev/shm").join(format!("pageless-domain-{}", std::process::id()));
        let backing = Backing::file(&path, options).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(says(backing), "file in memory (tmpfs): volatile, msync changes nothing");
    }
}
