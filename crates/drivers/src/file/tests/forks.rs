// SPDX-License-Identifier: MIT OR Apache-2.0
#![allow(clippy::cast_possible_truncation, reason = "offsets in these tests are small")]
//! Forks in the middle of reads. A child that shared our private pages would, on kernels that take pages without telling
//! fork, leave us with copies that the disk never wrote to; so no memory of ours is inherited.

use super::rig::{Rig, Scratch, direct, pattern};
use pageless_block::{Bio, Sector, Status};
use pageless_mem::testing::{Child, Seen, fork_and_touch, seen};
use pageless_mem::{Backing, Region};
use std::time::Duration;

const LEN: usize = 256 << 10;
/// Frames are read but for their first sector, to which we store meanwhile: a store is what makes a copy of a page.
const SECTOR: u64 = 512;

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
        let left = frames.len() - done.len();
        under_way += left;
        done.append(&mut rig.drain(left));
        assert!(done.iter().all(|done| done.status == Status::Ok), "{done:?}");
        saw.push(seen(child).unwrap());
        let all = rig.load(region.range(0, LEN as u64).unwrap());
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
    let content = pattern(LEN, 3);
    let file = Scratch::with(&content);
    let mut rig = Rig::new(file.path());
    if !direct(&rig.disk) {
        return;
    }
    let secret = super::rig::secret(&rig.memory, LEN as u64);
    for region in [Some(rig.ram(LEN as u64)), secret].into_iter().flatten() {
        let Storm { under_way, lost, saw } = storm(&mut rig, &region, 120, &content);
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
