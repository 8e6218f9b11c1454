// SPDX-License-Identifier: MIT OR Apache-2.0
//! `pageless serve`: a disk for NBD clients and virtual machines, from `ready` to a clean end.

mod bad;
mod error;
mod summary;
mod vhost;

use std::io::ErrorKind;
use std::net::ToSocketAddrs as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pageless::block::BlockDevice;
use pageless::drivers::btt::Trouble;
use pageless::export::nbd::{Export, Notice, Server, ServerConfig, Totals};
use pageless::export::{self, nbd, vhost_user};
use pageless::mem::Memory;
use pageless::open::{Options, open};
use pageless::spec::{DeviceSpec, Listen, Spec};
use pageless::sys::Errno;
use pageless::sys::limits::raise_descriptors;
use pageless::sys::signal::{Termination, block_termination, unblock_termination};
use serde::Serialize;

use self::bad::BadWatch;
pub(crate) use self::error::ServeError;
use self::summary::ExportSummary;
use crate::bad::Bad;
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
    let listen = addresses(args)?;
    // Before the first thread, so that no signal ends one of them.
    let signals = block_termination()?;
    // Each client is a descriptor; where the limit cannot be raised, fewer fit.
    let _ = raise_descriptors();
    let memory = Memory::new()?;
    let opened = open(&memory, &spec, Options { read_only: args.read_only, size_if_made: None })?;
    output::notes(&[&opened]);
    let limits = opened.device.limits();
    let served = Served {
        bytes: opened.device.capacity(),
        read_only: args.read_only || limits.read_only,
        atomic_write_unit: limits.atomic_write_unit,
    };
    let device: Arc<dyn BlockDevice> = Arc::from(opened.device);
    let servers = Servers {
        nbd: start_nbd(args, &listen, &device, &opened.name, served.read_only, &memory)?,
        vhost: vhost::start(args, &device, served.read_only, &memory)?,
    };
    if let Some(made) = opened.made {
        made.keep();
    }
    let told = tell_ready(&servers, args, served);
    let (json, name_of_device) = (args.json, opened.name.clone());
    let mut tellers = servers.spawn_tellers(json, &opened.name)?;
    if let Some(troubles) = opened.troubles {
        tellers.push(spawn_teller(troubles, move |trouble| tell_trouble(trouble, json, &name_of_device))?);
    }
    let bad = opened.medium.map(|region| BadWatch::start(region, json, &opened.name)).transpose()?;
    // It is the servers' now, and what there is to tell of it ends with them.
    drop(device);
    // Where stdout is gone, whoever waits for the ready line never gets it, so there is nothing to wait for.
    let signal = if told.is_ok() { signals.wait() } else { Termination::Terminate };
    // Not here: the servers are stopped even if nobody reads what is told.
    let stopping =
        told.is_ok().then(|| spawn("stopping", move || tell(json, &Event::Stopping { signal: name(signal) })));
    let stopped = servers.stop(args, &opened.name);
    tellers.extend(stopping.transpose()?);
    tellers.extend(bad.map(BadWatch::stop));
    let told = told.and(all_told(tellers));
    let stopped = stopped.map_err(|error| ServeError::stop(error, &opened.name))?;
    told?;
    all_told([spawn("stopped", move || tell_stopped(stopped, json))?])
}

