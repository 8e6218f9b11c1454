// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`States`]: which of all that a medium may hold after a power cut is tried.

use super::medium::Medium;
use super::options::{Held, Options, any};
use super::random::Random;
use std::rc::Rc;

/// What a medium may hold: granules, by their offset, that are not as they durably are.
pub(super) type State = Vec<(u64, Rc<Held>)>;

/// What a medium may hold at one moment.
#[derive(Debug)]
pub(super) struct States {
    open: Vec<(u64, Rc<Options>)>,
}

impl States {
    pub(super) fn of(medium: &mut Medium) -> States {
        let open = medium.open().map(|(offset, durable, pending)| {
            let options = pending.options.get_or_insert_with(|| Rc::new(Options::of(durable, &pending.writes)));
            (offset, Rc::clone(options))
        });
        States { open: open.filter(|(_, options)| options.len() > 1).collect() }
    }

    /// All of them if there are at most `most`, else the plain ones, those that differ from a plain one in a granule
    /// or two, and random ones.
    pub(super) fn choose(&self, medium: &mut Medium, most: usize, random: &mut Random) -> Vec<State> {
        let all = self.open.iter().try_fold(1usize, |all, (_, options)| all.checked_mul(options.len()));
        if let Some(all) = all.filter(|all| *all <= most) {
            return (0..all).map(|number| self.numbered(number)).collect();
        }
        let mut states = vec![self.nothing(), self.everything()];
        let deviations: Vec<(usize, usize)> = self
            .open
            .iter()
            .enumerate()
            .flat_map(|(at, (_, all))| (0..all.len()).map(move |pick| (at, pick)))
            .collect();
        let mut singles: Vec<(usize, bool)> = (0..deviations.len()).flat_map(|at| [(at, false), (at, true)]).collect();
        shuffle(&mut singles, random);
        for (at, full) in singles.into_iter().take(most / 2) {
            states.push(self.deviating(full, &[deviations[at]]));
        }
        for _ in 0..most / 4 {
            let pair = [deviations[random.below(deviations.len())], deviations[random.below(deviations.len())]];
            states.push(self.deviating(random.chance(1, 2), &pair));
        }
        while states.len() < most {
            states.push(self.random(medium, random));
        }
        states
    }

    fn state(&self, picks: impl IntoIterator<Item = usize>) -> State {
        let picked = self.open.iter().zip(picks).filter(|(_, pick)| *pick > 0);
        picked.map(|((offset, options), pick)| (*offset, Rc::clone(options.get(pick)))).collect()
    }

    fn numbered(&self, mut number: usize) -> State {
        let picks = self.open.iter().map(|(_, options)| {
            let pick = number % options.len();
            number /= options.len();
            pick
        });
        let picks: Vec<usize> = picks.collect();
        self.state(picks)
    }

    /// Nothing but what is durable.
    pub(super) fn nothing(&self) -> State {
        Vec::new()
    }

    /// Everything that was stored.
    pub(super) fn everything(&self) -> State {
        self.state(self.open.iter().map(|(_, options)| options.len() - 1))
    }

    fn deviating(&self, full: bool, from: &[(usize, usize)]) -> State {
        self.state(self.open.iter().enumerate().map(|(at, (_, options))| {
            let deviation = from.iter().find(|(other, _)| *other == at);
            deviation.map_or(if full { options.len() - 1 } else { 0 }, |(_, pick)| *pick)
        }))
    }

    fn random(&self, medium: &mut Medium, random: &mut Random) -> State {
        let (nothing, everything) = (random.below(4), random.below(4));
        let mut state = Vec::new();
        let mut open = self.open.iter().peekable();
        for (offset, durable, pending) in medium.open() {
            let Some((_, options)) = open.next_if(|(next, _)| *next == offset) else { continue };
            let dice = random.below(nothing + everything + 2);
            if dice < nothing {
                continue;
            }
            state.push(match dice - nothing {
                dice if dice < everything => (offset, Rc::clone(options.get(options.len() - 1))),
                _ => (offset, Rc::new(any(durable, &pending.writes, random))),
            });
        }
        state
    }
}

fn shuffle<T>(all: &mut [T], random: &mut Random) {
    for at in (1..all.len()).rev() {
        all.swap(at, random.below(at + 1));
    }
}
