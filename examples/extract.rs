// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a file to addresses of a program's own mapping, which the kernel refuses to pin, scattered as `preadv` would take
//! them: they are registered on the spot, extracted as frames, and given back when the read is done.
//!
//! `cargo run --example extract`

use std::os::fd::AsFd as _;
use std::sync::Arc;

use pageless::block::{Bio, BlockDevice as _, IovIter, Queue as _, Sector, UserIovec, open_checked};
use pageless::drivers::file::{FileDisk, FileDiskOptions};
use pageless::mem::{Access, Backing, Memory};
use pageless::sys::epoll::{Epoll, Interest};
use pageless::sys::memfd;
use pageless::sys::mmap::{Mapping, Protection};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Memory::new()?;
    let path = std::env::temp_dir().join("pageless-extract.img");
    std::fs::write(&path, [0xa5; 64 << 10])?;
    let disk = FileDisk::open(&memory, &path, FileDiskOptions { read_only: true, ..FileDiskOptions::default() })?;
    let mut queue = open_checked(&disk)?;
    let mut epoll = Epoll::new(1)?;
    if let Some(event) = queue.event() {
        epoll.add(event, 0, Interest::Read)?;
    }

    // Memory of this program. Nobody has told pageless about it.
    let secret = memfd::secret(1 << 20)?;
    let mapping = Arc::new(Mapping::shared(secret.as_fd(), 0, 1 << 20, Protection::ReadWrite)?);
    let iovecs = [(3584, 4096), (102_400, 512), (204_800, 3584)]
        .map(|(offset, len)| UserIovec { addr: mapping.addr() + offset, len });

    let mut iter = IovIter::user(&iovecs)?;
    iter.check_disjoint()?;
    let mut reader = memory.reader();
    println!("{} bytes at {} places, {} regions", iter.len(), iovecs.len(), memory.regions());
    let extracted = iter.extract_or_register(&mut reader, disk.limits(), Access::Write, |at| {
        memory.register(Backing::lent(&mapping, at.addr - mapping.addr(), at.len as u64, true)?)
    })?;
    println!("extracted {:?}, {} regions", extracted.list().as_slice(), memory.regions());

    let (frames, registered) = extracted.into_parts();
    queue.submit(Bio::read(Sector(0), frames, 1)).map_err(|refused| refused.why)?;
    let mut done = Vec::new();
    while queue.poll(&mut done)? == 0 {
        epoll.wait(None, &mut Vec::new())?;
    }
    drop(registered);
    println!("{} bytes, {}, route {}; {} regions", done[0].done, done[0].status, done[0].route, memory.regions());
    Ok(())
}
