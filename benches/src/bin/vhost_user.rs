// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of vhost-user disks, for `benches/vhost_user.sh`: libblkio's `virtio-driver`, which looks at its rings without sleeping, and the
//! copies alone that a server cannot do without.
//!
//! ```text
//! vhost_user rate SOCKET read|write ordinary|secret SECONDS [CORE...]   operations a second, 4 KiB at random places, 32 in flight; a queue for each core
//! vhost_user copies read|write ordinary|secret SECONDS GIB             the same copies in a loop that looks ahead
//! vhost_user fill SOCKET                                               writes all of the disk
//! vhost_user table SOCKET                                              milliseconds for 1 TiB of memory in 8 slots
//! vhost_user idle SOCKET SECONDS                                       holds two queues on which nothing happens
//! ```
//! `rate` prints a second number: requests that came back at a look which found any. Near 32, this client is the limit.

#![forbid(unsafe_code)]

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pageless_benches::Offsets;
use pageless_mem::{Access, Backing, Memory, copy, copy_ahead};
use virtio_driver::{VhostUser, VirtioBlkConfig, VirtioBlkQueue, VirtioBlkReqBuf, VirtioFeatureFlags, VirtioTransport};

/// Not by a dependency on `testkit`, which would turn on `pageless-mem/testing` in what is measured.
#[path = "../../../crates/testkit/src/front_end.rs"]
#[allow(unreachable_pub, dead_code, reason = "it is public in its own crate")]
mod front_end;

use front_end::{Ask, Done, FrontEnd, FrontKind, FrontMemory, FrontQueue};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const BLOCK: usize = 4096;
const DEPTH: usize = 32;
const GIB: u64 = 1 << 30;

#[derive(Copy, Clone, PartialEq, Eq)]
enum What {
    Read,
    Write,
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match &words[..] {
        ["rate", socket, what, kind, seconds, cores @ ..] => {
            let (rate, together) = rate(socket, parse_what(what)?, parse_kind(kind)?, parse_seconds(seconds)?, cores)?;
            println!("{rate:.0} {together:.1}");
        }
        ["copies", what, kind, seconds, gib] => {
            let size = gib.parse::<u64>()? * GIB;
            println!("{:.0}", copies(parse_what(what)?, parse_kind(kind)?, parse_seconds(seconds)?, size)?);
        }
        ["fill", socket] => fill(socket)?,
        ["table", socket] => println!("{:.3}", table(socket)?),
        ["idle", socket, seconds] => idle(socket, parse_seconds(seconds)?)?,
        _ => return Err("usage: see the head of benches/src/bin/vhost_user.rs".into()),
    }
    Ok(())
}

fn parse_what(word: &str) -> Result<What, Failure> {
    match word {
        "read" => Ok(What::Read),
        "write" => Ok(What::Write),
        _ => Err(format!("read or write, not {word}").into()),
    }
}

fn parse_kind(word: &str) -> Result<FrontKind, Failure> {
    match word {
        "ordinary" => Ok(FrontKind::Ordinary),
        "secret" => Ok(FrontKind::Secret),
        _ => Err(format!("ordinary or secret, not {word}").into()),
    }
}

fn parse_seconds(word: &str) -> Result<Duration, Failure> {
    Ok(Duration::from_secs_f64(word.parse()?))
}

/// This thread, on one core. By its own tool: the tree has no other use for it.
fn pin(core: &str) -> Result<(), Failure> {
    let thread = std::fs::read_link("/proc/thread-self")?;
    let id = thread.file_name().ok_or("no thread")?;
    let pinned = Command::new("taskset").args(["-cp", core]).arg(id).stdout(Stdio::null()).status()?;
    if pinned.success() { Ok(()) } else { Err(format!("taskset: {pinned}").into()) }
}

