// temporary
use super::*;
use crate::vhost_user::guest_map::{GuestAddr, GuestMap, Slot};
use crate::vhost_user::request::Features;
use crate::vhost_user::running::RingSetup;
use crate::vhost_user::words::Words;
use pageless_drivers::RamDisk;
use pageless_mem::{Access, Backing, copy_ahead};
use std::sync::atomic::AtomicBool;

const TABLE: usize = 0x1000;
const AVAIL: usize = 0x9000;
const USED: usize = 0xb000;
const REQ: usize = 0x20000;
const DATA: usize = 0x40000;
const SIZE: u16 = 128;
const DEPTH: usize = 32;

fn pin(tid: u32, cpu: u32) {
    std::process::Command::new("taskset").args(["-pc", &cpu.to_string(), &tid.to_string()]).output().unwrap();
}

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
#[ignore]
fn bench() {
    let memory = Memory::new().unwrap();
    let disk_region = memory.register(Backing::anon(1 << 30).unwrap()).unwrap();
    disk_region.zero(0, 1 << 30).unwrap();
    let disk: Arc<dyn BlockDevice> = Arc::new(RamDisk::new(&memory, disk_region.clone(), "ram"));
    let secret = std::env::var("SECRET").is_ok();
    let polling = match std::env::var("POLL") {
        Ok(us) => Polling::Busy(Duration::from_micros(us.parse().unwrap())),
        Err(_) => Polling::Adaptive,
    };
    let counters = Arc::new(Counters::default());
    let me = pageless_sys::cpu::thread_id();
    pin(me, 0);
    let worker = Worker::spawn(0, Arc::clone(&disk), [0; 20], &memory, polling, Arc::clone(&counters)).unwrap();
    pin(me, 1);
    let len = 1 << 20;
    let backing = if secret { Backing::secret(len).unwrap() } else { Backing::memfd(len).unwrap() };
    let region = memory.register(backing).unwrap();
    region.zero(0, len).unwrap();
    let slot = Slot { guest: GuestAddr(0), user: 0x7f00_0000_0000, region: region.clone(), offset: 0, len };
    let map = Arc::new(GuestMap::new(vec![Arc::new(slot)]).unwrap());
    let (kick, call) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let dup = |e: &EventFd| Some(EventFd::adopt(std::os::fd::AsFd::as_fd(e).try_clone_to_owned().unwrap()).unwrap());
    worker
        .start(RingSetup {
            size: SIZE,
            desc: GuestAddr(TABLE as u64),
            avail: GuestAddr(AVAIL as u64),
            used: GuestAddr(USED as u64),
            base: 0,
            kick: dup(&kick),
            call: dup(&call),
            err: None,
            map,
            features: Features::all(),
            inflight: None,
            log: None,
            log_used: None,
            enabled: true,
            wce: Arc::new(AtomicBool::new(true)),
        })
        .unwrap();
    let mut reader = memory.reader();
    let online = reader.online();
    let g = online.kmap(region.range(0, len).unwrap(), Access::Write).unwrap();
    let (mut avail, mut seen, mut shown) = (0u16, 0u16, 0u16);
    let mut rng = Rng(88172645463325252);
    g.store16(AVAIL + 4 + 2 * SIZE as usize, 0x8000).unwrap();
    let mut results = Vec::new();
    let mut reference = Vec::new();
    for round in 0..10 {
        let write = round % 2 == 1;
        let total = 600_000u64;
        let (mut sent, mut done) = (0u64, 0u64);
        let mut free: Vec<usize> = (0..DEPTH).collect();
        let start = Instant::now();
        let mut kicks = 0;
        while done < total {
            while sent < total
                && let Some(s) = free.pop()
            {
                let sector = (rng.next() % (1 << 18)) * 8;
                let req = REQ + 32 * s;
                g.store64(req, u64::from(write)).unwrap();
                g.store64(req + 8, sector).unwrap();
                let head = 3 * s;
                let d = TABLE + 16 * head;
                g.store64(d, req as u64).unwrap();
                g.store64(d + 8, 16 | 1 << 32 | (head as u64 + 1) << 48).unwrap();
                g.store64(d + 16, (DATA + 4096 * s) as u64).unwrap();
                g.store64(d + 24, 4096 | (if write { 1 } else { 3 }) << 32 | (head as u64 + 2) << 48).unwrap();
                g.store64(d + 32, (req + 16) as u64).unwrap();
                g.store64(d + 40, 1 | 2 << 32).unwrap();
                g.store16(AVAIL + 4 + 2 * (avail % SIZE) as usize, head as u16).unwrap();
                avail = avail.wrapping_add(1);
                g.store16(AVAIL + 2, avail).unwrap();
                sent += 1;
            }
            g.barrier();
            let event = g.load16(USED + 4 + 8 * SIZE as usize).unwrap();
            if avail.wrapping_sub(event).wrapping_sub(1) < avail.wrapping_sub(shown) {
                kick.signal();
                kicks += 1;
            }
            shown = avail;
            loop {
                let used = g.load16(USED + 2).unwrap();
                if used != seen {
                    while seen != used {
                        let head = g.load64(USED + 4 + 8 * (seen % SIZE) as usize).unwrap() as u32;
                        assert_eq!(g.load8(REQ + 32 * (head as usize / 3) + 16).unwrap(), 0);
                        free.push(head as usize / 3);
                        seen = seen.wrapping_add(1);
                        done += 1;
                    }
                    break;
                }
                std::hint::spin_loop();
            }
        }
        let rate = total as f64 / start.elapsed().as_secs_f64();
        let reference_rate = if write {
            0.0
        } else {
            let mut r2 = memory.reader();
            let n = 300_000usize;
            let mut at = rng.next() % (1 << 18) * 4096;
            let start = Instant::now();
            for i in 0..n {
                let on = r2.online();
                let next = rng.next() % (1 << 18) * 4096;
                let from = on.kmap(disk_region.range(at, 4096).unwrap(), Access::Read).unwrap();
                let ahead = on.kmap(disk_region.range(next, 4096).unwrap(), Access::Read).unwrap();
                let to =
                    on.kmap(region.range((DATA + 4096 * (i % DEPTH)) as u64, 4096).unwrap(), Access::Write).unwrap();
                copy_ahead(&mut from.reader(), &mut to.writer(), &ahead).unwrap();
                at = next;
            }
            n as f64 / start.elapsed().as_secs_f64()
        };
        results.push((write, rate));
        if !write {
            reference.push(reference_rate);
        }
        println!(
            "{} {:.0}k/s  kicks {kicks} batches {} calls {} reference {:.0}k",
            if write { "write" } else { "read " },
            rate / 1e3,
            counters.batches.get(),
            counters.calls.get(),
            reference_rate / 1e3
        );
    }
    worker.halt();
}
