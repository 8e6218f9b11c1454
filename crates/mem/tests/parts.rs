// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of a file as regions: each speaks of its own bytes of the file, and may be opened further.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use pageless_mem::{Access, Backing, Error, Extent, FRAME_SIZE, Fault, FilePart, Memory, Reader, Region};
use pageless_sys::file::{File, OpenOptions};

const LONG: Duration = Duration::from_secs(60);

struct Scratch(PathBuf);

impl Scratch {
    /// A file of this many bytes, each of which tells its frame.
    fn new(name: &str, len: usize) -> (Scratch, File) {
        let path = std::env::temp_dir().join(format!("pageless-part-{}-{name}", std::process::id()));
        std::fs::write(&path, (0..len).map(|at| (at / 4096 + 1).to_le_bytes()[0]).collect::<Vec<_>>()).unwrap();
        let file = File::open(&path, OpenOptions::default()).unwrap();
        (Scratch(path), file)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn part(offset: u64, len: u64, reserve: u64) -> FilePart {
    FilePart { offset, len, reserve, read_only: false }
}

fn byte(reader: &mut Reader, region: &Region, at: u64) -> Result<u8, Fault> {
    let mut byte = [0];
    let online = reader.online();
    let window = online.kmap(region.range(at, 1).ok_or(Fault::Gone)?, Access::Read)?;
    window.reader().read(&mut byte).map_err(|error| error.fault)?;
    Ok(byte[0])
}

#[test]
fn a_part_speaks_of_its_own_bytes_of_the_file() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let (scratch, file) = Scratch::new("own", 16 * 4096);
    let region =
        memory.register(Backing::part(&file, scratch.path(), part(4 * FRAME_SIZE, 20_000, 0)).unwrap()).unwrap();
    assert_eq!((region.len(), region.frames().count()), (20_000, 5));
    assert_eq!(byte(&mut reader, &region, 0), Ok(5));
    assert_eq!(byte(&mut reader, &region, 19_999), Ok(9));
    assert_eq!(region.range(19_999, 2), None, "a byte more is nobody's");
    // A hole is made and found where the part says, and nowhere else in the file.
    region.punch(FRAME_SIZE, FRAME_SIZE).unwrap();
    let mut extents = region.extents();
    assert_eq!(extents.next(0, 20_000), Extent::Data(4096));
    assert_eq!(extents.next(4096, 12_000), Extent::Hole(4096));
    assert_eq!(extents.next(8192, 10_000), Extent::Data(10_000));
    let content = std::fs::read(scratch.path()).unwrap();
    let frames: Vec<u8> = content.iter().step_by(4096).copied().collect();
    assert_eq!(frames, [1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    // Who cuts the file behind our back before the end of the part is found out, and not by who cuts it past that.
    let mut flusher = region.flusher();
    file.truncate(4 * FRAME_SIZE + 20_000).unwrap();
    assert_eq!(flusher.flush(), Ok(()));
    file.truncate(4 * FRAME_SIZE + 19_999).unwrap();
    assert_eq!(flusher.flush(), Err(Fault::Media));
    assert!(matches!(
        Backing::part(&file, scratch.path(), part(100, 4096, 0)),
        Err(Error::Misaligned { value: 100, align: FRAME_SIZE, .. })
    ));
    assert!(matches!(Backing::part(&file, scratch.path(), part(0, 0, 4096)), Err(Error::Empty)));
}

#[test]
fn a_part_is_opened_into_what_was_mapped_with_it_and_never_into_what_was_cut_off() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let (scratch, file) = Scratch::new("extend", 8 * 4096);
    let backing = Backing::part(&file, scratch.path(), part(FRAME_SIZE, 5000, 6 * FRAME_SIZE)).unwrap();
    let region = memory.register(backing).unwrap();
    assert_eq!((region.len(), region.reserved(), region.frames().count()), (5000, 6 * FRAME_SIZE, 6));
    assert_eq!(byte(&mut reader, &region, 5000), Err(Fault::Gone));
    assert!(!region.extend(4999) && !region.extend(6 * FRAME_SIZE + 1));
    assert!(region.extend(9000));
    assert_eq!((byte(&mut reader, &region, 8999), region.len()), (Ok(4), 9000));
    // A cut that fails leaves room, one that happens does not.
    let given_up = || Err::<(), _>(Error::GivenUp { start: 6000, end: 9000, why: "a test" });
    assert!(region.cut(6000, LONG, given_up).is_err());
    assert!(region.extend(9001));
    region.cut(6000, LONG, || Ok(())).unwrap();
    assert_eq!(region.reserved(), 6000);
    assert!(!region.extend(9001));
    assert_eq!((byte(&mut reader, &region, 6000), byte(&mut reader, &region, 5999)), (Err(Fault::Gone), Ok(3)));
    region.cut(0, LONG, || Ok(())).unwrap();
    assert!(region.released().wait(LONG).unwrap());
    assert!(!region.extend(1));
}

#[test]
fn a_change_behind_the_regions_back_waits_for_io_and_voids_what_queues_remember() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let (scratch, file) = Scratch::new("idle", 8 * 4096);
    let region = memory.register(Backing::part(&file, scratch.path(), part(0, 8 * FRAME_SIZE, 0)).unwrap()).unwrap();
    let mut extents = region.extents();
    assert_eq!(extents.next(0, 8 * FRAME_SIZE), Extent::Data(8 * FRAME_SIZE));
    let pinned = reader.online().pin(&[region.range(5000, 100).unwrap()], Access::Write).unwrap();
    let punch = || {
        file.fallocate(pageless_sys::file::FallocMode::PunchHole, 4096, 4096)?;
        Ok(())
    };
    let never = || -> Result<(), Error> { panic!("I/O is in flight there") };
    assert!(matches!(region.while_idle(4096, 4096, Duration::from_millis(2), never), Err(Error::Busy(_))));
    assert!(matches!(region.while_idle(4096, u64::MAX, LONG, never), Err(Error::OutOfRange { .. })));
    region.while_idle(0, 4096, LONG, || Ok(())).unwrap();
    drop(pinned);
    region.while_idle(4096, 4096, LONG, punch).unwrap();
    assert_eq!(extents.next(4096, 8192), Extent::Hole(4096));
}
