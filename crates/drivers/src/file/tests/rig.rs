// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scratch file, a disk on it, memory of several kinds, and a way to run one bio.

use crate::file::{FileDisk, FileDiskOptions};
use pageless_block::{Bio, BlockDevice, Completion, Queue, ScatterList};
use pageless_mem::{Access, Backing, Memory, Region};
use pageless_sys::epoll::{Epoll, Interest};
use pageless_testkit::regions::TempPath;
use pageless_testkit::require;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A path that is removed at the end. It lies beside the test binary, on a disk, since `/tmp` may be memory.
pub(super) struct Scratch(TempPath);

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch(TempPath::within(std::env::current_exe().unwrap().parent().unwrap()))
    }

    /// A file with this content.
    pub(super) fn with(content: &[u8]) -> Scratch {
        let scratch = Scratch::new();
        std::fs::write(scratch.path(), content).unwrap();
        scratch
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn content(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
}

/// Bytes that differ from block to block and from byte to byte.
pub(super) fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 9).wrapping_mul(31)).wrapping_add(salt).to_le_bytes()[0]).collect()
}

pub(super) struct Rig {
    pub(super) memory: Memory,
    pub(super) disk: FileDisk,
    pub(super) queue: Box<dyn Queue>,
    next_tag: u64,
}

impl Rig {
    pub(super) fn new(path: &Path) -> Rig {
        Rig::with(path, FileDiskOptions::default())
    }

    pub(super) fn with(path: &Path, options: FileDiskOptions) -> Rig {
        let memory = Memory::new().unwrap();
        let disk = FileDisk::open(&memory, path, options).unwrap();
        let queue = disk.open_queue().unwrap();
        Rig { memory, disk, queue, next_tag: 0 }
    }

    pub(super) fn ram(&self, len: u64) -> Region {
        self.memory.register(Backing::anon(len).unwrap()).unwrap()
    }

    /// Runs one bio to its end.
    pub(super) fn run(&mut self, mut bio: Bio) -> Completion {
        self.next_tag += 1;
        bio.tag = self.next_tag;
        self.queue.submit(bio).unwrap();
        let completions = self.drain(1);
        assert_eq!(completions[0].tag, self.next_tag);
        completions[0]
    }

    /// Polls until `count` completions are there, sleeping on the event between any two polls, and checks that no more
    /// come.
    pub(super) fn drain(&mut self, count: usize) -> Vec<Completion> {
        let mut out = Vec::new();
        let mut epoll = Epoll::new(1).unwrap();
        epoll.add(self.queue.event().unwrap(), 0, Interest::Read).unwrap();
        self.queue.poll(&mut out).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while out.len() < count {
            // io_uring's own work ends a wait early, as a signal does
            let mut ready = Vec::new();
            while ready.is_empty() {
                assert!(Instant::now() < deadline, "{} of {count} bios came back, and the event sleeps", out.len());
                epoll.wait(Some(Duration::from_secs(30)), &mut ready).unwrap();
            }
            self.queue.poll(&mut out).unwrap();
        }
        self.queue.poll(&mut out).unwrap();
        assert_eq!((out.len(), self.queue.in_flight()), (count, 0));
        out
    }

    pub(super) fn store(&self, region: &Region, offset: u64, bytes: &[u8]) {
        let range = region.range(offset, bytes.len() as u64).unwrap();
        let mut reader = self.memory.reader();
        let online = reader.online();
        online.kmap(range, Access::Write).unwrap().writer().write(bytes).unwrap();
    }

    pub(super) fn load(&self, frames: impl Into<ScatterList>) -> Vec<u8> {
        let mut all = Vec::new();
        let mut reader = self.memory.reader();
        let online = reader.online();
        for range in &frames.into() {
            let mut bytes = vec![0; range.len() as usize];
            online.kmap(range, Access::Read).unwrap().reader().read(&mut bytes).unwrap();
            all.append(&mut bytes);
        }
        all
    }
}

/// Memory that the kernel does not pin, if this machine has it.
pub(super) fn secret(memory: &Memory, len: u64) -> Option<Region> {
    require::kernel("memfd_secret", "guest/secret", Backing::secret(len)).map(|made| memory.register(made).unwrap())
}

/// Whether the scratch directory does direct I/O; says so if not.
pub(super) fn direct(disk: &FileDisk) -> bool {
    let direct = disk.does_direct_io();
    if !direct {
        require::require::<(), _>("O_DIRECT", Err("the file system beside the test binary has none"));
    }
    direct
}

/// Runs a command, for tests that need root; whether it worked.
pub(super) fn system(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A small file system in memory.
pub(super) struct Tmpfs(PathBuf);

impl Tmpfs {
    pub(super) fn mount(size: &str) -> Option<Tmpfs> {
        Tmpfs::of("tmpfs", &format!("size={size}"))
    }

    /// Its older sibling, which cannot punch holes, nor `fallocate` anything.
    pub(super) fn ramfs() -> Option<Tmpfs> {
        Tmpfs::of("ramfs", "mode=700")
    }

    fn of(kind: &str, options: &str) -> Option<Tmpfs> {
        let at = Scratch::new().path().with_extension("tmpfs");
        std::fs::create_dir(&at).unwrap();
        let tmpfs = Tmpfs(at);
        if system("mount", &["-t", kind, "-o", options, kind, tmpfs.0.to_str().unwrap()]).is_none() {
            require::require::<(), _>(&format!("a {kind}"), Err("no permission to mount one"));
            return None;
        }
        Some(tmpfs)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        system("umount", &["-l", self.0.to_str().unwrap()]);
        let _still_busy = std::fs::remove_dir(&self.0);
    }
}

/// A loop device, which root can make.
pub(super) struct Loop(String);

impl Loop {
    pub(super) fn new(file: &Path, sector: &str) -> Option<Loop> {
        let made = system("losetup", &["-f", "--show", "--sector-size", sector, file.to_str().unwrap()]);
        if made.is_none() {
            require::require::<(), _>("a loop device", Err("no permission to make one"));
        }
        made.map(Loop)
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        system("losetup", &["-d", &self.0]);
    }
}
