// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of publication and reading, on the code that ships.
//! `RUSTFLAGS="--cfg loom" cargo test -p pageless-mem --release --test loom`
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use pageless_mem::sync::Published;

/// A value that knows whether it was dropped.
struct Tracked {
    number: usize,
    drops: Arc<[AtomicUsize; 3]>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.drops[self.number].fetch_add(1, Ordering::SeqCst);
    }
}

fn values() -> (Arc<[AtomicUsize; 3]>, impl Fn(usize) -> Arc<Tracked>) {
    let drops: Arc<[AtomicUsize; 3]> = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)]);
    let for_values = Arc::clone(&drops);
    (drops, move |number| Arc::new(Tracked { number, drops: Arc::clone(&for_values) }))
}

#[test]
fn a_value_is_never_dropped_under_a_reader() {
    loom::model(|| {
        let (drops, value) = values();
        let published = Arc::new(Published::new(value(0)));
        let mut reader = published.reader();
        let seen = Arc::clone(&drops);
        let reading = thread::spawn(move || {
            for _ in 0..2 {
                let online = reader.online();
                let number = online.number;
                thread::yield_now();
                assert_eq!(seen[number].load(Ordering::SeqCst), 0, "value {number} is in use");
            }
        });
        published.publish(value(1));
        published.reclaim();
        reading.join().unwrap();
        assert_eq!(published.reclaim(), 0);
        assert_eq!(drops[0].load(Ordering::SeqCst), 1);
        drop(published);
        assert_eq!(drops[1].load(Ordering::SeqCst), 1);
    });
}

#[test]
fn after_a_grace_period_nobody_reads_the_old_value() {
    loom::model(|| {
        let (_drops, value) = values();
        let published = Arc::new(Published::new(value(0)));
        let revoked = Arc::new(AtomicUsize::new(0));
        let mut reader = published.reader();
        let flag = Arc::clone(&revoked);
        let reading = thread::spawn(move || {
            let online = reader.online();
            if online.number == 0 {
                // Inside the section the old value may be used: nobody may have declared it unused.
                assert_eq!(flag.load(Ordering::SeqCst), 0);
            }
        });
        published.publish(value(1));
        if published.grace().passed() {
            revoked.store(1, Ordering::SeqCst);
        }
        reading.join().unwrap();
    });
}

#[test]
fn two_publishers_and_a_reader_lose_nothing() {
    loom::model(|| {
        let (drops, value) = values();
        let published = Arc::new(Published::new(value(0)));
        let mut reader = published.reader();
        let (other, second) = (Arc::clone(&published), value(2));
        let publishing = thread::spawn(move || other.publish(second));
        published.publish(value(1));
        {
            let online = reader.online();
            assert_ne!(online.number, 0, "our own publication came before");
        }
        publishing.join().unwrap();
        drop(reader);
        published.reclaim();
        drop(published);
        let total: usize = drops.iter().map(|drops| drops.load(Ordering::SeqCst)).sum();
        assert_eq!(total, 3);
    });
}
