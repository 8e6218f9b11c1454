// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(clippy::cast_possible_truncation, reason = "offsets in these tests are small")]
//! One broken frame among sound ones.

use super::rig::{Rig, Scratch, direct, pattern};
use pageless_block::{Bio, Route, Sector, Status};
use pageless_mem::{Access, Backing, Memory, Pinned, Region, copy, testing};
use pageless_sys::Errno;
use pageless_testkit::require::kernel;

const MIB: u64 = 1 << 20;
/// The broken frame.
const BAD: u64 = 37 * 4096;

/// A memfd that holds a pattern, with one frame broken; whole again through any other mapping.
fn broken(memory: &Memory, rig: &Rig) -> Option<Region> {
    let region = memory.register(Backing::memfd(MIB).unwrap()).unwrap();
    rig.store(&region, 0, &pattern(1 << 20, 3));
    kernel("UFFDIO_POISON (6.6)", "guest/poison", testing::poison(&region, BAD))?;
    Some(region)
}

#[test]
fn a_copy_stops_at_the_broken_frame_and_says_where() {
    let file = Scratch::with(&[0; 4096]);
    let rig = Rig::new(file.path());
    let Some(region) = broken(&rig.memory, &rig) else { return };
    let ram = rig.ram(MIB);
    let mut reader = rig.memory.reader();
    for (start, moved) in [(0, BAD), (BAD - 100, 100), (BAD, 0), (BAD + 4095, 0)] {
        let range = region.range(start, MIB - start).unwrap();
        let other = ram.range(0, MIB).unwrap();
        let online = reader.online();
        let (bad, good) = (online.kmap(range, Access::Write).unwrap(), online.kmap(other, Access::Write).unwrap());
        for stopped in [copy(&mut bad.reader(), &mut good.writer()), copy(&mut good.reader(), &mut bad.writer())] {
            let error = stopped.unwrap_err();
            assert_eq!((error.moved as u64, error.fault), (moved, pageless_mem::Fault::Media), "from {start}");
        }
    }
    assert_eq!(region.bad_ranges(), [(BAD, 4096)]);
    let after = region.range(BAD + 4096, MIB - BAD - 4096).unwrap();
    assert_eq!(rig.load(after), pattern(1 << 20, 3)[BAD as usize + 4096..]);
}

#[test]
fn io_on_a_broken_frame_is_a_media_error_and_its_neighbours_stay_direct() {
    for known in [Pinned::Unknown, Pinned::Ok] {
        let content = pattern(1 << 20, 5);
        let file = Scratch::with(&content);
        let mut rig = Rig::new(file.path());
        let Some(region) = broken(&rig.memory, &rig) else { return };
        if !direct(&rig.disk) {
            return;
        }
        region.set_short_pin(known);
        let bad = region.range(BAD, 4096).unwrap();
        for access in [Access::Read, Access::Write] {
            let plain = testing::direct_io(&region, bad, file.path(), access);
            assert!(matches!(&plain, Err(error) if error.errno() == Some(Errno::EFAULT)), "{plain:?}");
        }
        let all = region.range(0, MIB).unwrap();
        let write = rig.run(Bio::write(Sector(0), all, 0));
        assert_eq!(write.status, Status::Media, "{write:?}");
        assert!(write.done <= BAD, "{write:?}");
        let kept = file.content();
        let written = usize::try_from(write.done).unwrap();
        assert_eq!(kept[..written], pattern(1 << 20, 3)[..written]);
        assert_eq!(kept[BAD as usize..], content[BAD as usize..], "nothing was made up");

        std::fs::write(file.path(), &content).unwrap();
        let read = rig.run(Bio::read(Sector(0), all, 0));
        assert_eq!((read.status, read.done), (Status::Media, BAD), "{read:?}");
        let before = region.range(0, BAD).unwrap();
        assert_eq!(rig.load(before), content[..BAD as usize]);
        assert_eq!(rig.run(Bio::read(Sector(0), bad, 0)).status, Status::Media);
        assert_eq!(region.short_pin(), known, "a broken frame is no verdict on its region");

        // On either side everything is as ever, and the buffer is still the frames themselves.
        for side in [region.range(BAD - 8192, 8192).unwrap(), region.range(BAD + 4096, 64 << 10).unwrap()] {
            let done = rig.run(Bio::read(Sector(8), side, 0));
            assert_eq!((done.status, done.route), (Status::Ok, Route::Direct));
            assert_eq!(rig.load(side), content[4096..4096 + side.len() as usize]);
        }
        assert_eq!(region.short_pin(), Pinned::Ok);
    }
}
