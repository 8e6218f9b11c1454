// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files cut short, full file systems, memory that goes away.

use super::rig::{Rig, Scratch, Tmpfs, pattern, secret};
use pageless_block::{Bio, BlockDevice, Sector, Status};
use pageless_mem::{Backing, FileOptions, Pinned};
use std::fs::OpenOptions;

const MIB: u64 = 1 << 20;

/// By a process that ignores our lock.
fn cut(path: &std::path::Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_file_cut_short_is_an_error_and_no_zeroes() {
    let content = pattern(1 << 20, 0);
    for odd in [0, 1] {
        let file = Scratch::with(&content);
        let mut rig = Rig::new(file.path());
        let region = rig.ram(MIB + 4096);
        let all = region.range(odd, MIB).unwrap();
        rig.store(&region, 0, &vec![0xee; (1 << 20) + 4096]);
        for len in [300_000, 299_520, 0] {
            cut(file.path(), len);
            let done = rig.run(Bio::read(Sector(0), all, 0));
            assert_eq!((done.status, done.done), (Status::IoErr, len), "cut to {len}, {odd} off");
            let bytes = rig.load(all);
            let kept = usize::try_from(len).unwrap();
            assert_eq!(bytes[..kept], content[..kept]);
            // the kernel may have touched the rest; slots do not
            assert!(odd == 0 || bytes[kept..].iter().skip(300_000 - kept).all(|byte| *byte == 0xee));
        }
        assert_eq!(rig.run(Bio::flush(0)).status, Status::IoErr);
        assert_eq!(rig.disk.extents().unwrap().next(0, MIB), Err(Status::IoErr));
    }
}

#[test]
fn a_full_file_system_is_no_space() {
    let Some(tmpfs) = Tmpfs::mount("1m") else { return };
    let path = tmpfs.path("disk");
    std::fs::File::create(&path).unwrap().set_len(4 * MIB).unwrap();
    let mut rig = Rig::new(&path);
    let region = rig.ram(2 * MIB);
    rig.store(&region, 0, &[1; 8192]);
    let write = |at, len| Bio::write(Sector(at / 512), region.range(0, len).unwrap(), 0);
    assert_eq!(rig.run(write(0, 512 << 10)).status, Status::Ok);
    let full = rig.run(write(MIB, MIB));
    assert_eq!(full.status, Status::NoSpace);
    assert!(full.done < MIB, "{full:?}");
    // and room made is room again
    assert_eq!(rig.run(Bio::discard(Sector(0), 4 * MIB, 0)).status, Status::Ok);
    assert_eq!(rig.run(write(0, 512 << 10)).status, Status::Ok);
}

#[test]
fn frames_of_a_region_that_is_gone() {
    let file = Scratch::with(&pattern(1 << 20, 0));
    for odd in [0, 1] {
        let mut rig = Rig::new(file.path());
        let region = rig.ram(MIB + 4096);
        let range = region.range(odd, MIB).unwrap();
        drop(region);
        let done = rig.run(Bio::read(Sector(0), range, 0));
        assert_eq!((done.status, done.done), (Status::Gone, 0));
        let kept = rig.ram(4096);
        assert_eq!(rig.run(Bio::read(Sector(0), kept.range(0, 4096).unwrap(), 0)).status, Status::Ok);
    }
}

#[test]
fn frames_that_may_not_be_written() {
    let file = Scratch::with(&pattern(64 << 10, 0));
    let image = Scratch::with(&pattern(64 << 10, 5));
    let mut rig = Rig::new(file.path());
    let options = FileOptions { size: None, create: false, read_only: true };
    let region = rig.memory.register(Backing::file(image.path(), options).unwrap()).unwrap();
    for odd in [0, 1] {
        let range = region.range(odd, 4096).unwrap();
        assert_eq!(rig.run(Bio::read(Sector(0), range, 0)).status, Status::ReadOnly);
        assert_eq!(rig.run(Bio::write(Sector(8), range, 0)).status, Status::Ok);
        let at = usize::try_from(odd).unwrap();
        assert_eq!(file.content()[4096..8192], pattern(64 << 10, 5)[at..at + 4096]);
    }
    assert_eq!(image.content(), pattern(64 << 10, 5));
}

#[test]
fn memory_that_was_pinned_before_fails_as_memory() {
    // A mapped file that is cut short: the kernel answers EFAULT, the copy by the CPU says what it is.
    let file = Scratch::with(&pattern(64 << 10, 0));
    let image = Scratch::with(&pattern(64 << 10, 5));
    let mut rig = Rig::new(file.path());
    let options = FileOptions { size: None, create: false, read_only: false };
    let region = rig.memory.register(Backing::file(image.path(), options).unwrap()).unwrap();
    let all = region.range(0, 64 << 10).unwrap();
    assert_eq!(rig.run(Bio::write(Sector(0), all, 0)).status, Status::Ok);
    let verdict = region.short_pin();
    cut(image.path(), 16 << 10);
    for bio in [Bio::write(Sector(0), all, 0), Bio::read(Sector(0), all, 0)] {
        let done = rig.run(bio);
        assert_eq!(done.status, Status::Media, "{done:?}");
        assert!(done.done <= 16 << 10, "{done:?}");
    }
    assert_eq!(region.short_pin(), verdict, "a fault is no verdict");
    let head = region.range(0, 16 << 10).unwrap();
    assert_eq!(rig.run(Bio::read(Sector(0), head, 0)).status, Status::Ok);
}

#[test]
fn a_verdict_is_not_taken_from_memory_that_failed() {
    let file = Scratch::with(&pattern(64 << 10, 0));
    let image = Scratch::with(&pattern(64 << 10, 5));
    let mut rig = Rig::new(file.path());
    let options = FileOptions { size: None, create: false, read_only: false };
    let region = rig.memory.register(Backing::file(image.path(), options).unwrap()).unwrap();
    cut(image.path(), 0);
    let done = rig.run(Bio::read(Sector(0), region.range(0, 64 << 10).unwrap(), 0));
    assert_eq!((done.status, done.done), (Status::Media, 0));
    assert_eq!(region.short_pin(), Pinned::Unknown);
}

#[test]
fn one_bad_bio_leaves_the_others_alone() {
    let file = Scratch::with(&pattern(2 << 20, 0));
    let mut rig = Rig::new(file.path());
    let Some(hidden) = secret(&rig.memory, MIB) else { return };
    let gone = rig.ram(MIB).range(0, MIB).unwrap();
    let ram = rig.ram(MIB);
    let good = ram.range(0, MIB).unwrap();
    let hidden = hidden.range(0, MIB).unwrap();
    for (tag, range) in [(0, good), (1, gone), (2, hidden), (3, gone), (4, hidden)] {
        rig.queue.submit(Bio::read(Sector(2048), range, tag)).unwrap();
    }
    let mut done = rig.drain(5);
    done.sort_by_key(|c| c.tag);
    let statuses: Vec<Status> = done.iter().map(|c| c.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::Gone, Status::Ok, Status::Gone, Status::Ok]);
    assert_eq!(rig.load(good), pattern(2 << 20, 0)[1 << 20..]);
}

