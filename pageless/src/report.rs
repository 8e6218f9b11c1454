// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a copy did: how much, how fast, which way the bytes went and why.

use std::fmt;
use std::time::Duration;

use pageless::block::{Route, RouteCounters, Why};
use pageless::mem::Region;
use pageless::spec::Human;
use serde::Serialize;

/// Bytes by the way they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Routes {
    /// Between the device and the frames, or by dma-buf: nothing in between.
    pub(crate) direct: u64,
    /// Through a bounce slot.
    pub(crate) bounce: u64,
    /// By the CPU.
    pub(crate) copy: u64,
}

/// Which half of a copy an I/O was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg {
    /// From the source.
    Read,
    /// To the destination.
    Write,
}

/// The memory that an I/O was done on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffer<'a> {
    /// What the user calls it.
    pub(crate) name: &'a str,
    /// Itself; nothing for pages of our own.
    pub(crate) region: Option<&'a Region>,
}

/// Collects routes and their reasons while a copy runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counters: RouteCounters,
    reasons: Vec<String>,
    explained: Vec<(Leg, Route)>,
}

impl Tally {
    /// Counts bytes that arrived, by the way they went.
    pub(crate) fn count(&mut self, route: Route, bytes: u64) {
        self.counters.count(route, bytes);
    }

    /// Notes why an I/O between a device of this name and memory was not direct.
    pub(crate) fn explain(&mut self, leg: Leg, route: Route, device: &str, memory: Buffer<'_>) {
        // The names are the same all through a copy, so each reason is put into words once.
        if let Some(why) = route.why()
            && !self.explained.contains(&(leg, route))
        {
            self.explained.push((leg, route));
            let reason = reason(route, why, device, memory);
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
    }

    /// The counts and the reasons in the order they came up.
    pub(crate) fn finish(self) -> (Routes, Vec<String>) {
        let totals = self.counters.totals();
        let direct = totals.direct.bytes + totals.dma_buf.bytes;
        (Routes { direct, bounce: totals.bounce.bytes, copy: totals.copy.bytes }, self.reasons)
    }
}

fn reason(route: Route, why: Why, device: &str, buffer: Buffer<'_>) -> String {
    let memory = buffer.name;
    let done = match route {
        Route::Bounce(_) => "bounced",
        Route::Refuse(_) => "refused",
        Route::None | Route::Direct | Route::DmaBuf | Route::Copy(_) => "copied by the CPU",
    };
    match why {
        Why::MemoryDisk => format!("{device} is memory, {done}"),
        Why::Zeroes => format!("{device} has nothing to fetch there, zeroes stored by the CPU"),
        Why::Unpinnable(errno) => {
            let errno = errno.name().map_or_else(|| errno.to_string(), str::to_owned);
            let what = if buffer.region.is_some_and(Region::is_page_less) { "page-less" } else { "unpinnable" };
            format!("{memory} is {what} (O_DIRECT: {errno}), {done}")
        }
        Why::Misaligned => format!("{memory} is not aligned for {device}, {done}"),
        Why::NoDirectIo => format!("{device} refuses O_DIRECT, {done}"),
        Why::Requested => format!("{device} was asked to, {done}"),
        Why::ReadOnly => format!("{memory} may only be read, {done}"),
        Why::OutOfReach => format!("{memory} is out of reach of {device} and the CPU, {done}"),
    }
}

/// The report of a copy that ran to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Bytes of the source that the destination now holds, holes included.
    pub(crate) bytes: u64,
    /// From the first request to the flushed destination.
    pub(crate) seconds: f64,
    /// Bytes moved, by way.
    pub(crate) routes: Routes,
    /// Why bytes did not go direct.
    pub(crate) reasons: Vec<String>,
    /// Whether the destination was read again and is the same; nothing where that was not asked.
    pub(crate) verified: Option<bool>,
    /// Bytes that were holes, kept as holes or zeroed without moving any.
    #[serde(skip)]
    pub(crate) holes: u64,
    /// What making the pages of new memory took before that.
    #[serde(skip)]
    pub(crate) prepared: Duration,
}

