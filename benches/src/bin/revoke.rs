// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it takes to take memory back.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin revoke [DIRECTORY]      (ROUNDS=15; DIRECTORY on tmpfs, default /dev/shm)
//! ```
//! Bar: from the call of `revoke` until another thread is told `Gone` < 100 us, whatever the size. Beside it, in the same
//! rounds: a bare `membarrier`, which is what the grace period is made of; until `revoke` returns; until the control thread
//! has given the pages back; and dropping as much memory that nobody reads, which is an `munmap` and little else.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, Summary, ratios, verdict};
use pageless_mem::{Access, Backing, FileOptions, Memory, PhysRange, Region};
use pageless_sys::cpu;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const LONG: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failure> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let place = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let path = place.join(format!("pageless-revoke-{}.img", std::process::id()));
    println!("median [min .. max] of {rounds} rounds");
    let measured = measure(&path, rounds);
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    measured
}

fn measure(path: &Path, rounds: usize) -> Result<(), Failure> {
    let anon = |len| move || Ok(Backing::anon(len)?);
    let memfd = || Ok(Backing::memfd(GIB)?);
    let sparse = || {
        let options = FileOptions { size: Some(16 * TIB), create: true, read_only: false };
        Ok(Backing::file(path, options)?)
    };
    case("1 MiB, untouched", rounds, &anon(MIB), 0)?;
    case("1 GiB, untouched", rounds, &anon(GIB), 0)?;
    case("1 GiB of huge pages, all touched", rounds, &anon(GIB), GIB)?;
    case("16 TiB of tmpfs, untouched", rounds, &sparse, 0)?;
    case("16 TiB of tmpfs, 256 MiB touched", rounds, &sparse, GIB / 4)?;
    case("1 GiB of 4 KiB pages, none touched", rounds, &memfd, 0)?;
    case("1 GiB of 4 KiB pages, 256 MiB touched", rounds, &memfd, GIB / 4)?;
    case("1 GiB of 4 KiB pages, 512 MiB touched", rounds, &memfd, GIB / 2)?;
    case("1 GiB of 4 KiB pages, all touched", rounds, &memfd, GIB)
}

/// A region of which this much has been stored to.
fn region(memory: &Memory, make: &dyn Fn() -> Result<Backing, Failure>, touched: u64) -> Result<Region, Failure> {
    let region = memory.register(make()?)?;
    if touched > 0 {
        region.zero(0, touched).map_err(|fault| format!("{fault:?}"))?;
    }
    Ok(region)
}

fn case(name: &str, rounds: usize, make: &dyn Fn() -> Result<Backing, Failure>, touched: u64) -> Result<(), Failure> {
    let memory = Memory::new()?;
    let (mut seen, mut returned, mut freed, mut dropped, mut barrier) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..=rounds {
        let made = region(&memory, make, touched)?;
        let watched = made.range(0, 4096).ok_or("an empty region")?;
        let one = watch(&memory, &made, watched)?;
        let alone = Memory::new()?;
        let again = region(&alone, make, touched)?;
        let begin = Instant::now();
        drop(again);
        let drop_time = begin.elapsed();
        let begin = Instant::now();
        cpu::heavy_barrier()?;
        let barrier_time = begin.elapsed();
        if round == 0 {
            continue; // warm-up
        }
        seen.push(micros(one.seen));
        returned.push(micros(one.returned));
        freed.push(micros(one.freed));
        dropped.push(micros(drop_time));
        barrier.push(micros(barrier_time));
    }
    println!("{name}");
    verdict("  Gone to another thread after", "us", &seen, Bar::AtMost(100.0));
    verdict("  revoke returned after", "us", &returned, Bar::None);
    verdict("  a bare membarrier", "us", &barrier, Bar::None);
    verdict("  revoke / membarrier", "x", &ratios(&returned, &barrier), Bar::None);
    verdict("  pages given back after", "us", &freed, Bar::None);
    verdict("  drop of as much that nobody reads", "us", &dropped, Bar::None);
    verdict("  given back / dropped", "x", &ratios(&freed, &dropped), Bar::None);
    if touched > 0
        && let Some(summary) = Summary::of(&freed)
    {
        println!(
            "  {:<50} {:9.2}              ns",
            "given back, for each 4 KiB touched",
            summary.median * 1e3 / pages(touched)
        );
    }
    Ok(())
}

struct Times {
    seen: Duration,
    returned: Duration,
    freed: Duration,
}

/// Revokes the region while another thread looks at it without pause.
fn watch(memory: &Memory, region: &Region, watched: PhysRange) -> Result<Times, Failure> {
    let base = Instant::now();
    let (ready, gone_at) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut reader = memory.reader();
            while reader.online().kmap(watched, Access::Read).is_ok() {
                ready.store(true, Ordering::Release);
            }
            gone_at.store(nanos(base.elapsed()).max(1), Ordering::Release);
        });
        while !ready.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let begin = Instant::now();
        let released = region.revoke(LONG)?;
        let returned = begin.elapsed();
        if !released.wait(LONG)? {
            return Err("the pages were not given back".into());
        }
        let freed = begin.elapsed();
        while gone_at.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        let seen = Duration::from_nanos(gone_at.load(Ordering::Acquire)).saturating_sub(begin - base);
        Ok(Times { seen, returned, freed })
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn pages(bytes: u64) -> f64 {
    u32::try_from(bytes / 4096).map_or(f64::INFINITY, f64::from)
}
