// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers two kinds of memory and finds out, by trying, what may be done with each.
//!
//! `cargo run --example probe`

use pageless::mem::probe::probe;
use pageless::mem::{Backing, FRAME_SIZE, Memory};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The frame space of this process: regions live in it and are named by frame number.
    let memory = Memory::new()?;
    let mut reader = memory.reader();

    for backing in [Backing::anon(16 << 20)?, Backing::secret(4 << 20)?] {
        // Registering is a mapping and a table insert: nothing is kept per page.
        let region = memory.register(backing)?;
        println!(
            "{}: {} frames, {} bytes of metadata",
            region.describe(),
            region.frames().count(),
            region.metadata_bytes()
        );

        // A probe fills no hole, so there must be a page to try on.
        region.zero(0, FRAME_SIZE).map_err(|fault| format!("{fault:?}"))?;

        let found = probe(&region, &mut reader);
        println!("  it is                         {:?}", found.class);
        println!("  short pin (O_DIRECT)          {:?}", found.short_pin);
        println!("  long pin (registered buffer)  {:?}", found.long_pin);
        println!("  socket send                   {:?}", found.send);
        println!("  zero-copy send                {:?}", found.send_zerocopy);
    }
    Ok(())
}
