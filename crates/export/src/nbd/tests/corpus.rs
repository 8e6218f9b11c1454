// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seeds of the fuzz targets, replayed: what a fuzzer starts from is understood as it was meant.

use std::path::{Path, PathBuf};

use super::super::handshake::{Handshake, Step};
use super::super::request::{Request, Rules};
use super::super::wire::{MAX_PAYLOAD, REQUEST_LEN, TransmissionFlags};
use super::super::{Export, Terms};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// A seed's name says how it ends: `go-…`, `close-…` or `wait-…`.
#[test]
fn handshake_seeds_end_as_their_names_say() {
    let memory = pageless_mem::Memory::new().unwrap();
    let device = super::client::ram(&memory, 1 << 20);
    let export = Export { name: "disk".into(), description: "a disk".into(), device, read_only: false };
    let terms: Terms = export.terms();
    for (path, bytes) in seeds("nbd_handshake") {
        let mut out = Vec::new();
        let mut handshake = Handshake::new([terms.clone()].into(), &mut out);
        handshake.push(&bytes);
        let end = loop {
            match handshake.step(&mut out) {
                Step::Again => {}
                step => break step,
            }
        };
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = match end {
            Step::Transmission(_) => "go-",
            Step::Close => "close-",
            _ => "wait-",
        };
        assert!(name.starts_with(expected), "{name}: {end:?}");
    }
}

/// A seed's name begins with the number it is answered with: `0-…` is good, `22-…` is `EINVAL`, `x-…` ends the session.
#[test]
fn request_seeds_are_judged_as_their_names_say() {
    let flags = TransmissionFlags::all() - TransmissionFlags::READ_ONLY;
    let rules =
        Rules { size: 1 << 30, flags, minimum: 512, maximum: MAX_PAYLOAD, structured: true, block_status: true };
    for (path, bytes) in seeds("nbd_request") {
        let header: &[u8; REQUEST_LEN] = bytes.first_chunk().unwrap();
        let verdict = match Request::parse(header).map(|request| request.check(&rules)) {
            Err(_) => "x".into(),
            Ok(Ok(_)) => "0".into(),
            Ok(Err(refusal)) => refusal.errno.number().to_string(),
        };
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name.split('-').next(), Some(&verdict[..]), "{name}");
    }
}
