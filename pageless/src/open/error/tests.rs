// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;

/// Each row: a problem and the message a user reads, argument, cause and remedy.
#[test]
fn messages_name_the_argument_the_cause_and_a_remedy() {
    let file = || PathBuf::from("/d d/x.img");
    let refused = |doing, errno| Problem::Refused { doing, path: file(), errno };
    let bar = |errno| Problem::BarRefused { path: "/sys/x/resource0".into(), errno };
    let devmem = |errno| Problem::DevMem { address: 0x3c00_0000, size: 16 << 20, errno };
    let vfio = |group: Option<u32>, errno| Problem::Vfio {
        function: "0000:01:00.0".into(),
        group,
        source: pageless_sys::Error::Call { call: "open(/dev/vfio/GROUP)", errno },
    };
    let other_size = |have, asked| Problem::OtherSize { path: file(), have, asked };
    for (argument, problem, message, remedy) in [
        (
            "bar:0000:01:00.0/2",
            Problem::NotFound { path: "/sys/x/resource2".into(), errno: Errno::ENOENT },
            "there is no /sys/x/resource2: ENOENT (2, No such file or directory)",
            "`lspci -D` lists the functions",
        ),
        (
            "dax:/dev/dax0.0",
            Problem::NotFound { path: "/dev/dax0.0".into(), errno: Errno::ENOENT },
            "there is no /dev/dax0.0: ENOENT",
            "`daxctl list`",
        ),
        (
            "file:/no/such dir/x",
            Problem::NotFound { path: "/no/such dir/x".into(), errno: Errno::ENOENT },
            "there is no /no/such dir/x: ENOENT",
            "mkdir -p '/no/such dir'",
        ),
        (
            "pmem:x",
            Problem::NotFound { path: "x".into(), errno: Errno::ENOENT },
            "there is no x: ENOENT (2, ",
            "have it made: pmem:x,size=1G",
        ),
        ("file:x", refused("open", Errno::EACCES), "cannot open /d d/x.img: EACCES (13, ", "`ls -l '/d d/x.img'`"),
        ("file:x", refused("make", Errno::EACCES), "cannot make /d d/x.img: EACCES (13, ", "`ls -ld '/d d'`"),
        ("file:x", refused("make", Errno::EROFS), "cannot make /d d/x.img: EROFS (30, ", "--read-only"),
        ("file:x", refused("open", Errno::EBUSY), "cannot open /d d/x.img: EBUSY (16, ", "fuser -v '/d d/x.img'"),
        ("file:x", refused("make", Errno::EFBIG), "cannot make /d d/x.img: EFBIG (27, ", "a smaller size="),
        (
            "file:x",
            Problem::NotAFile { path: file() },
            "/d d/x.img is neither a file nor a block device",
            "name a regular",
        ),
        (
            "file:x",
            Problem::NotMultiple { path: file(), size: 1000, unit: 512 },
            "the size of /d d/x.img, 1000, is no multiple of 512",
            "truncate -s %512 '/d d/x.img'",
        ),
        (
            "pmem:x",
            Problem::PartMade { path: file(), size: 1536, unit: 4096 },
            "/d d/x.img cannot be made of 1536 bytes, no multiple of 4096",
            "size=4096; or keep the size, in a file that is not mapped: file:/d d/x.img",
        ),
        (
            "file:x,size=512",
            Problem::PartMade { path: file(), size: 512, unit: 4096 },
            "/d d/x.img cannot be made of 512 bytes, no multiple of 4096",
            "have it made larger: size=4096",
        ),
        (
            "pmem:x,size=8M",
            other_size(4 << 20, 8 << 20),
            "is 4194304 bytes (4M), smaller than the 8388608 bytes (8M) asked for",
            "truncate -s 8388608 '/d d/x.img'",
        ),
        (
            "pmem:x,size=4K",
            other_size(5000, 4096),
            "is 5000 bytes, larger than the 4096 bytes (4K) asked for",
            "leave size= out",
        ),
        ("file:x", Problem::Empty { path: file() }, "/d d/x.img is empty", "truncate -s 1G '/d d/x.img'"),
        (
            "pmem:x,size=1G",
            Problem::NoSpace { path: file(), asked: 1 << 30, errno: Errno::ENOSPC, free: Some(1 << 20) },
            "no room to make /d d/x.img of 1073741824 bytes (1G): ENOSPC (28, No space left on device), 1 MiB are free",
            "df -h '/d d'",
        ),
        (
            "pmem:x,size=1G",
            Problem::NoSpace { path: "x".into(), asked: 1 << 30, errno: Errno::EDQUOT, free: None },
            "EDQUOT (122, Disk quota exceeded)",
            "df -h .",
        ),
        (
            "file:x",
            Problem::Locked { path: file(), pid: Some(42), program: Some("qemu-nbd".into()) },
            "/d d/x.img is in use by process 42 (qemu-nbd)",
            "kill 42",
        ),
        (
            "file:x",
            Problem::Locked { path: file(), pid: None, program: None },
            "in use by a process that is not ours to see",
            "sudo fuser -v",
        ),
        (
            "hugetlb:64M",
            Problem::NoHugePages { need: 32, free: 3, reserved: 10, errno: Errno::ENOMEM },
            "needs 32 huge pages of 2 MiB, 3 are free: ENOMEM (12, Cannot allocate memory)",
            "echo 39 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        ),
        (
            "ram:1T",
            Problem::NoMemory { asked: 1 << 40, errno: Errno::ENOMEM },
            "no memory of 1099511627776 bytes (1T): ENOMEM (12, ",
            "a smaller size",
        ),
        (
            "pmem:/dev/vda",
            Problem::NotMappable { path: "/dev/vda".into() },
            "/dev/vda is no regular file",
            "file:/dev/vda",
        ),
        (
            "bar:x",
            Problem::PartFrame { path: "/sys/x/resource0".into(), size: 256 },
            "/sys/x/resource0 has 256 bytes, no multiple of 4096",
            "whole 4 KiB frames",
        ),
        (
            "secret:64M",
            Problem::LockedMemory { need: 64 << 20, limit: 8 << 20, errno: Errno::EAGAIN },
            "RLIMIT_MEMLOCK is 8192 KiB, 65536 KiB needed: EAGAIN (11, ",
            "ulimit -l 65536",
        ),
        (
            "secret:4M",
            Problem::NoFeature { what: "memfd_secret(2)", from: "Linux 5.14", errno: Errno::ENOSYS },
            "this kernel has no memfd_secret(2): ENOSYS (38, Function not implemented)",
            "needs Linux 5.14",
        ),
        (
            "bar:x",
            vfio(Some(7), Errno::EBUSY),
            "0000:01:00.0 is bound to VFIO and cannot be had from it (IOMMU group 7): open(/dev/vfio/GROUP): EBUSY (16, ",
            "fuser -v /dev/vfio/7",
        ),
        ("bar:x", vfio(Some(7), Errno::EPERM), "EPERM (1, ", "/sys/kernel/iommu_groups/7/devices"),
        ("bar:x", vfio(Some(7), Errno::ENOENT), "ENOENT (2, ", "modprobe -a vfio-pci"),
        ("bar:x", vfio(None, Errno::ENOENT), "it is in no IOMMU group", "intel_iommu=on"),
        (
            "devmem:x",
            devmem(Errno::EPERM),
            "cannot map 16777216 bytes (16M) at physical address 0x3c000000: EPERM (1, ",
            "memmap=16M$0x3c000000",
        ),
        ("devmem:x", devmem(Errno::EACCES), "EACCES (13, ", "root"),
        ("devmem:x", devmem(Errno::ENOENT), "ENOENT (2, ", "CONFIG_DEVMEM"),
        (
            "heap:4K",
            Problem::NoHeap { name: "system".into(), errno: Errno::ENOENT },
            "there is no dma-buf heap `system`: ENOENT (2, ",
            "ls /dev/dma_heap",
        ),
        ("bar:x", bar(Errno::EPERM), "cannot map /sys/x/resource0: EPERM (1, ", "CONFIG_IO_STRICT_DEVMEM"),
        ("bar:x", bar(Errno::EINVAL), "cannot map /sys/x/resource0: EINVAL (22, ", "not I/O ports"),
        ("bar:x", bar(Errno::EIO), "cannot map /sys/x/resource0: EIO (5, ", "/enable"),
    ] {
        let shown = OpenError { argument: argument.into(), read_only: false, problem }.to_string();
        let (first, second) = shown.split_once("\n  help: ").unwrap_or_else(|| panic!("no remedy: {shown}"));
        assert!(first.starts_with(&format!("{argument}: ")) && first.contains(message), "{shown}");
        assert!(second.contains(remedy), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
    }
}

#[test]
fn what_is_only_read_is_not_proposed_to_be_made() {
    let problem = Problem::NotFound { path: "/no/such/x".into(), errno: Errno::ENOENT };
    let shown = OpenError { argument: "file:/no/such/x".into(), read_only: true, problem }.to_string();
    assert!(shown.contains("check the name") && !shown.contains("mkdir") && !shown.contains("size="), "{shown}");
}

#[test]
fn words_are_quoted_for_a_shell() {
    assert_eq!(quoted("/a/b-c_d.img"), "/a/b-c_d.img");
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted(""), "''");
}
