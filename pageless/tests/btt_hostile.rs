// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that somebody made to mislead: `serve`, `btt check` and `btt repair` say what is wrong, where, in numbers, and change no byte.

mod common;

use std::fs;

use common::nbd::{CMD_WRITE, EPERM, Peer};
use common::server::{Serve, Server};
use common::{MIB, Scratch, noise, ok, run, said, same};
use pageless::drivers::btt::info::fletcher64;

const PAGELESS: &str = env!("CARGO_BIN_EXE_pageless");

/// Where the arena begins, and its info block.
const ARENA: usize = 4096;
/// Where its copy is: `create` fills the file.
const COPY: usize = SIZE - 4096;
const SIZE: usize = 24 << 20;

// Fields of an info block, by their offsets.
const UUID: usize = 0x10;
const PARENT: usize = 0x20;
const MAJOR: usize = 0x34;
const EXTERNAL_NLBA: usize = 0x3c;
const INTERNAL_NLBA: usize = 0x44;
const NFREE: usize = 0x48;
const NEXTOFF: usize = 0x50;
const DATAOFF: usize = 0x58;
const MAPOFF: usize = 0x60;
const FLOGOFF: usize = 0x68;
const INFO2OFF: usize = 0x70;
const CHECKSUM: usize = 4088;

/// A good image, whose data area a user has filled.
fn good(scratch: &Scratch) -> Vec<u8> {
    let path = scratch.path("good");
    let data = scratch.file("data", &noise(2 << 20, 1));
    ok(PAGELESS, &["copy", &format!("file:{data}"), &format!("btt:{path},size={SIZE}")]);
    let image = fs::read(&path).expect("reads");
    assert_eq!(
        (image.len(), &image[ARENA..ARENA + 4096]),
        (SIZE, &image[COPY..]),
        "both copies, where they are expected"
    );
    image
}

/// Changes a field of the info block at `block` under a checksum that is right.
fn set(image: &mut [u8], block: usize, field: usize, bytes: &[u8]) {
    let info = &mut image[block..block + 4096];
    info[field..field + bytes.len()].copy_from_slice(bytes);
    info[CHECKSUM..].fill(0);
    let sum = fletcher64(info);
    info[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
}

fn set_both(image: &mut [u8], field: usize, bytes: &[u8]) {
    set(image, ARENA, field, bytes);
    set(image, COPY, field, bytes);
}

fn number(image: &[u8], field: usize) -> u64 {
    let bytes = image[ARENA + field..][..8].try_into().map(u64::from_le_bytes);
    bytes.expect("8 bytes")
}

/// Tears a block in its unused part.
fn tear(image: &mut [u8], block: usize) {
    image[block + 1000..block + 1100].fill(0x5a);
}

/// What each of the three commands says, with its exit code, of an image that must not change by it.
fn asked(scratch: &Scratch, name: &str, image: &[u8], more: &[&str]) -> [(i32, String); 3] {
    let path = scratch.file(name, image);
    let served = Serve::new(&format!("btt:{path}")).refused();
    let [checked, planned] = examined(&path, more);
    unchanged(&path, image);
    [served, checked, planned]
}

/// The same of `check` and `repair`.
fn examined(path: &str, more: &[&str]) -> [(i32, String); 2] {
    ["check", "repair"].map(|command| {
        let out = run(PAGELESS, &[&["btt", command, path], more].concat());
        (out.status.code().expect("not a signal"), said(&out))
    })
}

fn unchanged(path: &str, image: &[u8]) {
    same(path, &fs::read(path).expect("reads"), image);
    assert!(!fs::exists(format!("{path}.btt-undo")).expect("looks"), "nothing is kept, since nothing is changed");
    fs::remove_file(path).expect("removes");
}

/// Refused by all of them, which name the file and say all of this.
fn refused(scratch: &Scratch, name: &str, image: &[u8], says: &[&str]) {
    for (code, text) in asked(scratch, name, image, &[]) {
        assert_eq!(code, 1, "{name}: {text}");
        assert!(text.contains(&scratch.path(name)) && says.iter().all(|part| text.contains(part)), "{says:?}: {text}");
        assert!(!text.contains("--apply makes"), "nothing is a guess: {text}");
    }
}

#[test]
fn btt_image_that_was_cut_short_is_refused() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    let (map, copy) = (number(&image, MAPOFF), number(&image, INFO2OFF));
    // What is cut off with the copy is named first: the map.
    for len in [20 << 20, (16 << 20) + 4096] {
        let says = format!("mapoff {map}: must be at least ");
        let room = format!("there is room only to {}", len - ARENA - 4096);
        refused(&scratch, "short", &image[..len], &["byte 4096", &says, &room]);
    }
    // The last frame is not whole, and that is where the copy was.
    refused(&scratch, "odd", &image[..SIZE - 1], &["byte 4096", &format!("info2off {copy}: must be ")]);
    refused(&scratch, "tiny", &image[..8 << 20], &["8388608 bytes are too small for a BTT: it takes 16777216"]);
}

