// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever a client says during the handshake: it ends, what is kept stays bounded, and where the bytes were cut makes
//! no difference.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pageless_export::nbd::Terms;
use pageless_export::nbd::handshake::{Handshake, Step};
use pageless_export::nbd::wire::{MAX_PAYLOAD, TransmissionFlags};

fn talk(exports: &Arc<[Terms]>, pieces: &[&[u8]]) -> (Step, Vec<u8>) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(Arc::clone(exports), &mut out);
    let mut last = Step::Starved;
    for piece in pieces {
        handshake.push(piece);
        last = loop {
            match handshake.step(&mut out) {
                Step::Again => {}
                step => break step,
            }
        };
        if last != Step::Starved {
            break;
        }
    }
    (last, out)
}

fuzz_target!(|bytes: &[u8]| {
    // Seeds are what a client says, and nothing else: where to cut it follows from it.
    let cut = bytes.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let terms = |name: &str| Terms {
        name: name.into(),
        description: "a disk".into(),
        size: 1 << 30,
        flags: TransmissionFlags::HAS_FLAGS,
        minimum: 512,
        preferred: 4096,
        maximum: MAX_PAYLOAD,
    };
    let exports: Arc<[Terms]> = [terms("disk"), terms("other")].into();
    let (end, out) = talk(&exports, &[bytes]);
    let (head, tail) = bytes.split_at(cut % (bytes.len() + 1));
    let (cut_end, cut_out) = talk(&exports, &[head, tail]);
    assert_eq!((end, &out), (cut_end, &cut_out));
    // Each option is answered with no more than a few hundred bytes.
    assert!(out.len() <= 18 + 400 * (1 + bytes.len() / 16));
});
