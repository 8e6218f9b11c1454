// SPDX-License-Identifier: MIT OR Apache-2.0
//! `qemu-img` and `qemu-io` on our disks: whole images, and patterns written and read piece by piece.

use std::fs;

use serde_json::Value;

mod common;

use common::disks::{self, Disk};
use common::server::{Serve, Server};
use common::{MIB, Scratch, fails, have, ok, patchy, rounds, same};

/// Runs commands in one `qemu-io` and fails unless each of them worked.
fn io(uri: &str, commands: &[String]) -> String {
    let mut args = vec!["-f".to_owned(), "raw".to_owned(), uri.to_owned()];
    for command in commands {
        args.extend(["-c".to_owned(), command.clone()]);
    }
    let out = ok("qemu-io", &args);
    assert!(!out.contains("failed"), "{out}");
    out
}

/// qemu leaves discards out where TRIM is not offered; there, writing zeroes says the same.
fn for_disk(disk: &Disk, script: &[String]) -> Vec<String> {
    let adapt = |line: &String| if disk.trims { line.clone() } else { line.replace("discard ", "write -z ") };
    script.iter().map(adapt).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn convert_compare_and_info() {
    if !have(&["qemu-img"]) {
        return;
    }
    for disk in disks::all(32 * MIB) {
        let scratch = Scratch::disk();
        let image = patchy(usize::try_from(disk.len).expect("small"), 11);
        let from = scratch.file("from", &image);
        let to = scratch.path("to");
        let server = Server::start(&disk.spec);
        let uri = server.uri();
        ok("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &from, uri]);
        ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &from, uri]);
        ok("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, &to]);
        same(disk.name, &fs::read(&to).expect("the copy"), &image);

        let info: Value =
            serde_json::from_str(&ok("qemu-img", &["info", "-f", "raw", "--output=json", uri])).expect("JSON");
        assert_eq!(info["virtual-size"], disk.len, "{}", disk.name);

        ok("qemu-io", &["-f", "raw", uri, "-c", "write -P 3 1M 512"]);
        assert_eq!(common::run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &from, uri]).status.code(), Some(1));
        server.stop();
    }
}

#[test]
fn an_image_format_on_our_disk_checks_clean() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    for disk in [Disk::ram(64 * MIB), Disk::pmem_disk(64 * MIB), Disk::file(64 * MIB)] {
        let scratch = Scratch::disk();
        let from = scratch.file("from", &patchy(24 << 20, 12));
        let server = Server::start(&disk.spec);
        let uri = server.uri();
        ok("qemu-img", &["create", "-q", "-f", "qcow2", uri, "24M"]);
        ok("qemu-img", &["convert", "-n", "-f", "raw", "-O", "qcow2", &from, uri]);
        ok("qemu-img", &["check", "-f", "qcow2", uri]);
        ok("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &from, uri]);
        server.stop();
        if let Some(path) = &disk.file {
            ok("qemu-img", &["check", "-f", "qcow2", path]);
        }
    }
}

#[test]
fn patterns_zeroes_discards_and_fua() {
    if !have(&["qemu-io"]) {
        return;
    }
    let script = lines(
        "write -P 0xaa 0 1M
         read -P 0xaa 0 1M
         write -P 0xbb 512 512
         read -P 0xaa 0 512
         read -P 0xbb 512 512
         read -P 0xaa 1024 64k
         discard 0 64k
         read -P 0 0 64k
         read -P 0xaa 64k 64k
         discard 65k 1k
         read -P 0 65k 1k
         read -P 0xaa 64k 1k
         write -z 128k 64k
         read -P 0 128k 64k
         write -P 0xcc 192k 64k
         write -z -u 192k 32k
         read -P 0 192k 32k
         read -P 0xcc 224k 32k
         write -z 224512 512
         read -P 0xaa 256k 64k
         write -f -P 0xdd 2M 64k
         read -P 0xdd 2M 64k
         write -f -z 2M 4k
         read -P 0 2M 4k
         aio_write -P 0x11 3M 128k
         aio_write -P 0x12 3200k 128k
         aio_flush
         read -P 0x11 3M 128k
         read -P 0x12 3200k 128k
         flush",
    );
    for disk in disks::all(16 * MIB) {
        let server = Server::start(&disk.spec);
        io(server.uri(), &for_disk(&disk, &script));
        // The end of the disk: the last sector, and the last 64 KiB.
        let end = disk.len;
        let last = [
            format!("write -P 0x77 {} 64k", end - 65536),
            format!("write -P 0x78 {} 512", end - 512),
            format!("read -P 0x77 {} 65024", end - 65536),
            format!("read -P 0x78 {} 512", end - 512),
            format!("discard {} 512", end - 512),
            format!("read -P 0 {} 512", end - 512),
        ];
        io(server.uri(), &for_disk(&disk, &last));
        server.stop();
    }
}

