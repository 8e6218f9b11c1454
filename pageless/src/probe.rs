// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless region probe`: registers memory and says what it is and what may be done with it.

use std::fmt;

use pageless::block::Status;
use pageless::mem::probe::{self, Class, Verdict};
use pageless::mem::{Durability, FRAME_SIZE, Memory, Region};
use pageless::open::{Options, open};
use pageless::spec::{Human, Spec};
use serde::Serialize;

use crate::bad::Bad;
use crate::cli::ProbeArgs;
use crate::failure::Failure;
use crate::output;

/// Runs the command.
pub(crate) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    let specs = args.spec.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let memory = Memory::new()?;
    let mut reader = memory.reader();
    for spec in specs {
        let opened = open(&memory, &spec, Options::default())?;
        output::notes(&[&opened]);
        // A file that was asked for by its size is there to stay.
        if let Some(made) = opened.made {
            made.keep();
        }
        let Some(region) = opened.region else { continue };
        if opened.fresh && region.durability() == Durability::Volatile {
            // Memory made for this probe alone has no page to try on yet, and nobody to miss a hole. A fault here shows
            // in the probe itself.
            let _ = region.zero(0, FRAME_SIZE);
        }
        let found = probe::probe(&region, &mut reader);
        let report = Report::new(opened.name, &region, opened.registering.as_micros(), found);
        if args.json {
            output::json(&report)?;
        } else {
            output::text(&report.to_string())?;
        }
    }
    Ok(())
}

/// A spec of memory.
fn parse(text: &str) -> Result<Spec, Failure> {
    let spec: Spec = text.parse()?;
    match spec {
        Spec::Memory(_) => Ok(spec),
        Spec::Device(_) => Err(Failure::NotMemory { text: text.into() }),
    }
}

/// What is told of one memory.
#[derive(Debug, Serialize)]
struct Report {
    memory: String,
    is: &'static str,
    bytes: u64,
    vm_flags: String,
    registered_in_us: u128,
    metadata_bytes: usize,
    cpu_map: String,
    short_pin: String,
    long_pin: String,
    send: String,
    send_zerocopy: String,
    durability: &'static str,
    survives_power_loss: bool,
    flush_domain: String,
    bad: Vec<Bad>,
    more_bad: bool,
}

impl Report {
    fn new(memory: String, region: &Region, registered_in_us: u128, found: probe::Report) -> Report {
        let domain = region.flush_domain();
        Report {
            memory,
            is: match found.class {
                Class::PageLess => "page-less",
                Class::Unpinnable => "unpinnable",
                Class::PageBacked => "page-backed",
                Class::Unknown => "untested",
            },
            bytes: region.len(),
            vm_flags: found.vm_flags.trim().to_owned(),
            registered_in_us,
            metadata_bytes: region.metadata_bytes(),
            cpu_map: shown(found.cpu_map),
            short_pin: shown(found.short_pin),
            long_pin: shown(found.long_pin),
            send: shown(found.send),
            send_zerocopy: shown(found.send_zerocopy),
            durability: match domain.durability {
                Durability::Volatile => "volatile",
                Durability::Fence => "fence",
                Durability::Clwb => "clwb",
                Durability::Msync => "msync",
            },
            survives_power_loss: domain.survives_power_loss(),
            flush_domain: domain.to_string(),
            bad: region.bad().into_iter().map(Bad::from).collect(),
            more_bad: region.more_bad(),
        }
    }
}

fn shown(verdict: Verdict) -> String {
    match verdict {
        Verdict::Ok => "ok".into(),
        Verdict::Refused(errno) => errno.to_string(),
        Verdict::Faulted(fault) => format!("faults ({})", Status::from(fault)),
        Verdict::Untested(why) => format!("untested ({why})"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, {}", self.memory, self.is, Human(self.bytes))?;
        let (took, metadata) = (self.registered_in_us, self.metadata_bytes);
        writeln!(f, "  registered in {took} µs, {metadata} bytes of metadata")?;
        writeln!(f, "  VmFlags: {}", self.vm_flags)?;
        for (what, by, verdict) in [
            ("CPU map", "load", &self.cpu_map),
            ("short pin", "O_DIRECT", &self.short_pin),
            ("long pin", "io_uring registered buffer", &self.long_pin),
            ("socket send", "sendmsg", &self.send),
            ("zero-copy send", "MSG_ZEROCOPY", &self.send_zerocopy),
        ] {
            writeln!(f, "  {:<44}{verdict}", format!("{what} ({by})"))?;
        }
        writeln!(f, "  flush domain: {}", self.flush_domain)?;
        for bad in &self.bad {
            writeln!(f, "  bad: {bad}")?;
        }
        if self.more_bad {
            writeln!(f, "  bad: more than is shown")?;
        }
        Ok(())
    }
}
