// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one parser. It works on byte ranges of the text, so that every error can point at its part.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::{Cause, SpecError};
use super::kind::{KINDS, Kind, LAYOUT_KEY, NAME_KEY, ORDER_KEY, PARENT_KEY, SECTOR_KEY, SIZE_KEY, nearest};
use super::size::parse_size;
use super::{BttSpec, DeviceSpec, MemorySpec, PciBar, Spec, btt};

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
        let options = text.options(kind, options)?;
        match kind {
            Kind::Null => Ok(Spec::Device(DeviceSpec::Null(text.size(kind, place, SECTOR)?))),
            Kind::File => {
                let size = options.size.map(|at| text.size(kind, at, SECTOR)).transpose()?;
                let path = text.path(kind, place)?;
                Ok(Spec::Device(DeviceSpec::File { path, size }))
            }
            Kind::Btt => text.btt(place, &options).map(|btt| Spec::Device(DeviceSpec::Btt(btt))),
            kind => text.memory(kind, place, &options).map(Spec::Memory),
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
    sector: Option<Range<usize>>,
    layout: Option<Range<usize>>,
    order: Option<Range<usize>>,
    parent: Option<Range<usize>>,
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
                SECTOR_KEY => &mut options.sector,
                LAYOUT_KEY => &mut options.layout,
                ORDER_KEY => &mut options.order,
                PARENT_KEY => &mut options.parent,
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

    /// Memory of a kind that is memory.
    fn memory(&self, kind: Kind, place: Range<usize>, options: &Options) -> Result<MemorySpec, SpecError> {
        match kind {
            Kind::Ram => Ok(MemorySpec::Ram(self.size(kind, place, FRAME)?)),
            Kind::Memfd => Ok(MemorySpec::Memfd(self.size(kind, place, FRAME)?)),
            Kind::Hugetlb => Ok(MemorySpec::Hugetlb(self.size(kind, place, HUGE)?)),
            Kind::Secret => Ok(MemorySpec::Secret(self.size(kind, place, FRAME)?)),
            Kind::Udmabuf => Ok(MemorySpec::Udmabuf(self.size(kind, place, FRAME)?)),
            Kind::Heap => {
                let size = self.size(kind, place, FRAME)?;
                Ok(MemorySpec::Heap { size, name: options.name.clone().map(|at| self.heap(at)).transpose()? })
            }
            Kind::Dax => {
                let path = self.path(kind, place.clone())?;
                if !self.0[place.clone()].starts_with("/dev/dax") {
                    return Err(self.bad(place, Cause::NotADaxNode));
                }
                Ok(MemorySpec::Dax(path))
            }
            Kind::Bar => match PciBar::parse(&self.0[place.clone()]) {
                Some(bar) => Ok(MemorySpec::Bar(bar)),
                None => Err(self.bad(place, Cause::NotABar)),
            },
            Kind::DevMem => {
                let address = self.address(place.clone())?;
                let Some(at) = options.size.clone() else {
                    return Err(self.bad(place.end..place.end, Cause::NoSize { form: kind.about().form }));
                };
                let size = self.size(kind, at, FRAME)?;
                match address.checked_add(size) {
                    Some(end) if end <= ADDRESS_SPACE => Ok(MemorySpec::DevMem { address, size }),
                    _ => Err(self.bad(place, Cause::NotAnAddress)),
                }
            }
            Kind::Pmem | Kind::Btt | Kind::File | Kind::Null => {
                let size = options.size.clone().map(|at| self.size(kind, at, FRAME)).transpose()?;
                Ok(MemorySpec::Pmem { path: self.path(kind, place)?, size })
            }
        }
    }

    /// A BTT: its own options, and the memory that WHERE names.
    fn btt(&self, place: Range<usize>, options: &Options) -> Result<BttSpec, SpecError> {
        let (kind, from) = btt::inner(&self.0[place.clone()]).unwrap_or((Kind::Pmem, 0));
        let keys = kind.about().keys;
        for (key, value) in [(SIZE_KEY, &options.size), (NAME_KEY, &options.name)] {
            // Another kind of memory has no such option.
            if let Some(value) = value
                && !keys.contains(&key)
            {
                let at = value.start - 1 - key.len()..value.start - 1;
                return Err(self.bad(at, Cause::UnknownKey { kind, meant: None }));
            }
        }
        let sizes = "512, 520, 528, 4096, 4104, 4160 or 4224";
        Ok(BttSpec {
            sector: self.one_of(&options.sector, SECTOR_KEY, sizes, btt::sector)?,
            layout: self.one_of(&options.layout, LAYOUT_KEY, "1.1 or 2.0", btt::layout)?,
            order: self.one_of(&options.order, ORDER_KEY, "strict", btt::order)?.unwrap_or_default(),
            parent: self.one_of(&options.parent, PARENT_KEY, "a UUID", |text| text.parse().ok())?,
            medium: self.memory(kind, place.start + from..place.end, options)?,
        })
    }

    /// The value of an option that has few.
    fn one_of<T>(
        &self,
        at: &Option<Range<usize>>,
        key: &'static str,
        wanted: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, SpecError> {
        let Some(at) = at.clone() else { return Ok(None) };
        match read(&self.0[at.clone()]) {
            Some(value) => Ok(Some(value)),
            None => Err(self.bad(at, Cause::NotOneOf { key, wanted })),
        }
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
