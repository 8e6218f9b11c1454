// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Medium`]: the device under a mapping, as sysfs shows it.
//!
//! A file on a DAX file system has the block device of its file system under it, a devdax mapping the character device
//! that was mapped. Both are found by their device number, and lead up their own path in sysfs to the nvdimm region that they are cut
//! from; a device-mapper device leads to what it is made of. Another region of the machine says nothing about this one.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use pageless_sys::Errno;

use crate::persist::PersistenceDomain;

/// Device-mapper devices that stand on each other, at most.
const MAX_STACK: u32 = 8;

/// Where sysfs is mounted.
pub(crate) const SYS: &str = "/sys";

/// Bytes of a sector, wherever the kernel counts in sectors.
const SECTOR: u64 = 512;

/// Bytes of a list in sysfs, at most: it ends there, inside a line or not.
const LIST: usize = 4096;

/// The device under a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Medium {
    /// Its folder in sysfs: of the whole disk, for a partition.
    folder: PathBuf,
    /// Where on that device byte 0 of what was found begins: a partition's start.
    start: u64,
    /// The nvdimm regions that it lies in.
    regions: Vec<PathBuf>,
    /// Whether offsets on what was found are offsets on the device: not so for a device-mapper device.
    translated: bool,
}

/// Major and minor, as they are in a path of sysfs.
fn numbers(device: u64) -> (u64, u64) {
    (((device >> 8) & 0xfff) | ((device >> 32) & !0xfff), (device & 0xff) | ((device >> 12) & 0xffff_ff00))
}

impl Medium {
    /// The block device of that number. `sys` is where sysfs is mounted.
    pub(crate) fn of_block(sys: &Path, device: u64) -> Option<Medium> {
        let (major, minor) = numbers(device);
        let found = fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}"))).ok()?;
        let is_part = found.join("partition").exists();
        let folder = if is_part { found.parent()?.to_owned() } else { found.clone() };
        let start = if is_part { number(&found.join("start")).unwrap_or(0).saturating_mul(SECTOR) } else { 0 };
        let mut regions = Vec::new();
        let stacked = below(&folder, MAX_STACK, &mut regions);
        Some(Medium { folder, start, regions, translated: !stacked })
    }

    /// The devdax character device of that number.
    #[cfg(feature = "pmem-io")]
    pub(crate) fn of_char(sys: &Path, device: u64) -> Option<Medium> {
        let (major, minor) = numbers(device);
        let folder = fs::canonicalize(sys.join(format!("dev/char/{major}:{minor}"))).ok()?;
        let regions = region_above(&folder).into_iter().collect();
        Some(Medium { folder, start: 0, regions, translated: true })
    }

    /// What the platform brings to the medium when the power goes: the least of what its regions say.
    pub(crate) fn persistence_domain(&self) -> PersistenceDomain {
        let host = |region: &PathBuf| text(&region.join("../provider")).as_deref() == Some("virtio-pmem");
        let said = |region: &PathBuf| match text(&region.join("persistence_domain")).as_deref() {
            _ if host(region) => PersistenceDomain::HostFlushed,
            Some("cpu_cache") => PersistenceDomain::CpuCache,
            Some("memory_controller") => PersistenceDomain::MemoryController,
            _ => PersistenceDomain::Unknown,
        };
        let domain = self.regions.iter().map(said).min().unwrap_or(PersistenceDomain::NoRegion);
        // "1" where the kernel itself writes lines back: whoever switched that on does not trust what the platform says.
        let overruled = text(&self.folder.join("dax/write_cache")).as_deref() == Some("1");
        if domain == PersistenceDomain::CpuCache && overruled { PersistenceDomain::CachesOverruled } else { domain }
    }

    /// Has each region flush what the platform would bring to the medium when the power goes. How many had something to.
    pub(crate) fn deep_flush(&self) -> Result<u32, (PathBuf, Errno)> {
        let mut flushed = 0;
        for region in &self.regions {
            let trigger = region.join("deep_flush");
            // There only where the kernel knows flush addresses, and "0" where it knows that none are needed.
            if text(&trigger).as_deref() != Some("1") {
                continue;
            }
            let write = || fs::OpenOptions::new().write(true).open(&trigger)?.write_all(b"1");
            write().map_err(|error| (trigger.clone(), Errno::from_io(&error)))?;
            flushed += 1;
        }
        Ok(flushed)
    }

    /// Bytes `(offset, len)` of what was found that the kernel knows to be bad, at most `most` runs; whether there are more.
    ///
    /// # Errors
    /// Where it has a list that cannot be read now.
    pub(crate) fn bad_bytes(&self, most: usize) -> Result<(Vec<(u64, u64)>, bool), Errno> {
        let own = list(&self.folder)?.map(|list| (list, self.start));
        let of_regions = self.regions.iter().filter_map(|region| self.of_region(region).transpose());
        let (mut found, mut more) = (Vec::new(), false);
        for list in own.map(Ok).into_iter().chain(of_regions) {
            let (list, start) = list?;
            // The last line of a list that goes on may be a part of one.
            let whole =
                if list.len() + 1 < LIST { &list[..] } else { list.rsplit_once('\n').map_or("", |(whole, _)| whole) };
            more |= whole.len() < list.len();
            for line in whole.lines() {
                let mut words = line.split_whitespace().map(|word| word.parse::<u64>().ok());
                let (Some(Some(sector)), Some(Some(sectors))) = (words.next(), words.next()) else { continue };
                let (from, to) = (sector.saturating_mul(SECTOR), sector.saturating_add(sectors).saturating_mul(SECTOR));
                let (from, to) = (from.max(start) - start, to.max(start) - start);
                if from >= to {
                    continue;
                }
                if found.len() == most {
                    return Ok((found, true));
                }
                found.push((from, to - from));
            }
        }
        Ok((found, more))
    }

    /// A devdax device has no list of its own: that of its region, and where in the region the device begins.
    fn of_region(&self, region: &Path) -> Result<Option<(String, u64)>, Errno> {
        let start = hex(&self.folder.join("resource")).zip(hex(&region.join("resource")));
        let Some(start) = start.and_then(|(device, whole)| device.checked_sub(whole)) else { return Ok(None) };
        Ok(list(region)?.map(|list| (list, start)))
    }

    /// The UUID of the namespace that the whole device is, zeroes where that has none: not of one that it is a part of, or that it
    /// begins at some offset of.
    pub(crate) fn namespace_uuid(&self) -> Option<[u8; 16]> {
        let namespace = self.folder.ancestors().nth(2).filter(|folder| self.start == 0 && is_namespace(folder))?;
        // One without labels has the file, and answers ENXIO.
        let digits: String = text(&namespace.join("uuid")).unwrap_or_default().split('-').collect();
        let whole = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let uuid = u128::from_str_radix(&digits, 16).ok().filter(|_| whole);
        Some(uuid.unwrap_or(0).to_be_bytes())
    }

    /// Bytes that this takes beyond itself.
    pub(crate) fn metadata_bytes(&self) -> usize {
        let paths = self.regions.iter().chain([&self.folder]);
        paths.map(|path| size_of::<PathBuf>() + path.as_os_str().len()).sum()
    }

    /// Whether offsets on what was found mean the same on the device.
    pub(crate) fn translated(&self) -> bool {
        self.translated
    }
}

