// SPDX-License-Identifier: MIT OR Apache-2.0
//! `copy_persist` beside libpmem's `pmem_memcpy_persist`, both into the same file on tmpfs at the same offsets, and both
//! treating it as memory whose cache lines must be written back. Run by `benches/persist.sh`, which compiles the peer.
//!
//! ```text
//! persist FILE PEER          (ROUNDS=21)
//! ```
//! Bar: >= 1.0 times libpmem's speed at each size; a median of 0.95 counts as that.

#![forbid(unsafe_code)]

use pageless_benches::{Bar, Offsets, Summary, interleave, ratios, verdict};
use pageless_mem::persist::copy_persist;
use pageless_mem::{Access, Backing, Durability, FileOptions, Memory};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

/// Bytes written in one round, at most.
const PER_ROUND: u64 = 64 << 20;

/// The other process, waiting for sizes.
struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(program: &str, file: &str) -> Result<Peer, Failure> {
        let mut child = Command::new(program)
            .arg(file)
            .env("PMEM_IS_PMEM_FORCE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to the peer".into());
        };
        Ok(Peer { child, ask, answers: BufReader::new(answers) })
    }

    /// Nanoseconds per copy.
    fn measure(&mut self, len: u64, count: u64) -> Result<f64, Failure> {
        writeln!(self.ask, "{len} {count}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    fn stop(mut self) -> Result<(), Failure> {
        drop(self.ask);
        self.child.wait()?;
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, peer] = arguments.as_slice() else { return Err("usage: persist FILE PEER".into()) };
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(21);
    let memory = Memory::new()?;
    let backing = Backing::file(Path::new(file), FileOptions::default())?.assuming(Durability::Clwb);
    let medium = memory.register(backing)?;
    let source = memory.register(Backing::anon(2 << 20)?)?;
    let mut reader = memory.reader();
    {
        let online = reader.online();
        let all = source.range(0, source.len()).ok_or("no source")?;
        let window = online.kmap(all, Access::Write).map_err(|fault| format!("{fault:?}"))?;
        window.writer().write(&vec![0x5a; 2 << 20]).map_err(|error| format!("{error:?}"))?;
    }
    let mut peer = Peer::start(peer, file)?;
    println!("{}: {}", medium.describe(), medium.flush_domain());
    println!("median [min .. max] of {rounds} interleaved rounds, ns per copy");
    for len in [64, 256, 4096, 64 << 10, 1 << 20] {
        let count = (PER_ROUND / len).min(1 << 16);
        let mut random = Offsets::new(7);
        let targets: Vec<_> = (0..count)
            .map(|_| medium.range(random.below(medium.len() / len) * len, len).ok_or("outside"))
            .collect::<Result<_, _>>()?;
        let from = source.range(0, len).ok_or("outside")?;
        let (mut ours_failed, mut theirs_failed) = (None, None);
        let [ours, theirs] = interleave(
            rounds,
            [
                &mut || {
                    let online = reader.online();
                    let Ok(from) = online.kmap(from, Access::Read) else { return f64::NAN };
                    let begin = Instant::now();
                    for target in &targets {
                        let Ok(to) = online.kmap(*target, Access::Write) else {
                            ours_failed = Some("no window".to_owned());
                            continue;
                        };
                        if let Err(error) = copy_persist(&mut from.reader(), &mut to.writer()) {
                            ours_failed = Some(format!("{error:?}"));
                        }
                    }
                    #[expect(clippy::cast_precision_loss, reason = "a count of copies")]
                    let count = targets.len() as f64;
                    begin.elapsed().as_secs_f64() * 1e9 / count
                },
                &mut || {
                    peer.measure(len, count).unwrap_or_else(|error| {
                        theirs_failed = Some(error.to_string());
                        f64::NAN
                    })
                },
            ],
        );
        if let Some(failed) = ours_failed.or(theirs_failed) {
            return Err(failed.into());
        }
        let shown = |values: &[f64]| Summary::of(values).map_or_else(String::new, |summary| summary.to_string());
        println!("{len:>8} bytes: ours {}, libpmem {}", shown(&ours), shown(&theirs));
        verdict(&format!("{len} bytes, speed over libpmem's"), "x", &ratios(&theirs, &ours), Bar::AtLeast(0.95));
    }
    peer.stop()
}
