// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of a driver and the device's side of a ring, on the code that ships; memory is words here.
//! `RUSTFLAGS="--cfg loom" cargo test -p pageless-export --release --lib loom::`

use std::sync::Arc;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicU16, Ordering, fence};
use loom::thread;
use pageless_mem::Fault;

use super::ring::{Parts, Ring};
use super::words::Words;

const SIZE: u16 = 2;
const IDX: usize = 2;
const ENTRIES: usize = 4;
const USED_EVENT: usize = ENTRIES + 2 * SIZE as usize;
const AVAIL_EVENT: usize = ENTRIES + 8 * SIZE as usize;

/// Memory that both sides share, as far as it is used.
struct Memory(Vec<AtomicU16>);

impl Memory {
    fn new(bytes: usize) -> Memory {
        Memory((0..bytes / 2).map(|_| AtomicU16::new(0)).collect())
    }
}

impl Words for Arc<Memory> {
    fn load16(&self, at: usize) -> Result<u16, Fault> {
        Ok(self.0[at / 2].load(Ordering::Acquire))
    }

    fn store16(&self, at: usize, value: u16) -> Result<(), Fault> {
        self.0[at / 2].store(value, Ordering::Release);
        Ok(())
    }

    fn store32(&self, at: usize, value: u32) -> Result<(), Fault> {
        // The upper half is never used here, and each word costs interleavings.
        self.store16(at, value as u16)
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn pair64(&self, _: usize) -> Result<[u64; 2], Fault> {
        unreachable!("a ring has no such words")
    }

    fn load64(&self, _: usize) -> Result<u64, Fault> {
        unreachable!("a ring has no such words")
    }

    fn load8(&self, _: usize) -> Result<u8, Fault> {
        unreachable!("a ring has no such words")
    }

    fn store8(&self, _: usize, _: u8) -> Result<(), Fault> {
        unreachable!("a ring has no such words")
    }

    fn store64(&self, _: usize, _: u64) -> Result<(), Fault> {
        unreachable!("a ring has no such words")
    }

    fn set_bits8(&self, _: usize, _: u8) -> Result<(), Fault> {
        unreachable!("a ring has no such words")
    }
}

/// A ring, and the two eventfds.
struct Shared {
    avail: Arc<Memory>,
    used: Arc<Memory>,
    kick: Notify,
    call: Notify,
}

impl Shared {
    fn new() -> Arc<Shared> {
        let (avail, used) = (Arc::new(Memory::new(USED_EVENT + 2)), Arc::new(Memory::new(AVAIL_EVENT + 2)));
        Arc::new(Shared { avail, used, kick: Notify::new(), call: Notify::new() })
    }

    fn parts(&self) -> Parts<Arc<Memory>, Arc<Memory>> {
        Parts { avail: Arc::clone(&self.avail), used: Arc::clone(&self.used) }
    }

    /// What a driver does to make a head available (2.7.13).
    fn offer(&self, index: u16, head: u16, event_idx: bool) {
        self.avail.store16(ENTRIES + 2 * usize::from(index % SIZE), head).unwrap();
        self.avail.store16(IDX, index + 1).unwrap();
        fence(Ordering::SeqCst);
        let wanted = if event_idx {
            // Each is shown by itself, so the device wants a kick for exactly the one that it named.
            self.used.load16(AVAIL_EVENT).unwrap() == index
        } else {
            self.used.load16(0).unwrap() & 1 == 0
        };
        if wanted {
            self.kick.notify();
        }
    }

    /// What a driver does to wait for a used entry (2.7.14). The head in it.
    fn collect(&self, index: u16, event_idx: bool) -> u16 {
        while self.used.load16(IDX).unwrap() == index {
            let (word, wanted) = if event_idx { (USED_EVENT, index) } else { (0, 0) };
            self.avail.store16(word, wanted).unwrap();
            fence(Ordering::SeqCst);
            if self.used.load16(IDX).unwrap() == index {
                self.call.wait();
            }
        }
        if !event_idx {
            self.avail.store16(0, 1).unwrap();
        }
        self.used.load16(ENTRIES + 8 * usize::from(index % SIZE)).unwrap()
    }
}

/// The device takes so many heads, and sleeps whenever there are none.
fn take(shared: &Shared, ring: &mut Ring, count: u16) {
    let parts = shared.parts();
    let mut taken = 0;
    while taken < count {
        if ring.waiting(&parts.avail).unwrap() > 0 {
            assert_eq!(ring.peek(&parts.avail, 0).unwrap(), 1 - taken % 2, "an entry is seen before its index");
            ring.take(1);
            taken += 1;
        } else {
            if !ring.sleep(&parts).unwrap() {
                shared.kick.wait();
            }
            ring.wake(&parts.used).unwrap();
        }
    }
}

fn no_kick_is_lost(event_idx: bool) {
    loom::model(move || {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let driver = thread::spawn(move || {
            theirs.offer(0, 1, event_idx);
            theirs.offer(1, 0, event_idx);
        });
        // Loom finds who waits for ever.
        take(&shared, &mut Ring::new(SIZE, event_idx, 0, 0), 2);
        driver.join().unwrap();
    });
}

fn no_call_is_lost(event_idx: bool) {
    loom::model(move || {
        let shared = Shared::new();
        let theirs = Arc::clone(&shared);
        let driver = thread::spawn(move || {
            assert_eq!(theirs.collect(0, event_idx), 1, "an entry is published before its index");
            assert_eq!(theirs.collect(1, event_idx), 0);
        });
        let (parts, mut ring) = (shared.parts(), Ring::new(SIZE, event_idx, 0, 0));
        for head in [1, 0] {
            ring.put(&parts.used, head, 0).unwrap();
            ring.publish(&parts.used).unwrap();
            if ring.wants_call(&parts.avail).unwrap() {
                shared.call.notify();
            }
        }
        driver.join().unwrap();
    });
}

#[test]
fn no_kick_is_lost_with_indices() {
    no_kick_is_lost(true);
}

#[test]
fn no_kick_is_lost_with_flags() {
    no_kick_is_lost(false);
}

#[test]
fn no_call_is_lost_with_indices() {
    no_call_is_lost(true);
}

#[test]
fn no_call_is_lost_with_flags() {
    no_call_is_lost(false);
}
