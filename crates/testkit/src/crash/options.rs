// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Options`]: what a granule may hold after a power cut.

use super::medium::{Kind, Write};
use super::random::Random;
use std::collections::HashSet;
use std::rc::Rc;

/// One thing that a granule may hold, and how it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) content: Box<[u8]>,
    /// Of each pending write the parts that were kept.
    pub(super) kept: Box<[u64]>,
}

/// What a granule may hold: first what is durable, last everything that was stored.
#[derive(Debug)]
pub(super) struct Options(Vec<Rc<Held>>);

impl Options {
    /// Every prefix of the plain stores with the next one torn in the plainest ways, and the plainest ways in which
    /// others may be missing. Each content once.
    pub(super) fn of(durable: &[u8], writes: &[Write]) -> Options {
        let plain: Vec<usize> = (0..writes.len()).filter(|at| writes[*at].kind == Kind::Plain).collect();
        let weak: Vec<usize> = (0..writes.len()).filter(|at| writes[*at].kind != Kind::Plain).collect();
        let mut masks = Vec::new();
        let with = |plain_kept: usize, torn: u64, weak_kept: u64| -> Box<[u64]> {
            let mut kept = vec![0; writes.len()];
            plain.iter().take(plain_kept).for_each(|at| kept[*at] = u64::MAX);
            plain.get(plain_kept).into_iter().for_each(|at| kept[*at] = torn);
            weak.iter().for_each(|at| kept[*at] = weak_kept);
            kept.into()
        };
        let extremes: &[u64] = if weak.is_empty() { &[0] } else { &[0, u64::MAX] };
        for weak_kept in extremes {
            for prefix in 0..=plain.len() {
                masks.push(with(prefix, 0, *weak_kept));
                if let Some(next) = plain.get(prefix) {
                    masks.extend(tears(&writes[*next], durable.len()).map(|torn| with(prefix, torn, *weak_kept)));
                }
            }
        }
        for at in &weak {
            for torn in tears(&writes[*at], durable.len()) {
                for (prefix, others) in [(0, 0), (plain.len(), u64::MAX)] {
                    let mut kept = with(prefix, 0, others);
                    kept[*at] = torn;
                    masks.push(kept);
                }
            }
        }
        let nothing = Held { content: durable.into(), kept: with(0, 0, 0) };
        let everything = held(durable, writes, vec![u64::MAX; writes.len()].into());
        let mut seen = HashSet::from([nothing.content.clone(), everything.content.clone()]);
        let mut all = vec![nothing];
        for kept in masks {
            let held = held(durable, writes, kept);
            if seen.insert(held.content.clone()) {
                all.push(held);
            }
        }
        // What was stored may end as what is durable.
        if &*everything.content != durable {
            all.push(everything);
        }
        Options(all.into_iter().map(Rc::new).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, index: usize) -> &Rc<Held> {
        &self.0[index]
    }
}

/// Anything at all that the granule may hold.
pub(super) fn any(durable: &[u8], writes: &[Write], random: &mut Random) -> Held {
    let plain = writes.iter().filter(|write| write.kind == Kind::Plain).count();
    let prefix = random.below(plain + 1);
    let bias = random.below(3);
    let mut seen = 0;
    let kept = writes.iter().map(|write| {
        let some = |random: &mut Random| {
            let units = write.units(durable.len());
            units.into_iter().filter(|_| random.chance(bias + 1, 4)).fold(0, |all, unit| all | unit)
        };
        match write.kind {
            Kind::Plain => {
                seen += 1;
                match seen {
                    _ if seen <= prefix => u64::MAX,
                    _ if seen == prefix + 1 => some(random),
                    _ => 0,
                }
            }
            Kind::Streamed | Kind::Punched => some(random),
        }
    });
    let kept = kept.collect();
    held(durable, writes, kept)
}

fn held(durable: &[u8], writes: &[Write], kept: Box<[u64]>) -> Held {
    let mut content: Box<[u8]> = durable.into();
    for (write, mask) in writes.iter().zip(&kept) {
        if *mask != 0 {
            write.apply(*mask, &mut content);
        }
    }
    Held { content, kept }
}

/// A store cut off after each unit, one that lacks each unit, and one that has but each.
fn tears(write: &Write, granule: usize) -> impl Iterator<Item = u64> {
    let units = write.units(granule);
    let all = units.iter().fold(0, |all, unit| all | unit);
    let mut masks: Vec<u64> = Vec::new();
    if units.len() > 1 {
        let mut until = 0;
        for unit in &units {
            until |= unit;
            masks.extend([until, *unit, all & !unit]);
        }
    }
    // The last prefix is the whole store.
    masks.into_iter().filter(move |mask| *mask != all)
}
