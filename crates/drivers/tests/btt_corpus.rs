// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seeds of the fuzz targets of BTTs, replayed: each image is judged as its name says, and repaired as far as that goes.

#![expect(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "as in the fuzz targets")]

#[path = "../../../fuzz/src/hostile_btt.rs"]
mod hostile_btt;

use std::path::{Path, PathBuf};

use hostile_btt::{Checked, Images};

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

/// A seed's name begins with the worst that is found.
#[test]
fn btt_seeds_are_judged_as_their_names_say() {
    let mut images = Images::new();
    for target in ["btt_check", "btt_open", "btt_repair"] {
        for (path, input) in seeds(target) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            images.with(&input, |image| {
                let expected = match image.check() {
                    None => "none",
                    Some(Checked { report }) if report.counts.damage > 0 => "damage",
                    Some(Checked { report }) if report.counts.repairable > 0 => "repairable",
                    Some(Checked { report }) if report.counts.unfinished > 0 => "unfinished",
                    Some(_) => "clean",
                };
                assert_eq!(name.split('-').next(), Some(expected), "{name}");
            });
        }
    }
}

#[test]
fn btt_seeds_are_repaired_and_used_as_far_as_that_goes() {
    let mut images = Images::new();
    for (_, input) in seeds("btt_repair") {
        images.with(&input, hostile_btt::Image::check_and_repair);
    }
    for (_, input) in seeds("btt_open") {
        images.with(&input, hostile_btt::Image::open_and_use);
    }
    // What was tried was taken back.
    for which in 0..4 {
        images.with(&[which], |image| {
            let counts = image.check().unwrap().report.counts;
            assert!(counts.consistent() && counts.unfinished == 0);
        });
    }
}
