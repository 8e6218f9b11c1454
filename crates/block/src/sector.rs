// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Sector`]: where on a device an I/O starts.

use std::fmt;

/// A device address in units of 512 bytes, whatever the device's block size is (as in Linux).
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sector(pub u64);

impl Sector {
    /// Bytes in a sector.
    pub const SIZE: u64 = 512;

    /// The sector that starts at this byte of the device, if one does.
    #[inline]
    pub const fn from_bytes(bytes: u64) -> Option<Sector> {
        if bytes.is_multiple_of(Self::SIZE) { Some(Sector(bytes / Self::SIZE)) } else { None }
    }

    /// The first byte of the sector. A sector past the last addressable byte gives `u64::MAX`,
    /// which lies outside every device.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(Self::SIZE)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_sectors_convert() {
        assert_eq!(Sector::from_bytes(1024), Some(Sector(2)));
        assert_eq!(Sector::from_bytes(1025), None);
        assert_eq!(Sector(3).bytes(), 1536);
    }

    #[test]
    fn an_unaddressable_sector_is_outside_every_device() {
        assert_eq!(Sector(u64::MAX).bytes(), u64::MAX);
        assert_eq!(Sector(u64::MAX / 512 + 1).bytes(), u64::MAX);
    }
}
