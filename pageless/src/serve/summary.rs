// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server says at its end: which way the bytes of each export went, and why not direct.

use std::fmt;

use pageless::block::RouteTotals;
use pageless::spec::Human;
use serde::Serialize;

/// Which way the bytes of one export went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ExportSummary {
    /// The export's name.
    pub(super) export: String,
    /// The device it is.
    pub(super) device: String,
    /// Bytes by way.
    pub(super) routes: Bytes,
    /// Requests for which there was no way.
    pub(super) refused: u64,
    /// Why bytes did not go direct, or not at all.
    pub(super) reasons: Vec<String>,
}

/// Bytes by the way they went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Bytes {
    direct: u64,
    dma_buf: u64,
    bounce: u64,
    copy: u64,
}

impl ExportSummary {
    pub(super) fn new(export: &str, device: &str, totals: &RouteTotals) -> ExportSummary {
        let RouteTotals { direct, dma_buf, bounce, copy, refuse, reasons } = totals;
        ExportSummary {
            export: export.to_owned(),
            device: device.to_owned(),
            routes: Bytes { direct: direct.bytes, dma_buf: dma_buf.bytes, bounce: bounce.bytes, copy: copy.bytes },
            refused: refuse.transfers,
            reasons: reasons.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A line for each way that was used and for each reason; nothing where nothing moved.
impl fmt::Display for ExportSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes { direct, dma_buf, bounce, copy } = self.routes;
        let ways = [("direct", direct), ("dma-buf", dma_buf), ("bounce", bounce), ("copy", copy)];
        if self.refused == 0 && ways.iter().all(|(_, bytes)| *bytes == 0) {
            return Ok(());
        }
        writeln!(f, "{}:", self.device)?;
        for (name, bytes) in ways.into_iter().filter(|(_, bytes)| *bytes != 0) {
            writeln!(f, "  {name:<7} {}", Human(bytes))?;
        }
        if self.refused != 0 {
            writeln!(f, "  refused {} requests", self.refused)?;
        }
        self.reasons.iter().try_for_each(|reason| writeln!(f, "  {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageless::block::{Route, RouteCounters, Why};

    #[test]
    fn every_way_that_was_used_is_told_with_its_reason() {
        let counters = RouteCounters::default();
        let none = ExportSummary::new("disk", "ram:1M", &counters.totals());
        assert_eq!(none.to_string(), "");
        for (route, bytes) in [
            (Route::Direct, 1 << 20),
            (Route::DmaBuf, 512),
            (Route::Bounce(Why::Misaligned), 4096),
            (Route::Refuse(Why::ReadOnly), 0),
        ] {
            counters.count(route, bytes);
        }
        let summary = ExportSummary::new("disk", "file:x", &counters.totals());
        assert_eq!(
            summary.to_string(),
            "file:x:\n  direct  1 MiB\n  dma-buf 512 B\n  bounce  4 KiB\n  refused 1 requests\n  bounce (not aligned for direct I/O)\n  refuse (the memory may only be read)\n"
        );
        assert_eq!(
            serde_json::to_string(&summary).expect("plain data"),
            r#"{"export":"disk","device":"file:x","routes":{"direct":1048576,"dma-buf":512,"bounce":4096,"copy":0},"refused":1,"reasons":["bounce (not aligned for direct I/O)","refuse (the memory may only be read)"]}"#
        );
    }
}
