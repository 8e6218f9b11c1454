// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which way bytes go, and that they arrive whichever way it is.

use super::rig::{Rig, Scratch, Tmpfs, direct, pattern, secret};
use crate::file::FileDiskOptions;
use crate::file::bounce::SLOT;
use pageless_block::{
    Bio, BlockDevice, Flags, IovIter, RefusedWhy, Route, ScatterList, Sector, Status, UserIovec, Why,
};
use pageless_mem::probe::{Verdict, probe};
use pageless_mem::{Access, Backing, FileOptions, Pinned};
use pageless_sys::Errno;
use pageless_sys::mmap::{Mapping, Protection};
use std::os::fd::AsFd;
use std::sync::Arc;

const MIB: usize = 1 << 20;

#[test]
fn pages_are_the_buffer() {
    let file = Scratch::with(&pattern(MIB, 0));
    let mut rig = Rig::new(file.path());
    if !direct(&rig.disk) {
        return;
    }
    let memfd = rig.memory.register(Backing::memfd(MIB as u64).unwrap()).unwrap();
    for region in [rig.ram(MIB as u64), memfd] {
        assert_eq!(region.short_pin(), Pinned::Unknown);
        let all = region.range(0, MIB as u64).unwrap();
        let done = rig.run(Bio::read(Sector(0), all, 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, MIB as u64, Route::Direct));
        assert_eq!(rig.load(all), pattern(MIB, 0));
        assert_eq!(region.short_pin(), Pinned::Ok);

        rig.store(&region, 4096, &pattern(8192, 7));
        let part = region.range(4096, 8192).unwrap();
        let done = rig.run(Bio::write(Sector(16), part, 0).with_flags(Flags::FUA));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, 8192, Route::Direct));
        assert_eq!(file.content()[8192..16384], pattern(8192, 7));
        std::fs::write(file.path(), pattern(MIB, 0)).unwrap();
    }
}

#[test]
fn a_list_goes_in_one_vector() {
    let file = Scratch::with(&pattern(64 << 10, 0));
    let mut rig = Rig::new(file.path());
    if !direct(&rig.disk) {
        return;
    }
    let region = rig.ram(MIB as u64);
    // backwards, so that nothing merges
    let list: ScatterList = (0..16).rev().map(|i| region.range(i * 8192, 4096).unwrap()).collect();
    let done = rig.run(Bio::read(Sector(0), list.clone(), 0));
    assert_eq!((done.status, done.done, done.route), (Status::Ok, 64 << 10, Route::Direct));
    assert_eq!(rig.load(list), pattern(64 << 10, 0));
}

#[test]
fn what_cannot_be_pinned_bounces_and_is_remembered() {
    let file = Scratch::with(&pattern(MIB, 3));
    let mut rig = Rig::new(file.path());
    let Some(region) = secret(&rig.memory, MIB as u64) else { return };
    if !direct(&rig.disk) {
        return;
    }
    let all = region.range(0, MIB as u64).unwrap();
    let why = Route::Bounce(Why::Unpinnable(Errno::EFAULT));
    for _ in 0..2 {
        let done = rig.run(Bio::read(Sector(0), all, 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, MIB as u64, why));
        assert_eq!(region.short_pin(), Pinned::Refused(Errno::EFAULT));
    }
    assert_eq!(rig.load(all), pattern(MIB, 3));

    rig.store(&region, 0, &pattern(MIB, 4));
    let done = rig.run(Bio::write(Sector(0), all, 0).with_flags(Flags::FUA));
    assert_eq!((done.status, done.done, done.route), (Status::Ok, MIB as u64, why));
    assert_eq!(file.content(), pattern(MIB, 4));
}

#[test]
fn a_mixed_list_blames_only_the_memory_that_was_refused() {
    let file = Scratch::with(&pattern(48 << 10, 5));
    let mut rig = Rig::new(file.path());
    let Some(hidden) = secret(&rig.memory, 64 << 10) else { return };
    if !direct(&rig.disk) {
        return;
    }
    for order in [[0, 1, 2], [1, 0, 2]] {
        let (first, last) = (rig.ram(16 << 10), rig.ram(16 << 10));
        let mut regions = [&first, &hidden, &last];
        regions = order.map(|i| regions[i]);
        let list: ScatterList = regions.iter().map(|region| region.range(0, 16 << 10).unwrap()).collect();
        let done = rig.run(Bio::read(Sector(0), list.clone(), 0));
        assert_eq!((done.status, done.done), (Status::Ok, 48 << 10));
        assert_eq!(done.route, Route::Bounce(Why::Unpinnable(Errno::EFAULT)));
        assert_eq!(rig.load(list.clone()), pattern(48 << 10, 5));
        assert_eq!(hidden.short_pin(), Pinned::Refused(Errno::EFAULT));
        for ram in [&first, &last] {
            assert!(!matches!(ram.short_pin(), Pinned::Refused(_)), "{:?}", ram.short_pin());
        }
        let done = rig.run(Bio::read(Sector(0), first.range(0, 4096).unwrap(), 0));
        assert_eq!(done.route, Route::Direct);
        hidden.set_short_pin(Pinned::Unknown);
    }
}

