// SPDX-License-Identifier: MIT OR Apache-2.0
use proptest::prelude::*;

use super::*;

fn run(offset: u64, len: u64, source: BadSource) -> BadRange {
    BadRange { offset: offset * FRAME_SIZE, len: len * FRAME_SIZE, source }
}

proptest! {
    /// Against one entry per frame.
    #[test]
    fn runs_are_what_was_added_and_not_carved_out(steps in prop::collection::vec((0..60u64, 1..9u64, 0..4u8), 1..60)) {
        let (mut known, mut frames) = (Known::default(), [None::<BadSource>; 70]);
        for (offset, len, what) in steps {
            let source = match what {
                0 => None,
                1 => Some(BadSource::Fault),
                2 => Some(BadSource::Poison),
                _ => Some(BadSource::Kernel),
            };
            let touched = &mut frames[offset as usize..(offset + len) as usize];
            match source {
                None => {
                    known.carve(offset * FRAME_SIZE, (offset + len) * FRAME_SIZE);
                    touched.fill(None);
                }
                Some(source) => {
                    // All of it is in one run that says as much: nothing to add.
                    let old = known.at(offset * FRAME_SIZE);
                    let covered = old.is_some_and(|old| old.end() >= (offset + len) * FRAME_SIZE && old.source != BadSource::Fault);
                    prop_assert!(known.add(run(offset, len, source)));
                    if !covered {
                        touched.fill(Some(source));
                    }
                }
            }
            for (frame, expected) in (0u64..).zip(frames) {
                let at = frame * FRAME_SIZE + 77;
                prop_assert_eq!(known.at(at).map(|run| run.source), expected, "frame {}", frame);
            }
            prop_assert!(known.runs.windows(2).all(|pair| pair[0].end() < pair[1].offset
                || pair[0].end() == pair[1].offset && pair[0].source != pair[1].source), "{:?}", known.runs);
        }
    }
}

fn runs() -> impl Strategy<Value = Vec<BadRange>> {
    prop::collection::vec((1..5_u64, 1..5_u64), 0..6).prop_map(|gaps| {
        let mut at = 0;
        let next = |(gap, len): (u64, u64)| {
            at += gap + len;
            run(at - len, len, BadSource::Poison)
        };
        gaps.into_iter().map(next).collect()
    })
}

proptest! {
    #[test]
    fn parts_beyond_others_are_of_one_and_of_no_other(these in runs(), others in runs()) {
        let has = |runs: &[BadRange], at| runs.iter().filter(|run| (run.offset..run.end()).contains(&at)).count();
        let beyond = BadRange::beyond(&these, &others);
        for at in (0..64).map(|frame| frame * FRAME_SIZE) {
            let expected = usize::from(has(&these, at) == 1 && has(&others, at) == 0);
            prop_assert_eq!(has(&beyond, at), expected, "byte {}", at);
        }
    }
}

#[test]
fn the_list_is_bounded_and_says_when_there_is_more() {
    let mut known = Known::default();
    for frame in 0..MAX_RUNS as u64 {
        assert!(known.add(run(2 * frame, 1, BadSource::Poison)));
    }
    assert!(!known.more);
    assert!(!known.add(run(1 << 20, 1, BadSource::Poison)));
    assert!(known.more && known.runs.len() == MAX_RUNS);
    assert!(known.add(run(1, 1, BadSource::Poison)), "what joins two takes no room");
}

#[test]
fn bad_bytes_of_the_device_are_frames_of_the_region_wherever_the_file_lies() {
    // A sector, a run over the end of one extent, and one that no extent has.
    let bytes = [(1_000_448, 512), (1_007_616, 8192), (5_000_192, 512)];
    let mut found = Placing { bytes: &bytes, start: 8192, end: 1 << 20, frames: Known::default() };
    for (logical, physical, len) in [(0, 2_000_000, 16384), (16384, 999_424, 12288), (28672, 1_011_712, 4096)] {
        found.place(Placed { logical, physical, len });
    }
    let kernel = |offset, len| BadRange { offset, len, source: BadSource::Kernel };
    assert_eq!(found.frames.runs, [kernel(8192, 4096), kernel(16384, 8192)]);
}

#[cfg(feature = "testing")]
mod broken {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::persist::Mapped;
    use crate::{Access, Backing, FileOptions, Memory, PhysRange, testing};

