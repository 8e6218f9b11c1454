// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the start of a file into memory that the kernel pins and into memory that it does not, and prints which way the
//! bytes went.
//!
//! `cargo run --example read_file -- FILE` (without one it makes a file to read)

use std::path::PathBuf;

use pageless::block::{Bio, BlockDevice as _, Queue as _, Sector, open_checked};
use pageless::drivers::file::{FileDisk, FileDiskOptions};
use pageless::mem::{Access, Backing, Memory};
use pageless::sys::epoll::{Epoll, Interest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Memory::new()?;
    let path = std::env::args_os().nth(1).map_or_else(default_file, |path| Ok(PathBuf::from(path)))?;
    let disk = FileDisk::open(&memory, &path, FileDiskOptions { read_only: true, ..FileDiskOptions::default() })?;
    let len = disk.capacity().min(64 << 10);

    // One thread, one queue. `Checked` refuses what the disk cannot do and splits what is too long.
    let mut queue = open_checked(&disk)?;
    let mut epoll = Epoll::new(1)?;
    if let Some(event) = queue.event() {
        epoll.add(event, 0, Interest::Read)?;
    }

    for backing in [Backing::anon(64 << 10)?, Backing::secret(64 << 10)?] {
        let region = memory.register(backing)?;
        let frames = region.range(0, len).ok_or("the file is empty")?;
        queue.submit(Bio::read(Sector(0), frames, 1)).map_err(|refused| refused.why)?;

        let mut done = Vec::new();
        while queue.poll(&mut done)? == 0 {
            epoll.wait(None, &mut Vec::new())?;
        }
        println!("{}: {} bytes, {}, route {}", region.describe(), done[0].done, done[0].status, done[0].route);

        // The bytes are looked at through a window that never hands out a reference.
        let mut start = [0; 16];
        let mut reader = memory.reader();
        let online = reader.online();
        let window = online.kmap(frames, Access::Read).map_err(|fault| format!("{fault:?}"))?;
        window.reader().read(&mut start).map_err(|error| format!("{error:?}"))?;
        println!("  starts with {start:02x?}");
    }
    Ok(())
}

/// A file of whole blocks, for when none is named.
fn default_file() -> std::io::Result<PathBuf> {
    let path = std::env::temp_dir().join("pageless-read-file.img");
    std::fs::write(&path, [0xa5; 64 << 10])?;
    Ok(path)
}