#[test]
fn odd_pieces_bounce_and_leave_their_neighbours_alone() {
    let file = Scratch::with(&pattern(8192, 0));
    let mut rig = Rig::new(file.path());
    if !direct(&rig.disk) {
        return;
    }
    let region = rig.ram(64 << 10);
    let list: ScatterList =
        [(1, 511), (600, 1000), (9001, 2585)].map(|(at, len)| region.range(at, len).unwrap()).into_iter().collect();
    assert_eq!(list.len_bytes(), 4096);
    let done = rig.run(Bio::read(Sector(8), list.clone(), 0));
    assert_eq!((done.status, done.done, done.route), (Status::Ok, 4096, Route::Bounce(Why::Misaligned)));
    assert_eq!(rig.load(list.clone()), pattern(8192, 0)[4096..]);
    let all = rig.load(region.range(0, 16 << 10).unwrap());
    let touched = |i: usize| [(1, 512), (600, 1600), (9001, 11586)].iter().any(|(from, to)| (*from..*to).contains(&i));
    assert!(all.iter().enumerate().all(|(i, byte)| *byte == 0 || touched(i)));

    let done = rig.run(Bio::write(Sector(0), list, 0));
    assert_eq!((done.status, done.done, done.route), (Status::Ok, 4096, Route::Bounce(Why::Misaligned)));
    assert_eq!(file.content()[..4096], pattern(8192, 0)[4096..]);
    assert_eq!(region.short_pin(), Pinned::Unknown);
}

#[test]
fn many_large_bios_share_few_slots() {
    let file = Scratch::with(&pattern(4 * MIB, 0));
    for slots in [1, 3] {
        large_bios_share(&file, slots);
    }
}

fn large_bios_share(file: &Scratch, slots: u64) {
    let len = 4 * MIB;
    std::fs::write(file.path(), pattern(len, 0)).unwrap();
    let options = FileDiskOptions { bounce_bytes: slots * u64::from(SLOT), ..FileDiskOptions::default() };
    let mut rig = Rig::with(file.path(), options);
    if !direct(&rig.disk) {
        return;
    }
    let region = rig.ram(8 * (MIB as u64) + 4096);
    // one byte off: nothing of it can go direct
    let quarter = |i: u64| region.range(1 + i * (MIB as u64), MIB as u64).unwrap();
    for i in 0..4 {
        rig.queue.submit(Bio::read(Sector(i * (MIB as u64) / 512), quarter(i), i)).unwrap();
    }
    let done = rig.drain(4);
    assert!(done.iter().all(|c| c.status == Status::Ok && c.route == Route::Bounce(Why::Misaligned)));
    let order: Vec<u64> = done.iter().map(|c| c.tag).collect();
    assert!(slots > 1 || order == [0, 1, 2, 3], "the slot goes to who came first: {order:?}");
    assert_eq!((0..4).flat_map(|i| rig.load(quarter(i))).collect::<Vec<_>>(), pattern(len, 0));

    rig.store(&region, 1, &pattern(len, 9));
    let done = rig.run(Bio::write(Sector(0), region.range(1, len as u64).unwrap(), 0));
    assert_eq!((done.status, done.done), (Status::Ok, len as u64));
    assert_eq!(file.content(), pattern(len, 9));
}

#[test]
fn a_file_system_in_memory_is_copied_and_says_so() {
    let Some(tmpfs) = Tmpfs::mount("8m") else { return };
    let path = tmpfs.path("disk");
    std::fs::write(&path, pattern(MIB, 0)).unwrap();
    let mut rig = Rig::new(&path);
    let region = rig.ram(MIB as u64 + 4096);
    for at in [0, 1] {
        let all = region.range(at, MIB as u64).unwrap();
        let done = rig.run(Bio::read(Sector(0), all, 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, MIB as u64, Route::Copy(Why::NoDirectIo)));
        assert_eq!(rig.load(all), pattern(MIB, 0));
    }
    assert_eq!(region.short_pin(), Pinned::Unknown, "a copy says nothing about pins");
}

#[test]
fn a_full_queue_hands_the_bio_back() {
    let file = Scratch::with(&pattern(4096, 0));
    let mut rig = Rig::with(file.path(), FileDiskOptions { queue_depth: 2, ..FileDiskOptions::default() });
    let region = rig.ram(4096);
    let bio = |tag| Bio::read(Sector(0), region.range(0, 4096).unwrap(), tag);
    rig.queue.submit(bio(1)).unwrap();
    rig.queue.submit(bio(2)).unwrap();
    let refused = rig.queue.submit(bio(3)).unwrap_err();
    assert_eq!((refused.bio.tag, refused.why), (3, RefusedWhy::Full));
    rig.drain(2);
    rig.queue.submit(bio(3)).unwrap();
    assert_eq!(rig.drain(1)[0].tag, 3);
}

