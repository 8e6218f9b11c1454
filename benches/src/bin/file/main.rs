// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bandwidth and rate of the file driver, direct and bounced, from and to the same file.
//!
//! ```text
//! cargo run --release -p pageless-benches --bin file [FILE]      (ROUNDS=9; FILE is overwritten, 256 MiB)
//! ```
//! Bar: between secret memory (bounced) and the file >= 0.9 times between ram (direct) and the file, in requests of 128 KiB
//! and above, read and written, eight in flight. Secret memory counts against RLIMIT_MEMLOCK; 4 MiB are used, so of eight
//! requests of 1 MiB two at a time share their frames.
//!
//! Beside it stands the floor: a bare loop of direct I/O into a pool and a copy, measured in the same rounds. Where a disk
//! is so fast that the floor over direct is below the bar, no bounce of one thread meets it. And so do direct reads whose
//! bytes are then looked at once: where the disk is a thread of the host, it is slower to write what a guest's core has in
//! its cache, whether for a copy or for the program's own use of it.

#![forbid(unsafe_code)]

mod floor;

use floor::Floor;
use pageless_benches::{Bar, Offsets, interleave, ratios, verdict};
use pageless_block::{Bio, Queue, Route, Sector, open_checked};
use pageless_drivers::file::{FileDisk, FileDiskOptions};
use pageless_mem::{Access, Backing, Memory, PhysRange, Reader, Region};
use pageless_sys::epoll::{Epoll, Interest};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

const FILE: u64 = 256 << 20;
const FRAMES: u64 = 4 << 20;

fn main() -> Result<(), Failure> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(9);
    let named = std::env::args_os().nth(1).map(PathBuf::from);
    let path =
        named.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("pageless-file-{}", std::process::id())));
    let done = fill(&path).and_then(|()| measure(&path, rounds));
    if named.is_none() {
        std::fs::remove_file(&path)?;
    }
    done
}

fn fill(path: &Path) -> Result<(), Failure> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let mut random = Offsets::new(3);
    let megabyte: Vec<u8> = (0..1 << 20).map(|_| random.below(256).to_le_bytes()[0]).collect();
    for _ in 0..FILE >> 20 {
        file.write_all(&megabyte)?;
    }
    Ok(file.sync_all()?)
}

fn measure(path: &Path, rounds: usize) -> Result<(), Failure> {
    let memory = Memory::new()?;
    let disk = FileDisk::open(&memory, path, FileDiskOptions::default())?;
    let ram = memory.register(Backing::anon(FRAMES)?)?;
    let secret = memory.register(Backing::secret(FRAMES)?)?;
    println!("{}, median [min .. max] of {rounds} interleaved rounds", path.display());
    let bar = Bar::AtLeast(0.9);
    for (len, depth, bar) in
        [(1 << 20, 8, bar), (256 << 10, 8, bar), (128 << 10, 8, bar), (4096, 32, Bar::None), (4096, 1, Bar::None)]
    {
        for write in [false, true] {
            let (mut direct, mut bounced) = (open_checked(&disk)?, open_checked(&disk)?);
            let load = Load { len, depth, write };
            let mut bare = Floor::new(&memory, path, load)?;
            let (mut looked_at, mut looks) = (open_checked(&disk)?, memory.reader());
            let [a, b, c, d] = interleave(
                rounds,
                [
                    &mut || load.run(&mut direct, &ram, None).unwrap_or(f64::NAN),
                    &mut || load.run(&mut bounced, &secret, None).unwrap_or(f64::NAN),
                    &mut || bare.run(load, &secret).unwrap_or(f64::NAN),
                    &mut || match write {
                        true => f64::NAN,
                        false => load.run(&mut looked_at, &ram, Some(&mut looks)).unwrap_or(f64::NAN),
                    },
                ],
            );
            let word = if write { "write" } else { "read" };
            verdict(&format!("{} KiB depth {depth} {word}, ram", len >> 10), "MB/s", &a, Bar::None);
            verdict("  secret", "MB/s", &b, Bar::None);
            verdict("  secret / ram", "x", &ratios(&b, &a), bar);
            verdict("  floor / ram: what a bare loop reaches", "x", &ratios(&c, &a), Bar::None);
            verdict("  secret / floor", "x", &ratios(&b, &c), Bar::None);
            if !write {
                verdict("  ram whose bytes are looked at / ram", "x", &ratios(&d, &a), Bar::None);
                verdict("  secret / ram whose bytes are looked at", "x", &ratios(&b, &d), Bar::None);
            }
        }
    }
    Ok(())
}

/// Reads every byte, and stores none outside of the first-level cache.
fn look(reader: &mut Reader, frames: PhysRange) -> Result<(), Failure> {
    let online = reader.online();
    let window = online.kmap(frames, Access::Read).map_err(floor::said)?;
    let (mut bytes, mut rest) = (window.reader(), [0; 4096]);
    for _ in 0..frames.len() / 4096 {
        bytes.read(&mut rest).map_err(|broken| floor::said(broken.fault))?;
    }
    Ok(())
}

#[derive(Copy, Clone)]
struct Load {
    len: u64,
    depth: u64,
    write: bool,
}

impl Load {
    /// Megabytes per second over the file from start to end, or 64 MiB of it in small requests. With a reader, each byte is
    /// looked at once it was read.
    fn run(self, queue: &mut dyn Queue, region: &Region, mut looks: Option<&mut Reader>) -> Result<f64, Failure> {
        let requests = self.requests();
        let (mut sent, mut back) = (0, 0);
        let mut out = Vec::new();
        let mut epoll = Epoll::new(1)?;
        if let Some(event) = queue.event() {
            epoll.add(event, 0, Interest::Read)?;
        }
        let begin = Instant::now();
        while back < requests {
            while sent < requests && sent - back < self.depth {
                let frames = self.frames(region, sent)?;
                let sector = Sector(sent * self.len / 512);
                let bio = match self.write {
                    true => Bio::write(sector, frames, sent),
                    false => Bio::read(sector, frames, sent),
                };
                queue.submit(bio).map_err(|refused| refused.why)?;
                sent += 1;
            }
            if queue.poll(&mut out)? == 0 {
                epoll.wait(None, &mut Vec::new())?;
            }
            for completion in out.drain(..) {
                if !completion.status.is_ok() {
                    return Err(completion.status.to_string().into());
                }
                assert_ne!(completion.route, Route::None);
                if let Some(reader) = &mut looks {
                    look(reader, self.frames(region, completion.tag)?)?;
                }
                back += 1;
            }
        }
        self.megabytes_since(begin)
    }

    fn requests(self) -> u64 {
        let total = if self.len < 65536 { (64 << 20) / (32 / self.depth.min(32)) } else { FILE };
        total / self.len
    }

    /// The memory of a request: as many places as there are requests in flight, or as there is room for.
    fn frames(self, region: &Region, request: u64) -> Result<PhysRange, Failure> {
        let place = request % self.depth.min(FRAMES / self.len);
        Ok(region.range(place * self.len, self.len).ok_or("region too small")?)
    }

    fn megabytes_since(self, begin: Instant) -> Result<f64, Failure> {
        let bytes = u32::try_from(self.requests() * self.len)?;
        Ok(f64::from(bytes) / 1e6 / begin.elapsed().as_secs_f64())
    }
}
