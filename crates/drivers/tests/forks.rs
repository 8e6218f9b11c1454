// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "offsets in these tests are small")]
//! Forks in the middle of reads. A child that shared our private pages would, on kernels that take pages without telling
//! fork, leave us with copies that the disk never wrote to; so no memory of ours is inherited.
//! Alone in its process, since children hold the descriptors and locks of other tests too.

use pageless_block::{Bio, BlockDevice, Completion, Queue, Sector, Status};
use pageless_drivers::file::{FileDisk, FileDiskOptions};
use pageless_mem::testing::{Child, Seen, fork_and_touch, seen};
use pageless_mem::{Access, Backing, Memory, Region};
use pageless_testkit::regions::{Kind, TempPath};
use pageless_testkit::require::require;
use std::time::{Duration, Instant};

const LEN: usize = 256 << 10;
/// Frames are read but for their first sector, to which we store meanwhile: a store is what makes a copy of a page.
const SECTOR: u64 = 512;

struct Rig {
    memory: Memory,
    queue: Box<dyn Queue>,
}

impl Rig {
    fn store(&self, region: &Region, offset: u64, bytes: &[u8]) {
        let range = region.range(offset, bytes.len() as u64).unwrap();
        let mut reader = self.memory.reader();
        reader.online().kmap(range, Access::Write).unwrap().writer().write(bytes).unwrap();
    }

    fn load(&self, region: &Region) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        let mut reader = self.memory.reader();
        let range = region.range(0, LEN as u64).unwrap();
        reader.online().kmap(range, Access::Read).unwrap().reader().read(&mut bytes).unwrap();
        bytes
    }

    /// Polls until all is done.
    fn drain(&mut self, done: &mut Vec<Completion>) {
        let start = Instant::now();
        while self.queue.in_flight() > 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "{} reads do not end", self.queue.in_flight());
            self.queue.poll(done).unwrap();
            std::thread::yield_now();
        }
    }
}

/// What a storm of forks did.
struct Storm {
    /// Reads that were under way at a fork.
    under_way: usize,
    /// Frames that lost what was read or stored.
    lost: usize,
    saw: Vec<Option<Seen>>,
}

fn storm(rig: &mut Rig, region: &Region, forks: u32, content: &[u8]) -> Storm {
    let frames: Vec<u64> = (0..LEN as u64).step_by(4096).collect();
    let (mut under_way, mut lost, mut saw) = (0, 0, Vec::new());
    for round in 0..forks {
        rig.store(region, 0, &vec![0xee; LEN]);
        for at in &frames {
            let into = region.range(at + SECTOR, 4096 - SECTOR).unwrap();
            rig.queue.submit(Bio::read(Sector((at + SECTOR) / 512), into, *at)).unwrap();
        }
        let mut done = Vec::new();
        rig.queue.poll(&mut done).unwrap();
        let child: Child = fork_and_touch(region, Duration::from_millis(2)).unwrap();
        let mark = u8::try_from(round % 251).unwrap();
        for at in &frames {
            rig.store(region, *at, &[mark; 8]);
        }
        under_way += frames.len() - done.len();
        rig.drain(&mut done);
        assert_eq!(done.len(), frames.len());
        assert!(done.iter().all(|done| done.status == Status::Ok), "{done:?}");
        saw.push(seen(child).unwrap());
        let all = rig.load(region);
        lost +=
            frames.iter().filter(|at| !whole(&all[**at as usize..][..4096], &content[**at as usize..], mark)).count();
    }
    let storm = Storm { under_way, lost, saw };
    println!("{}: {forks} forks, {under_way} reads under way, {lost} frames lost", region.describe());
    storm
}

/// A frame that holds our mark, and behind its first sector what the file has there.
fn whole(frame: &[u8], content: &[u8], mark: u8) -> bool {
    frame[..8] == [mark; 8] && frame[512..] == content[512..4096]
}

#[test]
fn a_fork_in_the_middle_of_reads_loses_nothing() {
    let content: Vec<u8> = (0..LEN).map(|at| (at ^ ((at >> 9) * 31)).to_le_bytes()[0]).collect();
    let file = TempPath::within(std::env::current_exe().unwrap().parent().unwrap());
    std::fs::write(file.path(), &content).unwrap();
    let memory = Memory::new().unwrap();
    let disk = FileDisk::open(&memory, file.path(), FileDiskOptions::default()).unwrap();
    if !disk.does_direct_io() {
        require::<(), _>("O_DIRECT", Err("the file system beside the test binary has none"));
        return;
    }
    let mut rig = Rig { queue: disk.open_queue().unwrap(), memory };
    for kind in [Kind::Ram, Kind::Secret] {
        let Some(made) = kind.make(&rig.memory, LEN as u64) else { continue };
        let region = made.region();
        let Storm { under_way, lost, saw } = storm(&mut rig, region, 120, &content);
        assert!(under_way > 0, "no read was under way at any fork");
        assert_eq!(lost, 0, "{}", region.describe());
        assert!(saw.iter().all(|saw| *saw == Some(Seen::Nothing)), "{}: {saw:?}", region.describe());
    }
    // The same without MADV_DONTFORK. Whether it loses anything is the kernel's affair: those that count pins (since 5.12)
    // copy a pinned page for the child at once. That the child has the memory at all shows that the above is our doing.
    let region = rig.memory.register(Backing::inheritable(LEN as u64).unwrap()).unwrap();
    let Storm { saw, .. } = storm(&mut rig, &region, 20, &content);
    assert!(saw.iter().all(|saw| *saw == Some(Seen::All)), "{saw:?}");
}
