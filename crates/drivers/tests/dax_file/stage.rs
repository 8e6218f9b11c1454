// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mapped file with users who write and look, each of whom knows what must be there.

use crate::rig::{LONG, Place, Scratch, aligned, on_disk};
use pageless_block::{DirectAccess, ScatterList, Status};
use pageless_drivers::dax_file::{DaxError, DaxFile, DaxOptions, DirectFile, Lease};
use pageless_drivers::file::FileDiskOptions;
use pageless_mem::io::Ring;
use pageless_mem::{Access, Error, Fault, Inflight, Memory, Reader};
use pageless_sys::file::{File, OpenOptions};
use std::fmt::{self, Write};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const BLOCK: u64 = 4096;
/// Blocks of the file.
pub(crate) const BLOCKS: u64 = 64;
/// Who writes: they take turns by this many blocks.
const USERS: u64 = 3;
const STRIPE: u64 = 4;
/// Blocks of the file that each of them has data from; the number of a block is what it holds.
const SOURCE: u64 = 64;
/// Leaves the processor to others where there is nothing to be had.
const PAUSE: Duration = Duration::from_micros(50);
/// What the users do between two changes, at least.
const EACH_ROUND: u64 = 6;

/// Blocks that hold nothing but their number.
pub(crate) fn content(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes().repeat(BLOCK as usize / 8)).collect()
}

/// The same numbers each time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One of `0..n`, or 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
}

/// What the changes did to a block.
#[derive(Default)]
struct Changes {
    /// How often it was cut off or punched.
    done: AtomicU64,
    /// It is about to be.
    pending: AtomicBool,
}

/// The file, its users, and what was done to it.
pub(crate) struct Stage {
    memory: Memory,
    path: Scratch,
    source: Scratch,
    file: Mutex<Arc<DaxFile>>,
    blocks: Vec<Changes>,
    stop: AtomicBool,
    written: AtomicU64,
    looked: AtomicU64,
    gone: AtomicU64,
    beyond: AtomicU64,
    changed: AtomicU64,
    busy: AtomicU64,
}