/// Operations a second of all queues together, and how many came back together.
fn rate(socket: &str, what: What, kind: FrontKind, time: Duration, cores: &[&str]) -> Result<(f64, f64), Failure> {
    let memory = Memory::new()?;
    let queues = cores.len().max(1);
    let mut memories =
        (0..queues).map(|_| FrontMemory::new(&memory, kind, (DEPTH * BLOCK) as u64)).collect::<Result<Vec<_>, _>>()?;
    // Every page is there: what is measured is no page fault.
    for memory in &mut memories {
        memory.put(0, &vec![1; DEPTH * BLOCK]);
    }
    let front = FrontEnd::connect(socket, &memories.iter().collect::<Vec<_>>(), queues, 128)?;
    let blocks = front.capacity() / BLOCK as u64;
    thread::scope(|scope| {
        let work = front.queues.into_iter().zip(&mut memories).enumerate();
        let threads: Vec<_> = work
            .map(|(number, (mut queue, memory))| {
                let core = cores.get(number).copied();
                scope.spawn(move || -> Result<(f64, f64), Failure> {
                    core.map_or(Ok(()), pin)?;
                    let mut offsets = Offsets::new(11 + number as u64);
                    // A first part that does not count.
                    turns(&mut queue, memory, what, time / 4, blocks, &mut offsets)?;
                    turns(&mut queue, memory, what, time, blocks, &mut offsets)
                })
            })
            .collect();
        let mut sum = (0.0, 0.0);
        for thread in threads {
            let (rate, together) = thread.join().map_err(|_| "a thread panicked")??;
            sum = (sum.0 + rate, sum.1 + together / queues as f64);
        }
        Ok(sum)
    })
}

fn turns(
    queue: &mut FrontQueue,
    memory: &mut FrontMemory,
    what: What,
    time: Duration,
    blocks: u64,
    offsets: &mut Offsets,
) -> Result<(f64, f64), Failure> {
    let mut next = |slot: usize| {
        let (at, part) = (offsets.below(blocks) * BLOCK as u64, slot * BLOCK..(slot + 1) * BLOCK);
        match what {
            What::Read => Ask::Read(at, part),
            What::Write => Ask::Write(at, part),
        }
    };
    let mut back: Vec<Done> = Vec::with_capacity(DEPTH);
    let (mut looks, mut found, mut ended) = (0_u64, 0_u64, 0_u64);
    let begin = Instant::now();
    for slot in 0..DEPTH {
        queue.start(&next(slot), memory, slot as u64)?;
    }
    queue.kick()?;
    loop {
        looks += 1;
        if queue.poll(&mut back) == 0 {
            std::hint::spin_loop();
            if looks.is_multiple_of(1 << 20) && begin.elapsed() > time + Duration::from_secs(10) {
                return Err("nothing comes back any more".into());
            }
            continue;
        }
        ended += back.len() as u64;
        found += 1;
        let over = begin.elapsed() >= time;
        for done in back.drain(..) {
            if done.result != 0 {
                return Err(format!("a request failed with {}", done.result).into());
            }
            if !over {
                queue.start(&next(usize::try_from(done.tag)?), memory, done.tag)?;
            }
        }
        queue.kick()?;
        if over && queue.in_flight() == 0 {
            return Ok((ended as f64 / begin.elapsed().as_secs_f64(), ended as f64 / found as f64));
        }
    }
}

