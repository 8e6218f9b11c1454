// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `nbdinfo` of libnbd sees of our exports: sizes, capabilities, names and the map of data and holes.

use serde_json::Value;

mod common;

use common::disks::{self, Disk};
use common::server::{Serve, Server};
use common::{KIB, MIB, have, noise, ok};

fn json(uri: &str) -> Value {
    let text = ok("nbdinfo", &["--json", uri]);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"))
}

/// The map as (offset, length, is it a hole), neighbours of one sort merged.
fn map(uri: &str) -> Vec<(u64, u64, bool)> {
    let text = ok("nbdinfo", &["--json", "--map", uri]);
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"));
    let mut merged: Vec<(u64, u64, bool)> = Vec::new();
    for extent in json.as_array().expect("a list of extents") {
        let number = |key: &str| extent[key].as_u64().unwrap_or_else(|| panic!("{key} in {extent}"));
        // Bits of base:allocation: 1 hole, 2 reads as zeroes. We give both or neither.
        let flags = number("type");
        assert!(flags == 0 || flags == 3, "{extent}");
        let (offset, len, hole) = (number("offset"), number("length"), flags == 3);
        match merged.last_mut() {
            Some((start, n, sort)) if *start + *n == offset && *sort == hole => *n += len,
            _ => merged.push((offset, len, hole)),
        }
    }
    merged
}

#[test]
fn every_kind_of_disk_says_what_it_can() {
    if !have(&["nbdinfo"]) {
        return;
    }
    for disk in disks::all(64 * MIB) {
        let server = Server::start(&disk.spec);
        let json = json(server.uri());
        assert_eq!(json["protocol"], "newstyle-fixed", "{}", disk.name);
        assert_eq!(json["structured"], true, "{}", disk.name);
        let export = &json["exports"][0];
        assert_eq!(export["export-size"], disk.len, "{}", disk.name);
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]), "{}", disk.name);
        for able in ["can_df", "can_flush", "can_fua", "can_zero", "can_fast_zero", "can_multi_conn", "can_cache"] {
            assert_eq!(export[able], true, "{}: {able}", disk.name);
        }
        assert_eq!(export["can_trim"], disk.trims, "{}", disk.name);
        assert_eq!(export["is_read_only"], false, "{}", disk.name);
        let size = |key: &str| export[key].as_u64().unwrap_or_else(|| panic!("{}: {key} is missing", disk.name));
        let (least, best, most) =
            (size("block_size_minimum"), size("block_size_preferred"), size("block_size_maximum"));
        assert!(
            least.is_power_of_two() && best.is_power_of_two() && least <= best && best <= most,
            "{least} {best} {most}"
        );
        assert_eq!(most, 32 * MIB, "{}: the largest request", disk.name);
        server.stop();
    }
}

#[test]
fn plain_output_and_size_over_tcp() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let server = Serve::new("ram:48M").tcp().start();
    assert!(ok("nbdinfo", &[server.uri()]).contains("export-size: 50331648"));
    assert_eq!(ok("nbdinfo", &["--size", server.uri()]).trim(), "50331648");
    server.stop();
}

#[test]
fn a_named_export_is_listed_and_found_and_others_are_not() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let server = Serve::new("ram:8M").args(&["--export", "büro disk"]).start();
    let text = ok("nbdinfo", &["--list", "--json", server.uri()]);
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let exports = list["exports"].as_array().expect("a list");
    assert_eq!(exports.len(), 1, "{text}");
    assert_eq!(exports[0]["export-name"], "büro disk");
    assert_eq!(exports[0]["export-size"], 8 * MIB);

    let named = |name: &str| server.uri().replace("///?", &format!("///{name}?"));
    assert_eq!(ok("nbdinfo", &["--size", &named("b%C3%BCro%20disk")]).trim(), "8388608");
    let refusal = common::fails("nbdinfo", &["--size", &named("other")]);
    assert!(!refusal.is_empty());
    server.stop();
}

#[test]
fn a_read_only_export_says_so() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let disk = Disk::file(8 * MIB);
    let server = Serve::new(&disk.spec).args(&["--read-only"]).start();
    ok("nbdinfo", &["--is", "read-only", server.uri()]);
    assert_eq!(json(server.uri())["exports"][0]["is_read_only"], true);
    assert_eq!(common::run("nbdinfo", &["--can", "write", server.uri()]).status.code(), Some(2), "2 is nbdinfo's no");
    server.stop();
}

#[test]
fn the_map_is_the_files_own() {
    if !have(&["nbdinfo", "qemu-io"]) {
        return;
    }
    for disk in [Disk::pmem_shm(64 * MIB), Disk::pmem_disk(64 * MIB), Disk::file(64 * MIB)] {
        let path = disk.file.as_ref().expect("a disk in a file");
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("open the image");
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(1 << 20, 1), 0).expect("write");
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(64 << 10, 2), 32 * MIB).expect("write");
        file.sync_all().expect("sync");
        drop(file);

        let server = Server::start(&disk.spec);
        let (data, hole) = (false, true);
        let patch = 64 * KIB;
        let before = [
            (0, MIB, data),
            (MIB, 31 * MIB, hole),
            (32 * MIB, patch, data),
            (32 * MIB + patch, 32 * MIB - patch, hole),
        ];
        assert_eq!(map(server.uri()), before, "{}", disk.name);

        // What one client changes, the next one sees: the cached extents follow our own writes and discards.
        ok("qemu-io", &["-f", "raw", server.uri(), "-c", "write -P 1 48M 64k", "-c", "discard 0 1M", "-c", "flush"]);
        let after = [
            (0, 32 * MIB, hole),
            (32 * MIB, patch, data),
            (32 * MIB + patch, 16 * MIB - patch, hole),
            (48 * MIB, patch, data),
            (48 * MIB + patch, 16 * MIB - patch, hole),
        ];
        assert_eq!(map(server.uri()), after, "{}", disk.name);
        server.stop();
    }
}

#[test]
fn an_empty_disk_is_one_hole_and_mapping_it_allocates_nothing() {
    if !have(&["nbdinfo", "nbdcopy"]) {
        return;
    }
    for disk in [Disk::pmem_shm(256 * MIB), Disk::pmem_disk(256 * MIB), Disk::file(256 * MIB)] {
        let path = disk.file.as_ref().expect("a disk in a file");
        let blocks = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).expect("stat"));
        let before = blocks();
        let server = Server::start(&disk.spec);
        assert_eq!(map(server.uri()), [(0, 256 * MIB, true)], "{}", disk.name);
        ok("nbdcopy", &["--allocated", server.uri(), "null:"]);
        assert_eq!(blocks(), before, "{}: a full read allocated blocks", disk.name);
        server.stop();
    }
}

#[test]
fn a_null_disk_reads_as_zeroes_and_takes_everything() {
    if !have(&["nbdinfo", "qemu-io"]) {
        return;
    }
    let server = Server::start("null:1T");
    assert_eq!(json(server.uri())["exports"][0]["export-size"], 1u64 << 40);
    ok(
        "qemu-io",
        &["-f", "raw", server.uri(), "-c", "write -P 9 1023G 64k", "-c", "read -P 0 1023G 64k", "-c", "flush"],
    );
    server.stop();
}