impl Report {
    pub(crate) fn new(bytes: u64, holes: u64, prepared: Duration, took: Duration, tally: Tally) -> Report {
        let (routes, reasons) = tally.finish();
        Report { bytes, seconds: took.as_secs_f64(), routes, reasons, verified: None, holes, prepared }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Routes { direct, bounce, copy } = self.routes;
        write!(f, "copied {} in {:.3} s", Human(self.bytes), self.seconds)?;
        // Holes cost nothing, so they do not count as speed.
        let moved = direct + bounce + copy;
        if moved != 0 {
            #[expect(clippy::cast_precision_loss, reason = "a rate shown with three decimals")]
            let rate = moved as f64 / self.seconds.max(1e-9) / 1e9;
            write!(f, ", {rate:.3} GB/s")?;
        }
        writeln!(f)?;
        for (name, bytes) in [("direct", direct), ("bounce", bounce), ("copy", copy), ("holes", self.holes)] {
            if bytes != 0 {
                writeln!(f, "  {name:<7} {}", Human(bytes))?;
            }
        }
        if self.prepared > Duration::from_millis(1) {
            writeln!(f, "  before that {:.3} s to make the pages of new memory", self.prepared.as_secs_f64())?;
        }
        for reason in &self.reasons {
            writeln!(f, "  {reason}")?;
        }
        match self.verified {
            Some(true) => writeln!(f, "verified: the destination reads the same"),
            Some(false) => writeln!(f, "NOT verified: the destination differs"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless::sys::Errno;

    fn named(name: &str) -> Buffer<'_> {
        Buffer { name, region: None }
    }

    #[test]
    fn json_has_exactly_these_fields() {
        let mut tally = Tally::default();
        let unpinnable = Route::Bounce(Why::Unpinnable(Errno::EFAULT));
        for (route, bytes) in [(Route::Direct, 4096), (unpinnable, 8192), (unpinnable, 8192), (Route::None, 1)] {
            tally.count(route, bytes);
            tally.explain(Leg::Read, route, "file:x", named("secret:64M"));
        }
        let mut report = Report::new(20480, 0, Duration::ZERO, Duration::from_millis(1500), tally);
        report.verified = Some(true);
        assert_eq!(
            serde_json::to_string(&report).expect("plain data"),
            r#"{"bytes":20480,"seconds":1.5,"routes":{"direct":4096,"bounce":16384,"copy":0},"reasons":["secret:64M is unpinnable (O_DIRECT: EFAULT), bounced"],"verified":true}"#
        );
    }

    #[test]
    fn the_report_for_people() {
        let mut tally = Tally::default();
        tally.count(Route::Copy(Why::MemoryDisk), 3 << 20);
        tally.explain(Leg::Write, Route::Copy(Why::MemoryDisk), "pmem:p", named("ram:1M"));
        let report = Report::new(4 << 20, 1 << 20, Duration::from_millis(70), Duration::from_secs(1), tally);
        assert_eq!(
            report.to_string(),
            "copied 4 MiB in 1.000 s, 0.003 GB/s\n  copy    3 MiB\n  holes   1 MiB\n  before that 0.070 s to make the pages of new memory\n  pmem:p is memory, copied by the CPU\n"
        );
    }

    #[test]
    fn every_reason_names_what_refused() {
        for (route, says) in [
            (Route::Bounce(Why::Misaligned), "MEM is not aligned for DEV, bounced"),
            (Route::Bounce(Why::NoDirectIo), "DEV refuses O_DIRECT, bounced"),
            (Route::Bounce(Why::Requested), "DEV was asked to, bounced"),
            (Route::Copy(Why::MemoryDisk), "DEV is memory, copied by the CPU"),
            (Route::Refuse(Why::ReadOnly), "MEM may only be read, refused"),
            (Route::Refuse(Why::OutOfReach), "MEM is out of reach of DEV and the CPU, refused"),
            (Route::Copy(Why::Zeroes), "DEV has nothing to fetch there, zeroes stored by the CPU"),
        ] {
            let mut tally = Tally::default();
            tally.explain(Leg::Read, route, "DEV", named("MEM"));
            tally.explain(Leg::Read, route, "DEV", named("MEM"));
            tally.explain(Leg::Write, route, "DEV", named("MEM"));
            assert_eq!(tally.finish().1, [says]);
        }
    }
}