#[test]
fn a_queue_is_dropped_with_reads_in_flight() {
    let file = Scratch::with(&pattern(16 * MIB, 0));
    for odd in [0, 1] {
        let mut rig = Rig::new(file.path());
        let region = rig.ram(16 * MIB as u64 + 4096);
        for i in 0..64 {
            let range = region.range(odd + i * (256 << 10), 256 << 10).unwrap();
            rig.queue.submit(Bio::read(Sector(i * 512), range, i)).unwrap();
        }
        rig.queue.poll(&mut Vec::new()).unwrap();
        let Rig { memory, queue, .. } = rig;
        drop(queue);
        assert_eq!(region.in_flight(), 0, "the kernel may still write to it");
        drop(region);
        // memory that comes next, perhaps at the same addresses, stays as it is
        let next = memory.register(Backing::anon(16 * MIB as u64).unwrap()).unwrap();
        let mut bytes = vec![1; 16 * MIB];
        let mut reader = memory.reader();
        let online = reader.online();
        let window = online.kmap(next.range(0, 16 * MIB as u64).unwrap(), Access::Read).unwrap();
        window.reader().read(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_destination_that_may_not_be_written_is_refused_before_anything_moves() {
    let file = Scratch::with(&pattern(8192, 0));
    let tmpfs = Tmpfs::mount("1m");
    let in_memory = tmpfs.as_ref().map(|tmpfs| tmpfs.path("disk"));
    for path in [Some(file.path()), in_memory.as_deref()].into_iter().flatten() {
        std::fs::write(path, pattern(8192, 0)).unwrap();
        let mut rig = Rig::new(path);
        let source = Scratch::with(&pattern(8192, 1));
        let options = FileOptions { read_only: true, ..FileOptions::default() };
        let fixed = rig.memory.register(Backing::file(source.path(), options).unwrap()).unwrap();
        let ram = rig.ram(4096);
        // Aligned or not, alone or behind what could be read into.
        let part = |at| fixed.range(at, 4096).unwrap();
        for list in
            [ScatterList::from(part(0)), part(100).into(), [ram.range(0, 4096).unwrap(), part(0)].into_iter().collect()]
        {
            let done = rig.run(Bio::read(Sector(0), list.clone(), 0));
            let refused = (Status::ReadOnly, 0, Route::Refuse(Why::ReadOnly));
            assert_eq!((done.status, done.done, done.route), refused, "{list:?}");
            assert_eq!(rig.load(ram.range(0, 4096).unwrap()), [0; 4096]);
        }
        let done = rig.run(Bio::write(Sector(0), part(4096), 0));
        assert_eq!((done.status, done.done), (Status::Ok, 4096), "{:?}", done.route);
        assert_eq!(std::fs::read(path).unwrap()[..4096], pattern(8192, 1)[4096..]);
    }
}

#[test]
fn scattered_addresses_of_secret_memory_are_read_and_written_through_slots() {
    let file = Scratch::with(&pattern(16384, 6));
    let mut rig = Rig::new(file.path());
    let made = pageless_sys::memfd::secret(1 << 16);
    let Some(secret) = pageless_testkit::require::kernel("memfd_secret", "guest/secret", made) else { return };
    if !direct(&rig.disk) {
        return;
    }
    let mapping = Arc::new(Mapping::shared(secret.as_fd(), 0, 1 << 16, Protection::ReadWrite).unwrap());
    let region = rig.memory.register(Backing::lent(&mapping, 0, 1 << 16, true).unwrap()).unwrap();
    rig.store(&region, 0, &[0; 1 << 16]);
    let refused = probe(&region, &mut rig.memory.reader()).short_pin;
    assert_eq!(refused, Verdict::Refused(Errno::EFAULT), "the kernel alone does not take it");
    let why = |aligned| if aligned { Why::Unpinnable(Errno::EFAULT) } else { Why::Misaligned };
    for (aligned, places) in
        [(true, [(8192, 4096), (0, 512), (3584, 3584)]), (false, [(8193, 4000), (7, 500), (3585, 3692)])]
    {
        let iovecs = places.map(|(at, len)| UserIovec { addr: mapping.addr() + at, len });
        let mut iter = IovIter::user(&iovecs).unwrap();
        let mut reader = rig.memory.reader();
        let mut list = |iter: &mut IovIter<'_>, access| {
            let extracted = iter.extract(&reader.online(), rig.disk.limits(), access).unwrap();
            extracted.into_parts().0
        };
        let (into, _) = (list(&mut iter, Access::Write), iter.revert(8192));
        let from = list(&mut iter, Access::Read);
        let done = rig.run(Bio::read(Sector(8), into.clone(), 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, 8192, Route::Bounce(why(aligned))));
        assert_eq!(rig.load(into), pattern(16384, 6)[4096..12288]);
        let done = rig.run(Bio::write(Sector(0), from, 0));
        assert_eq!((done.status, done.done, done.route), (Status::Ok, 8192, Route::Bounce(why(aligned))));
        assert_eq!(file.content()[..8192], pattern(16384, 6)[4096..12288]);
        std::fs::write(file.path(), pattern(16384, 6)).unwrap();
    }
}
