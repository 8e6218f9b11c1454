// SPDX-License-Identifier: MIT OR Apache-2.0
//! The door to the kernel: rings that own their memory, sockets that hold nothing, and what the kernel refuses.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "tests count in small numbers and may panic")]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pageless_mem::io::{Done, Part, Ring, Scratch, SocketError, recv, send};
use pageless_mem::{Access, Backing, FRAME_SIZE, Fault, FileOptions, Memory, Reader, Region};
use pageless_sys::Errno;
use pageless_sys::file::File;

fn fill(region: &Region, reader: &mut Reader, byte: u8) {
    let online = reader.online();
    let window = online.kmap(region.range(0, region.len()).unwrap(), Access::Write).unwrap();
    window.writer().write(&vec![byte; region.len() as usize]).unwrap();
}

fn content(region: &Region, reader: &mut Reader) -> Vec<u8> {
    let mut bytes = vec![0; region.len() as usize];
    let online = reader.online();
    let window = online.kmap(region.range(0, region.len()).unwrap(), Access::Read).unwrap();
    window.reader().read(&mut bytes).unwrap();
    bytes
}

/// Past the capture of the test runner, so that a skipped test is seen. (`testkit` says it for other crates; it would turn on the
/// feature that this one is tested without.)
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn all(ring: &mut Ring) -> Vec<Done> {
    let mut done = Vec::new();
    while ring.pending() > 0 {
        ring.wait().unwrap();
        ring.reap(&mut done);
    }
    done
}

#[test]
fn a_ring_moves_frames_to_a_file_and_back_and_counts_what_is_in_flight() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let from = memory.register(Backing::anon(16 * FRAME_SIZE).unwrap()).unwrap();
    let into = memory.register(Backing::memfd(16 * FRAME_SIZE).unwrap()).unwrap();
    fill(&from, &mut reader, 0x5a);
    let file = Arc::new(File::unnamed(&std::env::temp_dir(), false).unwrap());
    let mut ring = Ring::new(8).unwrap();
    let range = from.range(0, from.len()).unwrap();
    let (head, tail) = range.split_at(5000).unwrap();
    let pinned = reader.online().pin(&[head, tail], Access::Read).unwrap();
    assert_eq!(from.in_flight(), 2);
    ring.write(&file, 0, pinned, true, 7).unwrap();
    ring.submit().unwrap();
    let done = all(&mut ring);
    assert_eq!((done.len(), done[0].token, done[0].result), (1, 7, Ok(16 * 4096)));
    assert_eq!(from.in_flight(), 2, "still held by what came back");
    drop(done);
    assert_eq!(from.in_flight(), 0);

    ring.register_bounce(&into).unwrap();
    let pinned = reader.online().pin(&[into.range(0, into.len()).unwrap()], Access::Write).unwrap();
    ring.read(&file, 0, pinned, 8).unwrap();
    ring.fdatasync(&file, 9).unwrap();
    let mut done = all(&mut ring);
    done.sort_by_key(|done| done.token);
    assert_eq!((done[0].result, done[1].result), (Ok(16 * 4096), Ok(0)));
    assert_eq!(content(&into, &mut reader), vec![0x5a; 16 * 4096]);
}

#[test]
#[should_panic(expected = "pinned for being read")]
fn memory_handed_out_for_reading_is_not_read_into() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let region = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    let file = Arc::new(File::unnamed(&std::env::temp_dir(), false).unwrap());
    let pinned = reader.online().pin(&[region.range(0, 512).unwrap()], Access::Read).unwrap();
    let _ = Ring::new(1).unwrap().read(&file, 0, pinned, 0);
}

#[test]
fn a_full_ring_hands_the_memory_back() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let region = memory.register(Backing::anon(FRAME_SIZE).unwrap()).unwrap();
    let file = Arc::new(File::unnamed(&std::env::temp_dir(), false).unwrap());
    let mut ring = Ring::new(4).unwrap();
    let mut accepted = 0;
    loop {
        let pinned = reader.online().pin(&[region.range(0, 512).unwrap()], Access::Read).unwrap();
        match ring.write(&file, accepted * 512, pinned, false, accepted) {
            Ok(()) => accepted += 1,
            Err(full) => {
                assert_eq!(full.inflight.unwrap().bytes(), 512);
                break;
            }
        }
    }
    assert!(accepted >= 4);
    let mut tokens: Vec<_> = all(&mut ring).into_iter().map(|done| done.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..accepted).collect::<Vec<_>>(), "each exactly once");
}