/// Copies a second between a disk of so many bytes and a front-end's memory.
fn copies(what: What, kind: FrontKind, time: Duration, size: u64) -> Result<f64, Failure> {
    let memory = Memory::new()?;
    let disk = memory.register(Backing::anon(size)?)?;
    let mut front = FrontMemory::new(&memory, kind, (DEPTH * BLOCK) as u64)?;
    front.put(0, &vec![1; DEPTH * BLOCK]);
    let part = |offset, len| disk.range(offset, len).ok_or("outside the disk");
    let bytes = vec![1; 1 << 20];
    let mut reader = memory.reader();
    for offset in (0..size).step_by(1 << 20) {
        let online = reader.online();
        let window = online.kmap(part(offset, 1 << 20)?, Access::Write).map_err(|fault| format!("{fault:?}"))?;
        window.writer().write(&bytes).map_err(|error| format!("{error:?}"))?;
    }
    let mut offsets = Offsets::new(11);
    let mut count = 0_u64;
    let begin = Instant::now();
    while begin.elapsed() < time {
        let places: [u64; DEPTH] = std::array::from_fn(|_| offsets.below(size / BLOCK as u64) * BLOCK as u64);
        let online = reader.online();
        let (of_disk, of_front) = match what {
            What::Read => (Access::Read, Access::Write),
            What::Write => (Access::Write, Access::Read),
        };
        let open = |place: u64| online.kmap(part(place, BLOCK as u64).ok()?, of_disk).ok();
        for (slot, place) in places.iter().enumerate() {
            let range = front.region().range((slot * BLOCK) as u64, BLOCK as u64).ok_or("outside the memory")?;
            let mine = online.kmap(range, of_front).map_err(|fault| format!("{fault:?}"))?;
            let window = open(*place).ok_or("no window")?;
            let next = places.get(slot + 1).and_then(|place| open(*place));
            let (mut from, mut to) = match what {
                What::Read => (window.reader(), mine.writer()),
                What::Write => (mine.reader(), window.writer()),
            };
            let moved = match next {
                Some(next) => copy_ahead(&mut from, &mut to, &next),
                None => copy(&mut from, &mut to),
            };
            moved.map_err(|error| format!("{error:?}"))?;
        }
        count += DEPTH as u64;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

type Transport = VhostUser<VirtioBlkConfig, VirtioBlkReqBuf>;

/// Milliseconds until the server has taken 1 TiB of memory in 8 slots.
fn table(socket: &str) -> Result<f64, Failure> {
    const SLOT: usize = 128 << 30;
    let file = pageless_sys::memfd::memfd(8 * SLOT as u64)?;
    let mut transport = Transport::new(socket, VirtioFeatureFlags::VERSION_1.bits())?;
    let begin = Instant::now();
    for slot in 0..8 {
        // Addresses are names: nothing of ours need be there.
        transport.map_mem_region((1 << 45) + slot * SLOT, SLOT, file.as_raw_fd(), i64::try_from(slot * SLOT)?)?;
    }
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let queues = VirtioBlkQueue::<u64>::setup_queues(&mut transport, 1, 128)?;
    drop(queues);
    Ok(took)
}

fn fill(socket: &str) -> Result<(), Failure> {
    const PART: usize = 256 << 10;
    let memory = Memory::new()?;
    let mut mine = FrontMemory::new(&memory, FrontKind::Ordinary, (8 * PART) as u64)?;
    mine.put(0, &vec![1; 8 * PART]);
    let mut front = FrontEnd::connect(socket, &[&mine], 1, 128)?;
    let (mut places, mut back) = ((0..front.capacity()).step_by(PART).peekable(), Vec::new());
    let queue = &mut front.queues[0];
    while places.peek().is_some() || queue.in_flight() > 0 {
        for (slot, at) in places.by_ref().take(8).enumerate() {
            queue.start(&Ask::Write(at, slot * PART..(slot + 1) * PART), &mut mine, 0)?;
        }
        queue.kick()?;
        while queue.in_flight() > 0 {
            queue.wait(&mut back, Duration::from_secs(10))?;
        }
        if back.drain(..).any(|done| done.result != 0) {
            return Err("the disk cannot be filled".into());
        }
    }
    Ok(())
}

fn idle(socket: &str, time: Duration) -> Result<(), Failure> {
    let memory = Memory::new()?;
    let mut mine = FrontMemory::new(&memory, FrontKind::Ordinary, (DEPTH * BLOCK) as u64)?;
    let mut front = FrontEnd::connect(socket, &[&mine], 2, 128)?;
    for queue in &mut front.queues {
        queue.start(&Ask::Read(0, 0..BLOCK), &mut mine, 0)?;
        queue.kick()?;
        queue.wait(&mut Vec::new(), Duration::from_secs(10))?;
    }
    println!("idle");
    thread::sleep(time);
    Ok(())
}
