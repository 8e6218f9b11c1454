// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`BadWatch`]: what becomes bad in the memory of a disk while it is served, and what becomes good again.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use pageless::mem::{BadRange, BadSource, Region};

use super::{Event, Teller, spawn};
use crate::bad::Bad;
use crate::failure::Failure;
use crate::output;

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// Looks of which one asks the kernel, who may find something that nobody here has touched: that takes a while where files have
/// many extents.
const ASK: u32 = 10;
/// Runs of bytes that are told of one look, at most: a client that can have memory go bad floods nobody.
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
        let looks = Looks { region, json, device: device.to_owned(), told: Vec::new(), told_more: false };
        Ok(BadWatch { stop, teller: spawn("bad-watch", move || looks.run(&stopped))? })
    }

    /// Has it look for the last time, and tell what it finds.
    pub(super) fn stop(self) -> Teller {
        drop(self.stop);
        self.teller
    }
}

struct Looks {
    region: Region,
    json: bool,
    device: String,
    told: Vec<BadRange>,
    told_more: bool,
}

impl Looks {
    fn run(mut self, stopped: &Receiver<()>) -> Result<(), Failure> {
        // What is known when it is opened was found by asking.
        self.look()?;
        let mut looks = (1..=ASK).cycle();
        while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
            if looks.next() == Some(ASK) {
                self.ask();
            }
            self.look()?;
        }
        self.ask();
        self.look()
    }

    fn ask(&self) {
        // Of a region that is gone nobody wants to know.
        let _ = self.region.refresh_bad();
    }

    fn look(&mut self) -> Result<(), Failure> {
        let now = self.region.bad();
        self.tell(&BadRange::beyond(&now, &self.told), "bad", Event::Bad)?;
        // Of what was but a fault nobody knows whether it would be one again.
        let mut gone = BadRange::beyond(&self.told, &now);
        gone.retain(|range| range.source != BadSource::Fault);
        self.tell(&gone, "good again", Event::GoodAgain)?;
        self.told = now;
        if self.region.more_bad() && !self.told_more {
            self.told_more = true;
            output::aside(&format!("pageless: {}: more of its memory is bad than can be listed\n", self.device));
            self.event(&Event::MoreBad)?;
        }
        Ok(())
    }

    fn tell(&self, ranges: &[BadRange], what: &str, event: fn(Bad) -> Event<'static>) -> Result<(), Failure> {
        for bad in ranges.iter().take(SHOWN).map(|range| Bad::from(*range)) {
            output::aside(&format!("pageless: {}: {bad} of its memory are {what}\n", self.device));
            self.event(&event(bad))?;
        }
        if let Some(count @ 1..) = ranges.len().checked_sub(SHOWN) {
            output::aside(&format!("pageless: {}: and {count} more runs of bytes are {what}\n", self.device));
            self.event(&Event::BadLeftOut { count })?;
        }
        Ok(())
    }

    fn event(&self, event: &Event<'_>) -> Result<(), Failure> {
        super::tell(self.json, event)
    }
}
