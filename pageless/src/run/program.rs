// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program: where it is, and what of it the preload library cannot cover.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pageless::sys::process;

use super::RunError;
use super::elf::{self, Elf, Kind};

/// The files that the preload library keeps its slots in: all of them, and the least that one call needs.
const SLOTS: u64 = 8 << 20;
const SLOT: u64 = 256 << 10;
/// `#!` may name a script, but not for ever.
const MAX_INTERPRETERS: u32 = 4;
/// Job files are small.
const MAX_JOB_FILE: u64 = 1 << 20;

/// A program that can be executed.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
}

impl Program {
    /// Looks where a shell would.
    pub(crate) fn find(name: &OsStr) -> Result<Program, RunError> {
        if name.as_bytes().contains(&b'/') {
            let path = PathBuf::from(name);
            return match path.metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(RunError::NotFound(name.into())),
                _ if is_executable(&path) => Ok(Program { path }),
                _ => Err(RunError::NotExecutable(path)),
            };
        }
        let folders = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let mut there = None;
        for folder in env::split_paths(&folders) {
            let path = folder.join(name);
            if is_executable(&path) {
                return Ok(Program { path });
            }
            if path.is_file() {
                there.get_or_insert(path);
            }
        }
        Err(there.map_or_else(|| RunError::NotFound(name.into()), RunError::NotExecutable))
    }

    /// What should be known before it runs, one line each.
    pub(crate) fn notes(&self, args: &[OsString]) -> Vec<String> {
        let mut notes = Vec::new();
        self.note_file(&mut notes);
        note_arguments(&self.path, args, &mut notes);
        if let Some(limit) = file_size_limit().filter(|limit| *limit < SLOTS) {
            notes.push(format!(
                "files are limited to {limit} bytes (ulimit -f): the library needs a file of {SLOTS} in memory to work well, and \
                 of {SLOT} to work at all"
            ));
        }
        notes
    }

    fn note_file(&self, notes: &mut Vec<String>) {
        let mut path = self.path.clone();
        let mut kind = elf::look(&path);
        for _ in 0..MAX_INTERPRETERS {
            let Ok(Kind::Script { interpreter, argument }) = &kind else { break };
            // `#!/usr/bin/env python3`: what env will run.
            let by_env = argument.as_deref().filter(|_| interpreter.ends_with("/env"));
            let word = by_env.and_then(|line| line.trim_start_matches("-S ").split_whitespace().next());
            path = match word.map(|word| Program::find(OsStr::new(word))) {
                Some(Ok(program)) => program.path,
                Some(Err(_)) => return,
                None => PathBuf::from(interpreter),
            };
            kind = elf::look(&path);
        }
        let name = path.display();
        if let Ok(Kind::Elf(elf)) = &kind {
            note_elf(&name.to_string(), elf, notes);
        }
        if raises_rights(&path) {
            notes.push(format!(
                "{name} runs with rights that its file gives it (set-user-ID, set-group-ID or capabilities): \
                 the dynamic linker preloads nothing into it"
            ));
        }
    }
}

fn note_elf(name: &str, elf: &Elf, notes: &mut Vec<String>) {
    if !elf.ours {
        notes.push(format!("{name} is not a 64-bit x86-64 program: the preload library does not fit it"));
        return;
    }
    match &elf.interpreter {
        None => notes.push(format!("{name} is statically linked: nothing can be preloaded into it")),
        Some(linker) if linker.contains("musl") => {
            notes.push(format!("{name} is linked with musl: the preload library is made for glibc, and may not load"));
        }
        Some(_) if elf.go => {
            notes.push(format!("{name} is a Go program: it makes its system calls itself, past the preload library"));
        }
        Some(_) => {}
    }
    if elf.asan {
        notes.push(format!(
            "{name} is built with AddressSanitizer, whose library wants to be loaded first: \
             ASAN_OPTIONS=verify_asan_link_order=0 lets it run"
        ));
    }
    if elf.uring {
        notes.push(format!("{name} is linked with liburing: what it does by io_uring is not covered"));
    }
}

/// What the arguments, or the job files of fio among them, say.
fn note_arguments(program: &Path, args: &[OsString], notes: &mut Vec<String>) {
    let mut texts: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let fio = program.file_name().is_some_and(|name| name.as_bytes().starts_with(b"fio"));
    if fio {
        let files = args.iter().filter(|arg| fs::metadata(arg).is_ok_and(|m| m.is_file() && m.len() <= MAX_JOB_FILE));
        texts.extend(files.filter_map(|arg| fs::read_to_string(arg).ok()).flat_map(|text| {
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            lines.map(str::to_owned).collect::<Vec<_>>()
        }));
    }
    if texts.iter().any(|text| text.contains("io_uring")) {
        notes.push("an argument names io_uring: what is done by io_uring is not covered; libaio and psync are".into());
    }
    let reaps = |text: &String| {
        let option = text.trim_start_matches('-');
        option
            .strip_prefix("userspace_reap")
            .is_some_and(|value| !value.trim_start_matches([' ', '=']).starts_with('0'))
    };
    if fio && texts.iter().any(reaps) {
        notes.push("userspace_reap: fio takes events from the ring by itself, so their EFAULTs are not covered".into());
    }
}

/// The largest file that this process may write, in bytes; `None` for no limit.
fn file_size_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max file size")?.split_whitespace().next()?.parse().ok())
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// Whether executing it changes who one is, as far as the file says.
fn raises_rights(path: &Path) -> bool {
    let (Ok(file), Ok(me)) = (path.metadata(), fs::metadata("/proc/self")) else { return false };
    let becomes = |bit: u32, theirs: u32, mine: u32| file.mode() & bit != 0 && theirs != mine;
    becomes(0o4000, file.uid(), me.uid()) || becomes(0o2000, file.gid(), me.gid()) || process::has_capabilities(path)
}
