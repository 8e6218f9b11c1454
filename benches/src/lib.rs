// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the measuring programs share: interleaved rounds, medians with their spread, and a verdict beside its bar.
//!
//! A figure here is a *report*, never an assertion: a noisy neighbour must not turn a build red. A ratio is taken between
//! two things measured in the same round, so that whatever slows the machine slows both; the median over the rounds is
//! printed with the smallest and the largest, and the reader judges.
//!
//! [`interleave`] runs the contenders in turn, [`Summary`] is what came of one of them, [`verdict`] prints a line.

#![forbid(unsafe_code)]

use std::fmt;

/// The median of some rounds and how far they lay apart.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Summary {
    /// The middle value (mean of the two middle ones for an even count).
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Sums up `values`; `None` when there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        Some(Summary { median, min, max })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.2} [{:.2} .. {:.2}]", self.median, self.min, self.max)
    }
}

/// Runs every contender once per round, in turn, and returns each one's values in round order.
///
/// One warm-up round is run and thrown away.
pub fn interleave<const N: usize>(rounds: usize, mut contenders: [&mut dyn FnMut() -> f64; N]) -> [Vec<f64>; N] {
    for run in &mut contenders {
        run();
    }
    let mut values = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (run, seen) in contenders.iter_mut().zip(&mut values) {
            seen.push(run());
        }
    }
    values
}

/// What a figure is held against.
#[derive(Copy, Clone, Debug)]
pub enum Bar {
    /// Must not be above.
    AtMost(f64),
    /// Must not be below.
    AtLeast(f64),
    /// Only reported.
    None,
}

/// Prints `name`, the summary of `values` and whether the median meets the bar.
pub fn verdict(name: &str, unit: &str, values: &[f64], bar: Bar) {
    let Some(summary) = Summary::of(values) else {
        println!("{name:<52} nothing measured");
        return;
    };
    let judged = match bar {
        Bar::AtMost(bar) => format!("bar <= {bar:<6} {}", word(summary.median <= bar)),
        Bar::AtLeast(bar) => format!("bar >= {bar:<6} {}", word(summary.median >= bar)),
        Bar::None => String::new(),
    };
    println!("{name:<52} {summary} {unit:<4} {judged}");
}

fn word(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// `a / b` and `a - b`, round by round.
#[must_use]
pub fn ratios(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a / b).collect()
}

/// `a - b`, round by round.
#[must_use]
pub fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// A small generator (xorshift64*): the same offsets for every contender and every run.
#[derive(Clone, Debug)]
pub struct Offsets(u64);

impl Offsets {
    /// Starts at `seed`, which must not be 0.
    #[must_use]
    pub fn new(seed: u64) -> Offsets {
        Offsets(seed)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_spread_the_ends() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0]).map(|s| s.median), Some(2.5));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn contenders_take_turns_after_one_warm_up() {
        let order = std::cell::RefCell::new(Vec::new());
        let [a, b] = interleave(
            2,
            [
                &mut || {
                    order.borrow_mut().push('a');
                    1.0
                },
                &mut || {
                    order.borrow_mut().push('b');
                    2.0
                },
            ],
        );
        assert_eq!(order.into_inner(), ['a', 'b', 'a', 'b', 'a', 'b']);
        assert_eq!((a, b), (vec![1.0; 2], vec![2.0; 2]));
    }
}
