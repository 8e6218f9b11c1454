// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every combination of what decides, against the order that is promised.

use super::*;
use pageless_sys::Errno;

const ALIGN: Align = Align { memory: 512, block: 4096 };
const YES_NO: [bool; 2] = [false, true];
const PINNED: [Pinned; 3] = [Pinned::Unknown, Pinned::Ok, Pinned::Refused(Errno::EFAULT)];

/// All that matters, every combination once.
fn all(mut check: impl FnMut(Caps, Reach, Shape)) {
    for bits in 0..1_u32 << 7 {
        let bit = |at: u32| bits >> at & 1 == 1;
        let [writable, cpu_map, has_dma_buf, bounce, copy, takes_dma_buf, writes] = [0, 1, 2, 3, 4, 5, 6].map(bit);
        for short_pin in PINNED {
            for long_pin in PINNED {
                for pins in [Pins::Short, Pins::Long] {
                    for direct in [Ok(ALIGN), Err(Why::NoDirectIo), Err(Why::Requested)] {
                        for (start, len) in [(8192, 4096), (512, 8192), (8192 + 511, 4096), (8192, 4095), (1, 1)] {
                            let caps = Caps { writable, cpu_map, dma_buf: has_dma_buf, short_pin, long_pin };
                            let dma_buf = takes_dma_buf.then_some(Align { memory: 4096, block: 512 });
                            let access = if writes { Access::Write } else { Access::Read };
                            let reach = Reach { direct, pins, dma_buf, bounce, copy };
                            check(caps, reach, Shape { start, len, access });
                        }
                    }
                }
            }
        }
    }
}

/// The ways in order of preference, each with what it takes, and not as the code has it.
fn promised(caps: Caps, reach: Reach, shape: Shape) -> Decision {
    let aligned =
        |align: Align| shape.start.is_multiple_of(align.memory.into()) && shape.len.is_multiple_of(align.block);
    let pin = if reach.pins == Pins::Short { caps.short_pin } else { caps.long_pin };
    let refused = matches!(pin, Pinned::Refused(_));
    let why = match reach.direct {
        Err(why) => why,
        Ok(align) if !aligned(align) => Why::Misaligned,
        Ok(_) => Why::Unpinnable(Errno::EFAULT),
    };
    let stored = caps.writable || shape.access == Access::Read;
    let ways = [
        (Decision::Direct, stored && reach.direct.is_ok_and(aligned) && !refused),
        (Decision::DmaBuf, stored && caps.dma_buf && reach.dma_buf.is_some_and(aligned)),
        (Decision::Bounce(why), stored && caps.cpu_map && reach.bounce),
        (Decision::Copy(why), stored && caps.cpu_map && reach.copy),
    ];
    let refusal = match (stored, caps.cpu_map) {
        (false, _) => Why::ReadOnly,
        (true, false) => Why::OutOfReach,
        (true, true) => why,
    };
    ways.into_iter().find(|(_, possible)| *possible).map_or(Decision::Refuse(refusal), |(way, _)| way)
}

#[test]
fn the_first_way_that_can_be_is_taken_and_the_reason_is_the_first_that_was_not() {
    let mut seen = std::collections::BTreeMap::new();
    all(|caps, reach, shape| {
        let decision = decide(caps, &reach, shape);
        assert_eq!(decision, promised(caps, reach, shape), "{caps:?} {reach:?} {shape:?}");
        *seen.entry(decision.route().to_string()).or_insert(0) += 1;
    });
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    let direct_io = "bounce (O_DIRECT: EFAULT";
    for name in ["direct", "dma-buf", "refuse (the memory may only be read)", "refuse (out of reach of device and CPU)"]
    {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(names.iter().any(|name| name.starts_with(direct_io)), "{names:?}");
    for way in ["bounce", "copy", "refuse"] {
        for why in ["the file refuses O_DIRECT", "not aligned for direct I/O", "as asked"] {
            assert!(names.contains(&format!("{way} ({why})").as_str()), "{way} ({why}) in {names:?}");
        }
    }
}

#[test]
fn what_nobody_tried_is_tried() {
    let caps = Caps { short_pin: Pinned::Unknown, ..Caps::PAGES };
    let reach = Reach { direct: Ok(ALIGN), pins: Pins::Short, dma_buf: None, bounce: true, copy: false };
    let shape = Shape { start: 4096, len: 4096, access: Access::Write };
    assert_eq!(decide(caps, &reach, shape), Decision::Direct);
}

#[test]
fn a_device_that_is_memory_copies_and_says_why() {
    for (why, says) in
        [(Why::MemoryDisk, "copy (the device is memory)"), (Why::Zeroes, "copy (zeroes, nothing to fetch)")]
    {
        let reach = Reach::of_memory(why);
        assert_eq!(reach.best().to_string(), says);
        for writable in YES_NO {
            let caps = Caps { writable, ..Caps::PAGES };
            let odd = |access| Shape { start: 1, len: 77, access };
            assert_eq!(decide(caps, &reach, odd(Access::Read)).route(), reach.best());
            let stored = decide(caps, &reach, odd(Access::Write));
            assert_eq!(stored, if writable { Decision::Copy(why) } else { Decision::Refuse(Why::ReadOnly) });
        }
    }
}

#[test]
fn a_refusal_has_the_status_of_its_reason() {
    use crate::Status;
    assert_eq!(Why::ReadOnly.status(), Status::ReadOnly);
    assert_eq!(Why::OutOfReach.status(), Status::Unsupported);
    assert_eq!(Why::Misaligned.status(), Status::Unsupported);
}
