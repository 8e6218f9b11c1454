// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--vhost-user`: the same disk for a virtual machine.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use pageless::block::BlockDevice;
use pageless::export::vhost_user::{Notice, Polling, Server, ServerConfig};
use pageless::mem::Memory;

use super::{Event, ServeError};
use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::output;

/// Rings that are offered where nothing is said: a guest takes as many as it has processors.
const MOST_QUEUES: u16 = 16;

/// The server, where one is asked for.
pub(super) fn start(
    args: &ServeArgs,
    device: &Arc<dyn BlockDevice>,
    read_only: bool,
    memory: &Memory,
) -> Result<Option<Server>, Failure> {
    let Some(path) = &args.vhost_user else { return Ok(None) };
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let queues = args.queues.unwrap_or_else(|| u16::try_from(processors).unwrap_or(MOST_QUEUES).min(MOST_QUEUES));
    let polling = args.poll.map_or(Polling::Adaptive, |micros| Polling::Busy(Duration::from_micros(micros.into())));
    let config = ServerConfig { device: Arc::clone(device), path: path.clone(), queues, polling, read_only };
    Ok(Some(Server::start(config, memory).map_err(|error| ServeError::start_vhost(error, path))?))
}

pub(super) fn tell_notice(notice: &Notice, json: bool, device: &str) -> Result<(), Failure> {
    let (text, event) = match notice {
        Notice::Left { why } => (format!("left a vhost-user front-end: {why}"), Event::FrontEndLeft { why }),
        Notice::Broken { queue, why } => {
            let text = format!("ring {queue} of the guest is broken, nothing more is taken from it: {why}");
            (text, Event::RingBroken { queue: *queue, why })
        }
        Notice::Gone => {
            let text = format!("memory of {device} or of its guest went away under a request, which got an I/O error");
            (text, Event::MemoryGone)
        }
        Notice::LeftOut { count } => {
            let text = format!("{count} lines about front-ends and rings were left out: too many at once");
            (text, Event::NoticesLeftOut { count: *count })
        }
    };
    output::aside(&format!("pageless: {text}\n"));
    if json { output::json(&event) } else { Ok(()) }
}
