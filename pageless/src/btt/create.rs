// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless btt create`: a new BTT, where nothing is that anybody could miss.

use std::path::Path;

use pageless::drivers::btt::check::find::{self, FindError};
use pageless::drivers::btt::check::medium::Medium;
use pageless::drivers::btt::check::{CheckError, CheckOptions};
use pageless::drivers::btt::info::Uuid;
use pageless::drivers::btt::layout::{LayoutError, LbaSize, Placement, cut};
use pageless::drivers::btt::{BttDisk, CreateOptions};
use pageless::mem::Memory;
use pageless::open::{Options, make_medium, open_medium};
use pageless::spec::parse_size;
use pageless::sys::signal::{SignalFd, block_termination};

use super::error::BttError;
use super::scan::Watched;
use super::{info, scan};
use crate::cli::{BttCreateArgs, Layout};
use crate::failure::Failure;

/// The kernel's source of random UUIDs.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// Runs the command.
pub(super) fn run(args: &BttCreateArgs) -> Result<(), Failure> {
    let path = &args.path;
    let new = wanted(args)?;
    let size = args.size.as_deref().map(size).transpose()?;
    // From here on a signal waits, but where it is looked for data: all else is short, and a file that is made is whole or gone.
    let signals = block_termination()?;
    let memory = Memory::new()?;
    let (region, made) = match size {
        Some(size) => {
            // Before the file is made.
            fits(path, size, &new)?;
            make_medium(&memory, path, size)?
        }
        None => (open_medium(&memory, path, Options::default())?, None),
    };
    let domain = region.flush_domain();
    if !domain.survives_power_loss() && !args.volatile {
        return Err(BttError::Volatile { path: path.clone(), domain }.into());
    }
    let mut medium = Medium::new(&memory, region.clone());
    fits(path, medium.len(), &new)?;
    if made.is_none() && !args.force {
        vacant(&mut medium, args, &signals)?;
    }
    BttDisk::create(&memory, &region, &new).map_err(|error| BttError::Create { path: path.clone(), error })?;
    if let Some(made) = made {
        made.keep();
    }
    let options = CheckOptions { placement: Some(new.placement), parent_uuid: None, ..CheckOptions::default() };
    info::show(&mut medium, path, options, args.json)
}

fn fits(path: &Path, size: u64, new: &CreateOptions) -> Result<(), Failure> {
    let failed = |error: LayoutError| BttError::Create { path: path.to_owned(), error: error.into() };
    cut(size, new.placement, new.lba_size, new.nfree).map_err(failed)?;
    Ok(())
}

fn wanted(args: &BttCreateArgs) -> Result<CreateOptions, Failure> {
    let bad = |name, text: String, why: &str| Failure::Argument { name, text, why: why.into() };
    let lba_size = LbaSize::new(args.sector_size).ok_or_else(|| {
        bad("--sector-size", args.sector_size.to_string(), "must be 512, 520, 528, 4096, 4104, 4160 or 4224")
    })?;
    if args.layout == Layout::Pool {
        return Err(bad("--layout", "pool".into(), "pools are PMDK's to make: pmempool create --write-layout blk"));
    }
    let uuid = match args.uuid {
        Some(uuid) => uuid,
        None => random()?,
    };
    let options = CreateOptions::new(lba_size, Placement::from(args.layout), uuid);
    Ok(CreateOptions { parent_uuid: args.parent_uuid.unwrap_or(Uuid::NIL), ..options })
}

fn size(text: &str) -> Result<u64, Failure> {
    let bad = |why: String| Failure::Argument { name: "--size", text: text.into(), why };
    match parse_size(text) {
        Err(error) => Err(bad(error.to_string())),
        Ok(size) if size % 4096 != 0 => Err(bad(format!("{size} bytes is no multiple of 4096"))),
        Ok(size) => Ok(size),
    }
}

fn random() -> Result<Uuid, Failure> {
    let text = std::fs::read_to_string(RANDOM).map_err(|error| Failure::Argument {
        name: "--uuid",
        text: "(random)".into(),
        why: format!("{RANDOM}: {error}; give one"),
    })?;
    text.trim().parse().map_err(|error| Failure::Argument {
        name: "--uuid",
        text: text.trim().into(),
        why: format!("{error}"),
    })
}

/// Whether nobody could miss what is there.
fn vacant(medium: &mut Medium, args: &BttCreateArgs, signals: &SignalFd) -> Result<(), Failure> {
    let path = &args.path;
    let occupied = |what: String| Err(BttError::Occupied { path: path.to_owned(), what }.into());
    let medium_failed =
        |error: FindError| Failure::from(BttError::Check { path: path.to_owned(), error: CheckError::Find(error) });
    match find::find(medium, CheckOptions::default()) {
        Ok(found) => {
            let placement = found.placement;
            return occupied(format!("a BTT {} at byte {}", placement.version(), placement.offset()));
        }
        Err(FindError::EmptyPool) => return occupied("a PMDK pool".into()),
        Err(error @ FindError::Medium(_)) => return Err(medium_failed(error)),
        Err(_) => {}
    }
    match scan::first_data(medium, path, Watched::new(signals, args.json))? {
        None => Ok(()),
        Some(at) => occupied(format!("data, the first at byte {at}")),
    }
}
