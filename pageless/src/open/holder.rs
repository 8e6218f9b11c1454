// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who has a block device that the kernel says is busy: a mount, or a device that is made of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::error::quoted;

/// What has it, and how to get it back; nothing where that cannot be seen, as of another mount namespace.
pub(super) fn of(device: &Path) -> Option<String> {
    let there = fs::metadata(device).ok().filter(|there| there.file_type().is_block_device())?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found(Path::new("/sys"), &mounts, &numbers(there.rdev()))
}

/// The disk that the kernel's BTT driver makes of a namespace whose own block device is gone meanwhile.
pub(super) fn btt_of(missing: &Path) -> Option<PathBuf> {
    let disk = PathBuf::from(format!("{}s", missing.display()));
    let there = fs::metadata(&disk).ok().filter(|there| there.file_type().is_block_device())?;
    let folder = fs::canonicalize(Path::new("/sys/dev/block").join(numbers(there.rdev()))).ok()?;
    let is_btt = |part: &std::ffi::OsStr| part.to_str().is_some_and(|name| name.starts_with("btt"));
    folder.iter().any(is_btt).then_some(disk)
}

/// Major and minor, as the kernel writes them in `/proc` and `/sys`.
fn numbers(device: u64) -> String {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
    format!("{major}:{minor}")
}

fn found(sys: &Path, mounts: &str, device: &str) -> Option<String> {
    let folder = sys.join("dev/block").join(device);
    // A partition in use keeps the disk busy.
    let partitions = entries(&folder).into_iter().filter(|entry| entry.join("partition").exists());
    let of_partitions =
        partitions.filter_map(|part| Some(fs::read_to_string(part.join("dev")).ok()?.trim().to_owned()));
    let devices: Vec<String> = [device.to_owned()].into_iter().chain(of_partitions).collect();
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        let (number, point) = (words.next()?, words.nth(1)?);
        devices.iter().any(|device| device == number).then(|| plain(point))
    });
    if let Some(point) = mounted {
        return Some(format!("it is mounted at {point}: umount {}", quoted(&point)));
    }
    let holders = devices.iter().flat_map(|device| entries(&sys.join("dev/block").join(device).join("holders")));
    let names: Vec<String> =
        holders.filter_map(|holder| Some(holder.file_name()?.to_string_lossy().into_owned())).collect();
    let all = names.join(", ");
    let verb = if names.len() == 1 { "is" } else { "are" };
    (!names.is_empty()).then(|| format!("{all} {verb} made of it: `lsblk` shows who has that"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A mount point without the escapes of `/proc`: `\040` is a space.
fn plain(escaped: &str) -> String {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_or_a_device_above_is_named() {
        let sys = std::env::temp_dir().join(format!("pageless-holder-{}", std::process::id()));
        for folder in ["259:0/pmem0p1", "259:2/holders/dm-0", "259:2/holders/dm-3", "259:3/holders"] {
            fs::create_dir_all(sys.join("dev/block").join(folder)).unwrap();
        }
        fs::write(sys.join("dev/block/259:0/pmem0p1/partition"), "1\n").unwrap();
        fs::write(sys.join("dev/block/259:0/pmem0p1/dev"), "259:1\n").unwrap();
        let mounts = "25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
             26 25 259:1 / /mnt/a\\040b rw - ext4 /dev/pmem0p1 rw\n27 25 259:4 / /mnt/pm rw - xfs /dev/pmem4 rw\n";
        let says = |device| found(&sys, mounts, device);
        assert_eq!(says("259:4").unwrap(), "it is mounted at /mnt/pm: umount /mnt/pm");
        assert_eq!(says("259:1").unwrap(), "it is mounted at /mnt/a b: umount '/mnt/a b'");
        assert_eq!(says("259:0"), says("259:1"), "by one of its partitions");
        let held = says("259:2").unwrap();
        assert!(held.contains("dm-0") && held.contains("dm-3") && held.contains("are made of it"), "{held}");
        assert_eq!((says("259:3"), says("8:0")), (None, None));
        fs::remove_dir_all(sys).unwrap();
        assert_eq!((numbers(0x10303), numbers(8 << 8 | 17)), ("259:3".into(), "8:17".into()));
    }

    #[test]
    fn what_is_no_block_device_has_no_holder() {
        assert_eq!(
            (of(Path::new("/dev/null")), of(Path::new("/no/such")), btt_of(Path::new("/dev/nul"))),
            (None, None, None)
        );
    }
}
