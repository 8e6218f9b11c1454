// SPDX-License-Identifier: MIT OR Apache-2.0
//! `btt:`: the BTT on some memory; where the memory is new, a new one.

use std::path::Path;
use std::time::Instant;

use pageless_drivers::btt::layout::{LbaSize, Placement, cut};
use pageless_drivers::btt::{AccessMode, BttDisk, BttError, CreateOptions, OpenOptions, Promise};
use pageless_mem::{Backing, Memory};

use super::error::Problem;
use super::{Made, Opened, Options, medium, memory as backings, only_a_disk};
use crate::spec::{BttSpec, MemorySpec};

/// Bytes of a new one's blocks, unless said otherwise.
const SECTOR: u32 = 4096;
/// The kernel's source of random UUIDs.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// Opens it, or makes it.
pub(super) fn open(memory: &Memory, spec: &BttSpec, options: Options, name: &str) -> Result<Opened, Problem> {
    let (made, fresh) = prepare(spec, options)?;
    let began = Instant::now();
    let region = memory.register(backing(spec, options)?).map_err(Problem::Memory)?;
    let registering = began.elapsed();
    let failed = |error| failed(spec, error);
    if fresh {
        BttDisk::create(memory, &region, &wanted(spec)?).map_err(failed)?;
    }
    let access = if options.read_only { AccessMode::ReadOnly } else { AccessMode::ReadWrite };
    let how = OpenOptions { placement: spec.layout, parent_uuid: spec.parent, access, order: spec.order };
    let disk = BttDisk::open(memory, &region, name, &how).map_err(failed)?;
    if let Some(asked) = spec.sector
        && asked != disk.lba_size()
    {
        return Err(Problem::OtherSector { have: disk.lba_size().bytes(), asked: asked.bytes() });
    }
    let troubles = Some(disk.troubles_to_come());
    let notes = notes(&disk);
    Ok(Opened { medium: Some(region), registering, notes, troubles, ..only_a_disk(name, Box::new(disk), made, fresh) })
}

fn failed(spec: &BttSpec, error: BttError) -> Problem {
    let path = match &spec.medium {
        MemorySpec::Pmem { path, .. } => Some(path.clone()),
        _ => None,
    };
    Problem::Btt { path, error: Box::new(error) }
}

/// Sees to the file behind the memory. Whether the memory is new, and so has no BTT.
fn prepare(spec: &BttSpec, options: Options) -> Result<(Option<Made>, bool), Problem> {
    let made = match &spec.medium {
        MemorySpec::Pmem { path, size: None } if path.exists() => return Ok((None, false)),
        MemorySpec::Pmem { size, .. } => {
            // A size that is too small makes no file.
            if let Some(size) = size.or(options.size_if_made) {
                let new = wanted(spec)?;
                let fits = cut(size, new.placement, new.lba_size, new.nfree);
                fits.map_err(|error| failed(spec, error.into()))?;
            }
            backings::prepare(&spec.medium, options)?
        }
        MemorySpec::Dax(_) | MemorySpec::Bar(_) | MemorySpec::DevMem { .. } => return Ok((None, false)),
        _ => return Ok((None, true)),
    };
    let fresh = made.is_some();
    Ok((made, fresh))
}

/// A BTT may lie on what is no mapped file: a block device, part of a frame too much.
fn backing(spec: &BttSpec, options: Options) -> Result<Backing, Problem> {
    match &spec.medium {
        MemorySpec::Pmem { path, .. } => medium::backing(path, options),
        other => backings::backing(other, options),
    }
}

fn wanted(spec: &BttSpec) -> Result<CreateOptions, Problem> {
    let unknown = |errno| Problem::Refused { doing: "read", path: Path::new(RANDOM).into(), errno };
    let text = std::fs::read_to_string(RANDOM).map_err(|error| unknown(pageless_sys::Errno::from_io(&error)))?;
    let uuid = text.trim().parse().map_err(|_| unknown(pageless_sys::Errno::EINVAL))?;
    let usual = LbaSize::new(SECTOR).unwrap_or(LbaSize::ALL[0]);
    let placement = spec.layout.unwrap_or(Placement::V1_1);
    let options = CreateOptions::new(spec.sector.unwrap_or(usual), placement, uuid);
    Ok(CreateOptions { parent_uuid: spec.parent.unwrap_or(options.parent_uuid), ..options })
}

/// What its sectors are safe from, where that is less than power cuts, and what is wrong with it.
fn notes(disk: &BttDisk) -> Vec<String> {
    let mut notes = Vec::new();
    if disk.promise() != Promise::PowerCut {
        notes.push(disk.promise().to_string());
    }
    match disk.finished() {
        0 => {}
        1 => notes.push("1 interrupted write was finished".into()),
        count => notes.push(format!("{count} interrupted writes were finished")),
    }
    notes.extend(disk.troubles().iter().map(ToString::to_string));
    notes
}
