// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless serve`: a disk for NBD clients, from `ready` to a clean end.

mod error;
mod summary;

use std::net::ToSocketAddrs as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use pageless::drivers::btt::Trouble;
use pageless::export::nbd::{Export, Notice, Server, ServerConfig, Totals};
use pageless::export::{self, nbd};
use pageless::mem::Memory;
use pageless::open::{Options, open};
use pageless::spec::{DeviceSpec, Listen, Spec};
use pageless::sys::Errno;
use pageless::sys::limits::raise_descriptors;
use pageless::sys::signal::{Termination, block_termination};
use serde::Serialize;

pub(crate) use self::error::ServeError;
use self::summary::ExportSummary;
use crate::cli::ServeArgs;
use crate::failure::Failure;
use crate::output;

/// What is served and where when nothing is said.
const IMAGE: &str = "pageless.img";
const IMAGE_SIZE: u64 = 1 << 30;
const SOCKET: &str = "unix:./pageless.sock";

/// How long clients may take to fetch their last answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// More threads than this wait for memory, not for a processor.
const MOST_WORKERS: usize = 8;

/// Runs the command.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let spec = match &args.device {
        Some(text) => text.parse()?,
        None => default_image(),
    };
    let listen = addresses(&args.nbd)?;
    // Before the first thread, so that no signal ends one of them.
    let signals = block_termination()?;
    // Each client is a descriptor; where the limit cannot be raised, fewer fit.
    let _ = raise_descriptors();
    let memory = Memory::new()?;
    let opened = open(&memory, &spec, Options { read_only: args.read_only, size_if_made: None })?;
    output::notes(&[&opened]);
    let bytes = opened.device.capacity();
    let limits = opened.device.limits();
    let read_only = args.read_only || limits.read_only;
    let atomic_write_unit = limits.atomic_write_unit;
    let export = Export {
        name: args.export.clone(),
        description: opened.name.clone(),
        device: Arc::from(opened.device),
        read_only,
    };
    let config = ServerConfig {
        exports: vec![export],
        listen: listen.iter().map(|(_, listen)| listen.clone()).collect(),
        workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_WORKERS),
        ..ServerConfig::default()
    };
    let server = Server::start(config, &memory).map_err(|error| ServeError::start(error, &listen))?;
    if let Some(made) = opened.made {
        made.keep();
    }
    let told = tell_ready(&server, args, Served { bytes, read_only, atomic_write_unit });
    let notices = server.notices();
    let (json, device) = (args.json, opened.name.clone());
    let teller =
        notices.map(|notices| spawn_teller(notices, move |notice| tell_notice(&notice, json, &device))).transpose()?;
    let device = opened.name.clone();
    let troubles = opened.troubles;
    let warner = troubles
        .map(|troubles| spawn_teller(troubles, move |trouble| tell_trouble(trouble, json, &device)))
        .transpose()?;
    // Where stdout is gone, whoever waits for the ready line never gets it, so there is nothing to wait for.
    let signal = if told.is_ok() { signals.wait() } else { Termination::Terminate };
    let told = told.and_then(|()| tell(args, &Event::Stopping { signal: name(signal) }));
    let stopped = server.stop(PATIENCE).map_err(|error| ServeError::stop(error, &opened.name));
    // They end with the server.
    let told =
        [teller, warner].into_iter().flatten().fold(told, |told, teller| told.and(teller.join().unwrap_or(Ok(()))));
    let totals = stopped?;
    let exports: Vec<ExportSummary> =
        totals.routes.iter().map(|routes| ExportSummary::new(&args.export, &opened.name, routes)).collect();
    if !args.json {
        exports.iter().for_each(|export| output::aside(&export.to_string()));
    }
    told.and_then(|()| tell(args, &Event::stopped(&totals, &exports)))
}

/// `./pageless.img`: made the first time, as it is later.
fn default_image() -> Spec {
    let size = (!Path::new(IMAGE).exists()).then_some(IMAGE_SIZE);
    Spec::Device(DeviceSpec::File { path: IMAGE.into(), size })
}

