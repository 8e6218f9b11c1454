// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same with clients of other people: fio and nbdcopy.

use std::process::{Command, Output, Stdio};

use pageless_testkit::require::tool;

use super::*;

fn uri(host: &Host, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", host.socket().display())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Four jobs of mixed sizes, in random order, for as long as it takes.
fn fio(uri: &str, extra: &[&str]) -> Command {
    let mut fio = Command::new("fio");
    fio.args(["--name=load", "--ioengine=nbd", "--thread", "--numjobs=4", "--iodepth=16", "--size=1m"]);
    fio.args(["--offset_increment=1m", "--rw=randrw", "--bsrange=4k-256k", "--blockalign=4k", "--eta=never"]);
    fio.args([format!("--uri={uri}"), format!("--aux-path={}", env!("CARGO_TARGET_TMPDIR"))]);
    fio.args(extra).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    fio
}

#[test]
fn fio_gets_eio_from_the_export_that_is_gone_and_verifies_the_one_beside_it() {
    if tool("fio").is_none() {
        return;
    }
    let memory = Memory::new().unwrap();
    let (lost, kept) = (region(&memory, 4 * MIB, 1), region(&memory, 4 * MIB, 2));
    let disk = |name: &str, region: &Region| -> (String, Arc<dyn BlockDevice>) {
        (name.into(), Arc::new(RamDisk::new(&memory, region.clone(), name)))
    };
    let host = Host::new(&memory, vec![disk("lost", &lost), disk("kept", &kept)]);
    let doomed = fio(&uri(&host, "lost"), &["--time_based", "--runtime=120"]).spawn().unwrap();
    // Only then the other one, whose work is soon done.
    wait_until("it is busy", || host.server.totals().reads > 0 && host.server.connections() >= 4);
    let mut safe =
        fio(&uri(&host, "kept"), &["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=32", "--loops=400"])
            .spawn()
            .unwrap();
    wait_until("both are busy", || host.server.totals().reads > 500 && host.server.connections() >= 8);
    assert!(lost.revoke(LONG).unwrap().wait(LONG).unwrap());
    assert!(safe.try_wait().unwrap().is_none(), "it is not done yet");
    let doomed = doomed.wait_with_output().unwrap();
    let text = said(&doomed);
    assert!(!doomed.status.success(), "{text}");
    assert!(text.contains("Input/output error"), "{text}");
    let safe = safe.wait_with_output().unwrap();
    assert!(safe.status.success(), "{}", said(&safe));
}

#[test]
fn nbdcopy_of_an_export_that_goes_away_fails_and_of_the_one_beside_it_does_not() {
    if tool("nbdcopy").is_none() {
        return;
    }
    let memory = Memory::new().unwrap();
    let (lost, kept) = (region(&memory, 256 * MIB, 1), region(&memory, 4 * MIB, 2));
    let disk = |name: &str, region: &Region| -> (String, Arc<dyn BlockDevice>) {
        (name.into(), Arc::new(RamDisk::new(&memory, region.clone(), name)))
    };
    let host = Host::new(&memory, vec![disk("lost", &lost), disk("kept", &kept)]);
    let copy = |export: &str, to: &Path| {
        let mut copy = Command::new("nbdcopy");
        copy.args(["--connections=4", &uri(&host, export)]).arg(to);
        copy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let [first, second] = [(); 2].map(|()| TempPath::within(&std::env::temp_dir()));
    let doomed = copy("lost", first.path());
    wait_until("it has begun", || host.server.totals().bytes_read > 0);
    lost.revoke(LONG).unwrap();
    let doomed = doomed.wait_with_output().unwrap();
    assert!(!doomed.status.success(), "{}", said(&doomed));
    let fine = copy("kept", second.path()).wait_with_output().unwrap();
    assert!(fine.status.success(), "{}", said(&fine));
    assert!(std::fs::read(second.path()).unwrap() == vec![2; 4 << 20]);
}
