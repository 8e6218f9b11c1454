// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Chain`]: the descriptors of one request, in order, each read once.

use pageless_mem::Kmap;

use super::guest_map::GuestAddr;
use super::ring::Broken;
use super::words::Words;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// An indirect table may be longer than the ring where drivers make such, but not much: as long as QEMU takes.
const LONGEST: u32 = 1024;

/// A descriptor, as it was when it was read.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) at: GuestAddr,
    pub(crate) len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// The descriptor of this index in a table. The two halves may be of different moments, as everything may be here.
    #[inline]
    pub(crate) fn read(table: &impl Words, index: u32) -> Result<Descriptor, Broken> {
        Ok(Descriptor::of(table.pair64(16 * index as usize)?))
    }

    /// `struct virtq_desc` (virtio 1.3, 2.7.5), as two words.
    #[inline]
    fn of([addr, rest]: [u64; 2]) -> Descriptor {
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest.to_le_bytes();
        Descriptor {
            at: GuestAddr(addr),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    /// Whether it names a table of descriptors.
    #[inline]
    pub(crate) fn is_table(self) -> bool {
        self.flags & INDIRECT != 0
    }
}

/// A run of guest memory that a chain names.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: GuestAddr,
    pub(crate) len: u32,
}

/// See the [module](self). Kept from one request to the next, so that nothing is allocated for most.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// What the device may read, in order.
    pub(crate) readable: Vec<Piece>,
    /// What it may write, in order.
    pub(crate) writable: Vec<Piece>,
    /// Something readable came after something writable, which no driver may do.
    pub(crate) disordered: bool,
}

/// What ends a walk over one table.
enum End {
    Last,
    Table(Descriptor),
}

impl Chain {
    /// Reads the chain that starts with `first`, the descriptor of a head. `open` opens a window on an indirect table, which
    /// may be refused.
    #[inline]
    pub(crate) fn read<'o>(
        &mut self,
        (table, size): (&impl Words, u16),
        first: Descriptor,
        indirect: bool,
        open: impl FnOnce(GuestAddr, u32) -> Option<Kmap<'o>>,
    ) -> Result<(), Broken> {
        self.readable.clear();
        self.writable.clear();
        self.disordered = false;
        let read = |index| Descriptor::read(table, index);
        let End::Table(named) = self.walk(read, size.into(), first)? else { return Ok(()) };
        let refuse = |why| Broken::Table { at: named.at.0, len: named.len, why };
        let count = named.len / 16;
        if !indirect {
            return Err(refuse("not negotiated"));
        }
        if named.flags & NEXT != 0 {
            return Err(refuse("something follows it"));
        }
        if count == 0 || !named.len.is_multiple_of(16) {
            return Err(refuse("no whole descriptors"));
        }
        if count > LONGEST.max(size.into()) {
            return Err(refuse("longer than any request"));
        }
        let inner = open(named.at, named.len).ok_or(refuse("outside the guest's memory"))?;
        let read = |index| Descriptor::read(&inner, index);
        match self.walk(read, count, read(0)?)? {
            End::Last => Ok(()),
            End::Table(nested) => {
                Err(Broken::Table { at: nested.at.0, len: nested.len, why: "inside an indirect table" })
            }
        }
    }

    /// Collects what the descriptors of one table name.
    #[inline]
    fn walk(
        &mut self,
        read: impl Fn(u32) -> Result<Descriptor, Broken>,
        size: u32,
        first: Descriptor,
    ) -> Result<End, Broken> {
        let mut descriptor = first;
        for _ in 0..size {
            if descriptor.is_table() {
                return Ok(End::Table(descriptor));
            }
            self.add(descriptor);
            if descriptor.flags & NEXT == 0 {
                return Ok(End::Last);
            }
            let next = u32::from(descriptor.next);
            if next >= size {
                return Err(Broken::Index { index: next, size });
            }
            descriptor = read(next)?;
        }
        Err(Broken::Loop { size })
    }

    #[inline]
    fn add(&mut self, descriptor: Descriptor) {
        let piece = Piece { at: descriptor.at, len: descriptor.len };
        if descriptor.flags & WRITE != 0 {
            self.writable.push(piece);
        } else {
            self.disordered |= !self.writable.is_empty();
            self.readable.push(piece);
        }
    }
}

/// Bytes of all of them.
#[inline]
pub(crate) fn bytes(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| u64::from(piece.len)).sum()
}

/// The part of the pieces from byte `from`, `len` bytes of it, handed to `each` in order, until that says no. False when it
/// did, or they end before.
#[inline]
pub(crate) fn part(pieces: &[Piece], from: u64, len: u64, mut each: impl FnMut(Piece) -> bool) -> bool {
    let (mut skip, mut left) = (from, len);
    for piece in pieces {
        if left == 0 {
            break;
        }
        let whole = u64::from(piece.len);
        if skip >= whole {
            skip -= whole;
            continue;
        }
        let take = (whole - skip).min(left);
        let (Some(at), Ok(len)) = (piece.at.plus(skip), u32::try_from(take)) else { return false };
        if !each(Piece { at, len }) {
            return false;
        }
        left -= take;
        skip = 0;
    }
    left == 0
}