/// What each `--nbd` says, and where that is.
fn addresses(wanted: &[String]) -> Result<Vec<(String, nbd::Listen)>, Failure> {
    let default = [SOCKET.to_owned()];
    let wanted = if wanted.is_empty() { &default } else { wanted };
    let resolve = |text: &String| {
        let place = match text.parse::<Listen>()? {
            Listen::Unix(path) => nbd::Listen::Unix(path),
            Listen::Tcp { host, port } => {
                let found = (host.as_str(), port).to_socket_addrs().map(|mut all| all.next());
                let unknown = |why: String| ServeError::Host { argument: text.clone(), host: host.clone(), why };
                let first = found.map_err(|error| unknown(error.to_string()))?;
                nbd::Listen::Tcp(first.ok_or_else(|| unknown("it has no address".into()))?)
            }
        };
        Ok((text.clone(), place))
    };
    wanted.iter().map(resolve).collect()
}

/// What happens, for programs.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'e> {
    /// Clients can connect.
    Ready {
        nbd: String,
        export: &'e str,
        #[serde(flatten)]
        served: Served,
    },
    /// The medium of this export was taken away; its clients get `EIO` from now on.
    Gone { export: &'e str },
    /// The medium is not as it should be; what that means for clients is in the words.
    Trouble { what: String, read_only: bool },
    /// A signal came.
    Stopping { signal: &'static str },
    /// All is answered, flushed and removed.
    Stopped {
        connections: u64,
        requests: u64,
        errors: u64,
        bytes_read: u64,
        bytes_written: u64,
        exports: &'e [ExportSummary],
    },
}

impl<'e> Event<'e> {
    fn stopped(totals: &Totals, exports: &'e [ExportSummary]) -> Event<'e> {
        let Totals { reads, writes, flushes, trims, zeroes, statuses, .. } = *totals;
        Event::Stopped {
            connections: totals.connections,
            requests: reads + writes + flushes + trims + zeroes + statuses,
            errors: totals.errors,
            bytes_read: totals.bytes_read,
            bytes_written: totals.bytes_written,
            exports,
        }
    }
}

/// What is served.
#[derive(Debug, Copy, Clone, Serialize)]
struct Served {
    bytes: u64,
    read_only: bool,
    /// Bytes that a power failure leaves either old or new: NBD has no word for it.
    atomic_write_unit: u32,
}

fn tell_ready(server: &Server, args: &ServeArgs, served: Served) -> Result<(), Failure> {
    for address in server.addresses() {
        let nbd = address.to_string();
        if args.json {
            tell(args, &Event::Ready { nbd, export: &args.export, served })?;
        } else {
            output::text(&format!("ready nbd {nbd}\n"))?;
        }
    }
    if args.device.is_none() && !args.json {
        output::aside(&what_next(server.addresses()));
    }
    Ok(())
}

fn tell_notice(Notice::Gone { export }: &Notice, json: bool, device: &str) -> Result<(), Failure> {
    output::aside(&format!("pageless: {device} is gone: every request gets an I/O error from now on\n"));
    if json { output::json(&Event::Gone { export }) } else { Ok(()) }
}

fn tell_trouble(trouble: Trouble, json: bool, device: &str) -> Result<(), Failure> {
    output::trouble(device, trouble);
    let event = Event::Trouble { what: trouble.to_string(), read_only: trouble.freezes() };
    if json { output::json(&event) } else { Ok(()) }
}

/// Tells what happens while clients are served.
fn spawn_teller<T: Send + 'static>(
    heard: Receiver<T>,
    mut tell: impl FnMut(T) -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<Result<(), Failure>>, Failure> {
    let thread =
        std::thread::Builder::new().name("notices".into()).spawn(move || heard.into_iter().try_for_each(&mut tell));
    thread.map_err(|error| ServeError::Start(export::Error::Thread(Errno::from_io(&error))).into())
}

fn tell(args: &ServeArgs, event: &Event<'_>) -> Result<(), Failure> {
    if args.json { output::json(event) } else { Ok(()) }
}

/// What a newcomer can type into another terminal.
fn what_next(addresses: &[nbd::Listen]) -> String {
    let uri = match addresses.first() {
        Some(nbd::Listen::Unix(path)) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("nbd+unix:///?socket={}", path.display())
        }
        Some(nbd::Listen::Tcp(address)) => format!("nbd://{address}"),
        None => return String::new(),
    };
    format!(
        "serving ./{IMAGE}; in another terminal:\n  \
           nbdinfo '{uri}'\n  \
           qemu-img info '{uri}'\n  \
           nbdcopy some.img '{uri}'\n\
         Ctrl-C stops it; `pageless serve --help` shows what else it serves\n"
    )
}

fn name(signal: Termination) -> &'static str {
    match signal {
        Termination::Interrupt => "SIGINT",
        Termination::Terminate => "SIGTERM",
        Termination::HangUp => "SIGHUP",
    }
}