/// Adds the regions that a block device lies in, through the devices that it is made of; whether it is made of others.
fn below(folder: &Path, depth: u32, regions: &mut Vec<PathBuf>) -> bool {
    if let Some(region) = region_above(folder)
        && !regions.contains(&region)
    {
        regions.push(region);
    }
    let mut stacked = false;
    for part in fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten() {
        stacked = true;
        if depth > 0
            && let Ok(part) = fs::canonicalize(part.path())
        {
            below(&part, depth - 1, regions);
        }
    }
    stacked
}

/// Whether a folder is `namespaceX.Y`.
fn is_namespace(folder: &Path) -> bool {
    folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("namespace"))
}

/// The folder `ndbusX/regionY` that a device's own folder lies in.
fn region_above(folder: &Path) -> Option<PathBuf> {
    let numbered = |path: &Path, prefix| {
        let name = path.file_name().and_then(|name| name.to_str())?;
        name.strip_prefix(prefix)?.parse::<u32>().ok()
    };
    folder
        .ancestors()
        .find(|path| {
            numbered(path, "region").is_some() && path.parent().is_some_and(|bus| numbered(bus, "ndbus").is_some())
        })
        .map(Path::to_owned)
}

/// The list of bad blocks of a device, where it has one.
fn list(folder: &Path) -> Result<Option<String>, Errno> {
    match fs::read_to_string(folder.join("badblocks")) {
        Ok(list) => Ok(Some(list)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
        Err(error) => Err(Errno::from_io(&error)),
    }
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

fn hex(path: &Path) -> Option<u64> {
    let text = text(path)?;
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(&text), 16).ok()
}

#[cfg(feature = "pmem-io")]
#[cfg(test)]
mod tests;
