// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of an export is taken back while the server serves it: its clients get `NBD_EIO`, everybody else goes on.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests count in small numbers and may panic")]

#[path = "revoke/client.rs"]
mod client;
#[path = "revoke/foreign.rs"]
mod foreign;
#[path = "revoke/load.rs"]
mod load;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{BLOCK_STATUS, Client, EIO, FLUSH, READ, TRIM, WRITE, WRITE_ZEROES};
use pageless_block::{Bio, BlockDevice, Completion, Limits, Queue, Refused, Route, Status, Why};
use pageless_drivers::RamDisk;
use pageless_export::nbd::{Export, Listen, Notice, Server, ServerConfig};
use pageless_mem::{Access, Backing, Error, Inflight, Memory, Reader, Region};
use pageless_sys::eventfd::EventFd;
use pageless_testkit::TestFrames;
use pageless_testkit::regions::{Kind, TempPath};

const LONG: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A server of these disks, by name, on a socket of its own.
struct Host {
    server: Server,
    socket: TempPath,
}

impl Host {
    fn new(memory: &Memory, disks: Vec<(String, Arc<dyn BlockDevice>)>) -> Host {
        let socket = TempPath::within(&std::env::temp_dir());
        let export = |(name, device)| Export { name, description: String::new(), device, read_only: false };
        let config = ServerConfig {
            exports: disks.into_iter().map(export).collect(),
            listen: vec![Listen::Unix(socket.path().to_owned())],
            ..ServerConfig::default()
        };
        Host { server: Server::start(config, memory).unwrap(), socket }
    }

    fn socket(&self) -> &Path {
        self.socket.path()
    }

    fn client(&self, export: &str, structured: bool) -> Client {
        Client::connect(self.socket(), export, structured)
    }
}

fn region(memory: &Memory, len: u64, fill: u8) -> Region {
    filled(memory, memory.register(Backing::anon(len).unwrap()).unwrap(), fill)
}

fn filled(memory: &Memory, region: Region, fill: u8) -> Region {
    let all = region.range(0, region.len()).unwrap();
    TestFrames::of(memory, region.clone()).put(&all.into(), &vec![fill; region.len() as usize]).unwrap();
    region
}