#[test]
fn btt_image_with_torn_info_blocks_is_refused_or_restored_from_the_one_that_is_whole() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    let mut both = image.clone();
    tear(&mut both, ARENA);
    tear(&mut both, COPY);
    refused(&scratch, "both", &both, &["byte 4096", "neither info block is good", "checksum 0x", "the content has 0x"]);

    for (name, block, says, plan) in [
        (
            "first",
            ARENA,
            "byte 4096: the info block is no good (checksum 0x",
            "byte 4096, 4096 bytes: info block from its copy",
        ),
        (
            "second",
            COPY,
            "byte 25161728: the second info block is no good (checksum 0x",
            "byte 25161728, 4096 bytes: second info block from the first one",
        ),
    ] {
        let mut torn = image.clone();
        tear(&mut torn, block);
        let path = scratch.file(name, &torn);
        let [(checked, text), (planned, change)] = examined(&path, &[]);
        assert_eq!((checked, planned), (1, 1), "{text}{change}");
        assert!(text.contains(&path) && text.contains("1 repairable finding") && text.contains(says), "{text}");
        assert!(change.contains(plan), "{change}");
        // One whole copy is enough for a disk; whoever serves it is told, and the damage is left to `repair`.
        let server = Server::start(&format!("btt:{path}"));
        assert!(server.said().contains(says), "{}", server.said());
        server.stop();
        unchanged(&path, &torn);
    }
}

#[test]
fn btt_image_of_another_version_is_refused() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    for (version, says) in
        [([3, 0, 0, 0], "3.0"), ([1, 0, 0, 0], "1.0"), ([2, 0, 0, 0], "2.0"), ([0xff; 4], "65535.65535")]
    {
        let mut other = image.clone();
        set_both(&mut other, MAJOR, &version);
        refused(&scratch, "version", &other, &["byte 4096", &format!("version {says}: at this place it must be 1.1")]);
    }
    // One of the two: the other is right, and takes its place.
    let mut one = image.clone();
    set(&mut one, ARENA, MAJOR, &[2, 0, 0, 0]);
    let path = scratch.file("one", &one);
    let [(checked, text), (planned, change)] = examined(&path, &[]);
    assert_eq!((checked, planned), (1, 1), "{text}{change}");
    assert!(
        text.contains("byte 4096: the info block is no good (version 2.0: at this place it must be 1.1)"),
        "{text}"
    );
    assert!(change.contains("byte 4096, 4096 bytes: info block from its copy"), "{change}");
    unchanged(&path, &one);
}

#[test]
fn btt_image_of_somebody_else_is_refused_and_two_names_are_no_guess() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    let mut other = image.clone();
    set_both(&mut other, PARENT, &[0xab; 16]);
    let path = scratch.file("other", &other);
    let wanted = "01234567-89ab-cdef-0123-456789abcdef";
    for (code, text) in examined(&path, &["--parent-uuid", wanted]) {
        assert_eq!(code, 1, "{text}");
        let says = format!("parent_uuid abababab-abab-abab-abab-abababababab: this is {wanted}");
        assert!(text.contains(&path) && text.contains("byte 4096") && text.contains(&says), "{text}");
        assert!(!text.contains("info block from"), "no name is changed: {text}");
    }
    // Nor is it a disk of that parent; it is one of its own.
    for (parent, code) in [(wanted, 1), ("abababab-abab-abab-abab-abababababab", 0)] {
        let out = run(PAGELESS, &["copy", &format!("btt:{path},parent={parent}"), "null:64M"]);
        assert_eq!(out.status.code(), Some(code), "{}", said(&out));
        assert_eq!(said(&out).contains(&format!("this is {wanted}")), code == 1, "{}", said(&out));
    }
    unchanged(&path, &other);

    // The two copies have each its own name: which is right would be a guess. It can be read, and is not written.
    for field in [UUID, PARENT] {
        let mut differing = image.clone();
        set(&mut differing, COPY, field, &[0xab; 16]);
        let path = scratch.file("differing", &differing);
        let says = &format!(
            "byte 4096: both info blocks are good and differ from their byte {field} on; the second one is at byte {COPY}"
        );
        for (code, text) in examined(&path, &[]) {
            assert_eq!(code, 1, "{text}");
            assert!(text.contains(&path) && text.contains(says) && !text.contains("info block from"), "{text}");
        }
        let server = Server::start(&format!("btt:{path}"));
        assert!(server.said().contains(says) && server.said().contains("read-only"), "{}", server.said());
        let (mut peer, _) = Peer::connect(server.socket()).expect("connect");
        assert_eq!(peer.ask(CMD_WRITE, 0, 0, 4096, &[1; 4096]), EPERM);
        server.stop();
        unchanged(&path, &differing);
    }
}

