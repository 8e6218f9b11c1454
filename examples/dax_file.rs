// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a file with `O_DIRECT` straight into a mapped file, and cuts that file while somebody has some of it.
//!
//! `cargo run --example dax_file -- FILE MAPPED` (without arguments it makes both, in the current folder)

use std::path::PathBuf;
use std::time::Duration;

use pageless::drivers::dax_file::{DaxFile, DaxOptions, DirectFile};
use pageless::drivers::file::FileDiskOptions;
use pageless::mem::{Access, Memory};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (source, mapped) = match (arguments.next(), arguments.next()) {
        (Some(source), Some(mapped)) => (source, mapped),
        _ => (default_file()?, PathBuf::from("pageless-dax-mapped.img")),
    };

    let memory = Memory::new()?;
    let options = FileDiskOptions { read_only: true, ..FileDiskOptions::default() };
    let mut source = DirectFile::open(&memory, &source, options)?;
    let len = source.size();
    let file = DaxFile::open(&memory, &mapped, DaxOptions { size: Some(len), create: true, read_only: false })?;
    println!("{file}");

    // The kernel is given the frames of the mapped file where it takes them; the route says what became of that.
    let moved = file.read_from(&mut source, 0, 0, len)?;
    println!("{} bytes from {}: {}", moved.bytes, source.path().display(), moved.route);

    // A lease names frames. What is taken in flight is waited for; a name holds nobody up.
    let lease = file.lease(0, len)?;
    let mut reader = memory.reader();
    let frames = lease.frames(0, len.min(4096)).map_err(|status| status.to_string())?;
    let in_flight = reader.online().pin(frames.as_slice(), Access::Read);
    if let Err(error) = file.truncate(0, Duration::from_millis(20)) {
        println!("truncate: {error}");
    }
    println!("still {} bytes, lease broken: {}", file.size(), lease.broken());
    drop(in_flight);
    file.truncate(0, Duration::from_secs(5))?;
    println!("now {} bytes, lease broken: {}", file.size(), lease.broken());
    file.close(Duration::from_secs(5))?;
    Ok(())
}

/// Some data, for when no file is named. Not in a file system in memory, which has no `O_DIRECT`.
fn default_file() -> std::io::Result<PathBuf> {
    let path = PathBuf::from("pageless-dax-source.img");
    std::fs::write(&path, vec![0xa5; 1 << 20])?;
    Ok(path)
}
