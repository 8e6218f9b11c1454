// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a front-end passes by descriptor, as regions.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use pageless_mem::{Backing, Memory, Region};
use pageless_sys::file::File;

use super::SessionError;
use crate::vhost_user::guest_map::{GuestAddr, Slot};
use crate::vhost_user::wire::MemRegion;

/// Maps `len` bytes at `offset`, which need not be where a page starts, and says where they are in the region.
pub(super) fn shared(memory: &Memory, fd: OwnedFd, offset: u64, len: u64) -> Result<(Region, u64), SessionError> {
    let file = File::from(fd);
    let start = offset % file.page_size();
    let mapped = len.checked_add(start).ok_or(SessionError::Wraps { offset, len })?;
    let region = memory.register(Backing::shared(file.into(), offset - start, mapped)?)?;
    Ok((region, start))
}

/// An entry of the memory table.
pub(super) fn slot(memory: &Memory, entry: MemRegion, fd: OwnedFd) -> Result<Arc<Slot>, SessionError> {
    let MemRegion { guest, size, user, mmap_offset } = entry;
    let mapped = shared(memory, fd, mmap_offset, size);
    let (region, offset) = mapped.map_err(|error| match error {
        SessionError::Memory(why) => SessionError::Entry { guest, size, why },
        other => other,
    })?;
    Ok(Arc::new(Slot { guest: GuestAddr(guest), user, region, offset, len: size }))
}

/// Whether a slot is what this entry names.
pub(super) fn is(slot: &Slot, entry: &MemRegion) -> bool {
    (slot.guest.0, slot.len, slot.user) == (entry.guest, entry.size, entry.user)
}
