// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BTT on a whole nvdimm namespace: its parent is the namespace, and one that names another is nobody's here.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "sizes in these tests are small")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use pageless_drivers::btt::check::medium::Medium;
use pageless_drivers::btt::check::{CheckOptions, Finding, Problem, check};
use pageless_drivers::btt::info::{InfoError, Uuid};
use pageless_drivers::btt::layout::{LbaSize, Placement};
use pageless_drivers::btt::{BttDisk, BttError, CreateOptions, OpenOptions};
use pageless_mem::{Backing, Memory, Region};

use btt_rig::Heard;

mod btt_rig;

const LEN: u64 = (16 << 20) + 4096;
const OURS: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
const OTHER: Uuid = Uuid([0xab; 16]);

/// A sysfs with one namespace, the block device 259:0.
struct Sysfs(PathBuf);

impl Sysfs {
    fn new(name: &str) -> Sysfs {
        let sys = Sysfs(std::env::temp_dir().join(format!("pageless-namespace-{}-{name}", std::process::id())));
        let namespace = sys.0.join("devices/ndbus0/region0/namespace0.0");
        fs::create_dir_all(namespace.join("block/pmem0")).unwrap();
        fs::write(namespace.join("uuid"), format!("{}\n", Uuid(OURS.to_be_bytes()))).unwrap();
        fs::create_dir_all(sys.0.join("dev/block")).unwrap();
        symlink(namespace.join("block/pmem0"), sys.0.join("dev/block/259:0")).unwrap();
        sys
    }

    /// The namespace.
    fn region(&self, memory: &Memory) -> Region {
        memory.register(Backing::memfd(LEN).unwrap().as_block(&self.0, 259 << 8)).unwrap()
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(parent_uuid: Uuid) -> CreateOptions {
    let options = CreateOptions::new(LbaSize::new(4096).unwrap(), Placement::V1_1, Uuid([7; 16]));
    CreateOptions { parent_uuid, ..options }
}

/// The bytes of a BTT with this parent, made where there is no namespace.
fn image(memory: &Memory, parent_uuid: Uuid) -> Vec<u8> {
    let region = memory.register(Backing::anon(LEN).unwrap()).unwrap();
    BttDisk::create(memory, &region, &options(parent_uuid)).unwrap();
    bytes(memory, &region)
}

fn bytes(memory: &Memory, region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(LEN).unwrap()];
    Medium::new(memory, region.clone()).read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn btt_that_is_made_on_a_namespace_has_it_for_its_parent() {
    let (sys, memory) = (Sysfs::new("made"), Memory::new().unwrap());
    let region = sys.region(&memory);
    let refused = BttDisk::create(&memory, &region, &options(OTHER)).unwrap_err();
    assert!(matches!(refused, BttError::OtherParent { asked: OTHER, .. }), "{refused}");
    assert!(
        refused.to_string().contains("abababab-abab-") && refused.to_string().contains("00112233-4455-"),
        "{refused}"
    );
    assert!(bytes(&memory, &region).iter().all(|byte| *byte == 0), "nothing was changed");
    for asked in [Uuid::NIL, Uuid(OURS.to_be_bytes())] {
        BttDisk::create(&memory, &region, &options(asked)).unwrap();
        let disk = BttDisk::open(&memory, &region, "btt", &OpenOptions::default()).unwrap();
        assert_eq!(disk.identity().parent_uuid, Uuid(OURS.to_be_bytes()));
    }
}

#[test]
fn btt_of_another_namespace_is_refused_and_left_as_it_is() {
    let (sys, memory) = (Sysfs::new("other"), Memory::new().unwrap());
    let region = sys.region(&memory);
    let mut medium = Medium::new(&memory, region.clone());
    let image = image(&memory, OTHER);
    medium.put(0, &image).unwrap();
    let refused = BttDisk::open(&memory, &region, "btt", &OpenOptions::default()).unwrap_err();
    let says = "parent_uuid abababab-abab-abab-abab-abababababab: this is 00112233-4455-6677-8899-aabbccddeeff";
    assert!(refused.to_string().contains(says), "{refused}");
    let mut heard = Heard::default();
    let report = check(&mut medium, CheckOptions::default(), &mut heard).unwrap();
    assert!(
        matches!(heard.0[..], [Finding { problem: Problem::ArenaLost(InfoError::Parent { .. }, _), .. }]),
        "{:?}",
        heard.0
    );
    assert!(report.changes.is_empty(), "nobody else's name is changed");
    assert!(bytes(&memory, &region) == image);
    // Who knows better says so.
    let known = OpenOptions { parent_uuid: Some(OTHER), ..OpenOptions::default() };
    assert_eq!(BttDisk::open(&memory, &region, "btt", &known).unwrap().identity().parent_uuid, OTHER);
}

#[test]
fn btt_without_a_parent_and_the_same_bytes_elsewhere_are_anybodys() {
    let (sys, memory) = (Sysfs::new("nobodys"), Memory::new().unwrap());
    let region = sys.region(&memory);
    Medium::new(&memory, region.clone()).put(0, &image(&memory, Uuid::NIL)).unwrap();
    BttDisk::open(&memory, &region, "btt", &OpenOptions::default()).unwrap();
    let elsewhere = memory.register(Backing::anon(LEN).unwrap()).unwrap();
    Medium::new(&memory, elsewhere.clone()).put(0, &image(&memory, OTHER)).unwrap();
    BttDisk::open(&memory, &elsewhere, "btt", &OpenOptions::default()).unwrap();
}