/// Waits for those who tell something, and not for ever for whoever is to read it.
fn all_told(tellers: impl IntoIterator<Item = Teller>) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = Ok(());
    for teller in tellers {
        while !teller.is_finished() {
            if Instant::now() > deadline {
                // Whoever is to read what goes wrong may be as slow, and nothing is left that a signal could harm.
                unblock_termination()?;
                return Err(Failure::Output(ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        told = told.and(teller.join().unwrap_or(Ok(())));
    }
    told
}

fn tell_stopped(stopped: Stopped, json: bool) -> Result<(), Failure> {
    if !json {
        stopped.exports.iter().for_each(|export| output::aside(&export.to_string()));
    }
    tell(json, &Event::Stopped(stopped))
}

/// What listens.
#[derive(Debug)]
struct Servers {
    nbd: Option<Server>,
    vhost: Option<vhost_user::Server>,
}

type Teller = JoinHandle<Result<(), Failure>>;

impl Servers {
    fn spawn_tellers(&self, json: bool, device: &str) -> Result<Vec<Teller>, Failure> {
        let mut tellers = Vec::new();
        if let Some(notices) = self.nbd.as_ref().and_then(Server::notices) {
            let device = device.to_owned();
            tellers.push(spawn_teller(notices, move |notice| tell_notice(&notice, json, &device))?);
        }
        if let Some(notices) = self.vhost.as_ref().and_then(vhost_user::Server::notices) {
            let device = device.to_owned();
            tellers.push(spawn_teller(notices, move |notice| vhost::tell_notice(&notice, json, &device))?);
        }
        Ok(tellers)
    }

    /// Each is stopped, whatever became of the other.
    fn stop(self, args: &ServeArgs, device: &str) -> Result<Stopped, export::Error> {
        let nbd = self.nbd.map(|server| server.stop(PATIENCE));
        let vhost = self.vhost.map(|server| {
            let (path, front_ends) = (server.path().to_owned(), server.front_ends());
            server.stop().map(|totals| (path, front_ends, totals))
        });
        let mut stopped = Stopped::default();
        if let Some(totals) = nbd.transpose()? {
            stopped.add_nbd(&totals, &args.export, device);
        }
        if let Some((path, front_ends, totals)) = vhost.transpose()? {
            stopped.add_vhost(&totals, front_ends, &path, device);
        }
        Ok(stopped)
    }
}

/// The NBD server, unless nobody asked for one.
fn start_nbd(
    args: &ServeArgs,
    listen: &[(String, nbd::Listen)],
    device: &Arc<dyn BlockDevice>,
    description: &str,
    read_only: bool,
    memory: &Memory,
) -> Result<Option<Server>, Failure> {
    if listen.is_empty() {
        return Ok(None);
    }
    let export = Export {
        name: args.export.clone(),
        description: description.to_owned(),
        device: Arc::clone(device),
        read_only,
    };
    let config = ServerConfig {
        exports: vec![export],
        listen: listen.iter().map(|(_, listen)| listen.clone()).collect(),
        workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_WORKERS),
        ..ServerConfig::default()
    };
    Ok(Some(Server::start(config, memory).map_err(|error| ServeError::start(error, listen))?))
}

/// `./pageless.img`: made the first time, as it is later.
fn default_image() -> Spec {
    let size = (!Path::new(IMAGE).exists()).then_some(IMAGE_SIZE);
    Spec::Device(DeviceSpec::File { path: IMAGE.into(), size })
}

/// What each `--nbd` says, and where that is.
fn addresses(args: &ServeArgs) -> Result<Vec<(String, nbd::Listen)>, Failure> {
    let default = [SOCKET.to_owned()];
    let wanted = if args.nbd.is_empty() && args.vhost_user.is_none() { &default[..] } else { &args.nbd };
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
    /// A virtual machine can connect.
    #[serde(rename = "ready")]
    ReadyVhost {
        vhost_user: &'e Path,
        #[serde(flatten)]
        served: Served,
    },
    /// The medium of this export was taken away; its clients get `EIO` from now on.
    Gone { export: &'e str },
    /// A virtual machine's front-end was left because of what it said.
    FrontEndLeft { why: &'e str },
    /// A virtual machine's ring makes no sense; nothing more is taken from it.
    RingBroken { queue: usize, why: &'e str },
    /// Memory of the disk or of the virtual machine went away under a request.
    MemoryGone,
    /// So many front-ends that were left and rings that broke came too fast to be told.
    NoticesLeftOut { count: u64 },
    /// The medium is not as it should be; what that means for clients is in the words.
    Trouble { what: String, read_only: bool },
    /// Bytes of the medium are bad now.
    Bad(Bad),
    /// They were, and are no more.
    GoodAgain(Bad),
    /// So many more runs of bytes became bad, or good again, at the same time as those that were told.
    BadLeftOut { count: usize },
    /// More of the medium is bad than can be listed.
    MoreBad,
    /// A signal came.
    Stopping { signal: &'static str },
    /// All is answered, flushed and removed.
    Stopped(Stopped),
}

/// What was done, over all exports.
#[derive(Debug, Default, Serialize)]
struct Stopped {
    connections: u64,
    requests: u64,
    errors: u64,
    bytes_read: u64,
    bytes_written: u64,
    exports: Vec<ExportSummary>,
}

impl Stopped {
    fn add_nbd(&mut self, totals: &Totals, export: &str, device: &str) {
        let Totals { reads, writes, flushes, trims, zeroes, statuses, .. } = *totals;
        self.connections += totals.connections;
        self.requests += reads + writes + flushes + trims + zeroes + statuses;
        self.errors += totals.errors;
        self.bytes_read += totals.bytes_read;
        self.bytes_written += totals.bytes_written;
        self.exports.extend(totals.routes.iter().map(|routes| ExportSummary::new(export, device, routes)));
    }

    fn add_vhost(&mut self, totals: &vhost_user::Totals, front_ends: u64, path: &Path, device: &str) {
        let vhost_user::Totals { reads, writes, flushes, discards, zeroes, .. } = *totals;
        self.connections += front_ends;
        self.requests += reads + writes + flushes + discards + zeroes;
        self.errors += totals.errors;
        self.bytes_read += totals.bytes_read;
        self.bytes_written += totals.bytes_written;
        let export = format!("vhost-user:{}", path.display());
        self.exports.push(ExportSummary::new(&export, device, &totals.routes));
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

fn tell_ready(servers: &Servers, args: &ServeArgs, served: Served) -> Result<(), Failure> {
    let addresses = servers.nbd.as_ref().map_or(&[][..], Server::addresses);
    for address in addresses {
        let nbd = address.to_string();
        if args.json {
            tell(args.json, &Event::Ready { nbd, export: &args.export, served })?;
        } else {
            output::text(&format!("ready nbd {nbd}\n"))?;
        }
    }
    if let Some(server) = &servers.vhost {
        if args.json {
            tell(args.json, &Event::ReadyVhost { vhost_user: server.path(), served })?;
        } else {
            output::text(&format!("ready vhost-user {}\n", server.path().display()))?;
        }
    }
    if args.device.is_none() && !args.json {
        output::aside(&what_next(addresses));
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
) -> Result<Teller, Failure> {
    spawn("notices", move || heard.into_iter().try_for_each(&mut tell))
}

fn spawn(name: &str, run: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<Teller, Failure> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| ServeError::Start(export::Error::Thread(Errno::from_io(&error))).into())
}

fn tell(json: bool, event: &Event<'_>) -> Result<(), Failure> {
    if json { output::json(event) } else { Ok(()) }
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
