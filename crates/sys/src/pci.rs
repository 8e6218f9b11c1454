// SPDX-License-Identifier: MIT OR Apache-2.0
//! A PCI function as sysfs shows it: who drives it, and whether it is still there.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::Named;
use crate::{Errno, Error};

/// What a configuration read answers when no device answers it.
const ALL_ONES: u32 = u32::MAX;

/// The configuration space of a function, kept open: after the function went away it fails, or reads as ones, even when
/// another function has come to the same address.
#[derive(Debug)]
pub struct Config {
    file: fs::File,
    /// Vendor and device, the first four bytes.
    id: u32,
}

impl Config {
    /// Opens the `config` file in the function's sysfs folder and notes which function it is.
    pub fn open(function: &Path) -> Result<Config, Error> {
        let file = fs::File::open(function.join("config")).named("open(config)")?;
        match read_id(&file)? {
            ALL_ONES => Err(Error::Call { call: "pread(config)", errno: Errno::ENODEV }),
            id => Ok(Config { file, id }),
        }
    }

    /// Vendor and device number.
    pub fn id(&self) -> (u16, u16) {
        let [a, b, c, d] = self.id.to_le_bytes();
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }

    /// Whether the same function still answers.
    pub fn present(&self) -> bool {
        read_id(&self.file) == Ok(self.id)
    }
}

fn read_id(config: &fs::File) -> Result<u32, Error> {
    let mut id = [0; 4];
    config.read_exact_at(&mut id, 0).named("pread(config)")?;
    Ok(u32::from_le_bytes(id))
}

/// The driver that holds the function, if one does.
pub fn driver(function: &Path) -> Option<String> {
    name_behind(&function.join("driver"))
}

/// The IOMMU group of the function, if the machine has an IOMMU that is on.
pub fn iommu_group(function: &Path) -> Option<u32> {
    name_behind(&function.join("iommu_group"))?.parse().ok()
}

fn name_behind(link: &Path) -> Option<String> {
    let target: PathBuf = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}
