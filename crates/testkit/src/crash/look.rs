// SPDX-License-Identifier: MIT OR Apache-2.0
//! What recovery makes of one state: the medium is put into it, looked at, and put back.

use super::contract::{Allowed, judge};
use super::explorer::{Explorer, FRAMES, Promise};
use super::medium::to_usize;
use super::states::State;
use super::workload::{Value, pattern};
use crate::{Blocking, Error};
use pageless_block::{Bio, BlockDevice, Flags, Sector};
use pageless_mem::testing::record::{Event, What};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was seen of a state.
pub(super) struct Looked {
    /// Whether the promise was kept.
    pub(super) verdict: Result<(), String>,
    /// What recovery did to the medium.
    pub(super) recovery: Vec<Event>,
}

impl Explorer<'_> {
    /// Puts a state on the medium, recovers, judges, and puts the medium back.
    pub(super) fn look(&mut self, state: &State, promise: &Promise) -> Looked {
        for (offset, held) in state {
            self.put(*offset, &held.content);
        }
        self.recording.take();
        let region = self.bytes.region().clone();
        let mut recovery = Vec::new();
        let verdict = catch_unwind(AssertUnwindSafe(|| {
            let device = match self.target.recover(&self.memory, &region) {
                Ok(device) => device,
                Err(_) if promise.may_refuse => return Ok(()),
                Err(why) => return Err(format!("recovery fails: {why}")),
            };
            recovery = self.recording.take();
            self.judge(&*device, promise)
        }));
        let verdict = verdict.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("a panic: {}", text.unwrap_or_default()))
        });
        let later = self.recording.take();
        let granule = self.medium.granule();
        let mut touched: BTreeSet<u64> = state.iter().map(|(offset, _)| *offset).collect();
        touched.extend(touched_by(&recovery, granule).chain(touched_by(&later, granule)));
        self.put_back(touched);
        Looked { verdict, recovery }
    }

    fn judge(&mut self, device: &dyn BlockDevice, promise: &Promise) -> Result<(), String> {
        let region = self.bytes.region().clone();
        self.read(device, &promise.allowed)?;
        self.target.check(&self.memory, &region).map_err(|why| format!("the check finds: {why}"))?;
        let every = self.config.write_after;
        if every == 0 || !self.counts.judged.is_multiple_of(every) || promise.allowed.is_empty() {
            return Ok(());
        }
        let blocks: Vec<u64> = promise.allowed.keys().copied().collect();
        self.write(device, &blocks, Value::After).map_err(|why| format!("writing after the recovery: {why}"))?;
        let now = promise.allowed.keys().map(|block| (*block, vec![Value::After])).collect();
        self.read(device, &now).map_err(|why| format!("after the recovery and writing everything anew: {why}"))?;
        self.target.check(&self.memory, &region).map_err(|why| format!("after more writes the check finds: {why}"))
    }

    /// Reads the blocks and holds them against what they may hold.
    fn read(&mut self, device: &dyn BlockDevice, allowed: &Allowed) -> Result<(), String> {
        let mut queue = Blocking::new(device).map_err(|why| why.to_string())?;
        let block_size = u64::from(device.limits().block_size);
        let atomic = (device.limits().atomic_write_unit as usize).min(to_usize(block_size));
        let mut blocks = allowed.iter().peekable();
        while let Some((first, values)) = blocks.next() {
            let mut run = vec![values];
            let room = FRAMES / block_size;
            while (run.len() as u64) < room
                && let Some((_, values)) = blocks.next_if(|(block, _)| **block == first + run.len() as u64)
            {
                run.push(values);
            }
            let len = run.len() as u64 * block_size;
            let range = self.frames.range(0, u32::try_from(len).unwrap_or(u32::MAX));
            let done = queue.run(Bio::read(Sector(first * block_size / Sector::SIZE), range, 1));
            let done = done.map_err(|why| format!("reading blocks from {first}: {why}"))?;
            if !done.status.is_ok() {
                return Err(format!("reading blocks from {first}: {}", done.status));
            }
            let bytes = self.frames.get(&range.into()).map_err(|why| why.to_string())?;
            for (at, (values, found)) in run.iter().zip(bytes.chunks(to_usize(block_size))).enumerate() {
                judge(first + at as u64, found, values, atomic)?;
            }
        }
        Ok(())
    }

    /// Writes the pattern of `value` to these blocks, durably.
    pub(super) fn write(&mut self, device: &dyn BlockDevice, blocks: &[u64], value: Value) -> Result<(), Error> {
        let mut queue = Blocking::new(device)?;
        let block_size = u64::from(device.limits().block_size);
        for block in blocks {
            let range = self.frames.range(0, device.limits().block_size);
            self.frames.put(&range.into(), &pattern(value, *block, block_size))?;
            let bio = Bio::write(Sector(block * block_size / Sector::SIZE), range, 1);
            queue.must(bio.with_flags(Flags::FUA))?;
        }
        Ok(())
    }

    /// Whether the medium holds what was recorded: else something was stored that the recorder does not see.
    pub(super) fn nothing_missed(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut expected = self.medium.durable(0, to_usize(self.medium.len())).to_vec();
        for event in events {
            match &event.what {
                What::Store { offset, bytes, .. } => {
                    expected[to_usize(*offset)..to_usize(*offset) + bytes.len()].copy_from_slice(bytes);
                }
                What::Punch { offset, len } => expected[to_usize(*offset)..to_usize(offset + len)].fill(0),
                _ => {}
            }
        }
        for (index, expected) in expected.chunks(to_usize(FRAMES)).enumerate() {
            let offset = index as u64 * FRAMES;
            let range = self.bytes.range(offset, u32::try_from(expected.len()).unwrap_or(u32::MAX));
            let found = self.bytes.get(&range.into())?;
            if found == expected {
                continue;
            }
            if let Some(at) = (0..found.len()).find(|at| found[*at] != expected[*at]) {
                return Err(Error::Target(format!("a store to byte {:#x} was not recorded", offset + at as u64)));
            }
        }
        Ok(())
    }

    /// Stores to the medium behind the device's back.
    fn put(&mut self, offset: u64, content: &[u8]) {
        let range = self.bytes.range(offset, u32::try_from(content.len()).unwrap_or(u32::MAX));
        let put = self.bytes.put(&range.into(), content);
        assert!(put.is_ok(), "the medium is memory of this process: {put:?}");
    }

    /// Makes these granules of the medium what is durable.
    pub(super) fn put_back(&mut self, granules: BTreeSet<u64>) {
        let granule = self.medium.granule() as u64;
        let mut granules = granules.into_iter().peekable();
        while let Some(first) = granules.next() {
            let mut end = first + granule;
            while end - first < FRAMES && granules.next_if_eq(&end).is_some() {
                end += granule;
            }
            let end = end.min(self.medium.len());
            let content = self.medium.durable(first, to_usize(end - first)).to_vec();
            self.put(first, &content);
        }
        self.recording.take();
    }
}

/// The granules that these events changed.
pub(super) fn touched(events: &[Event], granule: usize) -> BTreeSet<u64> {
    touched_by(events, granule).collect()
}

fn touched_by(events: &[Event], granule: usize) -> impl Iterator<Item = u64> {
    let granule = granule as u64;
    events.iter().flat_map(move |event| {
        let (offset, len) = match &event.what {
            What::Store { offset, bytes, .. } => (*offset, bytes.len() as u64),
            What::Punch { offset, len } => (*offset, *len),
            _ => (0, 0),
        };
        (offset / granule..(offset + len).div_ceil(granule)).map(move |index| index * granule)
    })
}