/// The second arena is whole, and of another BTT, or of another namespace: blocks behind the first would be somebody's.
#[test]
fn btt_image_whose_second_arena_is_of_another_is_refused() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    let next = number(&image, INFO2OFF) + 4096;
    for (field, name) in [(UUID, "uuid"), (PARENT, "parent_uuid")] {
        let mut other = image.clone();
        set_both(&mut other, field, &[0xab; 16]);
        let mut both = image.clone();
        set_both(&mut both, NEXTOFF, &next.to_le_bytes());
        both.extend_from_slice(&other[ARENA..]);
        let says = format!("arena 1, byte {SIZE}: {name} abababab-abab-abab-abab-abababababab: the first arena has ");
        refused(&scratch, "both", &both, &[&says]);
    }
}

#[test]
fn btt_image_whose_arenas_overlap_is_refused() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    let (map, flog, copy) = (number(&image, MAPOFF), number(&image, FLOGOFF), number(&image, INFO2OFF));
    for next in [512, 4096, map, flog, copy, copy + 512, MIB, (512 << 30) + 4096] {
        let mut ring = image.clone();
        set_both(&mut ring, NEXTOFF, &next.to_le_bytes());
        refused(&scratch, "next", &ring, &["byte 4096", &format!("nextoff {next}: must be at least {}", copy + 4096)]);
    }
    // There is room behind it, and so a place for another one: inside the first it is refused all the same.
    let mut long = image.clone();
    long.resize(SIZE + (20 << 20), 0);
    for next in [4096, map, copy] {
        set_both(&mut long, NEXTOFF, &next.to_le_bytes());
        refused(&scratch, "long", &long, &["byte 4096", &format!("nextoff {next}: must be {}", copy + 4096)]);
    }
    // Where the next one is to be there is none.
    set_both(&mut long, NEXTOFF, &(copy + 4096).to_le_bytes());
    refused(&scratch, "none", &long, &[&format!("arena 1, byte {SIZE}"), "neither info block is good"]);
    // What is there is the same arena once more, and so runs out of the medium, or over the copy of the one before.
    let first = long[ARENA..ARENA + 4096].to_vec();
    long[SIZE..SIZE + 4096].copy_from_slice(&first);
    refused(&scratch, "again", &long, &[&format!("arena 1, byte {SIZE}"), "mapoff ", "there is room only to "]);
}

#[test]
fn btt_image_whose_numbers_overflow_is_refused() {
    let scratch = Scratch::disk();
    let image = good(&scratch);
    let near = |below: u64| u64::MAX - below;
    let offsets =
        [(NEXTOFF, "nextoff"), (DATAOFF, "dataoff"), (MAPOFF, "mapoff"), (FLOGOFF, "flogoff"), (INFO2OFF, "info2off")];
    for (field, name) in offsets {
        for value in [near(0), near(511), 1 << 63, 1 << 39] {
            let mut far = image.clone();
            set_both(&mut far, field, &value.to_le_bytes());
            refused(&scratch, "far", &far, &["byte 4096", &format!("{name} {value}: must be ")]);
        }
    }
    for (field, name) in [(EXTERNAL_NLBA, "external_nlba"), (INTERNAL_NLBA, "internal_nlba"), (NFREE, "nfree")] {
        for value in [u32::MAX, u32::MAX - 255, 1 << 30, 0] {
            let mut many = image.clone();
            set_both(&mut many, field, &value.to_le_bytes());
            refused(&scratch, "many", &many, &["byte 4096", &format!("{name} {value}: must be ")]);
        }
    }
    // Numbers that fit each other, whose sum of bytes is 2^64 and more, or merely more than there is.
    for blocks in [u32::MAX - 255, (1 << 30) - 256, 1 << 20] {
        let mut more = image.clone();
        set_both(&mut more, EXTERNAL_NLBA, &blocks.to_le_bytes());
        set_both(&mut more, INTERNAL_NLBA, &blocks.wrapping_add(256).to_le_bytes());
        refused(&scratch, "more", &more, &["byte 4096", ": must be "]);
    }
}
