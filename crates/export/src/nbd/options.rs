// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bodies of the options that have one, taken apart without trusting a length in them.

use super::wire::{BASE_ALLOCATION, MAX_STRING};

/// The body of `OPT_INFO` and `OPT_GO`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InfoQuery<'a> {
    pub(crate) name: &'a [u8],
    wanted: &'a [u8],
}

impl<'a> InfoQuery<'a> {
    /// `None` if the lengths inside do not add up to the option's.
    pub(crate) fn parse(mut data: &'a [u8]) -> Option<InfoQuery<'a>> {
        let name = string(&mut data)?;
        let count = u16::from_be_bytes(*data.split_off(..2)?.first_chunk()?);
        (data.len() == 2 * usize::from(count)).then_some(InfoQuery { name, wanted: data })
    }

    /// Was this kind of information asked for?
    pub(crate) fn wants(&self, kind: u16) -> bool {
        self.wanted.chunks_exact(2).any(|pair| pair == kind.to_be_bytes())
    }
}

/// The body of `OPT_LIST_META_CONTEXT` and `OPT_SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetaQuery<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) queries: Vec<&'a [u8]>,
}

impl<'a> MetaQuery<'a> {
    /// `None` if the lengths inside do not add up to the option's.
    pub(crate) fn parse(mut data: &'a [u8]) -> Option<MetaQuery<'a>> {
        let name = string(&mut data)?;
        let count = u32::from_be_bytes(*data.split_off(..4)?.first_chunk()?);
        let mut queries = Vec::new();
        // A count that lies runs out of bytes, not of memory: each query takes at least four.
        for _ in 0..count {
            queries.push(string(&mut data)?);
        }
        data.is_empty().then_some(MetaQuery { name, queries })
    }
}

/// Does the query select `base:allocation`? `base:` is a wildcard when listing and nothing when selecting.
pub(crate) fn matches_allocation(query: &[u8], listing: bool) -> bool {
    query == BASE_ALLOCATION.as_bytes() || (listing && query == b"base:")
}

/// A string behind its 32-bit length.
fn string<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(*data.split_off(..4)?.first_chunk()?) as usize;
    if length > MAX_STRING {
        return None;
    }
    data.split_off(..length)
}