/// A small generator, so that a failing run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn random_operations_leave_what_a_model_expects() {
    if !have(&["qemu-io", "nbdcopy"]) {
        return;
    }
    const SECTOR: u64 = 512;
    for disk in disks::all(4 * MIB) {
        for seed in 1..=u64::from(rounds()) {
            let mut random = Random(seed * 0x1234_5678_9abc_def1);
            let mut model = vec![0u8; usize::try_from(disk.len).expect("small")];
            let mut script = vec![format!("write -z 0 {}", disk.len)];
            for _ in 0..200 {
                // Mostly small, some up to a megabyte, any sector alignment.
                let most = if random.below(4) == 0 { 2048 } else { 40 };
                let sectors = 1 + random.below(most);
                let start = random.below(disk.len / SECTOR - sectors) * SECTOR;
                let len = sectors * SECTOR;
                let byte = u8::try_from(1 + random.below(255)).expect("a byte");
                let (command, value) = match random.below(8) {
                    0 => (format!("discard {start} {len}"), 0),
                    1 => (format!("write -z {start} {len}"), 0),
                    2 => (format!("write -z -u {start} {len}"), 0),
                    3 => (format!("write -f -P {byte} {start} {len}"), byte),
                    4 => ("flush".to_owned(), 0),
                    _ => (format!("write -P {byte} {start} {len}"), byte),
                };
                if command != "flush" {
                    let range = usize::try_from(start).expect("small")..usize::try_from(start + len).expect("small");
                    model[range].fill(value);
                }
                script.push(command);
            }
            let scratch = Scratch::disk();
            let out = scratch.path("out");
            let server = Server::start(&disk.spec);
            io(server.uri(), &for_disk(&disk, &script));
            ok("nbdcopy", &[server.uri(), &out]);
            same(&format!("{}, seed {seed}", disk.name), &fs::read(&out).expect("the copy"), &model);
            server.stop();
        }
    }
}

#[test]
fn a_read_only_export_is_read_and_not_written() {
    if !have(&["qemu-io", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::disk();
    let image = patchy(8 << 20, 13);
    let path = scratch.file("image", &image);
    for kind in ["file", "pmem"] {
        let server = Serve::new(&format!("{kind}:{path}")).args(&["--read-only"]).start();
        ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path, server.uri()]);
        ok("qemu-io", &["-r", "-f", "raw", server.uri(), "-c", "read 0 64k"]);
        fails("qemu-io", &["-f", "raw", server.uri(), "-c", "write 0 64k"]);
        server.stop();
        same(kind, &fs::read(&path).expect("the image"), &image);
    }
}

#[test]
fn reading_past_the_end_is_an_error_and_the_disk_goes_on() {
    if !have(&["qemu-io"]) {
        return;
    }
    let server = Server::start("ram:1M");
    fails("qemu-io", &["-f", "raw", server.uri(), "-c", "read 1M 512"]);
    fails("qemu-io", &["-f", "raw", server.uri(), "-c", "write 1048064 1024"]);
    io(server.uri(), &["write -P 5 1048064 512".to_owned(), "read -P 5 1048064 512".to_owned()]);
    server.stop();
}
