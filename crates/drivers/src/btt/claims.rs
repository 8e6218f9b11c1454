// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Claims`]: one writer at a time for each external block.
//!
//! # Claim contract
//! A writer claims a block from before it reads the block's map entry until the new entry is durable (zeroes: is stored, since the
//! block stays the same). So whoever finds an entry can rely on its block to survive, and of all flog entries of one block at most
//! one is ahead of the map.
//!
//! A queue publishes all that it claims at once, and then looks at what the others have published. Between its two steps each
//! side has a full fence, so of two that claim the same at least one sees the other. The one with the higher place withdraws
//! until the other is done; the one with the lower place waits as it is. Who has what it claims waits for nothing but the
//! medium; so nobody waits in a circle.
//!
//! Unlike a lock for each block, claims cost a queue that nobody is in the way of one fence for all of them, and a look at a counter
//! of each place that was ever taken.

use std::sync::Arc;

use super::places::{Places, Told, WORDS};
use super::sync::{Ordering, fence, give_way};

/// Entries of the map in a cache line: they are claimed together.
const ENTRIES: u64 = 16;

const _: () = assert!(super::lanes::PER_GROUP <= WORDS, "a group of writes claims at once");

/// What all queues claim.
#[derive(Debug)]
pub(super) struct Claims(Places);

impl Claims {
    pub(super) fn new() -> Claims {
        Claims(Places::new())
    }

    /// The claims of the queue with this place, of which there is one at a time.
    pub(super) fn enter(self: &Arc<Self>, place: usize) -> Claimant {
        self.0.take(place);
        Claimant { claims: Arc::clone(self), place }
    }

    /// How many blocks from this one on are claimed with it.
    pub(super) fn run(block: u64) -> u64 {
        ENTRIES - block % ENTRIES
    }

    /// The lowest place but this one that claims any of these lines.
    fn rival(&self, place: usize, wanted: &Wanted) -> Option<usize> {
        let mut others = self.0.used().iter().enumerate().filter(|(other, _)| *other != place);
        others.find(|(_, other)| other.tells_any(|line| wanted.has(line))).map(|(other, _)| other)
    }
}

/// Lines that are about to be claimed.
#[derive(Debug)]
struct Wanted {
    lines: [u64; WORDS],
    count: usize,
    /// A bit for what each line is modulo 64.
    marks: u64,
}

impl Wanted {
    #[inline]
    fn of(mut blocks: impl Iterator<Item = u64>) -> Wanted {
        let mut wanted = Wanted { lines: [0; WORDS], count: 0, marks: 0 };
        for (slot, block) in wanted.lines.iter_mut().zip(&mut blocks) {
            *slot = block / ENTRIES;
            wanted.marks |= 1 << (*slot % 64);
            wanted.count += 1;
        }
        debug_assert!(blocks.next().is_none(), "more blocks than fit");
        wanted
    }

    fn has(&self, line: u64) -> bool {
        self.marks >> (line % 64) & 1 != 0 && self.lines[..self.count].contains(&line)
    }
}

/// The claims of one queue.
#[derive(Debug)]
pub(super) struct Claimant {
    claims: Arc<Claims>,
    place: usize,
}

impl Claimant {
    /// Claims these external blocks, of which there are at most [`PER_GROUP`](super::lanes::PER_GROUP).
    #[inline]
    pub(super) fn claim(&mut self, blocks: impl Iterator<Item = u64>) -> Told<'_> {
        let wanted = Wanted::of(blocks);
        let own = self.claims.0.at(self.place);
        wanted.lines[..wanted.count].iter().enumerate().for_each(|(at, line)| own.set(at, *line));
        let mut patience = Patience::default();
        loop {
            own.tell(wanted.count);
            fence(Ordering::SeqCst);
            match self.claims.rival(self.place, &wanted) {
                None => return Told(own),
                Some(rival) if rival < self.place => {
                    own.tell(0);
                    while self.claims.0.at(rival).tells_any(|line| wanted.has(line)) {
                        patience.wait();
                    }
                }
                Some(_) => patience.wait(),
            }
        }
    }
}

/// Waits as long as a few stores take, and otherwise as long as a sync does.
#[derive(Debug, Default)]
struct Patience(u32);

impl Patience {
    #[cold]
    fn wait(&mut self) {
        self.0 += 1;
        if cfg!(loom) || self.0 < 256 {
            give_way();
        } else {
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn blocks_of_one_line_are_claimed_together() {
        let claims = Arc::new(Claims::new());
        let mut one = claims.enter(0);
        let claimed = one.claim([70, 3, 0].into_iter());
        let of_others = |block| claims.rival(1, &Wanted::of(std::iter::once(block)));
        // 0..16 and 64..80, and not 1024 + 64.., which has the same mark.
        assert_eq!([15, 16, 65, 1024 + 64].map(of_others), [Some(0), None, Some(0), None]);
        assert_eq!(claims.rival(0, &Wanted::of(std::iter::once(0))), None, "its own");
        drop(claimed);
        assert_eq!(of_others(0), None);
        assert_eq!((Claims::run(0), Claims::run(15), Claims::run(18)), (16, 1, 14));
    }

    #[test]
    fn nobody_has_what_another_has() {
        const LINES: usize = 40;
        let claims = Arc::new(Claims::new());
        let taken: [AtomicBool; LINES] = std::array::from_fn(|_| AtomicBool::new(false));
        std::thread::scope(|scope| {
            for place in 0..4_usize {
                let (claims, taken) = (&claims, &taken);
                scope.spawn(move || {
                    let (mut claimant, mut random) = (claims.enter(place), place as u64 + 1);
                    for _ in 0..20_000 {
                        let mut lines = [0; 5].map(|_: usize| {
                            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            usize::try_from(random >> 33).unwrap() % LINES
                        });
                        let claimed = claimant.claim(lines.iter().map(|line| *line as u64 * ENTRIES));
                        lines.sort_unstable();
                        let distinct =
                            || lines.iter().enumerate().filter(|(n, line)| *n == 0 || lines[n - 1] != **line);
                        assert!(distinct().all(|(_, line)| !taken[*line].swap(true, Ordering::Relaxed)));
                        distinct().for_each(|(_, line)| taken[*line].store(false, Ordering::Relaxed));
                        drop(claimed);
                    }
                });
            }
        });
    }
}
