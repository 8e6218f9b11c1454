// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(clippy::cast_possible_truncation, reason = "offsets in these tests are small")]
//! Memory without a page behind it, and memory of a device that goes away.

use super::rig::{Rig, Scratch, direct, pattern};
use pageless_block::{Bio, BlockDevice, IovIter, Route, ScatterList, Sector, Status, UserIovec, Why};
use pageless_mem::probe::{Class, Verdict, probe};
use pageless_mem::{Access, Backing, Pinned, Region, testing};
use pageless_sys::mmap::{Mapping, Protection};
use pageless_sys::{Errno, memfd, perf};
use pageless_testkit::regions::{Kind, PFN_MAP_OURS};
use pageless_testkit::{FakeFunction, require};
use std::os::fd::AsFd;
use std::sync::Arc;

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
fn addresses_of_memory_without_pages_and_of_secret_memory_are_extracted_and_served() {
    let secret = memfd::secret(4096).and_then(|fd| Mapping::shared(fd.as_fd(), 0, 4096, Protection::ReadWrite));
    let secret = require::kernel("memfd_secret", "guest/secret", secret);
    // Before Linux 6.14 it can be had, and has a page.
    let page = require::kernel("a perf event", "guest/bar", perf::user_page()).map(|(_event, page)| page);
    let ours = PFN_MAP_OURS.start as usize;
    for (mapping, class) in [(page, Class::PageLess), (secret, Class::Unpinnable)] {
        let Some(mapping) = mapping.map(Arc::new) else { continue };
        let file = Scratch::with(&pattern(16384, 3));
        let mut rig = Rig::new(file.path());
        if !direct(&rig.disk) {
            return;
        }
        let region = rig.memory.register(Backing::lent(&mapping, 0, 4096, true).unwrap()).unwrap();
        rig.store(&region, ours as u64, &pattern(4096 - ours, 8));
        let found = probe(&region, &mut rig.memory.reader()).class;
        if class == Class::PageLess && found != class {
            require::kernel::<(), _>("a perf page that is VM_PFNMAP", "guest/bar", Err(format!("it is {found:?}")));
            continue;
        }
        assert_eq!(found, class);
        let whole = region.range(ours as u64, 4096 - ours as u64).unwrap();
        for access in [Access::Write, Access::Read] {
            let refused = testing::direct_io(&region, whole, file.path(), access);
            assert!(matches!(&refused, Err(error) if error.errno() == Some(Errno::EFAULT)), "{class:?}: {refused:?}");
        }
        assert_eq!(file.content(), pattern(16384, 3), "{class:?}: a refusal changes nothing");

        // Whole blocks of any disk, together with memory that can be pinned.
        let other = memfd::memfd(8192).unwrap();
        let other = Arc::new(Mapping::shared(other.as_fd(), 0, 8192, Protection::ReadWrite).unwrap());
        let pages = rig.memory.register(Backing::lent(&other, 0, 8192, true).unwrap()).unwrap();
        rig.store(&pages, 0, &pattern(8192, 5));
        for odd in [0, 1] {
            // As if nobody had asked yet.
            region.set_short_pin(Pinned::Unknown);
            let (unpinned, pinned) = (mapping.addr() + ours + odd, other.addr());
            let iovecs = [(unpinned + 1024, 512), (pinned, 7168 - 512), (unpinned, 1024 - odd), (pinned + 7168, odd)]
                .map(|(addr, len)| UserIovec { addr, len });
            let mut iter = IovIter::user(&iovecs).unwrap();
            iter.check_disjoint().unwrap();
            let mut reader = rig.memory.reader();
            let list = iter.extract(&reader.online(), rig.disk.limits(), Access::Write).unwrap().into_parts().0;
            assert_eq!((list.len_bytes(), iter.len()), (8192, 0), "{class:?}");
            // The same by frames.
            let mut frames = IovIter::frames(list.as_slice()).unwrap();
            let again = frames.extract(&reader.online(), rig.disk.limits(), Access::Read).unwrap().into_parts().0;
            assert_eq!(again.as_slice(), list.as_slice(), "{class:?}");

            let why = Route::Bounce(if odd == 0 { Why::Unpinnable(Errno::EFAULT) } else { Why::Misaligned });
            let held = rig.load(list.clone());
            let done = rig.run(Bio::write(Sector(16), again, 0));
            assert_eq!((done.status, done.done, done.route), (Status::Ok, 8192, why), "{class:?}, {odd} off");
            assert_eq!(file.content()[8192..], held, "{class:?}, {odd} off");
            let done = rig.run(Bio::read(Sector(0), list.clone(), 0));
            assert_eq!((done.status, done.done, done.route), (Status::Ok, 8192, why), "{class:?}, {odd} off");
            assert_eq!(rig.load(list), pattern(16384, 3)[..8192], "{class:?}, {odd} off");
        }
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
