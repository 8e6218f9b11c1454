// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file on the other side, when it fails.

use super::*;
use pageless_block::{ExtentMap, Limits, Refused};
use pageless_sys::eventfd::EventFd;
use pageless_testkit::faults::{Fault as Injected, Faulty, What};
use pageless_testkit::regions::TempPath;
use std::os::fd::{AsFd, BorrowedFd};

fn scratch(len: usize) -> TempPath {
    let path = TempPath::within(std::env::current_exe().unwrap().parent().unwrap());
    std::fs::write(path.path(), vec![1; len]).unwrap();
    path
}

#[test]
fn a_flush_reaches_what_went_through_the_queue_and_what_did_not() {
    let memory = Memory::new().unwrap();
    for len in [10, 8192, 10_000] {
        let path = scratch(len);
        let mut file = DirectFile::open(&memory, path.path(), FileDiskOptions::default()).unwrap();
        file.flush().unwrap();
        let null = File::open(Path::new("/dev/null"), OpenOptions::default()).unwrap();
        let real = std::mem::replace(&mut file.file, null);
        let failed = file.flush().unwrap_err();
        assert!(matches!(failed, DaxError::Flush { .. }), "{failed}");
        let told = format!(": flush of {len} bytes: {}; fdatasync: EINVAL", Status::IoErr);
        assert!(failed.to_string().contains(&told), "{failed}");
        assert_eq!(failed.errno(), Some(pageless_sys::Errno::EINVAL));
        file.file = real;
        file.flush().unwrap();
    }
    let (path, other) = (scratch(10_000), scratch(8192));
    let disk = Faulty::new(FileDisk::open(&memory, other.path(), FileDiskOptions::default()).unwrap());
    disk.inject(Injected::nth(Op::Flush, 0, What::Fail { status: Status::NoSpace, done: 0 }));
    let mut file = DirectFile::open(&memory, path.path(), FileDiskOptions::default()).unwrap();
    file.blocks = Some(Blocks::new(&disk).unwrap());
    assert!(matches!(file.flush(), Err(DaxError::Flush { status: Status::NoSpace, .. })));
    file.flush().unwrap();
    drop(file);
    let reading = FileDiskOptions { read_only: true, ..FileDiskOptions::default() };
    DirectFile::open(&memory, path.path(), reading).unwrap().flush().unwrap();
}

/// A device whose queues break when first polled and then go on as if nothing had been.
#[derive(Debug)]
struct Breaking(FileDisk);

#[derive(Debug)]
struct BreakingQueue {
    inner: Box<dyn Queue>,
    event: EventFd,
    polls: u32,
}

impl BlockDevice for Breaking {
    fn name(&self) -> &str {
        "breaking"
    }

    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        let event = EventFd::new().map_err(|error| Error::device("breaking", error))?;
        event.signal();
        Ok(Box::new(BreakingQueue { inner: self.0.open_queue()?, event, polls: 0 }))
    }

    fn extents(&self) -> Option<Box<dyn ExtentMap>> {
        None
    }
}

impl Queue for BreakingQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        self.inner.submit(bio)
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        self.polls += 1;
        if self.polls == 1 {
            return Err(Error::device("breaking", "broken"));
        }
        self.inner.poll(out)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}

#[test]
fn a_queue_that_broke_confirms_nothing_any_more_and_leaves_nothing_in_flight() {
    let memory = Memory::new().unwrap();
    let path = scratch(8192);
    let disk = Breaking(FileDisk::open(&memory, path.path(), FileDiskOptions::default()).unwrap());
    let mut blocks = Blocks::new(&disk).unwrap();
    let region = memory.register(pageless_mem::Backing::anon(8192).unwrap()).unwrap();
    let read = |at, len| Bytes::Fill(region.range(at, len).unwrap().into()).bio(at);
    let error = blocks.run(read(0, 8192)).unwrap_err();
    assert!(matches!(&error, Stop::Queue(error) if error.to_string() == "breaking: broken"), "{error:?}");
    let error = blocks.run(read(0, 512)).unwrap_err();
    assert!(
        matches!(&error, Stop::Queue(error) if error.to_string() == "breaking: its queue broke earlier"),
        "{error:?}"
    );
    region.revoke(std::time::Duration::ZERO).unwrap();
}
