// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs to register a file of many terabytes.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin register [DIRECTORY]...     (default: /dev/shm and the temporary directory)
//! ```
//! Bars: 16 TiB on tmpfs, 15 TiB on ext4 (the most it has): open, map and register in < 1 ms, < 64 KiB of our memory. The
//! bytes are those that the region says it costs; growth of the resident set, of which most is the allocator's and the
//! kernel's page tables', is printed beside.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, verdict};
use pageless_mem::{Backing, FileOptions, Memory};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const TIB: u64 = 1 << 40;

fn main() -> Result<(), Failure> {
    let named: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let places = if named.is_empty() { vec![PathBuf::from("/dev/shm"), std::env::temp_dir()] } else { named };
    for place in places {
        let path = place.join(format!("pageless-register-{}.img", std::process::id()));
        let done = measure(&path);
        std::fs::remove_file(&path)?;
        done?;
    }
    Ok(())
}

fn measure(path: &Path) -> Result<(), Failure> {
    let file = std::fs::File::create(path)?;
    let Some(size) = [16, 15, 7, 1].into_iter().map(|n| n * TIB).find(|size| file.set_len(*size).is_ok()) else {
        println!("{}: needs room for a sparse file of 1 TiB", path.display());
        return Ok(());
    };
    let memory = Memory::new()?;
    let (mut whole, mut insert, mut gone, mut metadata, mut resident) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..21 {
        let before = resident_kib()?;
        let begin = Instant::now();
        let backing = Backing::file(path, FileOptions { size: None, create: false, read_only: false })?;
        let mapped = begin.elapsed();
        let region = memory.register(backing)?;
        let registered = begin.elapsed();
        resident.push(resident_kib()? - before);
        whole.push(registered.as_secs_f64() * 1e6);
        insert.push((registered - mapped).as_secs_f64() * 1e6);
        metadata.push(kib(region.metadata_bytes()));
        assert_eq!(region.len(), size);
        let begin = Instant::now();
        drop(region);
        gone.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    println!("{}, {} TiB", path.display(), size / TIB);
    verdict("  open, lock, map, register", "us", &whole, Bar::AtMost(1000.0));
    verdict("  of which the table insert", "us", &insert, Bar::None);
    verdict("  drop: unpublish and unmap", "us", &gone, Bar::None);
    verdict("  bytes of ours", "KiB", &metadata, Bar::AtMost(64.0));
    verdict("  growth of the resident set", "KiB", &resident, Bar::AtMost(64.0));
    Ok(())
}

fn kib(bytes: usize) -> f64 {
    u32::try_from(bytes).map_or(f64::INFINITY, f64::from) / 1024.0
}

fn resident_kib() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
