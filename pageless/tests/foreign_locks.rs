// SPDX-License-Identifier: MIT OR Apache-2.0
//! One image, several programs: who may write, who is refused, and what a dead server leaves in the way. qemu's tools take the
//! same kind of lock, so each side is refused by the other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

mod common;

use common::disks::Disk;
use common::server::{Serve, Server};
use common::{MIB, Scratch, fails, have, ok};

const KINDS: [&str; 2] = ["file", "pmem"];

fn image() -> (Scratch, String) {
    let scratch = Scratch::disk();
    let path = scratch.sparse("image", 8 * MIB);
    (scratch, path)
}

#[test]
fn a_second_writer_of_ours_is_refused_with_the_holders_pid() {
    let (_scratch, path) = image();
    for first in KINDS {
        let server = Server::start(&format!("{first}:{path}"));
        for second in KINDS {
            let (code, said) = Serve::new(&format!("{second}:{path}")).refused();
            assert_eq!(code, 1, "{said}");
            assert!(said.contains(&path), "names the image: {said}");
            assert!(said.contains(&server.pid().to_string()), "names the holder {}: {said}", server.pid());
        }
        let (code, said) = Serve::new(&format!("{first}:{path}")).args(&["--read-only"]).refused();
        assert_eq!(code, 1, "a reader is refused while there is a writer: {said}");
        server.stop();
    }
}

#[test]
fn readers_share() {
    let (_scratch, path) = image();
    for kind in KINDS {
        let one = Serve::new(&format!("{kind}:{path}")).args(&["--read-only"]).start();
        let two = Serve::new(&format!("{kind}:{path}")).args(&["--read-only"]).start();
        let (code, said) = Serve::new(&format!("{kind}:{path}")).refused();
        assert_eq!(code, 1, "a writer is refused while there are readers: {said}");
        one.stop();
        two.stop();
        Server::start(&format!("{kind}:{path}")).stop();
    }
}

#[test]
fn qemu_is_refused_while_we_serve() {
    if !have(&["qemu-io", "qemu-img"]) {
        return;
    }
    let (_scratch, path) = image();
    for kind in KINDS {
        let server = Server::start(&format!("{kind}:{path}"));
        let said = fails("qemu-io", &["-f", "raw", &path, "-c", "write 0 4k"]);
        assert!(said.contains("lock"), "{kind}: {said}");
        let said = fails("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path, &path]);
        assert!(said.contains("lock"), "{kind}: {said}");
        server.stop();
        ok("qemu-io", &["-f", "raw", &path, "-c", "write 0 4k"]);
    }
}

/// `qemu-io` holding an image open until it is told to quit.
struct Holder(Child, ChildStdin);

impl Holder {
    fn open(path: &str, options: &[&str]) -> Holder {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw"])
            .args(options)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io starts");
        let mut stdin = child.stdin.take().expect("piped");
        // The answer to a command shows that the image is open and locked.
        writeln!(stdin, "length").expect("qemu-io reads commands");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        while !line.contains("MiB") {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).expect("qemu-io prints"), 0, "qemu-io ended");
        }
        Holder(child, stdin)
    }

    fn close(mut self) {
        writeln!(self.1, "quit").expect("qemu-io reads commands");
        self.0.wait().expect("wait for qemu-io");
    }
}

#[test]
fn we_are_refused_while_qemu_has_it_open() {
    if !have(&["qemu-io"]) {
        return;
    }
    let (_scratch, path) = image();
    let holder = Holder::open(&path, &[]);
    for kind in KINDS {
        let (code, said) = Serve::new(&format!("{kind}:{path}")).refused();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&path), "names the image: {said}");
    }
    holder.close();
    for kind in KINDS {
        Server::start(&format!("{kind}:{path}")).stop();
    }
}

#[test]
fn readers_share_with_qemus_readers() {
    if !have(&["qemu-io", "qemu-img"]) {
        return;
    }
    let (_scratch, path) = image();
    for kind in KINDS {
        let spec = format!("{kind}:{path}");
        let server = Serve::new(&spec).args(&["--read-only"]).start();
        ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path, server.uri()]);
        let said = fails("qemu-io", &["-f", "raw", &path, "-c", "write 0 4k"]);
        assert!(said.contains("lock"), "{kind}: qemu's writer is refused: {said}");
        server.stop();

        let holder = Holder::open(&path, &["-r"]);
        Serve::new(&spec).args(&["--read-only"]).start().stop();
        let (code, said) = Serve::new(&spec).refused();
        assert_eq!(code, 1, "{kind}: our writer is refused: {said}");
        holder.close();
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let short = Scratch::short();
    let socket = short.path("s");
    Serve::new("ram:1M").at(&socket).start().kill();
    assert!(std::fs::exists(&socket).expect("stat"), "SIGKILL leaves the socket behind");
    let server = Serve::new("ram:1M").at(&socket).start();

    let (code, said) = Serve::new("ram:1M").at(&socket).refused();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&socket), "names the socket: {said}");
    common::nbd::Peer::connect(&socket).expect("the live server still answers at its socket");
    server.stop();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let short = Scratch::short();
    let path = short.file("precious", b"not a socket");
    let (code, said) = Serve::new("ram:1M").at(&path).refused();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&path), "{said}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"not a socket");
}

#[test]
fn a_stopped_server_lets_go_of_the_image_before_it_ends() {
    let disk = Disk::pmem_disk(8 * MIB);
    for _ in 0..10 {
        Server::start(&disk.spec).stop();
    }
}
