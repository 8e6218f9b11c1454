// SPDX-License-Identifier: MIT OR Apache-2.0
//! `qemu-storage-daemon` as the other vhost-user server: a harness that it passes is right, and what it fails at is our reason to be.

use std::process::{Child, Command, Stdio};

use super::{Scratch, eventually};

/// A daemon that exports a file. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct StorageDaemon {
    child: Child,
    socket: String,
    _dir: Scratch,
}

impl StorageDaemon {
    /// Exports `file` through `O_DIRECT`.
    pub(crate) fn direct(file: &str, queues: usize) -> StorageDaemon {
        let dir = Scratch::short();
        let socket = dir.path("s");
        let node = format!("driver=file,node-name=disk,filename={file},cache.direct=on,discard=unmap");
        let export = format!(
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues={queues},addr.type=unix,addr.path={socket}"
        );
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &node, "--export", &export])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-storage-daemon starts");
        let mut daemon = StorageDaemon { child, socket, _dir: dir };
        eventually("the daemon listens", || {
            let ended = daemon.child.try_wait().expect("wait for the daemon");
            assert!(ended.is_none(), "qemu-storage-daemon: {ended:?}");
            std::fs::exists(&daemon.socket).expect("stat").then_some(())
        });
        daemon
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }
}

impl Drop for StorageDaemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
