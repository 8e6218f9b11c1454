// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(clippy::cast_possible_truncation, reason = "offsets in these tests are small")]
//! Memory without a page behind it, and memory of a device that goes away.

use super::rig::{Rig, Scratch, direct, pattern};
use pageless_block::{Bio, Route, ScatterList, Sector, Status, Why};
use pageless_mem::probe::{Class, Verdict, probe};
use pageless_mem::{Access, Pinned, Region, testing};
use pageless_sys::Errno;
use pageless_testkit::FakeFunction;
use pageless_testkit::regions::{Kind, PFN_MAP_OURS};

#[test]
fn memory_without_pages_is_refused_by_the_kernel_and_served_by_us() {
    for (kind, len, ours) in [(Kind::PfnMap, 4096, PFN_MAP_OURS), (Kind::DmaHeap, 1 << 20, 0..1 << 20)] {
        let file = Scratch::with(&pattern(1 << 20, 3));
        let mut rig = Rig::new(file.path());
        let Some(made) = kind.make(&rig.memory, len) else { continue };
        if !direct(&rig.disk) {
            return;
        }
        let region = made.region();
        let bytes = usize::try_from(ours.end - ours.start).unwrap();
        let range = region.range(ours.start, bytes as u64).unwrap();
        for access in [Access::Read, Access::Write] {
            let refused = testing::direct_io(region, range, file.path(), access);
            assert!(matches!(&refused, Err(error) if error.errno() == Some(Errno::EFAULT)), "{kind:?}: {refused:?}");
        }
        assert_eq!(file.content(), pattern(1 << 20, 3), "{kind:?}: a refusal changes nothing");

        let report = probe(region, &mut rig.memory.reader());
        assert_eq!(report.class, Class::PageLess, "{kind:?}: {report:?}");
        assert_eq!((report.cpu_map, report.send), (Verdict::Ok, Verdict::Ok), "{kind:?}: {report:?}");
        for refused in [report.short_pin, report.long_pin, report.send_zerocopy] {
            assert_eq!(refused, Verdict::Refused(Errno::EFAULT), "{kind:?}: {report:?}");
        }

        // As if nobody had asked yet: the driver finds it out for itself.
        region.set_short_pin(Pinned::Unknown);
        // Whole blocks of any disk, by frames that can be pinned behind those that cannot.
        let ram = rig.ram(1 << 20);
        let rest = ram.range(0, (1 << 20) - bytes as u64);
        let list: ScatterList = [Some(range), rest].into_iter().flatten().collect();
        let why = Route::Bounce(Why::Unpinnable(Errno::EFAULT));
        let done = rig.run(Bio::read(Sector(0), list.clone(), 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, 1 << 20, why), "{kind:?}");
        assert_eq!(rig.load(list.clone()), pattern(1 << 20, 3), "{kind:?}");
        assert_eq!(region.short_pin(), Pinned::Refused(Errno::EFAULT));

        rig.store(region, ours.start, &pattern(bytes, 8));
        let done = rig.run(Bio::write(Sector(0), list, 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, 1 << 20, why), "{kind:?}");
        assert_eq!(file.content()[..bytes], pattern(bytes, 8), "{kind:?}");
        assert_eq!(file.content()[bytes..], pattern(1 << 20, 3)[bytes..], "{kind:?}");
    }
}

#[test]
fn what_a_function_that_went_away_seems_to_have_moved_is_no_success() {
    let content = pattern(256 << 10, 3);
    // One byte off goes through slots, the rest direct. Each from the start, since a function that went away stays away.
    for (odd, write, unplugged) in [0, 1]
        .into_iter()
        .flat_map(|odd| [(odd, true, false), (odd, false, false), (odd, true, true), (odd, false, true)])
    {
        let case = format!("{odd} off, write: {write}, unplugged: {unplugged}");
        let file = Scratch::with(&content);
        let mut rig = Rig::new(file.path());
        let held = pattern(512 << 10, 9);
        let function = FakeFunction::new(&held).unwrap();
        let bar: Region = function.region(&rig.memory).unwrap();
        let range = bar.range(odd, 128 << 10).unwrap();
        if unplugged {
            function.unplug().unwrap();
        }
        let (status, moved) = if unplugged { (Status::Gone, 0) } else { (Status::Ok, 128 << 10) };
        let done = rig.run(if write { Bio::write(Sector(0), range, 0) } else { Bio::read(Sector(256), range, 0) });
        assert_eq!((done.status, done.done), (status, moved), "{case}");
        // and nobody else's I/O is to blame
        let ram = rig.ram(64 << 10);
        assert_eq!(rig.run(Bio::read(Sector(0), ram.range(0, 64 << 10).unwrap(), 0)).status, Status::Ok, "{case}");
        match (write, unplugged) {
            (true, false) => assert_eq!(file.content()[..128 << 10], held[odd as usize..][..128 << 10], "{case}"),
            (false, false) => assert_eq!(rig.load(range), content[128 << 10..], "{case}"),
            (true, true) if odd == 1 => {
                assert_eq!(file.content(), content, "{case}: what came from nowhere was written")
            }
            _ => {}
        }
    }
}
