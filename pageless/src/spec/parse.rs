// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one parser. It works on byte ranges of the text, so that every error can point at its part.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::{Cause, SpecError};
use super::kind::{KINDS, Kind, NAME_KEY, SIZE_KEY, nearest};
use super::size::parse_size;
use super::{DeviceSpec, MemorySpec, PciBar, Spec};

/// Memory is registered in frames, so its size is a multiple of one.
const FRAME: u64 = 4096;
/// Huge pages are asked for by this size.
const HUGE: u64 = 2 << 20;
/// Disks without memory are addressed in sectors.
const SECTOR: u64 = 512;

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Spec, SpecError> {
        let text = Text(text);
        let Some(colon) = text.0.find(':') else {
            return Err(text.bad(0..text.0.len(), Cause::NoKind));
        };
        let name = &text.0[..colon];
        let Some(kind) = Kind::named(name) else {
            let meant = nearest(name, KINDS.iter().map(|about| about.name));
            return Err(text.bad(0..colon, Cause::UnknownKind { meant }));
        };
        let (place, options) = text.parts(colon + 1);
        let Options { size: size_option, name } = text.options(kind, options)?;
        let memory = |size| Ok(Spec::Memory(size));
        match kind {
            Kind::Ram => memory(MemorySpec::Ram(text.size(kind, place, FRAME)?)),
            Kind::Memfd => memory(MemorySpec::Memfd(text.size(kind, place, FRAME)?)),
            Kind::Hugetlb => memory(MemorySpec::Hugetlb(text.size(kind, place, HUGE)?)),
            Kind::Secret => memory(MemorySpec::Secret(text.size(kind, place, FRAME)?)),
            Kind::Udmabuf => memory(MemorySpec::Udmabuf(text.size(kind, place, FRAME)?)),
            Kind::Heap => {
                let size = text.size(kind, place, FRAME)?;
                memory(MemorySpec::Heap { size, name: name.map(|at| text.heap(at)).transpose()? })
            }
            Kind::Null => {
                let size = text.size(kind, place, SECTOR)?;
                Ok(Spec::Device(DeviceSpec::Null(size)))
            }
            Kind::Pmem => {
                let size = size_option.map(|at| text.size(kind, at, FRAME)).transpose()?;
                memory(MemorySpec::Pmem { path: text.path(kind, place)?, size })
            }
            Kind::File => {
                let size = size_option.map(|at| text.size(kind, at, SECTOR)).transpose()?;
                let path = text.path(kind, place)?;
                Ok(Spec::Device(DeviceSpec::File { path, size }))
            }
            Kind::Dax => {
                let path = text.path(kind, place.clone())?;
                if !text.0[place.clone()].starts_with("/dev/dax") {
                    return Err(text.bad(place, Cause::NotADaxNode));
                }
                memory(MemorySpec::Dax(path))
            }
            Kind::Bar => match PciBar::parse(&text.0[place.clone()]) {
                Some(bar) => memory(MemorySpec::Bar(bar)),
                None => Err(text.bad(place, Cause::NotABar)),
            },
            Kind::DevMem => {
                let address = text.address(place.clone())?;
                let Some(at) = size_option else {
                    return Err(text.bad(place.end..place.end, Cause::NoSize { form: kind.about().form }));
                };
                let size = text.size(kind, at, FRAME)?;
                match address.checked_add(size) {
                    Some(end) if end <= ADDRESS_SPACE => memory(MemorySpec::DevMem { address, size }),
                    _ => Err(text.bad(place, Cause::NotAnAddress)),
                }
            }
        }
    }
}

/// Physical addresses that x86-64 can have.
const ADDRESS_SPACE: u64 = 1 << 52;

/// Where the values of options are.
#[derive(Default)]
struct Options {
    size: Option<Range<usize>>,
    name: Option<Range<usize>>,
}

/// The text being parsed.
struct Text<'t>(&'t str);

impl Text<'_> {
    fn bad(&self, at: Range<usize>, cause: Cause) -> SpecError {
        SpecError { text: self.0.into(), at, cause }
    }

    /// Splits at single commas: WHERE first, then the options.
    fn parts(&self, from: usize) -> (Range<usize>, Vec<Range<usize>>) {
        let bytes = self.0.as_bytes();
        let (mut parts, mut start, mut at) = (Vec::new(), from, from);
        while at < bytes.len() {
            if bytes[at] != b',' {
                at += 1;
            } else if bytes.get(at + 1) == Some(&b',') {
                at += 2;
            } else {
                parts.push(start..at);
                at += 1;
                start = at;
            }
        }
        parts.push(start..bytes.len());
        let options = parts.split_off(1);
        (parts.swap_remove(0), options)
    }

    /// Checks every option of a kind.
    fn options(&self, kind: Kind, parts: Vec<Range<usize>>) -> Result<Options, SpecError> {
        let mut options = Options::default();
        for part in parts {
            let Some(equals) = self.0[part.clone()].find('=') else {
                return Err(self.bad(part, Cause::NotAnOption));
            };
            let key = part.start..part.start + equals;
            let keys = kind.about().keys;
            if !keys.contains(&&self.0[key.clone()]) {
                let meant = nearest(&self.0[key.clone()], keys.iter().copied());
                return Err(self.bad(key, Cause::UnknownKey { kind, meant }));
            }
            let value = match &self.0[key.clone()] {
                NAME_KEY => &mut options.name,
                named => {
                    debug_assert_eq!(named, SIZE_KEY);
                    &mut options.size
                }
            };
            if value.is_some() {
                return Err(self.bad(key, Cause::KeyTwice));
            }
            *value = Some(key.end + 1..part.end);
        }
        Ok(options)
    }

    /// A physical address at the start of a frame: hexadecimal after `0x`, else as sizes are written.
    fn address(&self, at: Range<usize>) -> Result<u64, SpecError> {
        let raw = &self.0[at.clone()];
        let hex = raw.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let address = match hex {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => parse_size(raw).ok(),
        };
        match address {
            Some(address) if address < ADDRESS_SPACE && address.is_multiple_of(FRAME) => Ok(address),
            Some(address) if address < ADDRESS_SPACE => Err(self.bad(at, Cause::InsideFrame { address, unit: FRAME })),
            _ => Err(self.bad(at, Cause::NotAnAddress)),
        }
    }

    /// The name of a heap, which is that of a node in a folder.
    fn heap(&self, at: Range<usize>) -> Result<String, SpecError> {
        let raw = &self.0[at.clone()];
        if matches!(raw, "" | "." | "..") || raw.contains(['/', '\0']) {
            return Err(self.bad(at, Cause::NotAHeap));
        }
        Ok(raw.replace(",,", ","))
    }

    fn size(&self, kind: Kind, at: Range<usize>, unit: u64) -> Result<u64, SpecError> {
        let form = kind.about().form;
        match parse_size(&self.0[at.clone()]) {
            Err(why) => Err(self.bad(at, Cause::Size { why, form })),
            Ok(size) if !size.is_multiple_of(unit) => Err(self.bad(at, Cause::NotMultiple { size, unit })),
            Ok(size) => Ok(size),
        }
    }

    fn path(&self, kind: Kind, at: Range<usize>) -> Result<PathBuf, SpecError> {
        let raw = &self.0[at.clone()];
        if raw.is_empty() {
            let form = kind.about().form;
            return Err(self.bad(at, Cause::NoPath { form }));
        }
        if let Some(nul) = raw.find('\0') {
            let nul = at.start + nul;
            return Err(self.bad(nul..nul + 1, Cause::NulInPath));
        }
        Ok(raw.replace(",,", ",").into())
    }
}
