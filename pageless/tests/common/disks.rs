// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disks a foreign client is tried on: every kind of memory and file this machine can make without preparation.

use super::{MIB, Scratch, note};

/// One disk to serve, with the folders its files live in.
#[derive(Debug)]
pub(crate) struct Disk {
    /// What it is, for messages.
    pub(crate) name: &'static str,
    /// What `serve` is told.
    pub(crate) spec: String,
    pub(crate) len: u64,
    /// Whether it can give memory or blocks back. Secret memory cannot; TRIM is not offered there.
    pub(crate) trims: bool,
    /// The file behind it, when there is one.
    pub(crate) file: Option<String>,
    _folder: Option<Scratch>,
}

impl Disk {
    fn memory(name: &'static str, len: u64) -> Disk {
        Disk { name, spec: format!("{name}:{len}"), len, trims: name != "secret", file: None, _folder: None }
    }

    fn on(name: &'static str, kind: &str, folder: Scratch, len: u64) -> Disk {
        let path = folder.sparse("disk.img", len);
        Disk { name, spec: format!("{kind}:{path}"), len, trims: true, file: Some(path), _folder: Some(folder) }
    }

    pub(crate) fn ram(len: u64) -> Disk {
        Disk::memory("ram", len)
    }

    /// A mapped file on tmpfs.
    pub(crate) fn pmem_shm(len: u64) -> Disk {
        Disk::on("pmem on tmpfs", "pmem", Scratch::shm(), len)
    }

    /// A mapped file on the file system of the build.
    pub(crate) fn pmem_disk(len: u64) -> Disk {
        Disk::on("pmem on a disk", "pmem", Scratch::disk(), len)
    }

    /// A file through `O_DIRECT`.
    pub(crate) fn file(len: u64) -> Disk {
        Disk::on("file", "file", Scratch::disk(), len)
    }
}

/// The most secret memory a test uses: it counts against `RLIMIT_MEMLOCK`, 8 MiB as a rule.
const SECRET: u64 = 4 * MIB;

/// Every kind of disk that keeps what is written, each `len` bytes long except the secret one, which is small.
pub(crate) fn all(len: u64) -> Vec<Disk> {
    let mut disks =
        vec![Disk::ram(len), Disk::memory("memfd", len), Disk::pmem_shm(len), Disk::pmem_disk(len), Disk::file(len)];
    if secret_works() {
        disks.push(Disk::memory("secret", SECRET.min(len)));
    } else {
        note("skipped: kernel lacks memfd_secret, or RLIMIT_MEMLOCK is below 8 MiB (guest/secret covers it)");
    }
    disks
}

/// Whether this kernel gives out secret memory: asked of the product, which asks by trying.
fn secret_works() -> bool {
    let out = super::run(env!("CARGO_BIN_EXE_pageless"), &["region", "probe", &format!("secret:{SECRET}")]);
    out.status.success()
}
