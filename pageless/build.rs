// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles `crates/preload` into a shared object for `pageless run` to carry: no std, no dependency, one call of rustc.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let var = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"));
    let sources = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("../crates/preload/src");
    let object = PathBuf::from(var("OUT_DIR")).join("libpageless_preload.so");
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-changed=build.rs");

    let mut rustc = Command::new(var("RUSTC"));
    rustc.arg(sources.join("lib.rs")).args(["--crate-name", "pageless_preload", "--crate-type", "cdylib"]);
    rustc.args(["--edition", "2024", "--cap-lints", "warn", "--target"]).arg(var("TARGET"));
    // The same library in debug builds: it stands before the system calls of other people's programs. One unit with all of
    // core in view leaves no panic behind. Cancelling a thread unwinds through it.
    rustc.args(["-Copt-level=2", "-Cpanic=abort", "-Clto=fat", "-Ccodegen-units=1", "-Cforce-unwind-tables=yes"]);
    rustc.args(["-Clink-arg=-lc", "-Clink-arg=-ldl", "-Crelro-level=full", "-o"]).arg(&object);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("{rustc:?}: {error}"));
    assert!(status.success(), "{rustc:?}: {status}");
}
