// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes memory back from a thread that is using it: what it holds is waited for, what it does later is `Gone`.
//!
//! `cargo run --example take_back`

use std::sync::mpsc;
use std::time::{Duration, Instant};

use pageless::mem::{Access, Backing, FRAME_SIZE, Memory};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Memory::new()?;
    let region = memory.register(Backing::memfd(64 << 20)?)?;
    region.zero(0, region.len()).map_err(|fault| format!("{fault:?}"))?;
    let range = region.range(8 * FRAME_SIZE, 4096).ok_or("outside the region")?;

    let (holding, held) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let user_memory = memory.clone();
    let user = std::thread::Builder::new().name("user".to_owned()).spawn(move || {
        let mut reader = user_memory.reader(); // one per thread
        // What an I/O of the kernel holds while it runs.
        let in_flight = reader.online().pin(&[range], Access::Write);
        let _ = holding.send(());
        let _ = finished.recv();
        drop(in_flight);
        // A frame number is a name: that it outlives the memory harms nobody.
        reader.online().kmap(range, Access::Read).map(drop)
    })?;
    held.recv()?;

    // From this call on nobody finds the region; who had it before is waited for.
    match region.revoke(Duration::from_millis(20)) {
        Ok(_) => println!("revoked at once"),
        Err(error) => println!("not yet: {error}"),
    }
    finish.send(())?;

    let start = Instant::now();
    let released = region.revoke(Duration::from_secs(5))?;
    println!("revoked; pages given back: {} after {:?}", released.wait(Duration::from_secs(5))?, start.elapsed());
    println!("the thread looks again: {:?}", user.join().map_err(|_| "the thread panicked")?);
    Ok(())
}