#[test]
fn bios_behind_a_burst_of_faults_are_not_forgotten() {
    let file = Scratch::with(&pattern(1 << 20, 0));
    let image = Scratch::with(&pattern(1 << 20, 5));
    let mut rig = Rig::new(file.path());
    let gone = rig.ram(MIB).range(1, 128 << 10).unwrap();
    let options = FileOptions { size: None, create: false, read_only: false };
    let mapped = rig.memory.register(Backing::file(image.path(), options).unwrap()).unwrap();
    cut(image.path(), 124 << 10);
    // one byte off, so that it goes through slots where there is direct I/O: one fault at once, one after a long copy
    let late = mapped.range(1, 128 << 10).unwrap();
    for (frames, count, wanted) in [(gone, 3, Status::Gone), (late, 3, Status::Media), (late, 9, Status::Media)] {
        for tag in 0..count {
            rig.queue.submit(Bio::write(Sector(tag * 256 % 2048), frames, tag)).unwrap();
        }
        // asleep on the event between any two polls
        let mut done = rig.drain(usize::try_from(count).unwrap());
        done.sort_by_key(|c| c.tag);
        assert!(done.iter().map(|c| c.tag).eq(0..count));
        assert!(done.iter().all(|c| c.status == wanted), "{done:?}");
    }
}
