// SPDX-License-Identifier: MIT OR Apache-2.0
use std::os::unix::fs::symlink;

use super::*;

/// A sysfs with two nvdimm regions of different persistence, a partitioned pmem disk in the first, devdax in the second,
/// and a device-mapper device over both disks.
struct Sysfs(PathBuf);

const BUS: &str = "devices/LNXSYSTM:00/ndbus0";
const PMEM0: &str = "region0/namespace0.0/block/pmem0";
const PMEM1: &str = "region1/pfn1.0/block/pmem1";

impl Sysfs {
    fn new(name: &str) -> Sysfs {
        let root = std::env::temp_dir().join(format!("pageless-sysfs-{}-{name}", std::process::id()));
        let sys = Sysfs(root);
        sys.file(&format!("{BUS}/region0/persistence_domain"), "memory_controller\n");
        sys.file(&format!("{BUS}/region1/persistence_domain"), "cpu_cache\n");
        for (region, resource) in [("region0", "0x100000000\n"), ("region1", "0x200000000\n")] {
            sys.file(&format!("{BUS}/{region}/resource"), resource);
        }
        sys.file(&format!("{BUS}/{PMEM0}/badblocks"), "");
        sys.file(&format!("{BUS}/{PMEM0}/pmem0p1/partition"), "1\n");
        sys.file(&format!("{BUS}/{PMEM0}/pmem0p1/start"), "2048\n");
        sys.file(&format!("{BUS}/{PMEM1}/badblocks"), "8 16\n");
        sys.file(&format!("{BUS}/{PMEM1}/dax/write_cache"), "0\n");
        sys.file(&format!("{BUS}/region1/dax1.0/dax1.0/resource"), "0x200200000\n");
        sys.file("devices/virtual/block/dm-0/slaves/.keep", "");
        sys.file("devices/pci/nvme0n1/size", "1\n");
        for (number, target) in [
            ("block/259:0", format!("{BUS}/{PMEM0}")),
            ("block/259:1", format!("{BUS}/{PMEM0}/pmem0p1")),
            ("block/259:2", format!("{BUS}/{PMEM1}")),
            ("block/253:0", "devices/virtual/block/dm-0".into()),
            ("block/259:9", "devices/pci/nvme0n1".into()),
            ("char/252:0", format!("{BUS}/region1/dax1.0/dax1.0")),
        ] {
            let link = sys.0.join("dev").join(number);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(sys.0.join(target), link).unwrap();
        }
        fs::remove_file(sys.0.join("devices/virtual/block/dm-0/slaves/.keep")).unwrap();
        for disk in [PMEM0, PMEM1] {
            let disk = sys.0.join(BUS).join(disk);
            symlink(&disk, sys.0.join("devices/virtual/block/dm-0/slaves").join(disk.file_name().unwrap())).unwrap();
        }
        sys
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn block(&self, minor: u64) -> Medium {
        Medium::of_block(&self.0, 259 << 8 | minor).unwrap()
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_device_leads_to_its_own_region_and_to_no_other() {
    let sys = Sysfs::new("domain");
    assert_eq!(sys.block(0).persistence_domain(), PersistenceDomain::MemoryController);
    assert_eq!(sys.block(1).persistence_domain(), PersistenceDomain::MemoryController, "a partition is its disk");
    assert_eq!(sys.block(2).persistence_domain(), PersistenceDomain::CpuCache);
    let dax = Medium::of_char(&sys.0, 252 << 8).unwrap();
    assert_eq!(dax.persistence_domain(), PersistenceDomain::CpuCache);
    let mapped = Medium::of_block(&sys.0, 253 << 8).unwrap();
    assert_eq!(mapped.persistence_domain(), PersistenceDomain::MemoryController, "the weaker of its parts");
    assert_eq!(sys.block(9).persistence_domain(), PersistenceDomain::NoRegion);
    assert_eq!(Medium::of_block(&sys.0, 8 << 8), None);

    sys.file(&format!("{BUS}/{PMEM1}/dax/write_cache"), "1\n");
    assert_eq!(sys.block(2).persistence_domain(), PersistenceDomain::CachesOverruled);
    sys.file(&format!("{BUS}/region1/persistence_domain"), "\n");
    assert_eq!(sys.block(2).persistence_domain(), PersistenceDomain::Unknown, "what is not said is not assumed");
    sys.file(&format!("{BUS}/provider"), "virtio-pmem\n");
    assert_eq!(sys.block(0).persistence_domain(), PersistenceDomain::HostFlushed, "whatever its region says");
    assert_eq!(PersistenceDomain::HostFlushed.durability(), crate::Durability::Volatile);
    for domain in [PersistenceDomain::CachesOverruled, PersistenceDomain::Unknown, PersistenceDomain::NoRegion] {
        assert_eq!(domain.durability(), crate::Durability::Clwb);
    }
}

#[test]
fn a_whole_raw_namespace_has_a_uuid_and_nothing_that_lies_in_one() {
    let sys = Sysfs::new("uuid");
    assert_eq!(sys.block(0).namespace_uuid(), Some([0; 16]), "it has no labels");
    let uuid = format!("{BUS}/region0/namespace0.0/uuid");
    for (text, known) in [
        ("00112233-4455-6677-8899-aabbccddeeff\n", 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128),
        ("00000000-0000-0000-0000-000000000000\n", 0),
        ("00112233-4455-6677-8899\n", 0),
        ("+0112233-4455-6677-8899-aabbccddeeff\n", 0),
        ("\n", 0),
    ] {
        sys.file(&uuid, text);
        assert_eq!(sys.block(0).namespace_uuid().map(u128::from_be_bytes), Some(known), "{text}");
    }
    sys.file(&uuid, "00112233-4455-6677-8899-aabbccddeeff\n");
    assert_eq!(sys.block(1).namespace_uuid(), None, "a partition");
    sys.file(&format!("{BUS}/region1/pfn1.0/uuid"), "10112233-4455-6677-8899-aabbccddeeff\n");
    assert_eq!(sys.block(2).namespace_uuid(), None, "fsdax begins behind its own metadata");
    assert_eq!(Medium::of_block(&sys.0, 253 << 8).unwrap().namespace_uuid(), None, "made of several");
    assert_eq!(sys.block(9).namespace_uuid(), None);
}

#[test]
fn bad_sectors_are_bytes_of_the_disk_the_partition_or_the_devdax_device() {
    let sys = Sysfs::new("bad");
    assert_eq!(sys.block(0).bad_bytes(9).unwrap(), (vec![], false));
    assert_eq!(sys.block(2).bad_bytes(9).unwrap(), (vec![(4096, 8192)], false));
    // The second run begins before the partition, the last lies before it.
    sys.file(&format!("{BUS}/{PMEM0}/badblocks"), "4096 1\n2040 16\n0 8\nnonsense\n18446744073709551615 9\n");
    assert_eq!(sys.block(1).bad_bytes(9).unwrap().0[..2], [(1 << 20, 512), (0, 4096)]);
    assert!(sys.block(0).bad_bytes(9).unwrap().0.starts_with(&[(2 << 20, 512), (2040 * 512, 8192), (0, 4096)]));
    assert_eq!(
        sys.block(0).bad_bytes(2).unwrap(),
        (vec![(2 << 20, 512), (2040 * 512, 8192)], true),
        "bounded, and says so"
    );
    // The device begins 2 MiB into its region.
    sys.file(&format!("{BUS}/region1/badblocks"), "0 8\n4096 8\n");
    let dax = Medium::of_char(&sys.0, 252 << 8).unwrap();
    assert_eq!(dax.bad_bytes(9).unwrap(), (vec![(0, 4096)], false));
    assert!(dax.translated() && sys.block(1).translated());
    assert!(
        !Medium::of_block(&sys.0, 253 << 8).unwrap().translated(),
        "extents of a device-mapper device lie elsewhere"
    );
}

#[test]
fn a_deep_flush_asks_the_regions_that_have_one() {
    let sys = Sysfs::new("deep");
    let mapped = Medium::of_block(&sys.0, 253 << 8).unwrap();
    assert_eq!(mapped.deep_flush(), Ok(0), "there is nothing to ask");
    let trigger = format!("{BUS}/region0/deep_flush");
    sys.file(&trigger, "0\n");
    assert_eq!(mapped.deep_flush(), Ok(0), "the kernel knows that none is needed");
    sys.file(&trigger, "1\n");
    assert_eq!(mapped.deep_flush(), Ok(1));
    assert_eq!(fs::read_to_string(sys.0.join(&trigger)).unwrap(), "1\n", "a plain file takes the byte in place");
}

/// A file of the kernel's that says 1 and that nobody may write, whoever asks.
const UNWRITABLE: &str = "/sys/class/net/lo/ifindex";

/// What writing it is refused with; nothing where there is none here.
fn refusal() -> Option<Errno> {
    if text(Path::new(UNWRITABLE)).as_deref() != Some("1") {
        eprintln!("skipped: this machine lacks {UNWRITABLE}");
        return None;
    }
    let refused = fs::OpenOptions::new().write(true).open(UNWRITABLE).expect_err("the kernel's own");
    Some(Errno::from_io(&refused))
}

#[test]
fn a_deep_flush_that_is_refused_names_the_trigger_and_is_no_success() {
    let Some(errno) = refusal() else { return };
    let sys = Sysfs::new("refused");
    let [first, second] = ["region0", "region1"].map(|region| format!("{BUS}/{region}/deep_flush"));
    let mapped = || Medium::of_block(&sys.0, 253 << 8).unwrap();
    // Of two regions the second fails after the first was flushed: that is no success of one.
    sys.file(&first, "1\n");
    symlink(UNWRITABLE, sys.0.join(&second)).unwrap();
    assert_eq!(mapped().deep_flush(), Err((sys.0.join(&second), errno)));
    fs::remove_file(sys.0.join(&first)).unwrap();
    assert_eq!(mapped().deep_flush(), Err((sys.0.join(&second), errno)));
    // One that cannot be asked at all says nothing of what it would need.
    fs::remove_file(sys.0.join(&second)).unwrap();
    fs::create_dir(sys.0.join(&second)).unwrap();
    assert_eq!(mapped().deep_flush(), Ok(0));
}

#[cfg(feature = "testing")]
#[test]
fn a_deep_flush_of_a_region_that_is_refused_is_an_error_with_its_errno() {
    use crate::persist::{DeepFlush, Mapped};
    use crate::{Backing, Error, FRAME_SIZE, Fault, Memory};

    let Some(errno) = refusal() else { return };
    let sys = Sysfs::new("region");
    let trigger = sys.0.join(format!("{BUS}/region0/deep_flush"));
    let memory = Memory::new().unwrap();
    let backing = Backing::memfd(FRAME_SIZE).unwrap().on_device(&sys.0, 259 << 8, Mapped::MapSync);
    let region = memory.register(backing).unwrap();
    let mut user = region.flusher();
    fs::write(&trigger, "1\n").unwrap();
    assert_eq!(region.deep_flush().unwrap(), DeepFlush::Flushed(1));
    fs::remove_file(&trigger).unwrap();
    symlink(UNWRITABLE, &trigger).unwrap();
    let refused = region.deep_flush().unwrap_err();
    assert_eq!(refused.errno(), Some(errno));
    assert!(matches!(&refused, Error::Path { path, .. } if *path == trigger), "{refused:?}");
    assert!(refused.to_string().contains("deep_flush"), "{refused}");
    // Who may not ask has lost nothing; anything else may have been the medium.
    let told = if errno == Errno::EACCES { Ok(()) } else { Err(Fault::Media) };
    assert_eq!((user.flush(), user.flush()), (told, Ok(())));
}