#[test]
fn dropping_a_ring_with_io_in_flight_never_lets_a_late_byte_land() {
    // A pipe that nobody writes: the reads hang until they are cancelled. What arrives later must not reach the frames.
    let (pipe_out, mut pipe_in) = std::io::pipe().unwrap();
    let file = Arc::new(File::from(std::os::fd::OwnedFd::from(pipe_out)));
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let region = memory.register(Backing::anon(64 * FRAME_SIZE).unwrap()).unwrap();
    fill(&region, &mut reader, 1);
    let mut ring = Ring::new(64).unwrap();
    for frame in 0..64 {
        let range = region.range(frame * FRAME_SIZE, FRAME_SIZE).unwrap();
        let pinned = reader.online().pin(&[range], Access::Write).unwrap();
        ring.read(&file, 0, pinned, frame).unwrap();
    }
    ring.submit().unwrap();
    assert_eq!(region.in_flight(), 64);
    drop(ring);
    assert_eq!(region.in_flight(), 0);
    pipe_in.write_all(&[9; 8192]).unwrap();
    assert_eq!(content(&region, &mut reader), vec![1; 64 * 4096]);
}

#[test]
fn secret_memory_is_refused_by_the_ring_and_taken_by_a_socket() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let secret = match Backing::secret(4 * FRAME_SIZE) {
        Ok(backing) => memory.register(backing).unwrap(),
        Err(error) => return skip(&format!("kernel lacks memfd_secret: {error} (guest/units covers it)")),
    };
    fill(&secret, &mut reader, 3);
    let range = secret.range(0, secret.len()).unwrap();
    let file = File::unnamed(&std::env::temp_dir(), true);
    let file = Arc::new(file.unwrap());
    let mut ring = Ring::new(1).unwrap();
    let pinned = reader.online().pin(&[range], Access::Read).unwrap();
    ring.write(&file, 0, pinned, false, 0).unwrap();
    assert_eq!(all(&mut ring)[0].result, Err(Errno::EFAULT), "the reason this project exists");
    let (here, mut there) = UnixStream::pair().unwrap();
    let sent = send(&reader.online(), here.as_fd(), &[Part::Frames(range)], &mut Scratch::default());
    assert_eq!(sent, Ok(4 * 4096));
    let mut got = vec![0; 4 * 4096];
    there.read_exact(&mut got).unwrap();
    assert_eq!(got, vec![3; 4 * 4096]);
}

#[test]
fn sockets_take_headers_and_frames_together_and_hold_nothing_when_blocked() {
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let region = memory.register(Backing::anon(256 * FRAME_SIZE).unwrap()).unwrap();
    fill(&region, &mut reader, 8);
    let (here, mut there) = UnixStream::pair().unwrap();
    let mut scratch = Scratch::default();
    let parts = [Part::Bytes(b"head"), Part::Frames(region.range(10, 90).unwrap()), Part::Bytes(b"tail")];
    assert_eq!(send(&reader.online(), here.as_fd(), &parts, &mut scratch), Ok(98));
    let mut got = [0; 98];
    there.read_exact(&mut got).unwrap();
    assert_eq!((&got[..4], &got[4..94], &got[94..]), (&b"head"[..], &[8; 90][..], &b"tail"[..]));

    let whole = region.range(0, region.len()).unwrap();
    while send(&reader.online(), here.as_fd(), &[Part::Frames(whole)], &mut scratch).is_ok() {}
    let blocked = send(&reader.online(), here.as_fd(), &[Part::Frames(whole)], &mut scratch);
    assert_eq!((blocked, region.in_flight()), (Err(SocketError::WouldBlock), 0));

    let (here, mut there) = UnixStream::pair().unwrap();
    there.write_all(b"into the frames").unwrap();
    let into = [region.range(4090, 6).unwrap(), region.range(8192, 100).unwrap()];
    assert_eq!(recv(&reader.online(), here.as_fd(), &into, &mut scratch), Ok(15));
    assert_eq!(&content(&region, &mut reader)[4090..4096], b"into t");
    assert_eq!(&content(&region, &mut reader)[8192..8201], b"he frames");
    let empty = recv(&reader.online(), here.as_fd(), &into, &mut scratch);
    assert_eq!(empty, Err(SocketError::WouldBlock));
    drop(there);
    assert_eq!(recv(&reader.online(), here.as_fd(), &into, &mut scratch), Ok(0));
    let after = send(&reader.online(), here.as_fd(), &parts, &mut scratch);
    assert_eq!(after, Err(SocketError::Errno(Errno::EPIPE)), "no SIGPIPE");
}

