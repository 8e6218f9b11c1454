// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver of our own behind NBD: a disk on which every sector says its own number.
//!
//! ```text
//! cargo run --example custom_driver -- /tmp/sectors.sock 60 &
//! nbdcopy 'nbd+unix:///?socket=/tmp/sectors.sock' - | head -c 2048
//! ```
//! It serves for the given number of seconds (10 without one).

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pageless::block::{Bio, BlockDevice, Completion, Error, Limits, Op, Queue, Refused, Route, Sector, Status, Why};
use pageless::export::nbd::{Export, Listen, Server, ServerConfig};
use pageless::mem::{Access, Fault, Memory, PhysRange, Reader};

/// The device: what all threads share.
#[derive(Debug)]
struct Sectors {
    memory: Memory,
    limits: Limits,
}

impl BlockDevice for Sectors {
    fn name(&self) -> &str {
        "sectors"
    }

    fn capacity(&self) -> u64 {
        1 << 40
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, Error> {
        Ok(Box::new(SectorsQueue { reader: self.memory.reader(), waiting: Vec::new() }))
    }
}

/// A queue: what one thread owns. No lock, no atomic.
#[derive(Debug)]
struct SectorsQueue {
    reader: Reader,
    waiting: Vec<Bio>,
}

impl Queue for SectorsQueue {
    // Bounds, alignment and what `limits` does not allow were checked before a bio comes here.
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        self.waiting.push(bio);
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, Error> {
        let before = out.len();
        for bio in self.waiting.drain(..) {
            let (status, route) = match bio.op {
                Op::Read => (fill(&mut self.reader, &bio), Route::Copy(Why::MemoryDisk)),
                _ => (Status::Unsupported, Route::None),
            };
            let done = if status.is_ok() { bio.len } else { 0 };
            out.push(Completion { tag: bio.tag, status, done, route });
        }
        Ok(out.len() - before)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        None // poll finishes everything that was submitted
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }
}

/// Fills the frames of a read. They may be guest memory, a BAR, anything: they are written through windows.
fn fill(reader: &mut Reader, bio: &Bio) -> Status {
    let mut at = bio.sector.bytes();
    for range in bio.data.iter() {
        if let Err(fault) = fill_range(reader, range, at) {
            return Status::from(fault);
        }
        at += u64::from(range.len());
    }
    Status::Ok
}

fn fill_range(reader: &mut Reader, range: PhysRange, mut at: u64) -> Result<(), Fault> {
    let online = reader.online();
    let window = online.kmap(range, Access::Write)?;
    let mut writer = window.writer();
    while writer.remaining() > 0 {
        let text = format!("{:<511}\n", format!("this is sector {}", at / Sector::SIZE));
        let from = usize::try_from(at % Sector::SIZE).unwrap_or(0);
        let part = &text.as_bytes()[from..];
        let part = &part[..part.len().min(writer.remaining())];
        writer.write(part).map_err(|error| error.fault)?;
        at += part.len() as u64;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let default = std::env::temp_dir().join("pageless-sectors.sock");
    let path = args.next().map_or(default, PathBuf::from);
    let seconds = args.next().map_or(Ok(10), |text| text.parse())?;

    let memory = Memory::new()?;
    let limits = Limits { read_only: true, ..Limits::default() };
    let device = Arc::new(Sectors { memory: memory.clone(), limits });
    let export = Export { name: String::new(), description: "sectors".into(), device, read_only: true };
    let config = ServerConfig { exports: vec![export], listen: vec![Listen::Unix(path)], ..ServerConfig::default() };
    let server = Server::start(config, &memory)?;
    println!("serving at {} for {seconds} s", server.addresses()[0]);
    std::thread::sleep(Duration::from_secs(seconds));
    let totals = server.stop(Duration::from_secs(1))?;
    println!("{} bytes read by {} clients", totals.bytes_read, totals.connections);
    Ok(())
}
