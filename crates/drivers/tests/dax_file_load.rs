// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mapped file is changed while others read and write its frames: no byte that was acknowledged is lost, no byte of a later
//! owner is seen, and what fails `Busy` has changed nothing.
//!
//! `PAGELESS_ROUNDS=10000 cargo test -p pageless-drivers --test dax_file_load -- --nocapture --test-threads=1`. The binary runs
//! anywhere: `PAGELESS_DAX_DIR=/mnt/pmem PAGELESS_DISK_DIR=/mnt/disk dax_file_load-… --nocapture` tries a folder instead of
//! those that this host has, and reads into it from files in the other.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

#[path = "dax_file/rig.rs"]
mod rig;
#[path = "dax_file/stage.rs"]
mod stage;

use pageless_drivers::dax_file::DaxFile;
use pageless_mem::Memory;
use rig::{LONG, Place, load, places, same};
use stage::{BLOCK, BLOCKS, Random, Stage};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Rounds: few enough for every run, unless asked for more.
fn rounds() -> u64 {
    std::env::var("PAGELESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300)
}

/// Changes the file again and again, each time after its users did something, and checks what they saw.
fn under_load(name: &str, change: impl Fn(&Stage, &DaxFile, &mut Random)) {
    for place in places() {
        let stage = Stage::new(&place);
        let mut random = Random::new(7);
        let _idle = stage.idle_reader();
        stage.with_users(|| {
            for _ in 0..rounds() {
                stage.wait_for_users();
                let file = stage.file();
                change(&stage, &file, &mut random);
            }
        });
        println!("{name} on {place}: {} rounds, {}", rounds(), stage.counts());
    }
}

/// Most of the time as long as it takes, else not at all.
fn patience(random: &mut Random) -> Duration {
    if random.below(4) == 0 { Duration::ZERO } else { LONG }
}

#[test]
fn truncate_and_grow_against_direct_reads_into_the_file() {
    under_load("truncate and grow", |stage, file, random| {
        let size = file.size();
        let mut to = random.below(size + 1);
        if random.below(2) == 0 {
            to -= to % BLOCK;
        }
        let patience = patience(random);
        stage.change(to..size, patience, || file.truncate(to, patience));
        let to = file.size();
        // As if it had never been shorter, or somewhere in between.
        let grown = if random.below(2) == 0 { BLOCKS * BLOCK } else { to + random.below(BLOCKS * BLOCK - to + 1) };
        file.grow(grown, LONG).unwrap();
        assert!(file.parts() <= DaxFile::MAX_PARTS + 1);
    });
}

#[test]
fn punch_against_direct_reads_into_the_file() {
    under_load("punch", |stage, file, random| {
        let start = random.below(BLOCKS * BLOCK);
        let end = start + random.below(BLOCKS * BLOCK - start) + 1;
        let patience = patience(random);
        stage.change(start..end, patience, || file.punch_hole(start, end - start, patience));
    });
}

#[test]
fn close_against_direct_reads_into_the_file() {
    under_load("close", |stage, file, random| {
        let patience = patience(random);
        // Nothing is lost by it: what was acknowledged before is there afterwards.
        if stage.change(0..0, patience, || file.close(patience)) {
            stage.reopen(!patience.is_zero());
        }
    });
}

#[test]
fn collapse_against_readers() {
    for place in places().into_iter().filter(|place| !place.has_no_collapse()) {
        collapse(&place);
    }
}

/// Readers with leases of different ages see the blocks that their lease was for, or that they are gone.
fn collapse(place: &Place) {
    let memory = Memory::new().unwrap();
    let (mut next, mut random) = (1, Random::new(9));
    let (path, _) = place.file(&[]);
    let file = rig::file(&memory, &path);
    let readers = stage::Readers::new(&memory, &path);
    let (mut ids, mut busy): (Vec<u64>, u64) = (Vec::new(), 0);
    readers.with(|| {
        for _ in 0..rounds() {
            // Filled up again with blocks that nobody has seen.
            let missing = BLOCKS - ids.len() as u64;
            file.grow(BLOCKS * BLOCK, LONG).unwrap();
            let start = ids.len() as u64;
            ids.extend((0..missing).map(|_| {
                next += 1;
                next
            }));
            if missing > 0 {
                let frames = file.lease(start * BLOCK, missing * BLOCK).unwrap().frames(0, missing * BLOCK).unwrap();
                rig::store(&memory, &frames, &stage::content(&ids[start as usize..]));
            }
            readers.show(&file, &ids);
            readers.wait();
            let at = random.below(BLOCKS - 1);
            let len = 1 + random.below(BLOCKS - at - 1);
            match file.collapse(at * BLOCK, len * BLOCK, patience(&mut random)) {
                Ok(()) => drop(ids.drain(at as usize..(at + len) as usize)),
                Err(error) if error.is_busy() => busy += 1,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(file.size(), ids.len() as u64 * BLOCK);
            same(&fs::read(path.path()).unwrap(), &stage::content(&ids));
        }
    });
    let all = file.lease(0, file.size()).unwrap().frames(0, file.size()).unwrap();
    same(&load(&memory, &all).unwrap(), &stage::content(&ids));
    let (looks, gone) = (readers.looks.load(Ordering::Relaxed), readers.gone.load(Ordering::Relaxed));
    println!("collapse on {place}: {} rounds, {busy} of them Busy, {looks} looks, {gone} Gone", rounds());
    assert!(looks > 0);
}
