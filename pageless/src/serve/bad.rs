// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BadWatch`]: what becomes bad in the memory of a disk while it is served, and what becomes good again.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use pageless::mem::{BadRange, Region};

use super::{Event, Teller, spawn};
use crate::bad::Bad;
use crate::failure::Failure;
use crate::output;

/// From one look to the next: the kernel may find something that nobody here has touched.
const PERIOD: Duration = Duration::from_secs(2);
/// Lines of one look, at most, on a screen. Programs get them all.
const SHOWN: usize = 16;

/// Looks again and again, until it is stopped.
#[derive(Debug)]
pub(super) struct BadWatch {
    stop: Sender<()>,
    teller: Teller,
}

impl BadWatch {
    pub(super) fn start(region: Region, json: bool, device: &str) -> Result<BadWatch, Failure> {
        let (stop, stopped) = channel();
        let looks = Looks { region, json, device: device.to_owned(), told: Vec::new() };
        Ok(BadWatch { stop, teller: spawn("bad-watch", move || looks.run(&stopped))? })
    }

    /// Tells what was found since it looked last.
    pub(super) fn stop(self) -> Result<(), Failure> {
        drop(self.stop);
        self.teller.join().unwrap_or(Ok(()))
    }
}

struct Looks {
    region: Region,
    json: bool,
    device: String,
    told: Vec<BadRange>,
}

impl Looks {
    fn run(mut self, stopped: &Receiver<()>) -> Result<(), Failure> {
        while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
            self.look()?;
        }
        self.look()
    }

    fn look(&mut self) -> Result<(), Failure> {
        // Of a region that is gone there is nothing to know.
        if self.region.refresh_bad().is_err() {
            return Ok(());
        }
        let now = self.region.bad();
        self.tell(&without(&now, &self.told), "bad: an I/O error for whoever asks for them", Event::Bad)?;
        self.tell(&without(&self.told, &now), "good again", Event::GoodAgain)?;
        self.told = now;
        Ok(())
    }

    fn tell(&self, ranges: &[BadRange], what: &str, event: fn(Bad) -> Event<'static>) -> Result<(), Failure> {
        for range in ranges.iter().take(SHOWN) {
            output::aside(&format!("pageless: {}: {} are {what}\n", self.device, Bad::from(*range)));
        }
        if let Some(more @ 1..) = ranges.len().checked_sub(SHOWN) {
            output::aside(&format!("pageless: {}: and {more} more runs of bytes are {what}\n", self.device));
        }
        if self.json { ranges.iter().try_for_each(|range| output::json(&event(Bad::from(*range)))) } else { Ok(()) }
    }
}

/// The parts of some ranges that lie in none of others; both by offset.
fn without(ranges: &[BadRange], others: &[BadRange]) -> Vec<BadRange> {
    let mut parts = Vec::new();
    for range in ranges {
        let (mut at, end) = (range.offset, range.offset + range.len);
        for other in others {
            if other.offset >= end {
                break;
            }
            if other.offset > at {
                parts.push(BadRange { offset: at, len: other.offset - at, ..*range });
            }
            at = at.max(other.offset + other.len);
        }
        if at < end {
            parts.push(BadRange { offset: at, len: end - at, ..*range });
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless::mem::BadSource;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = Vec<BadRange>> {
        prop::collection::vec((1..5_u64, 1..5_u64), 0..6).prop_map(|gaps| {
            let mut at = 0;
            let range = |(gap, len): (u64, u64)| {
                let range = BadRange { offset: at + gap, len, source: BadSource::Poison };
                at += gap + len;
                range
            };
            gaps.into_iter().map(range).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_new(now in ranges(), told in ranges()) {
            let has = |ranges: &[BadRange], byte| ranges.iter().filter(|it| (it.offset..it.offset + it.len).contains(&byte)).count();
            let new = without(&now, &told);
            for byte in 0..64 {
                let expected = usize::from(has(&now, byte) == 1 && has(&told, byte) == 0);
                prop_assert_eq!(has(&new, byte), expected, "byte {}", byte);
            }
        }
    }
}
