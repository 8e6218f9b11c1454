// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk whose memory has no page behind it, served to clients that are not ours.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pageless_drivers::RamDisk;
use pageless_export::nbd::{Export, Listen, Server, ServerConfig};
use pageless_mem::{Access, Memory, testing};
use pageless_sys::Errno;
use pageless_testkit::regions::{Kind, PFN_MAP_OURS, TempPath};
use pageless_testkit::require::tool;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

#[test]
fn nbd_memory_without_pages_is_a_disk_for_qemu_and_libnbd() {
    if tool("qemu-io").is_none() || tool("nbdcopy").is_none() {
        return;
    }
    for (kind, len, ours) in [(Kind::PfnMap, 4096, PFN_MAP_OURS), (Kind::DmaHeap, 1 << 20, 0..1 << 20)] {
        let memory = Memory::new().unwrap();
        let Some(made) = kind.make(&memory, len) else { continue };
        let image = TempPath::within(std::env::current_exe().unwrap().parent().unwrap());
        let bytes = ours.end - ours.start;
        // The kernel itself reads no file into this memory.
        std::fs::write(image.path(), vec![1; usize::try_from(len).unwrap()]).unwrap();
        let range = made.region().range(ours.start, bytes).unwrap();
        let refused = testing::direct_io(made.region(), range, image.path(), Access::Write);
        assert!(matches!(&refused, Err(error) if error.errno() == Some(Errno::EFAULT)), "{kind:?}: {refused:?}");

        let disk = RamDisk::new(&memory, made.region().clone(), "page-less");
        let export =
            Export { name: String::new(), description: String::new(), device: Arc::new(disk), read_only: false };
        let socket = TempPath::within(&std::env::temp_dir());
        let listen = vec![Listen::Unix(socket.path().to_owned())];
        let config = ServerConfig { exports: vec![export], listen, ..ServerConfig::default() };
        let server = Server::start(config, &memory).unwrap();
        let uri = format!("nbd+unix:///?socket={}", socket.path().display());

        let whole = format!("write -P 0x5a {} {bytes}", ours.start);
        let part = format!("write -P 0xc3 {} 512", ours.start + 512);
        run("qemu-io", &["-f", "raw", &uri, "-c", &whole, "-c", &part, "-c", "flush"]);
        let first = format!("read -P 0x5a {} 512", ours.start);
        let second = format!("read -P 0xc3 {} 512", ours.start + 512);
        let said = run("qemu-io", &["-f", "raw", &uri, "-c", &first, "-c", &second]);
        assert!(!said.contains("failed"), "{said}");

        run("nbdcopy", &[&uri, image.path().to_str().unwrap()]);
        let copied = std::fs::read(image.path()).unwrap();
        assert_eq!(copied.len() as u64, len);
        let wanted = (0..bytes).map(|at| if (512..1024).contains(&at) { 0xc3 } else { 0x5a });
        assert!(copied[usize::try_from(ours.start).unwrap()..].iter().copied().eq(wanted), "{kind:?}");
        server.stop(Duration::from_secs(10)).unwrap();
    }
}