impl Stage {
    pub(crate) fn new(place: &Place) -> Stage {
        let memory = Memory::new().unwrap();
        let ids: Vec<u64> = (1..=USERS * SOURCE).collect();
        let (source, _) = on_disk().file(&content(&ids));
        let path = place.path();
        let options = DaxOptions { size: Some(BLOCKS * BLOCK), create: true, read_only: false };
        let file = DaxFile::open(&memory, path.path(), options).unwrap();
        Stage {
            memory,
            path,
            source,
            file: Mutex::new(Arc::new(file)),
            blocks: (0..BLOCKS).map(|_| Changes::default()).collect(),
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }

    pub(crate) fn file(&self) -> Arc<DaxFile> {
        Arc::clone(&self.file.lock().unwrap())
    }

    /// One who looked once and does nothing more, for as long as it is kept.
    pub(crate) fn idle_reader(&self) -> Reader {
        let mut idle = self.memory.reader();
        drop(idle.online());
        idle
    }

    /// The file once more, after it was closed; a close without patience does not wait until the lock went.
    pub(crate) fn reopen(&self, waited: bool) {
        let start = Instant::now();
        let file = loop {
            match DaxFile::open(&self.memory, self.path.path(), DaxOptions::default()) {
                Err(DaxError::Memory(Error::Locked { .. })) if !waited && start.elapsed() < LONG => {
                    std::thread::yield_now();
                }
                opened => break opened.unwrap(),
            }
        };
        *self.file.lock().unwrap() = Arc::new(file);
    }

    pub(crate) fn with_users(&self, changes: impl FnOnce()) {
        std::thread::scope(|scope| {
            for who in 0..USERS {
                let name = format!("user {who}");
                let user = move || {
                    let _stop = StopWhenDone(&self.stop);
                    User::new(self, who).run();
                };
                std::thread::Builder::new().name(name).spawn_scoped(scope, user).unwrap();
            }
            let _stop = StopWhenDone(&self.stop);
            changes();
        });
    }

    /// Until they did something more.
    pub(crate) fn wait_for_users(&self) {
        wait(&self.stop, || self.written.load(SeqCst), EACH_ROUND);
    }

    /// Does a change that empties these bytes, of which the users learn. Whether it was done; one that has patience must be.
    pub(crate) fn change(
        &self,
        bytes: Range<u64>,
        patience: Duration,
        change: impl FnOnce() -> Result<(), DaxError>,
    ) -> bool {
        let touched = if bytes.is_empty() { 0..0 } else { bytes.start / BLOCK..(bytes.end - 1) / BLOCK + 1 };
        let blocks = &self.blocks[touched.start as usize..touched.end as usize];
        blocks.iter().for_each(|block| block.pending.store(true, SeqCst));
        let size = fs::metadata(self.path.path()).unwrap().len();
        let done = match change() {
            Ok(()) => true,
            Err(error) if error.is_busy() && patience.is_zero() => {
                assert_eq!(fs::metadata(self.path.path()).unwrap().len(), size, "{error}");
                false
            }
            Err(error) => panic!("{error}"),
        };
        (if done { &self.changed } else { &self.busy }).fetch_add(1, SeqCst);
        for block in blocks {
            block.done.fetch_add(u64::from(done), SeqCst);
            block.pending.store(false, SeqCst);
        }
        done
    }

    pub(crate) fn counts(&self) -> String {
        let mut text = String::new();
        let counts = [
            (&self.changed, "changed"),
            (&self.busy, "Busy"),
            (&self.written, "written"),
            (&self.looked, "blocks looked at"),
            (&self.gone, "Gone"),
            (&self.beyond, "beyond the end"),
        ];
        for (count, what) in counts {
            let comma = if text.is_empty() { "" } else { ", " };
            write!(text, "{comma}{} {what}", count.load(SeqCst)).unwrap();
        }
        text
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whoever ends, or panics, ends the others.
struct StopWhenDone<'s>(&'s AtomicBool);

impl Drop for StopWhenDone<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn wait(stop: &AtomicBool, count: impl Fn() -> u64, more: u64) {
    let (before, start) = (count(), Instant::now());
    while count() < before + more {
        assert!(!stop.load(SeqCst), "a user failed");
        assert!(start.elapsed() < LONG, "the users are stuck");
        std::thread::yield_now();
    }
}

/// What a user knows of one of its blocks.
#[derive(Copy, Clone)]
enum Known {
    /// It holds this number, unless it was changed more than so often.
    Holds { id: u64, changes: u64 },
    /// A write of it failed half way.
    Nothing,
}

/// One who writes blocks of its own by `O_DIRECT` into the frames, and looks at what is there before and after.
struct User<'s> {
    stage: &'s Stage,
    who: u64,
    random: Random,
    known: Vec<Known>,
    reader: Reader,
    ring: Ring,
    source: Arc<File>,
    one_call: DirectFile,
    /// The file as everybody else sees it.
    plain: fs::File,
}

impl User<'_> {
    fn new(stage: &Stage, who: u64) -> User<'_> {
        let open =
            |direct| File::open(stage.source.path(), OpenOptions { read_only: true, direct, ..OpenOptions::default() });
        User {
            stage,
            who,
            random: Random::new(who + 1),
            known: vec![Known::Holds { id: 0, changes: 0 }; BLOCKS as usize],
            reader: stage.memory.reader(),
            ring: Ring::new(4).unwrap(),
            source: Arc::new(open(true).or_else(|_| open(false)).unwrap()),
            one_call: DirectFile::open(
                &stage.memory,
                stage.source.path(),
                FileDiskOptions { read_only: true, ..FileDiskOptions::default() },
            )
            .unwrap(),
            plain: fs::File::open(stage.path.path()).unwrap(),
        }
    }

    fn run(&mut self) {
        while !self.stage.stop.load(SeqCst) {
            let stripes = BLOCKS / (USERS * STRIPE);
            let first = (self.random.below(stripes) * USERS + self.who) * STRIPE + self.random.below(STRIPE);
            let count = 1 + self.random.below(STRIPE - first % STRIPE);
            let file = self.stage.file();
            let lease = match file.lease(first * BLOCK, count * BLOCK) {
                Ok(lease) => lease,
                Err(DaxError::OutOfRange { .. } | DaxError::Closed { .. }) => {
                    self.stage.beyond.fetch_add(1, SeqCst);
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            // Source blocks that no other user has.
            let from = self.who * SOURCE + self.random.below(SOURCE - count + 1);
            let done = match self.random.below(3) {
                0 => self.one_call(&file, first, count, from),
                _ => self.pinned(lease, first, count, from),
            };
            let counted = if done { &self.stage.written } else { &self.stage.gone };
            counted.fetch_add(1, SeqCst);
        }
    }

    /// Has the blocks in flight while it looks, writes, and looks again: in all that time nobody may take or change them.
    fn pinned(&mut self, mut lease: Lease, first: u64, count: u64, from: u64) -> bool {
        let Some(inflight) = self.pin(&lease) else { return false };
        self.look(first, count, None);
        if self.random.below(2) == 0 {
            std::thread::yield_now();
        }
        let ids: Vec<u64> = (from + 1..=from + count).collect();
        self.ring.read(&self.source, from * BLOCK, inflight, 1).unwrap();
        self.ring.submit().unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            self.ring.wait().unwrap();
            self.ring.reap(&mut done);
        }
        assert_eq!(done[0].result, Ok((count * BLOCK) as u32), "user {} from {from} to {first}", self.who);
        // Only windows are closed by now, and only a window would break this lease.
        assert!(matches!(lease.stored(0, count * BLOCK), Ok(()) | Err(Status::Gone)));
        self.look(first, count, Some(&ids));
        for (block, id) in (first..).zip(ids) {
            let changes = self.stage.blocks[block as usize].done.load(SeqCst);
            self.known[block as usize] = Known::Holds { id, changes };
        }
        drop(done);
        true
    }

    fn pin(&mut self, lease: &Lease) -> Option<Inflight> {
        let frames = match lease.frames(0, lease.len()) {
            Ok(frames) if aligned(&frames) => frames,
            Ok(_) | Err(Status::Gone) => return None,
            Err(Status::Aborted) => {
                lease.wait(LONG);
                return None;
            }
            Err(status) => panic!("{status}"),
        };
        match self.reader.online().pin(frames.as_slice(), Access::Write) {
            Ok(inflight) => Some(inflight),
            Err(Fault::Gone) => None,
            Err(fault) => panic!("{fault:?}"),
        }
    }

    /// The way that needs nobody's care.
    fn one_call(&mut self, file: &DaxFile, first: u64, count: u64, from: u64) -> bool {
        let blocks = first as usize..(first + count) as usize;
        let changes: Vec<u64> = self.stage.blocks[blocks.clone()].iter().map(|block| block.done.load(SeqCst)).collect();
        match file.read_from(&mut self.one_call, from * BLOCK, first * BLOCK, count * BLOCK) {
            Ok(moved) => {
                assert_eq!(moved.bytes, count * BLOCK);
                for (index, block) in blocks.enumerate() {
                    self.known[block] = Known::Holds { id: from + 1 + index as u64, changes: changes[index] };
                }
                true
            }
            Err(DaxError::Transfer { status: Status::Gone, .. }) => {
                self.known[blocks].fill(Known::Nothing);
                false
            }
            Err(DaxError::OutOfRange { .. } | DaxError::Closed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Looks at blocks of its own that are in flight, with the eyes of another process.
    fn look(&self, first: u64, count: u64, must_be: Option<&[u64]>) {
        let mut bytes = vec![0; (count * BLOCK) as usize];
        let read = self.plain.read_exact_at(&mut bytes, first * BLOCK);
        assert!(read.is_ok(), "user {}: blocks {first}+{count} were cut off while they were in flight", self.who);
        for (index, bytes) in bytes.chunks(BLOCK as usize).enumerate() {
            let block = first as usize + index;
            let changed = &self.stage.blocks[block];
            let (id, may_be_empty) = match (must_be, self.known[block]) {
                (Some(ids), _) => (ids[index], false),
                (None, Known::Nothing) => continue,
                (None, Known::Holds { id, changes }) => {
                    // In this order: a change that is done is counted before it is no longer pending.
                    let pending = changed.pending.load(SeqCst);
                    (id, pending || changed.done.load(SeqCst) != changes)
                }
            };
            let whole = id.to_le_bytes();
            let wrong =
                bytes.iter().enumerate().find(|(at, byte)| **byte != whole[at % 8] && (!may_be_empty || **byte != 0));
            if let Some((at, byte)) = wrong {
                panic!(
                    "user {}: byte {at} of block {block} is {byte:#x}, written was {id:#x} (empty: {may_be_empty})",
                    self.who
                );
            }
            self.stage.looked.fetch_add(1, SeqCst);
        }
    }
}

/// Those who look at a file by leases of different ages.
pub(crate) struct Readers {
    memory: Memory,
    path: std::path::PathBuf,
    /// A lease of all of it, and what the blocks then held.
    shown: Mutex<Vec<(Lease, Arc<Vec<u64>>)>>,
    stop: AtomicBool,
    pub(crate) looks: AtomicU64,
    pub(crate) gone: AtomicU64,
}

impl Readers {
    pub(crate) fn new(memory: &Memory, path: &Scratch) -> Readers {
        Readers {
            memory: memory.clone(),
            path: path.path().to_owned(),
            shown: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            gone: AtomicU64::new(0),
        }
    }

    pub(crate) fn with(&self, changes: impl FnOnce()) {
        std::thread::scope(|scope| {
            for who in 0..2 {
                scope.spawn(move || {
                    let _stop = StopWhenDone(&self.stop);
                    self.read(&mut Random::new(who + 100));
                });
            }
            let _stop = StopWhenDone(&self.stop);
            changes();
        });
    }

    pub(crate) fn show(&self, file: &DaxFile, ids: &[u64]) {
        let mut shown = self.shown.lock().unwrap();
        if shown.len() > 4 {
            shown.remove(0);
        }
        shown.push((file.lease(0, file.size()).unwrap(), Arc::new(ids.to_vec())));
    }

    pub(crate) fn wait(&self) {
        wait(&self.stop, || self.looks.load(SeqCst), EACH_ROUND);
    }

    fn read(&self, random: &mut Random) {
        let mut reader = self.memory.reader();
        let mut ring = Ring::new(4).unwrap();
        let scratch = Arc::new(File::unnamed(self.path.parent().unwrap(), false).unwrap());
        while !self.stop.load(SeqCst) {
            let shown = self.shown.lock().unwrap();
            let Some((lease, ids)) = shown.get(random.below(shown.len() as u64) as usize).cloned() else { continue };
            drop(shown);
            let first = random.below(ids.len() as u64);
            let count = 1 + random.below((ids.len() as u64 - first).min(16));
            let bytes = match lease.frames(first * BLOCK, count * BLOCK) {
                Err(status) => Err(status),
                Ok(frames) if random.below(2) == 0 => window(&mut reader, &frames),
                Ok(frames) => written(&mut reader, &mut ring, &scratch, &frames),
            };
            match bytes {
                Ok(bytes) => {
                    crate::rig::same(&bytes, &content(&ids[first as usize..(first + count) as usize]));
                    self.looks.fetch_add(1, SeqCst);
                }
                Err(status) => {
                    assert!(matches!(status, Status::Gone | Status::Aborted), "{status}");
                    if status == Status::Aborted {
                        lease.wait(LONG);
                    }
                    self.gone.fetch_add(1, SeqCst);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// Copied by the CPU, slowly, in one section.
fn window(reader: &mut Reader, frames: &ScatterList) -> Result<Vec<u8>, Status> {
    let online = reader.online();
    let mut all = Vec::new();
    for range in frames {
        let window = online.kmap(range, Access::Read)?;
        let mut from = window.reader();
        while from.remaining() > 0 {
            let mut bytes = vec![0; from.remaining().min(512)];
            from.read(&mut bytes).map_err(|error| error.fault)?;
            all.extend(bytes);
            if all.len() % 8192 == 0 {
                std::thread::yield_now(); // a section should be short; this one wants to be met by a change
            }
        }
    }
    Ok(all)
}

/// Written to a file by the kernel, a moment after the frames were taken.
fn written(reader: &mut Reader, ring: &mut Ring, to: &Arc<File>, frames: &ScatterList) -> Result<Vec<u8>, Status> {
    let inflight = reader.online().pin(frames.as_slice(), Access::Read)?;
    std::thread::yield_now();
    ring.write(to, 0, inflight, false, 1).unwrap();
    ring.submit().unwrap();
    let mut done = Vec::new();
    while done.is_empty() {
        ring.wait().unwrap();
        ring.reap(&mut done);
    }
    assert_eq!(u64::from(done[0].result.unwrap()), frames.len_bytes());
    let mut bytes = vec![0; frames.len_bytes() as usize];
    assert_eq!(to.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Ok(bytes)
}
