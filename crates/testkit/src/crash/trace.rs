// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Failure`]: what went wrong, and what one has to know to see why.

use super::medium::Medium;
use super::options::Options;
use super::states::State;
use super::{CrashOp, CrashTarget};
use pageless_mem::testing::record::{Event, What};
use std::fmt;
use std::rc::Rc;

/// Events shown of a recording, at most.
const SHOWN: usize = 40;

/// A power cut after which a device broke its contract.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// What was done to the device.
    pub ops: Vec<CrashOp>,
    /// How far each was.
    pub(super) progress: Vec<&'static str>,
    /// The cut, and those during the recoveries after it.
    pub cuts: Vec<Cut>,
    /// What is wrong then.
    pub message: String,
}

/// A power cut.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// How many events of the recording had happened.
    pub point: usize,
    /// The last of them.
    events: Vec<String>,
    /// Whether `granules` are those that lack something, or those that have something, of what was not yet durable.
    lacking: bool,
    /// What these granules have.
    pub granules: Vec<String>,
}

impl Failure {
    pub(super) fn of(message: String) -> Failure {
        Failure { message, ..Failure::default() }
    }

    /// Whether it took a cut: else the device fails with the power on.
    pub fn is_about_a_cut(&self) -> bool {
        !self.cuts.is_empty()
    }
}

impl Cut {
    pub(super) fn new(
        target: &dyn CrashTarget,
        events: &[Event],
        point: usize,
        state: &State,
        lacking: bool,
        medium: &mut Medium,
    ) -> Cut {
        let size = medium.granule();
        let mut granules = Vec::new();
        for (offset, durable, pending) in medium.open() {
            let options = pending.options.get_or_insert_with(|| Rc::new(Options::of(durable, &pending.writes)));
            let (nothing, everything) = (options.get(0), options.get(options.len() - 1));
            let held = state.iter().find(|(other, _)| *other == offset).map_or(nothing, |(_, held)| held);
            if held.content == if lacking { everything } else { nothing }.content {
                continue;
            }
            let kept = pending.writes.iter().zip(&held.kept).map(|(write, mask)| {
                let all = write.units(size).iter().fold(0, |all, unit| all | unit);
                let part = size / 64;
                let bytes = (0..64usize).filter(|bit| mask & all & 1 << bit != 0).map(|bit| bit * part);
                let how = match mask & all {
                    0 => "nothing".to_owned(),
                    kept if kept == all => "all".to_owned(),
                    _ => format!("bytes {}", runs(bytes, part)),
                };
                format!("{how} of #{}", write.event)
            });
            let kept: Vec<String> = kept.collect();
            granules.push(format!("{:#x}{}: {}", offset, place(target, offset), kept.join(", ")));
        }
        let from = point.saturating_sub(SHOWN);
        let events = (from..point).map(|at| format!("#{at} {}", describe(target, &events[at]))).collect();
        Cut { point, events, lacking, granules }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        if self.cuts.is_empty() {
            return write!(f, "with the power on");
        }
        for (index, op) in self.ops.iter().enumerate() {
            writeln!(f, "op {index}: {op}: {}", self.progress.get(index).unwrap_or(&""))?;
        }
        for (level, cut) in self.cuts.iter().enumerate() {
            let of = if level == 0 { "the recording" } else { "the recovery after that" };
            writeln!(f, "power cut {}, after event {} of {of}:", level + 1, cut.point)?;
            cut.events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
            match (cut.lacking, cut.granules.is_empty()) {
                (true, true) => writeln!(f, " everything stored was kept")?,
                (false, true) => writeln!(f, " nothing was kept but what is durable")?,
                (true, false) => writeln!(f, " everything stored was kept, but of")?,
                (false, false) => writeln!(f, " beside what is durable was kept, of")?,
            }
            cut.granules.iter().try_for_each(|granule| writeln!(f, "  {granule}"))?;
        }
        Ok(())
    }
}

fn place(target: &dyn CrashTarget, offset: u64) -> String {
    let place = target.place(offset);
    if place.is_empty() { place } else { format!(" ({place})") }
}

fn describe(target: &dyn CrashTarget, event: &Event) -> String {
    let what = match &event.what {
        What::Store { offset, bytes, streamed } => {
            let how = if *streamed { "streams" } else { "stores" };
            let shown: Vec<String> = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            let more = if bytes.len() > 16 { ".." } else { "" };
            let place = place(target, *offset);
            format!("{how} {} bytes at {offset:#x}{place}: {}{more}", bytes.len(), shown.join(""))
        }
        What::WriteBack { offset, len } => format!("writes back {len} bytes at {offset:#x}{}", place(target, *offset)),
        What::Fence => "fences".to_owned(),
        What::SyncStart { offset, len } => format!("begins to sync {len} bytes at {offset:#x}"),
        What::SyncEnd => "has synced".to_owned(),
        What::Punch { offset, len } => format!("punches {len} bytes at {offset:#x}{}", place(target, *offset)),
        What::Mark(mark) => {
            format!("op {} {}", mark / 2, if mark.is_multiple_of(2) { "begins" } else { "is acknowledged" })
        }
    };
    format!("thread {} {what}", event.thread)
}

/// `0..8, 16..24`.
fn runs(starts: impl Iterator<Item = usize>, len: usize) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for start in starts {
        match runs.last_mut() {
            Some((_, end)) if *end == start => *end = start + len,
            _ => runs.push((start, start + len)),
        }
    }
    let runs: Vec<String> = runs.iter().map(|(start, end)| format!("{start}..{end}")).collect();
    runs.join(", ")
}
