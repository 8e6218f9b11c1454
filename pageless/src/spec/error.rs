// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a spec, where in it, and what to write instead.

use std::fmt;
use std::ops::Range;

use super::kind::{KINDS, Kind};
use super::size::{Exact, Human, SizeError};

/// A text that is no spec. Shows the cause, the text with the bad part marked, and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    pub(super) text: String,
    pub(super) at: Range<usize>,
    pub(super) cause: Cause,
}

/// The cause, apart from where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No colon: not of the form `KIND:WHERE`.
    NoKind,
    /// No kind of that name.
    UnknownKind {
        /// The kind that was likely meant.
        meant: Option<&'static str>,
    },
    /// No size, or a bad one.
    Size {
        /// Why.
        why: SizeError,
        /// The form the spec should have.
        form: &'static str,
    },
    /// A size that is no multiple of what the kind is made of.
    NotMultiple {
        /// The size given.
        size: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// No path after the colon.
    NoPath {
        /// The form the spec should have.
        form: &'static str,
    },
    /// A path no file can have.
    NulInPath,
    /// A part after a comma that is not `key=value`.
    NotAnOption,
    /// No such key for this kind.
    UnknownKey {
        /// The kind.
        kind: Kind,
        /// The key that was likely meant.
        meant: Option<&'static str>,
    },
    /// A key given twice.
    KeyTwice,
    /// Not a PCI address and BAR.
    NotABar,
    /// Not a physical address, or one past the last.
    NotAnAddress,
    /// A physical address that no frame starts at.
    InsideFrame {
        /// The address given.
        address: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// No `size=` where one is needed.
    NoSize {
        /// The form the spec should have.
        form: &'static str,
    },
    /// Not the name of a heap.
    NotAHeap,
    /// The value of an option is none of those that it may be.
    NotOneOf {
        /// The option.
        key: &'static str,
        /// What it may be.
        wanted: &'static str,
    },
    /// A device-DAX path outside `/dev/dax*`.
    NotADaxNode,
    /// A listen address that is neither `unix:PATH` nor `tcp:HOST:PORT`.
    UnknownTransport {
        /// The transport that was likely meant.
        meant: Option<&'static str>,
    },
    /// A unix socket path that does not fit `sockaddr_un`.
    SocketPathTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A TCP address without a usable port.
    NoPort,
}

/// Bytes of a unix socket path, the closing zero left out.
pub(super) const SOCKET_PATH_MAX: usize = 107;

impl SpecError {
    /// The text that was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes of [`text`](Self::text) the cause is about.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// What is wrong.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match &self.cause {
            Cause::NoKind => "write KIND:WHERE, such as ram:16M or file:/data/disk.img \
                              (`pageless help specs` shows every kind)"
                .into(),
            Cause::UnknownKind { meant: Some(name) } => {
                format!("did you mean `{name}:`? (`pageless help specs` shows every kind)")
            }
            Cause::UnknownKind { meant: None } => {
                let names: Vec<_> = KINDS.iter().map(|about| about.name).collect();
                format!("the kinds are {} (`pageless help specs` shows each)", names.join(", "))
            }
            Cause::Size { why, form } => match why {
                SizeError::Missing => format!("write {form}, such as 16M"),
                SizeError::NotASize => "sizes are whole numbers with K, M, G or T (binary): \
                                        4096, 64K, 1536M, 1T"
                    .into(),
                SizeError::TooLarge => "the largest file Linux knows is 8388607T".into(),
                SizeError::Zero => "give at least one block: 4K".into(),
            },
            Cause::NotMultiple { size, unit } => match size.checked_next_multiple_of(*unit) {
                Some(up) => format!("write {} instead", Exact(up)),
                None => format!("write {} instead", Exact(size - size % unit)),
            },
            Cause::NoPath { form } => format!("write {form}"),
            Cause::NulInPath => "leave the zero byte out".into(),
            Cause::NotAnOption => {
                "options are key=value; a comma that belongs to the path is written twice: a,,b.img".into()
            }
            Cause::UnknownKey { meant: Some(key), .. } => format!("did you mean `{key}=`?"),
            Cause::UnknownKey { kind, meant: None } => match kind.about().keys {
                [] => format!("write it without options, such as {}", kind.about().example),
                keys => {
                    format!("{kind}: takes {}=; a comma that belongs to the path is written twice", keys.join("=, "))
                }
            },
            Cause::KeyTwice => "give it once".into(),
            Cause::NotABar => "write bar:DDDD:BB:DD.F/N in hexadecimal, N from 0 to 5, such as \
                               bar:0000:01:00.0/2 (`lspci -D` lists the functions)"
                .into(),
            Cause::NotAnAddress => "write a physical address, such as devmem:0x3c000000,size=16M \
                                    (`cat /proc/iomem` lists what lies where)"
                .into(),
            Cause::InsideFrame { address, unit } => format!("write {:#x} instead", address - address % unit),
            Cause::NoSize { form } => format!("write {form}, such as size=16M"),
            Cause::NotAHeap => "write name=HEAP (`ls /dev/dma_heap` lists them)".into(),
            Cause::NotOneOf { key, wanted } => format!("write {key}= with {wanted}"),
            Cause::NotADaxNode => "write dax:/dev/daxX.Y (`daxctl list` lists them)".into(),
            Cause::UnknownTransport { meant: Some(name) } => format!("did you mean `{name}:`?"),
            Cause::UnknownTransport { meant: None } => {
                "write unix:PATH or tcp:HOST:PORT, such as unix:./p.sock or tcp:127.0.0.1:10809".into()
            }
            Cause::SocketPathTooLong { .. } => {
                format!("give a path of at most {SOCKET_PATH_MAX} bytes, a relative one if need be")
            }
            Cause::NoPort => "write tcp:HOST:PORT, such as tcp:127.0.0.1:10809 or tcp:[::1]:10809".into(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NoKind => f.write_str("no kind: there is no colon"),
            Cause::UnknownKind { .. } => f.write_str("unknown kind"),
            Cause::Size { why, .. } => write!(f, "{why}"),
            Cause::NotMultiple { size, unit } => {
                write!(f, "{size} bytes is no multiple of {unit} ({})", Human(*unit))
            }
            Cause::NoPath { .. } => f.write_str("a path is missing"),
            Cause::NulInPath => f.write_str("a zero byte in a path"),
            Cause::NotAnOption => f.write_str("this is no key=value option"),
            Cause::UnknownKey { kind, .. } => write!(f, "{kind}: has no such key"),
            Cause::KeyTwice => f.write_str("the same key twice"),
            Cause::NotABar => f.write_str("this names no BAR of a PCI function"),
            Cause::NotAnAddress => f.write_str("this is no physical address"),
            Cause::InsideFrame { address, unit } => write!(f, "no frame starts at {address:#x}: no multiple of {unit}"),
            Cause::NoSize { .. } => f.write_str("a size is missing: physical memory has no end of its own"),
            Cause::NotAHeap => f.write_str("this names no heap"),
            Cause::NotOneOf { key, .. } => write!(f, "there is no such {key}"),
            Cause::NotADaxNode => f.write_str("this is no device-DAX node"),
            Cause::UnknownTransport { .. } => f.write_str("unknown transport"),
            Cause::SocketPathTooLong { len } => {
                write!(f, "a unix socket path of {len} bytes; the kernel takes {SOCKET_PATH_MAX}")
            }
            Cause::NoPort => f.write_str("a TCP address needs a host and a port"),
        }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters are shown escaped, so the carets are placed under what is shown.
        let shown = |part: &str| -> String { part.chars().map(visible).collect() };
        let before = shown(&self.text[..self.at.start]).chars().count();
        let marked = shown(&self.text[self.at.clone()]).chars().count().max(1);
        writeln!(f, "{}", self.cause)?;
        writeln!(f, "  {}", shown(&self.text))?;
        writeln!(f, "  {}{}", " ".repeat(before), "^".repeat(marked))?;
        write!(f, "  help: {}", self.remedy())
    }
}

impl std::error::Error for SpecError {}

fn visible(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}
