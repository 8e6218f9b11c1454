// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files stand in for devices that this host may not have; the guest has the real ones.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::*;
use crate::{Access, Fault, Memory};

/// A folder that looks like a PCI function in sysfs.
struct FakeFunction(PathBuf);

impl FakeFunction {
    fn new(name: &str) -> FakeFunction {
        let folder = std::env::temp_dir().join(format!("pageless-pci-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let function = FakeFunction(folder);
        function.answer([0xf4, 0x1a, 0x10, 0x11]);
        std::fs::write(function.bar(), [7; 16384]).unwrap();
        function
    }

    fn answer(&self, id: [u8; 4]) {
        std::fs::write(self.0.join("config"), id).unwrap();
    }

    fn bar(&self) -> PathBuf {
        self.0.join("resource2")
    }
}

impl Drop for FakeFunction {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_moved_from_a_function_that_went_away_is_not_confirmed() {
    for (name, gone) in [("ones", [0xff; 4]), ("other", [0x86, 0x80, 0, 1])] {
        let function = FakeFunction::new(name);
        let memory = Memory::new().unwrap();
        let region = memory.register(Backing::bar(&function.bar()).unwrap()).unwrap();
        assert_eq!((region.kind(), region.len()), (MemKind::Bar, 16384));
        let range = region.range(4096, 8192).unwrap();
        let mut reader = memory.reader();
        let load = |reader: &mut crate::Reader| {
            let mut bytes = [0; 8192];
            let online = reader.online();
            let window = online.kmap(range, Access::Read)?;
            window.reader().read(&mut bytes).map_err(|error| error.fault)?;
            Ok::<_, Fault>(bytes)
        };
        assert_eq!(load(&mut reader), Ok([7; 8192]));
        assert_eq!(reader.confirm(), Ok(()));
        let pinned = reader.online().pin(&[range], Access::Read).unwrap();

        function.answer(gone);
        assert_eq!(load(&mut reader), Ok([7; 8192]), "the copy itself cannot tell");
        assert_eq!(reader.confirm(), Err(Fault::Gone));
        assert_eq!(reader.confirm(), Ok(()), "nothing was touched since");
        assert_eq!(pinned.release(), Err(Fault::Gone));
        // for good, also when something answers there again
        function.answer([0xf4, 0x1a, 0x10, 0x11]);
        assert_eq!(load(&mut reader), Err(Fault::Gone));
        assert_eq!(region.zero(0, 4096), Err(Fault::Gone));
        assert_eq!(region.in_flight(), 0);
    }
}

#[test]
fn a_function_that_does_not_answer_has_no_bar() {
    let function = FakeFunction::new("absent");
    function.answer([0xff; 4]);
    let refused = Backing::bar(&function.bar()).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::ENODEV), "{refused}");
}

#[test]
fn a_function_bound_to_vfio_is_asked_for_there() {
    let function = FakeFunction::new("vfio");
    std::os::unix::fs::symlink("../../drivers/vfio-pci", function.0.join("driver")).unwrap();
    let refused = Backing::bar(&function.bar()).unwrap_err();
    assert!(matches!(refused, Error::Vfio { group: None, .. }), "{refused}");
    std::os::unix::fs::symlink("../../kernel/iommu_groups/4000000", function.0.join("iommu_group")).unwrap();
    let refused = Backing::bar(&function.bar()).unwrap_err();
    assert!(matches!(refused, Error::Vfio { group: Some(4_000_000), .. }), "{refused}");
    assert_eq!(refused.errno(), Some(Errno::ENOENT), "{refused}");
    assert_eq!(bar_number(&function.bar()), Some(2));
    assert_eq!(bar_number(Path::new("/x/resource0_wc")), Some(0));
}

/// What is no dma-buf refuses the bracket, so that every window that should have one shows.
#[test]
fn every_window_on_a_dma_buf_is_bracketed() {
    let memory = Memory::new().unwrap();
    let file: OwnedFd = memfd::memfd(8192).unwrap();
    let region = memory.register(Backing::dma_buf("not one", file, 8192).unwrap()).unwrap();
    let range = region.range(100, 8).unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    for access in [Access::Read, Access::Write] {
        assert_eq!(online.kmap(range, access).err(), Some(Fault::Media));
        assert_eq!(online.pin(&[range], access).err(), Some(Fault::Media));
    }
    assert_eq!(online.short_pin(range), Ok(crate::Pinned::Unknown), "nothing of it is touched");
    drop(online);
    assert_eq!((reader.confirm(), region.in_flight()), (Ok(()), 0));
}

#[test]
fn physical_memory_is_named_in_frames() {
    for (phys, len, what) in [(0x800, 4096, "address"), (0x1000, 100, "size")] {
        let refused = Backing::devmem(phys, len).unwrap_err();
        assert!(matches!(refused, Error::Misaligned { what: named, .. } if named == what), "{refused}");
    }
    assert!(matches!(Backing::devmem(4096, 0), Err(Error::Empty)));
    let past = Backing::devmem(u64::MAX - 4095, 8192).unwrap_err();
    assert!(past.to_string().starts_with("/dev/mem: mmap: "), "{past}");
}
