// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless copy`: opens both sides, moves the bytes, reads them again if asked, and reports.

mod error;
mod lane;
mod plan;
mod ready;
mod transfer;
mod verify;

use std::path::Path;
use std::time::Instant;

use pageless::block::Status;
use pageless::mem::{Backing, FRAME_SIZE, Memory, Region};
use pageless::open::{Made, Opened, Options, open};
use pageless::spec::{BttSpec, DeviceSpec, Human, MemorySpec, Spec, parse_size};
use pageless::sys::signal::{SignalFd, Termination, block_termination};

pub(crate) use self::error::CopyError;
use self::ready::{Ready, make_ready};
use self::transfer::transfer;
use self::verify::{Verdict, verify};
use crate::cli::CopyArgs;
use crate::failure::Failure;
use crate::output;
use crate::report::Report;

/// What is to be copied, and how.
#[derive(Debug)]
struct Job<'j> {
    memory: &'j Memory,
    src: &'j Opened,
    dst: &'j Opened,
    bytes: u64,
    block: u64,
    depth: u16,
}

impl Job<'_> {
    /// Frames of our own: one block for each transfer in flight.
    fn staging(&self) -> Result<Region, CopyError> {
        let backing = Backing::anon(self.block * u64::from(self.depth))?;
        Ok(self.memory.register(backing)?)
    }

    /// What pieces start at multiples of: the edges of data grow to whole frames, and to whole blocks of both sides.
    fn unit(&self) -> u64 {
        let block = |side: &Opened| u64::from(side.device.limits().block_size);
        FRAME_SIZE.max(block(self.src)).max(block(self.dst))
    }

    fn failed(&self, reading: bool, offset: u64, status: Status) -> CopyError {
        let (doing, side) = if reading { ("read", self.src) } else { ("write", self.dst) };
        CopyError::Failed { doing, name: side.name.clone(), offset, status }
    }
}

/// The longest transfer, so that a pipeline of them stays a small part of memory.
const LONGEST_BLOCK: u64 = 64 << 20;

/// Runs the command.
pub(crate) fn run(args: &CopyArgs) -> Result<(), Failure> {
    let src: Spec = args.src.parse()?;
    let dst: Spec = args.dst.parse()?;
    let block = block_size(&args.block)?;
    if same_place(&src, &dst) {
        return Err(Failure::SamePlace { src: args.src.clone(), dst: args.dst.clone() });
    }
    // Before the first thread, so that none of them is killed by a Ctrl-C.
    let signals = block_termination()?;
    let memory = Memory::new()?;
    let src = open(&memory, &src, Options { read_only: true, size_if_made: None })?;
    let bytes = src.device.capacity();
    let mut dst = open(&memory, &dst, Options { read_only: false, size_if_made: Some(bytes) })?;
    fits(&src, &dst)?;
    output::notes(&[&src, &dst]);
    // From here on a destination that we made is removed unless it becomes whole.
    let made = dst.made.take();
    let job = Job { memory: &memory, src: &src, dst: &dst, bytes, block, depth: args.depth };
    let moved = move_bytes(&job, args, &signals);
    output::troubles(&[&src, &dst]);
    let report = moved.map_err(|failure| with_what_is_left(failure, &job, made.as_ref()))?;
    if let Some(made) = made {
        made.keep();
    }
    let compared = if args.verify { compare(&job, args, &signals)? } else { None };
    finish(report, compared, args, &job)
}

/// Whether the destination can hold the source, and be written up to where it ends.
fn fits(src: &Opened, dst: &Opened) -> Result<(), Failure> {
    let (bytes, room) = (src.device.capacity(), dst.device.capacity());
    if room < bytes {
        return Err(Failure::TooSmall { src: src.name.clone(), bytes, dst: dst.name.clone(), room });
    }
    let block = dst.device.limits().block_size;
    if !bytes.is_multiple_of(u64::from(block)) {
        return Err(Failure::PartBlock { src: src.name.clone(), bytes, dst: dst.name.clone(), block });
    }
    Ok(())
}

fn move_bytes(job: &Job<'_>, args: &CopyArgs, signals: &SignalFd) -> Result<Report, Failure> {
    let prepared = match make_ready(job, signals)? {
        Ready::In(took) => took,
        Ready::Stopped(signal) => return Err(stopped(signal, 0, job)),
    };
    let bar = output::progress("copying", job.bytes, args.json);
    let began = Instant::now();
    let moved = transfer(job, &bar, signals)?;
    let took = began.elapsed();
    bar.finish_and_clear();
    match moved.stopped {
        Some(signal) => Err(stopped(signal, moved.done, job)),
        None => Ok(Report::new(job.bytes, moved.holes, prepared, took, moved.tally)),
    }
}