#[test]
fn a_send_from_memory_that_went_away_names_the_part_and_sends_nothing() {
    let path = std::env::temp_dir().join(format!("pageless-io-fault-{}", std::process::id()));
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let options = FileOptions { size: Some(4 * FRAME_SIZE), create: true, read_only: false };
    let region = memory.register(Backing::file(&path, options).unwrap()).unwrap();
    fill(&region, &mut reader, 1);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(FRAME_SIZE).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let good = Part::Frames(region.range(0, 4096).unwrap());
    let bad = Part::Frames(region.range(8192, 4096).unwrap());
    let parts = [Part::Bytes(b"h"), good, Part::Bytes(b"h"), bad];
    let sent = send(&reader.online(), here.as_fd(), &parts, &mut Scratch::default());
    // A stream socket may take whole chunks before it meets the fault.
    match sent {
        Ok(taken) => assert!(taken <= 4098),
        Err(error) => assert_eq!(error, SocketError::Fault { part: 3, fault: Fault::Media }),
    }
    let sent = send(&reader.online(), here.as_fd(), &[bad], &mut Scratch::default());
    assert_eq!(sent, Err(SocketError::Fault { part: 0, fault: Fault::Media }));
    drop(region);
    let gone = send(&reader.online(), here.as_fd(), &[good], &mut Scratch::default());
    assert_eq!(gone, Err(SocketError::Fault { part: 0, fault: Fault::Gone }));
    drop(there);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn probing_says_what_the_kernel_takes_and_changes_nothing() {
    use pageless_mem::probe::{Class, Verdict, probe};
    let memory = Memory::new().unwrap();
    let mut reader = memory.reader();
    let ram = memory.register(Backing::anon(1 << 20).unwrap()).unwrap();
    let holes = probe(&ram, &mut reader);
    if ram.extents().next(0, 4096) == pageless_mem::Extent::Hole(4096) {
        assert_eq!((holes.class, holes.short_pin), (Class::Unknown, Verdict::Untested("hole")));
    }
    fill(&ram, &mut reader, 5);
    let report = probe(&ram, &mut reader);
    assert_eq!((report.class, report.cpu_map, report.send), (Class::PageBacked, Verdict::Ok, Verdict::Ok));
    assert_eq!((report.short_pin, report.long_pin, report.send_zerocopy), (Verdict::Ok, Verdict::Ok, Verdict::Ok));
    assert_eq!(content(&ram, &mut reader), vec![5; 1 << 20]);
    let Ok(secret) = Backing::secret(4 * FRAME_SIZE) else {
        return skip("kernel lacks memfd_secret (guest/units covers it)");
    };
    let secret = memory.register(secret).unwrap();
    fill(&secret, &mut reader, 6);
    let report = probe(&secret, &mut reader);
    let refused = Verdict::Refused(Errno::EFAULT);
    assert_eq!((report.class, report.cpu_map, report.send), (Class::Unpinnable, Verdict::Ok, Verdict::Ok));
    assert_eq!((report.short_pin, report.long_pin, report.send_zerocopy), (refused, refused, refused));
    assert_eq!(content(&secret, &mut reader), vec![6; 4 * 4096]);
    assert!(!report.vm_flags.contains("pf"));
}
