// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`smallest`]: the same failure with less to look at.

use super::explorer::{Explorer, Tamper};
use super::states::State;
use super::trace::Failure;
use super::workload::Workload;

/// Workloads tried to make one smaller, at most.
const TRIES: usize = 200;

/// Leaves out operations, threads and blocks as long as something fails.
pub(super) fn smallest(
    explorer: &mut Explorer<'_>,
    workload: &Workload,
    tamper: Tamper<'_>,
    failure: Box<Failure>,
) -> Box<Failure> {
    let (mut smallest, mut failure, mut tries) = (workload.clone(), failure, 0);
    'again: loop {
        for smaller in smaller(&smallest).collect::<Vec<_>>() {
            if tries == TRIES {
                break 'again;
            }
            tries += 1;
            explorer.forget_judged();
            if let Err(found) = explorer.once(&smaller, tamper)
                && found.is_about_a_cut()
            {
                (smallest, failure) = (smaller, found);
                continue 'again;
            }
        }
        break;
    }
    failure
}

fn smaller(workload: &Workload) -> impl Iterator<Item = Workload> {
    let ops = &workload.ops;
    let with = |ops: Vec<_>| Workload { ops, ..workload.clone() };
    let half = ops.len() / 2;
    let halves = (ops.len() > 3).then(|| [with(ops[..half].to_vec()), with(ops[half..].to_vec())]);
    let without = (0..ops.len()).rev().filter(|_| ops.len() > 1).map(move |at| {
        let mut fewer = ops.clone();
        fewer.remove(at);
        with(fewer)
    });
    let plainer = (0..ops.len()).flat_map(move |at| {
        let op = ops[at];
        let plainer = [
            (op.blocks > 1).then_some(super::CrashOp { blocks: 1, ..op }),
            op.joined.then_some(super::CrashOp { joined: false, ..op }),
            (op.thread > 0).then_some(super::CrashOp { thread: 0, ..op }),
        ];
        plainer.into_iter().flatten().map(move |op| {
            let mut plainer = ops.clone();
            plainer[at] = op;
            with(plainer)
        })
    });
    halves.into_iter().flatten().chain(without).chain(plainer)
}

/// The fewest granules that must hold something else than nothing new, or than everything new (then true), for `same` to
/// be true still: none of them can be left out.
pub(super) fn fewest_granules(
    state: &State,
    everything: &State,
    same: &mut impl FnMut(&State) -> bool,
) -> (State, bool) {
    let mut kept = state.clone();
    let mut at = 0;
    while at < kept.len() {
        let mut fewer = kept.clone();
        fewer.remove(at);
        if same(&fewer) {
            kept = fewer;
        } else {
            at += 1;
        }
    }
    let mut full = state.clone();
    for (offset, all) in everything {
        let mut fuller = full.clone();
        match fuller.binary_search_by_key(offset, |(other, _)| *other) {
            Ok(at) => fuller[at].1 = all.clone(),
            Err(at) => fuller.insert(at, (*offset, all.clone())),
        }
        if same(&fuller) {
            full = fuller;
        }
    }
    let lacks = |(offset, all): &&(u64, std::rc::Rc<super::options::Held>)| {
        full.binary_search_by_key(offset, |(other, _)| *other).map_or(true, |at| full[at].1.content != all.content)
    };
    let lacking = everything.iter().filter(lacks).count();
    if lacking < kept.len() { (full, true) } else { (kept, false) }
}
