// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`DirectAccess`] and [`ExtentMap`]: the medium seen without a queue.

use crate::Status;
use pageless_mem::PhysRange;
use std::fmt::Debug;

pub use pageless_mem::Extent;

/// The medium itself as frames: device offset to [`PhysRange`], no bytes moved.
///
/// # Store contract
/// Whoever stores to the frames calls [`stored`](DirectAccess::stored) or
/// [`persist`](DirectAccess::persist) with the range before it acknowledges the store.
pub trait DirectAccess: Debug {
    /// What is at `offset`: the longest prefix of `len` bytes that is one range of frames or one hole.
    ///
    /// # Errors
    /// `OutOfRange` when the bytes are not all on the device or `len` is 0.
    fn access(&mut self, offset: u64, len: u64) -> Result<Direct, Status>;

    /// These bytes were stored to: a later flush covers them, and readers see them.
    ///
    /// # Errors
    /// `ReadOnly`, or what the memory says.
    fn stored(&mut self, offset: u64, len: u64) -> Result<(), Status>;

    /// These bytes were stored to: makes them durable, as FUA does.
    ///
    /// # Errors
    /// `ReadOnly`, or what the memory says.
    fn persist(&mut self, offset: u64, len: u64) -> Result<(), Status>;
}

/// What [`DirectAccess::access`] found.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Direct {
    /// These frames are the medium.
    Data(PhysRange),
    /// So many bytes read as zeroes; nothing is allocated there.
    Hole(u64),
}

/// Where data is and where holes are.
pub trait ExtentMap: Debug {
    /// The longest prefix of `len` bytes at `offset` that is all data or all hole.
    ///
    /// # Errors
    /// `OutOfRange` when the bytes are not all on the device or `len` is 0.
    fn next(&mut self, offset: u64, len: u64) -> Result<Extent, Status>;
}