fn stopped(signal: Termination, done: u64, job: &Job<'_>) -> Failure {
    Failure::Stopped { signal, what: progress_text("copied", done, job.bytes), left: None }
}

/// Reads both sides again; the offset of the first difference, if there is one.
fn compare(job: &Job<'_>, args: &CopyArgs, signals: &SignalFd) -> Result<Option<u64>, Failure> {
    let bar = output::progress("verifying", job.bytes, args.json);
    let verdict = verify(job, &bar, signals)?;
    bar.finish_and_clear();
    match verdict {
        Verdict::Same => Ok(None),
        Verdict::Differs(offset) => Ok(Some(offset)),
        Verdict::Stopped(signal, done) => Err(Failure::Stopped {
            signal,
            what: progress_text("copied all, verified", done, job.bytes),
            left: Some(format!("{} is whole and flushed", job.dst.name)),
        }),
    }
}

fn finish(mut report: Report, compared: Option<u64>, args: &CopyArgs, job: &Job<'_>) -> Result<(), Failure> {
    report.verified = args.verify.then_some(compared.is_none());
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&report.to_string())?;
    }
    match compared {
        None => Ok(()),
        Some(offset) => Err(Failure::Copy {
            error: CopyError::Differs { src: job.src.name.clone(), dst: job.dst.name.clone(), offset },
            left: None,
        }),
    }
}

fn progress_text(done: &str, bytes: u64, of: u64) -> String {
    let percent = u128::from(bytes) * 100 / u128::from(of.max(1));
    format!("{done} {} of {} ({percent} %)", Human(bytes), Human(of))
}

/// Adds what became of the destination to a failure that came before it was whole.
fn with_what_is_left(failure: Failure, job: &Job<'_>, made: Option<&Made>) -> Failure {
    let left_now = match made {
        Some(made) => Some(format!("removed {}, which this copy had made", made.path().display())),
        None if !job.dst.fresh => Some(format!("{} is left partly overwritten", job.dst.name)),
        None => None,
    };
    match failure {
        Failure::Stopped { signal, what, left: None } => Failure::Stopped { signal, what, left: left_now },
        Failure::Copy { error, left: None } => Failure::Copy { error, left: left_now },
        other => other,
    }
}

fn block_size(text: &str) -> Result<u64, Failure> {
    let bad = |why: String| Failure::Argument { name: "--block", text: text.into(), why };
    match parse_size(text) {
        Err(error) => Err(bad(error.to_string())),
        Ok(size) if size % 4096 != 0 => Err(bad(format!("{size} bytes is no multiple of 4096"))),
        Ok(size) if size > LONGEST_BLOCK => Err(bad(format!("more than {}", Human(LONGEST_BLOCK)))),
        Ok(size) => Ok(size),
    }
}

/// Whether both specs lead to one file: it would be read while it is overwritten.
fn same_place(src: &Spec, dst: &Spec) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |spec: &Spec| {
        let there = std::fs::metadata(path_of(spec)?).ok()?;
        // One device may have several nodes.
        if there.rdev() == 0 { Some((there.dev(), there.ino())) } else { Some((u64::MAX, there.rdev())) }
    };
    match (src, dst) {
        (Spec::Memory(MemorySpec::Bar(src)), Spec::Memory(MemorySpec::Bar(dst))) => src == dst,
        (
            Spec::Memory(MemorySpec::DevMem { address: src, size: len }),
            Spec::Memory(MemorySpec::DevMem { address: dst, size: room }),
        ) => *src < dst + room && *dst < src + len,
        _ => identity(src).is_some_and(|src| Some(src) == identity(dst)),
    }
}

fn path_of(spec: &Spec) -> Option<&Path> {
    match spec {
        Spec::Memory(memory) | Spec::Device(DeviceSpec::Btt(BttSpec { medium: memory, .. })) => match memory {
            MemorySpec::Pmem { path, .. } | MemorySpec::Dax(path) => Some(path),
            _ => None,
        },
        Spec::Device(DeviceSpec::File { path, .. }) => Some(path),
        Spec::Device(DeviceSpec::Null(_)) => None,
    }
}
