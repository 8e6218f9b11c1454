// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much of an ELF file as says whether a library can be preloaded into it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// More of either is no program that we know of.
const MAX_HEADERS: usize = 512;
const MAX_TABLE: usize = 16 << 20;

/// What a program file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Elf(Elf),
    /// `#!`: the interpreter, and its argument if there is one.
    Script {
        interpreter: String,
        argument: Option<String>,
    },
    /// Neither; the kernel or a shell may still know what to do.
    Other,
}

/// What matters of an ELF program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Elf {
    /// 64-bit, x86-64.
    pub(crate) ours: bool,
    /// The dynamic linker that it asks for; a static program asks for none.
    pub(crate) interpreter: Option<String>,
    /// Compiled by Go.
    pub(crate) go: bool,
    /// Linked with liburing.
    pub(crate) uring: bool,
    /// Linked with AddressSanitizer's library.
    pub(crate) asan: bool,
}

/// Looks at a program file.
pub(crate) fn look(path: &Path) -> io::Result<Kind> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(4096).read_to_end(&mut start)?;
    if let Some(line) = start.strip_prefix(b"#!") {
        let line = String::from_utf8_lossy(line.split(|b| *b == b'\n').next().unwrap_or_default()).into_owned();
        let mut words = line.trim().splitn(2, [' ', '\t']);
        let interpreter = words.next().unwrap_or_default().to_owned();
        return Ok(Kind::Script { interpreter, argument: words.next().map(|word| word.trim().to_owned()) });
    }
    if !start.starts_with(b"\x7fELF") {
        return Ok(Kind::Other);
    }
    Ok(Kind::Elf(elf(&file, &start).unwrap_or_default()))
}

/// `None` for a file that ends in the middle of what it promises.
fn elf(file: &File, start: &[u8]) -> Option<Elf> {
    const CLASS_64: u8 = 2;
    const LITTLE_ENDIAN: u8 = 1;
    const X86_64: u16 = 62;
    const PT_INTERP: u32 = 3;
    let header = start.get(..64)?;
    let ours = header[4] == CLASS_64 && header[5] == LITTLE_ENDIAN && u16_at(header, 18)? == X86_64;
    if !ours {
        return Some(Elf::default());
    }
    let mut found = Elf { ours, ..Elf::default() };
    let programs = table(file, u64_at(header, 32)?, u16_at(header, 54)?, u16_at(header, 56)?)?;
    for entry in programs.chunks_exact(u16_at(header, 54)?.into()) {
        if u32_at(entry, 0)? == PT_INTERP {
            let name = read(file, u64_at(entry, 8)?, u64_at(entry, 32)?)?;
            found.interpreter = Some(String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(&name)).into_owned());
        }
    }
    // Sections may have been stripped; then these two things stay unknown.
    let _ = sections(file, header, &mut found);
    Some(found)
}

fn sections(file: &File, header: &[u8], found: &mut Elf) -> Option<()> {
    let size = u16_at(header, 58)?;
    let entries = table(file, u64_at(header, 40)?, size, u16_at(header, 60)?)?;
    let entries: Vec<_> = entries.chunks_exact(size.into()).collect();
    let content = |entry: &[u8]| read(file, u64_at(entry, 24)?, u64_at(entry, 32)?);
    let names = content(entries.get(usize::from(u16_at(header, 62)?))?)?;
    for entry in entries {
        let name = names.get(usize::try_from(u32_at(entry, 0)?).ok()?..)?.split(|b| *b == 0).next()?;
        match name {
            b".go.buildinfo" | b".note.go.buildid" => found.go = true,
            b".dynstr" => {
                let strings = content(entry)?;
                let needs = |library: &[u8]| strings.split(|b| *b == 0).any(|s| s.starts_with(library));
                found.uring |= needs(b"liburing.so");
                found.asan |= needs(b"libasan.so");
            }
            _ => {}
        }
    }
    Some(())
}

fn table(file: &File, at: u64, size: u16, count: u16) -> Option<Vec<u8>> {
    let (size, count) = (usize::from(size), usize::from(count));
    if size < 56 || count > MAX_HEADERS {
        return None;
    }
    read(file, at, (size * count) as u64)
}

fn read(file: &File, at: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).ok().filter(|len| *len <= MAX_TABLE)?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