    const MIB: u64 = 1 << 20;
    const BAD: u64 = 9 * FRAME_SIZE;

    fn pattern(len: u64) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + (i >> 10)) as u8).collect()
    }

    struct Rig {
        memory: Memory,
        region: Region,
    }

    impl Rig {
        fn new(backing: Backing) -> Rig {
            let memory = Memory::new().unwrap();
            let region = memory.register(backing).unwrap();
            let rig = Rig { memory, region };
            rig.store(0, &pattern(MIB)).unwrap();
            rig
        }

        fn range(&self, offset: u64, len: u64) -> PhysRange {
            self.region.range(offset, len).unwrap()
        }

        fn store(&self, offset: u64, bytes: &[u8]) -> Result<(), (u64, Fault)> {
            let mut reader = self.memory.reader();
            let online = reader.online();
            let window =
                online.kmap(self.range(offset, bytes.len() as u64), Access::Write).map_err(|fault| (0, fault))?;
            window.writer().streaming().write(bytes).map_err(|error| (error.moved as u64, error.fault))
        }

        fn load(&self, offset: u64, len: u64) -> Result<Vec<u8>, (u64, Fault)> {
            let mut reader = self.memory.reader();
            let online = reader.online();
            let window = online.kmap(self.range(offset, len), Access::Read).map_err(|fault| (0, fault))?;
            let mut bytes = vec![0; len as usize];
            window.reader().read(&mut bytes).map_err(|error| (error.moved as u64, error.fault))?;
            Ok(bytes)
        }

        /// False where the kernel has no poison.
        fn poison(&self) -> bool {
            match testing::poison(&self.region, BAD) {
                Ok(()) => true,
                Err(error) => {
                    use std::io::Write as _;
                    let told = "skipped: kernel lacks UFFDIO_POISON (guest/poison covers it)";
                    let _ = writeln!(std::io::stderr(), "{told}: {error}");
                    false
                }
            }
        }
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            Scratch::within("/var/tmp", name)
        }

        fn within(folder: &str, name: &str) -> Scratch {
            Scratch(Path::new(folder).join(format!("pageless-bad-{}-{name}", std::process::id())))
        }

        fn file(&self) -> Backing {
            let options = FileOptions { size: Some(MIB), create: true, read_only: false };
            Backing::file(&self.0, options).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_known_to_be_bad_is_not_touched_until_it_is_overwritten_whole() {
        let scratch = Scratch::within("/dev/shm", "whole");
        for backing in [Backing::memfd(MIB).unwrap(), scratch.file(), Backing::anon(MIB).unwrap()] {
            let rig = Rig::new(backing);
            if !rig.poison() {
                return;
            }
            let stopped = Err((100, Fault::Media));
            assert_eq!(rig.load(BAD - 100, 8192), stopped);
            assert_eq!(rig.region.bad(), [run(9, 1, BadSource::Poison)]);

            // Sound again, as whoever touched it would find: nobody does.
            testing::heal(&rig.region, BAD).unwrap();
            assert_eq!(rig.load(BAD - 100, 8192), stopped);
            assert_eq!(rig.load(BAD + 5, 1), Err((0, Fault::Media)));
            // A frame of which a part would stay unknown.
            assert_eq!(rig.store(BAD, &[1; 4095]), Err((0, Fault::Media)));
            assert_eq!(rig.store(BAD + 1, &[1; 4095]), Err((0, Fault::Media)));
            assert_eq!(rig.store(BAD - 100, &[1; 4000]), Err((100, Fault::Media)));
            let cell = {
                let mut reader = rig.memory.reader();
                let online = reader.online();
                let window = online.kmap(rig.range(BAD, 8), Access::Write).unwrap();
                let cell = window.cell::<u64>(0).unwrap();
                (cell.load(), cell.store(1), cell.fetch_or(1))
            };
            assert_eq!(cell, (Err(Fault::Media), Err(Fault::Media), Err(Fault::Media)));
            assert_eq!(rig.region.bad_ranges(), [(BAD, FRAME_SIZE)]);
            let before = pattern(MIB);
            let at = BAD as usize;
            assert_eq!(rig.load(0, BAD - 100).unwrap(), before[..at - 100]);
            assert_eq!(rig.load(BAD + FRAME_SIZE, 8192).unwrap(), before[at + 4096..][..8192]);

            {
                let mut reader = rig.memory.reader();
                let online = reader.online();
                let window = online.kmap(rig.range(BAD, 4096), Access::Write).unwrap();
                let buffer = window.writer().write(&[1; 4096]).unwrap_err();
                assert_eq!((buffer.moved, buffer.fault), (0, Fault::Media), "a buffer has other users");
            }

            // All of it, and more on either side.
            assert_eq!(rig.store(BAD - 100, &[3; 4400]), Ok(()));
            assert_eq!(rig.region.bad(), []);
            assert_eq!(rig.load(BAD - 100, 4400).unwrap(), [3; 4400]);
            assert_eq!(rig.load(BAD + 4300, 100).unwrap(), before[at + 4300..][..100]);
        }
    }

    #[test]
    fn zeroes_over_it_clear_it_as_well_and_so_does_giving_it_back() {
        for backing in [Backing::memfd(MIB), Backing::anon(MIB)] {
            let rig = Rig::new(backing.unwrap());
            for clear in [Region::zero, Region::punch] {
                if !rig.poison() {
                    return;
                }
                assert_eq!(rig.load(BAD, 1), Err((0, Fault::Media)));
                assert_eq!(clear(&rig.region, BAD + 1, 4095), Err(Fault::Media), "a part");
                assert_eq!(rig.region.bad_ranges(), [(BAD, FRAME_SIZE)]);
                assert_eq!(clear(&rig.region, BAD - 4096, 3 * 4096), Ok(()));
                assert_eq!(rig.region.bad_ranges(), []);
                assert_eq!(rig.load(BAD - 4096, 3 * 4096).unwrap(), [0; 3 * 4096]);
            }
        }
    }

    #[test]
    fn memory_that_cannot_be_written_keeps_what_is_bad() {
        let rig = Rig::new(Backing::hugetlb(2 * MIB).unwrap_or_else(|_| Backing::secret(MIB).unwrap()));
        let inner = rig.region.inner();
        note(inner, BAD, BadSource::Poison);
        // What the kernel does not shut, the table learns of.
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.store(BAD, &[1; 4096]), Err((0, Fault::Media)));
        assert_eq!(rig.region.bad_ranges(), [(BAD, FRAME_SIZE)]);
    }

    #[test]
    fn where_frames_cannot_be_shut_the_table_refuses_windows_on_them() {
        let rig = Rig::new(Backing::memfd(MIB).unwrap());
        let inner = rig.region.inner();
        assert!(inner.bad.known().add(run(9, 1, BadSource::Kernel)));
        assert_eq!(rig.load(BAD, 1), Ok(vec![pattern(MIB)[BAD as usize]]), "not yet");
        inner.bad.gate.store(true, Ordering::Release);
        rig.region.publisher().refresh(inner);
        for (offset, len) in [(BAD, 1), (BAD - 1, 2), (BAD + 4095, 100), (0, MIB)] {
            assert_eq!(rig.load(offset, len), Err((0, Fault::Media)), "{offset}+{len}");
            assert_eq!(rig.store(offset, &vec![1; len as usize]), Err((0, Fault::Media)), "{offset}+{len}");
        }
        assert!(rig.load(0, BAD).is_ok() && rig.load(BAD + FRAME_SIZE, 4096).is_ok());
    }

    /// A sysfs with one disk, device 259:7.
    fn sysfs(scratch: &Scratch, badblocks: &str) -> u64 {
        let disk = scratch.0.join("devices/ndbus0/region0/block/pmem0");
        std::fs::create_dir_all(&disk).unwrap();
        std::fs::write(disk.join("badblocks"), badblocks).unwrap();
        std::fs::create_dir_all(scratch.0.join("dev/block")).unwrap();
        let _ = std::os::unix::fs::symlink(&disk, scratch.0.join("dev/block/259:7"));
        259 << 8 | 7
    }

    #[test]
    fn the_kernels_list_is_read_when_memory_is_registered_and_when_asked() {
        let sys = Scratch::new("sys-devdax");
        let device = sysfs(&sys, "");
        let rig = Rig::new(Backing::memfd(MIB).unwrap().on_device(&sys.0, device, Mapped::DevDax));
        assert_eq!(rig.region.bad(), []);
        // One sector, and a run over two frames.
        sysfs(&sys, "73 1\n87 2\n");
        assert!(rig.load(BAD, 4096).is_ok(), "not asked yet");
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), [run(9, 3, BadSource::Kernel)]);
        assert_eq!(rig.load(BAD - 5, 100), Err((5, Fault::Media)));
        assert_eq!(rig.store(BAD, &[1; 4096]), Err((0, Fault::Media)), "the kernel does not take it from its list");
        // A run that grows, or that is cut, is not opened in between: what was seen of its frames says so.
        sysfs(&sys, "73 1\n87 10\n");
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), [run(9, 4, BadSource::Kernel)]);
        assert_eq!(rig.load(BAD, 1), Err((0, Fault::Media)));
        // Where the kernel does not answer, nothing is taken for sound.
        let list = sys.0.join("devices/ndbus0/region0/block/pmem0/badblocks");
        std::fs::remove_file(&list).unwrap();
        std::fs::create_dir(&list).unwrap();
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), [run(9, 4, BadSource::Kernel)]);
        std::fs::remove_dir(&list).unwrap();
        // A list that goes on past its page ends somewhere in a line.
        let long: String = (0..700).map(|n| format!("{} 1\n", 100_000 + 2 * n)).collect();
        sysfs(&sys, &long[..4095]);
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), [run(9, 4, BadSource::Kernel)], "there may be more");
        assert!(rig.region.more_bad());
        sysfs(&sys, "80 8\n");
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), [run(10, 1, BadSource::Kernel)]);
        assert_eq!(rig.load(BAD, 4096).unwrap(), [0; 4096], "was written over, which did not help then");
        assert_eq!(rig.load(BAD + 8192, 4096).unwrap(), pattern(MIB)[BAD as usize + 8192..][..4096], "was not");
        assert_eq!(rig.load(BAD + 4096, 1), Err((0, Fault::Media)));
        sysfs(&sys, "");
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), []);
        assert!(!rig.region.more_bad());

        sysfs(&sys, "8 8\n");
        let again = Memory::new().unwrap();
        let region = again.register(Backing::memfd(MIB).unwrap().on_device(&sys.0, device, Mapped::DevDax)).unwrap();
        assert_eq!(region.bad(), [run(1, 1, BadSource::Kernel)]);
    }

    #[test]
    fn a_list_from_before_something_was_cleared_is_asked_for_again() {
        let sys = Scratch::new("sys-stale");
        let device = sysfs(&sys, "72 8\n");
        let memory = Memory::new().unwrap();
        let backing = Backing::memfd(MIB).unwrap().on_device(&sys.0, device, Mapped::DevDax);
        let region = memory.register(backing).unwrap();
        let inner = region.inner();
        assert_eq!(region.bad(), [run(9, 1, BadSource::Kernel)]);
        let asked = ask(inner).unwrap();
        sysfs(&sys, "");
        cleared(inner, BAD, FRAME_SIZE);
        assert!(!take_over(inner, asked));
        assert_eq!(region.bad(), []);
        region.refresh_bad().unwrap();
        assert_eq!(region.bad(), []);
    }

    #[test]
    fn blocks_of_a_file_are_found_where_the_file_system_put_them() {
        let (scratch, sys) = (Scratch::new("file"), Scratch::new("sys-file"));
        let device = sysfs(&sys, "");
        let rig = Rig::new(scratch.file().on_device(&sys.0, device, Mapped::MapSync));
        let file = rig.region.inner().backing.file_behind().unwrap();
        file.sync_data().unwrap();
        let mut physical = None;
        let told = fiemap::extents(file, BAD, BAD + 1, |run| {
            physical = Some(run.physical + (BAD - run.logical));
            false
        });
        let Some(physical) = told.ok().and(physical) else {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "skipped: the file system of /var/tmp has no FIEMAP");
            return;
        };
        sysfs(&sys, &format!("{} 8\n", physical / 512));
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.region.bad(), [run(9, 1, BadSource::Kernel)]);
        assert_eq!(rig.load(BAD - 5, 100), Err((5, Fault::Media)));
        sysfs(&sys, "");
        rig.region.refresh_bad().unwrap();
        assert_eq!(rig.load(BAD, 4096).unwrap(), pattern(MIB)[BAD as usize..][..4096]);
    }
}
