// SPDX-License-Identifier: MIT OR Apache-2.0
//! Four connections keep an export busy while its memory is taken, export after export; the disks beside them, one in
//! memory and one in a file, are written and verified all the while by the same workers.

use std::sync::atomic::AtomicU64;

use pageless_drivers::file::{FileDisk, FileDiskOptions};

use super::*;

/// All that may ever be read, and what may never be: bytes of the test, and of a later owner.
const OURS: u8 = 0x11;
const LATER: u8 = 0xee;
const SIZE: u64 = 512 << 10;
const CONNECTIONS: usize = 4;
/// Exports that one server loses.
const EXPORTS: u64 = 8;

/// Rounds: few enough for every run, unless asked for more.
fn rounds() -> u64 {
    let rounds = std::env::var("PAGELESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(64);
    println!("{rounds} rounds");
    rounds
}

/// An export that is lost in its round.
struct Round {
    number: u64,
    name: String,
    region: Region,
    /// By connection.
    done: [AtomicU64; CONNECTIONS],
    gone: [AtomicU64; CONNECTIONS],
    hung_up: AtomicU64,
}

impl Round {
    /// None, and a line that says why, where the host has no such memory.
    fn new(memory: &Memory, number: u64) -> Option<Round> {
        let kind = match number % EXPORTS {
            0 => Kind::Secret,
            n if n % 2 == 0 => Kind::Memfd,
            _ => Kind::Ram,
        };
        let region = filled(memory, kind.make(memory, SIZE)?.region().clone(), OURS);
        let (name, hung_up) = (format!("lost-{number}"), AtomicU64::new(0));
        Some(Round { number, name, region, done: Default::default(), gone: Default::default(), hung_up })
    }

    fn wait_for(&self, what: &str, counts: &[AtomicU64], least: u64) {
        wait_until(what, || counts.iter().all(|count| count.load(Ordering::Relaxed) >= least));
    }
}

/// Small, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Sends a batch and takes its answers; false when the server hung up.
fn batch(client: &mut Client, random: &mut Random, round: &Round, index: usize) -> bool {
    let mut reads = Vec::new();
    let count = 1 + random.below(8);
    let mut owed = (1u64 << count) - 1;
    for cookie in 0..count {
        let len = [4096, 8192, 64 << 10, 256 << 10][random.below(4) as usize];
        let at = random.below((SIZE - u64::from(len)) / 4096 + 1) * 4096;
        let (kind, payload) = match random.below(12) {
            0..6 => {
                reads.push((cookie, at, len));
                continue;
            }
            6..9 => (WRITE, vec![OURS; len as usize]),
            9 => (WRITE_ZEROES, Vec::new()),
            10 if round.region.kind() != pageless_mem::MemKind::Secret => (TRIM, Vec::new()),
            _ => (FLUSH, Vec::new()),
        };
        let (at, len) = if kind == FLUSH { (0, 0) } else { (at, len) };
        let flags = if kind == WRITE_ZEROES { random.below(2) as u16 * 2 } else { 0 };
        if client.send(kind, flags, cookie, at, len, &payload).is_err() {
            return false;
        }
    }
    // Last, so that nobody writes to a server that waits for us to read.
    let mut length = [0; 8];
    for (cookie, at, len) in reads {
        length[cookie as usize] = len;
        if client.send(READ, 0, cookie, at, len, &[]).is_err() {
            return false;
        }
    }
    while owed != 0 {
        let Some(reply) = client.reply(|cookie| length[cookie as usize]) else { return false };
        assert_ne!(owed & 1 << reply.cookie, 0, "a second answer to {}", reply.cookie);
        owed &= !(1 << reply.cookie);
        let count = match reply.errno {
            0 => {
                assert_eq!(reply.data.len(), length[reply.cookie as usize] as usize);
                &round.done
            }
            EIO => &round.gone,
            errno => panic!("error {errno}"),
        };
        assert!(reply.data.iter().all(|byte| matches!(*byte, 0 | OURS)), "somebody else's bytes");
        count[index].fetch_add(1, Ordering::Relaxed);
    }
    true
}

/// Keeps the export of the round busy, before and after it is lost.
fn hammer(socket: &Path, index: usize, current: &Mutex<Option<Arc<Round>>>, stop: &AtomicBool) {
    let mut random = Random(0x9e37 + index as u64);
    while !stop.load(Ordering::Relaxed) {
        let Some(round) = current.lock().unwrap().clone() else { continue };
        let mut client = Client::connect(socket, &round.name, random.below(2) == 1);
        while !stop.load(Ordering::Relaxed)
            && current.lock().unwrap().as_ref().is_some_and(|now| now.number == round.number)
        {
            if !batch(&mut client, &mut random, &round, index) {
                assert!(round.region.revoked(), "nothing else ends a connection");
                round.hung_up.fetch_add(1, Ordering::Relaxed);
                client = Client::connect(socket, &round.name, random.below(2) == 1);
            }
        }
    }
}

/// Writes and verifies a disk that nothing happens to.
fn verify(socket: &Path, export: &str, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random(seed);
    let mut client = Client::connect(socket, export, true);
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let len = 512 << random.below(8);
        let at = random.below((SIZE - len) / 512 + 1) * 512;
        let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + at + done) as u8).collect();
        assert_eq!(client.call(WRITE, at, len as u32, &bytes).unwrap().errno, 0);
        let back = client.call(READ, at, len as u32, &[]).unwrap();
        assert_eq!(back.errno, 0);
        assert!(back.data == bytes, "{export} lost what was written to it");
        if done % 16 == 0 {
            assert_eq!(client.call(FLUSH, 0, 0, &[]).unwrap().errno, 0);
        }
        done += 1;
    }
    done
}

