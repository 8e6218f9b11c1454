// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BAR of a PCI function, as `lspci -D` writes the function.

use std::fmt;
use std::path::PathBuf;

/// `DDDD:BB:DD.F/N`: domain, bus, device, function and BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciBar {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
    bar: u8,
}

impl PciBar {
    /// Reads the form `DDDD:BB:DD.F/N`; domains may have up to 8 digits, as sysfs shows them.
    pub(super) fn parse(text: &str) -> Option<PciBar> {
        let (address, bar) = text.split_once('/')?;
        let (domain, rest) = address.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let found = PciBar {
            domain: hex(domain, 4..=8)?,
            bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
            device: u8::try_from(hex(device, 2..=2)?).ok()?,
            function: u8::try_from(hex(function, 1..=1)?).ok()?,
            bar: u8::try_from(hex(bar, 1..=1)?).ok()?,
        };
        (found.device < 32 && found.function < 8 && found.bar < 6).then_some(found)
    }

    /// The sysfs file that maps the BAR.
    pub fn resource(&self) -> PathBuf {
        let PciBar { domain, bus, device, function, bar } = self;
        format!("/sys/bus/pci/devices/{domain:04x}:{bus:02x}:{device:02x}.{function:x}/resource{bar}").into()
    }
}

impl fmt::Display for PciBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciBar { domain, bus, device, function, bar } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}/{bar}")
    }
}

fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_hexdigit());
    (plain && digits.contains(&text.len())).then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_sysfs_file() {
        let bar = PciBar::parse("0000:0A:1f.7/5").expect("parses");
        assert_eq!(bar.resource().to_str(), Some("/sys/bus/pci/devices/0000:0a:1f.7/resource5"));
        assert_eq!(bar.to_string(), "0000:0a:1f.7/5");
        let wide = PciBar::parse("10000:01:00.0/0").expect("VMD domains have five digits");
        assert_eq!(wide.to_string(), "10000:01:00.0/0");
    }

    #[test]
    fn what_is_no_bar() {
        for text in [
            "",
            "0000:01:00.0",
            "01:00.0/2",
            "0000:01:00/2",
            "0000:01:20.0/2",
            "0000:01:00.8/2",
            "0000:01:00.0/6",
            "0000:01:00.0/",
            "0000:01:00.0/2/",
            "000g:01:00.0/2",
            "0000:+1:00.0/2",
        ] {
            assert_eq!(PciBar::parse(text), None, "{text}");
        }
    }
}
