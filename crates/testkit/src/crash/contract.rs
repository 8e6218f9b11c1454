// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Contract`]: what a block may hold after a power cut at some point of a recording.

use super::workload::{CrashOp, Kind, Mark, Value, pattern, whose};
use pageless_mem::testing::record::{Event, What};
use std::collections::BTreeMap;

/// When an operation was begun, acknowledged and durable, as numbers of events.
#[derive(Copy, Clone, Debug, Default)]
struct Times {
    begun: Option<usize>,
    done: Option<usize>,
    durable: Option<usize>,
}

/// What each operation promised, and when.
#[derive(Debug)]
pub(super) struct Contract {
    ops: Vec<CrashOp>,
    times: Vec<Times>,
    /// Blocks that any operation touches.
    blocks: Vec<u64>,
}

/// What each touched block may hold.
pub(super) type Allowed = BTreeMap<u64, Vec<Value>>;

impl Contract {
    pub(super) fn of(ops: &[CrashOp], events: &[Event]) -> Contract {
        let mut times = vec![Times::default(); ops.len()];
        for (at, event) in events.iter().enumerate() {
            let What::Mark(mark) = event.what else { continue };
            match Mark::of(mark) {
                Mark::Begun(op) if op < ops.len() => times[op].begun = Some(at),
                Mark::Done(op) if op < ops.len() => times[op].done = Some(at),
                _ => {}
            }
        }
        for op in 0..ops.len() {
            let Some(done) = times[op].done else { continue };
            if ops[op].fua {
                times[op].durable = Some(done);
                continue;
            }
            // A flush covers what was acknowledged before it was submitted.
            let covers = |flush: &usize| ops[*flush].kind == Kind::Flush && times[*flush].begun > Some(done);
            let flushed = (0..ops.len()).filter(covers).filter_map(|flush| times[flush].done).min();
            times[op].durable = flushed;
        }
        let mut blocks: Vec<u64> =
            ops.iter().filter(|op| op.kind != Kind::Flush).flat_map(|op| op.block..op.block + op.blocks).collect();
        blocks.sort_unstable();
        blocks.dedup();
        Contract { ops: ops.to_vec(), times, blocks }
    }

    /// How many marks lie before a point: two cuts with as many of them promise the same.
    pub(super) fn stage(events: &[Event], point: usize) -> usize {
        events[..point].iter().filter(|event| matches!(event.what, What::Mark(_))).count()
    }

    /// How far an operation was when the first `point` events had happened.
    pub(super) fn progress(&self, op: usize, point: usize) -> &'static str {
        let before = |time: Option<usize>| time.is_some_and(|at| at < point);
        let Times { begun, done, durable } = self.times[op];
        match (before(begun), before(done), before(durable)) {
            (false, ..) => "not begun",
            (_, false, _) => "under way",
            (.., false) => "acknowledged, not flushed",
            _ => "acknowledged and durable",
        }
    }

    pub(super) fn allowed(&self, point: usize) -> Allowed {
        self.blocks.iter().map(|block| (*block, self.allowed_in(*block, point))).collect()
    }

    /// Whatever was begun may be there, unless something that came wholly after it is durable.
    fn allowed_in(&self, block: u64, point: usize) -> Vec<Value> {
        let touches = |op: &CrashOp| op.kind != Kind::Flush && (op.block..op.block + op.blocks).contains(&block);
        let begun = |op: &usize| touches(&self.ops[*op]) && self.times[*op].begun.is_some_and(|at| at < point);
        let begun: Vec<usize> = (0..self.ops.len()).filter(begun).collect();
        // A discard promises nothing.
        let durable =
            |op: &&usize| self.ops[**op].kind != Kind::Discard && self.times[**op].durable.is_some_and(|at| at < point);
        let durable: Vec<usize> = begun.iter().filter(durable).copied().collect();
        let past = |op: usize| {
            durable.iter().any(|by| self.times[*by].begun > self.times[op].done && self.times[op].done.is_some())
        };
        let mut values: Vec<Value> = begun.iter().filter(|op| !past(**op)).map(|op| self.value(*op)).collect();
        if durable.is_empty() {
            values.insert(0, Value::Before);
        }
        values
    }

    fn value(&self, op: usize) -> Value {
        if self.ops[op].kind == Kind::Write { Value::Op(op) } else { Value::Zero }
    }
}

/// Whether a block holds one of these, and in which parts.
///
/// # Errors
/// What it holds instead.
pub(super) fn judge(block: u64, found: &[u8], allowed: &[Value], atomic: usize) -> Result<(), String> {
    let patterns: Vec<Vec<u8>> = allowed.iter().map(|value| pattern(*value, block, found.len() as u64)).collect();
    for start in (0..found.len()).step_by(atomic) {
        let part = start..(start + atomic).min(found.len());
        if patterns.iter().any(|pattern| pattern[part.clone()] == found[part.clone()]) {
            continue;
        }
        let may: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let mut holds: Vec<(usize, String)> = Vec::new();
        for at in part.clone().step_by(8) {
            let whose = whose(&found[at..]);
            if holds.last().is_none_or(|(_, last)| *last != whose) {
                holds.push((at, whose));
            }
        }
        let holds: Vec<String> = holds.iter().map(|(at, whose)| format!("from byte {at} {whose}")).collect();
        return Err(format!("block {block} may hold {}; it holds {}", may.join(", or "), holds.join(", ")));
    }
    Ok(())
}
