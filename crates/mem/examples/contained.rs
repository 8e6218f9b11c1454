// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shows that a fault in a copy is an error with an exact count, not a signal: a mapped file is truncated under us.
//! CI runs it in every way the fault table can be linked.

#![allow(unreachable_pub, missing_docs, reason = "also a module of the cdylib example")]

use pageless_mem::{Access, Backing, Error, FRAME_SIZE, Fault, FileOptions, Memory};

pub fn main() -> Result<(), Error> {
    let path = std::env::temp_dir().join(format!("pageless-contained-{}", std::process::id()));
    let options = FileOptions { size: Some(2 * FRAME_SIZE), create: true, read_only: false };
    let memory = Memory::new()?;
    let file = memory.register(Backing::file(&path, options)?)?;
    let ram = memory.register(Backing::anon(2 * FRAME_SIZE)?)?;
    let truncated = std::fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(FRAME_SIZE));
    let removed = std::fs::remove_file(&path);
    assert!(truncated.is_ok() && removed.is_ok());

    let mut reader = memory.reader();
    let online = reader.online();
    let (Some(source), Some(target)) = (file.range(0, 2 * FRAME_SIZE), ram.range(0, 2 * FRAME_SIZE)) else {
        return Ok(());
    };
    let (Ok(source), Ok(target)) = (online.kmap(source, Access::Read), online.kmap(target, Access::Write)) else {
        return Ok(());
    };
    for writer in [target.writer(), target.writer().streaming()] {
        let mut writer = writer;
        let stopped = pageless_mem::copy(&mut source.reader(), &mut writer).expect_err("half of the file is gone");
        assert_eq!((stopped.moved as u64, stopped.fault), (FRAME_SIZE, Fault::Media));
    }
    // Inlined a second time, in a function that nobody else calls.
    let mut bytes = vec![0; 8192];
    let stopped = source.reader().read(&mut bytes).expect_err("half of the file is gone");
    assert_eq!((stopped.moved as u64, stopped.fault), (FRAME_SIZE, Fault::Media));
    let word = source.cell::<u32>(4096).map(|cell| cell.load());
    assert_eq!(word, Some(Err(Fault::Media)));
    println!("contained: 4096 of 8192 bytes moved, then {:?}", Fault::Media);
    Ok(())
}