fn contents(memory: &Memory, region: &Region) -> Vec<u8> {
    let all = region.range(0, region.len()).unwrap();
    TestFrames::of(memory, region.clone()).get(&all.into()).unwrap()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn nbd_every_command_to_an_export_that_is_gone_is_eio_and_told_once() {
    for kind in Kind::ALL {
        let memory = Memory::new().unwrap();
        let Some(lost) = kind.make(&memory, 2 * MIB) else { continue };
        let disk = |name: &str, region: &Region| -> (String, Arc<dyn BlockDevice>) {
            (name.into(), Arc::new(RamDisk::new(&memory, region.clone(), name)))
        };
        let kept = region(&memory, MIB, 3);
        let host = Host::new(&memory, vec![disk("kept", &kept), disk("lost", lost.region())]);
        let notices = host.server.notices().unwrap();
        assert!(host.server.notices().is_none(), "there is one receiver");
        let mut clients: Vec<Client> = (0..6).map(|n| host.client("lost", n % 2 == 1)).collect();
        let mut other = host.client("kept", true);
        for client in &mut clients {
            assert_eq!(client.call(WRITE, 4096, 4096, &[9; 4096]).unwrap().errno, 0);
            assert_eq!(client.call(READ, 0, 8192, &[]).unwrap().data[4096..], [9; 4096]);
        }
        assert!(notices.try_recv().is_err());

        assert!(lost.region().revoke(LONG).unwrap().wait(LONG).unwrap());

        clients.extend([host.client("lost", false), host.client("lost", true)]);
        for (n, client) in clients.iter_mut().enumerate() {
            // The first thing each of them asks is another one.
            let mut calls = vec![(READ, 8192), (WRITE, 4096), (WRITE_ZEROES, 4096), (FLUSH, 0), (READ, 1 << 20)];
            if lost.region().punchable() {
                calls.push((TRIM, 4096));
            }
            if n % 2 == 1 {
                calls.push((BLOCK_STATUS, 65536));
            }
            let first = n % calls.len();
            calls.rotate_left(first);
            for (call, len) in calls {
                let payload = vec![1; if call == WRITE { len as usize } else { 0 }];
                let reply = client.call(call, 0, len, &payload).expect("the server hung up");
                assert_eq!((reply.errno, &*reply.data), (EIO, &[][..]), "{kind:?}: command {call}");
            }
        }
        assert_eq!(notices.recv_timeout(LONG).unwrap(), Notice::Gone { export: "lost".into() });
        assert!(notices.try_recv().is_err(), "told once");
        assert_eq!(other.call(READ, 4096, 4096, &[]).unwrap().data, [3; 4096]);
        assert_eq!(other.call(FLUSH, 0, 0, &[]).unwrap().errno, 0);
        let totals = host.server.totals();
        assert_eq!(totals.dropped, 0);
        // What clients wrote went with the memory, which is no clean end.
        assert!(host.server.stop(LONG).is_err());
        assert!(notices.recv().is_err(), "the server is gone");
    }
}

/// Clients that ask for much and read nothing, that stop in the middle of a payload or of a handshake, or that do nothing.
#[test]
fn clients_that_never_read_hold_nothing() {
    let memory = Memory::new().unwrap();
    let lost = region(&memory, 8 * MIB, 0x11);
    let host = Host::new(&memory, vec![("lost".into(), Arc::new(RamDisk::new(&memory, lost.clone(), "lost")) as _)]);
    let mut blocked: Vec<(Client, bool)> = (0..8).map(|n| (host.client("lost", n % 2 == 1), n % 2 == 1)).collect();
    for (client, _) in &mut blocked {
        for n in 0..64 {
            client.send(READ, 0, n, n % 8 * MIB, 1 << 20, &[]).unwrap();
        }
    }
    let idle: Vec<Client> = (0..32).map(|n| host.client("lost", n % 2 == 1)).collect();
    let mut halves: Vec<Client> = (0..8).map(|_| host.client("lost", false)).collect();
    for half in &mut halves {
        half.send(WRITE, 0, 1, 0, 1 << 20, &[0x11; 300_000]).unwrap();
    }
    let _strangers: Vec<_> = (0..8).map(|_| std::os::unix::net::UnixStream::connect(host.socket()).unwrap()).collect();
    wait_until("the requests are taken", || {
        let totals = host.server.totals();
        totals.reads == 8 * 64 && totals.writes == 8
    });
    // Every socket is full now, or about to be.
    assert!(lost.revoke(LONG).unwrap().wait(LONG).unwrap());
    assert_eq!(lost.in_flight(), 0);
    let later: Vec<Region> = (0..4).map(|_| region(&memory, 8 * MIB, 0xee)).collect();

    for (mut client, structured) in blocked {
        let (mut good, mut bad) = (0, 0);
        for _ in 0..64 {
            let Some(reply) = client.reply(|_| 1 << 20) else {
                assert!(!structured || good + bad < 64, "only a reply that was begun ends the connection");
                break;
            };
            match reply.errno {
                0 => good += 1,
                errno => {
                    assert_eq!(errno, EIO);
                    bad += 1;
                }
            }
            assert!(reply.data.iter().all(|byte| *byte == 0x11), "somebody else's byte");
        }
        assert!(good < 64, "the socket cannot have held it all");
    }
    for mut client in idle {
        assert_eq!(client.call(READ, 0, 4096, &[]).unwrap().errno, EIO);
    }
    for mut half in halves {
        std::io::Write::write_all(&mut half.stream, &vec![0x11; (1 << 20) - 300_000]).unwrap();
        assert_eq!(half.reply(|_| 0).unwrap().errno, EIO);
    }
    for region in later {
        assert!(contents(&memory, &region).iter().all(|byte| *byte == 0xee), "a later owner's byte was lost");
    }
}

/// A device that keeps the frames of its medium in flight until it is let go, as a slow one would.
#[derive(Debug)]
struct Slow {
    memory: Memory,
    region: Region,
    limits: Limits,
    go: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Arc<EventFd>>>>,
}

#[derive(Debug)]
struct SlowQueue {
    reader: Reader,
    region: Region,
    go: Arc<AtomicBool>,
    event: Arc<EventFd>,
    pending: Vec<(u64, Option<Inflight>)>,
}

impl BlockDevice for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn capacity(&self) -> u64 {
        MIB
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open_queue(&self) -> Result<Box<dyn Queue>, pageless_block::Error> {
        let event = Arc::new(EventFd::new().unwrap());
        self.events.lock().unwrap().push(Arc::clone(&event));
        let (reader, region, go) = (self.memory.reader(), self.region.clone(), Arc::clone(&self.go));
        Ok(Box::new(SlowQueue { reader, region, go, event, pending: Vec::new() }))
    }
}

impl Queue for SlowQueue {
    fn submit(&mut self, bio: Bio) -> Result<(), Refused> {
        let media = self.region.range(bio.sector.bytes(), bio.len);
        let pinned = media.and_then(|media| self.reader.online().pin(&[media], Access::Read).ok());
        self.pending.push((bio.tag, pinned));
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, pageless_block::Error> {
        self.event.drain();
        let before = out.len();
        let go = self.go.load(Ordering::Acquire);
        for (tag, pinned) in std::mem::take(&mut self.pending) {
            match pinned {
                None => out.push(Completion { tag, status: Status::Gone, done: 0, route: Route::None }),
                Some(_) if go => {
                    out.push(Completion { tag, status: Status::Ok, done: 4096, route: Route::Copy(Why::Zeroes) });
                }
                pinned => self.pending.push((tag, pinned)),
            }
        }
        Ok(out.len() - before)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&*self.event))
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

#[test]
fn a_request_in_flight_is_waited_for_and_its_worker_named() {
    let memory = Memory::new().unwrap();
    let lost = region(&memory, MIB, 1);
    let (go, events) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let slow = Slow {
        memory: memory.clone(),
        region: lost.clone(),
        limits: Limits::default(),
        go: Arc::clone(&go),
        events: Arc::clone(&events),
    };
    let host = Host::new(&memory, vec![("slow".into(), Arc::new(slow) as _)]);
    let mut client = host.client("slow", false);
    client.send(READ, 0, 5, 8192, 4096, &[]).unwrap();
    wait_until("it is in flight", || lost.in_flight() == 1);
    let error = lost.revoke(Duration::from_millis(20)).unwrap_err();
    let Error::Busy(busy) = &error else { panic!("{error}") };
    let [holder] = &busy.holders[..] else { panic!("{error}") };
    assert!(holder.name.as_deref().is_some_and(|name| name.starts_with("nbd-worker-")), "{error}");
    assert_eq!(holder.in_flight, Some((8192, 12288, Access::Read)));
    println!("{error}");
    // It is gone to whoever comes now, while the one in flight may finish.
    let mut second = host.client("slow", false);
    assert_eq!(second.call(READ, 0, 4096, &[]).unwrap().errno, EIO);
    let released = std::thread::scope(|scope| {
        let revoking = scope.spawn(|| lost.revoke(LONG));
        go.store(true, Ordering::Release);
        let events: std::sync::MutexGuard<'_, Vec<Arc<EventFd>>> = events.lock().unwrap();
        events.iter().for_each(|event| event.signal());
        revoking.join().unwrap().unwrap()
    });
    assert!(released.wait(LONG).unwrap());
    assert_eq!(client.reply(|_| 4096).unwrap().errno, 0, "it was in time");
    assert_eq!(client.call(READ, 0, 4096, &[]).unwrap().errno, EIO);
}