#[test]
fn exports_are_revoked_under_load() {
    let (rounds, begin) = (rounds(), Instant::now());
    let memory = Memory::new().unwrap();
    let path = TempPath::on("ext4").unwrap_or_else(|_| TempPath::within(&std::env::temp_dir()));
    std::fs::write(path.path(), vec![0; SIZE as usize]).unwrap();
    let (mut done, mut gone, mut hung_up, mut verified, mut slowest) = (0, 0, 0, 0, Duration::ZERO);
    for first in (0..rounds).step_by(EXPORTS as usize) {
        let numbers = first..rounds.min(first + EXPORTS);
        let doomed: Vec<Arc<Round>> = numbers.filter_map(|number| Round::new(&memory, number)).map(Arc::new).collect();
        if doomed.is_empty() {
            continue;
        }
        let mut disks: Vec<(String, Arc<dyn BlockDevice>)> = doomed
            .iter()
            .map(|round| {
                let disk = RamDisk::new(&memory, round.region.clone(), round.name.clone());
                (round.name.clone(), Arc::new(disk) as _)
            })
            .collect();
        let kept = RamDisk::new(&memory, region(&memory, SIZE, 0), "kept");
        disks.push(("kept".into(), Arc::new(kept)));
        let file = FileDisk::open(&memory, path.path(), FileDiskOptions::default()).unwrap();
        disks.push(("file".into(), Arc::new(file)));
        let host = Host::new(&memory, disks);
        let notices = host.server.notices().unwrap();
        let (current, stop) = (Mutex::new(None), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (socket, current, stop) = (host.socket(), &current, &stop);
            for index in 0..CONNECTIONS {
                scope.spawn(move || hammer(socket, index, current, stop));
            }
            let others = ["kept", "file"].map(|name| scope.spawn(move || verify(socket, name, 1 + first, stop)));
            let mut later = Vec::new();
            for round in &doomed {
                *current.lock().unwrap() = Some(Arc::clone(round));
                round.wait_for("the load begins", &round.done, 1 + round.number % 5);
                let start = Instant::now();
                let released = round.region.revoke(LONG).unwrap();
                slowest = slowest.max(start.elapsed());
                assert_eq!(round.region.in_flight(), 0);
                if round.number % 4 == 0 {
                    assert!(released.wait(LONG).unwrap());
                }
                later.push(region(&memory, SIZE, LATER));
                round.wait_for("everybody learns of it", &round.gone, 3);
                assert_eq!(notices.recv_timeout(LONG).unwrap(), Notice::Gone { export: round.name.clone() });
                done += round.done.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
                gone += round.gone.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
                hung_up += round.hung_up.load(Ordering::Relaxed);
            }
            stop.store(true, Ordering::Relaxed);
            verified += others.into_iter().map(|other| other.join().unwrap()).sum::<u64>();
            for region in later {
                assert!(contents(&memory, &region).iter().all(|byte| *byte == LATER), "a later owner lost a byte");
            }
        });
        // What was written to the lost ones went with them.
        assert!(host.server.stop(LONG).is_err());
    }
    println!(
        "{rounds} rounds in {:?}: {done} requests done, {gone} gone, {hung_up} connections ended in mid-reply, \
         {verified} blocks of other exports verified, the slowest revoke {slowest:?}",
        begin.elapsed()
    );
}
