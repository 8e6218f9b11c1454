// SPDX-License-Identifier: MIT OR Apache-2.0
//! Skipping what this host does not have, and saying so.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The variable that turns a missing tool into a failure.
pub const REQUIRE: &str = "PAGELESS_REQUIRE";

/// What was found; else says `skipped: needs …`, where a run of the tests and CI's summary show it.
pub fn require<T, E: Display>(what: &str, found: Result<T, E>) -> Option<T> {
    found.map_err(|reason| note(&format!("skipped: needs {what} ({reason})"))).ok()
}

/// What was found in this kernel; else says `skipped: kernel lacks …`, and which guest test has a kernel that does not, as in
/// `guest/bar`: CI fails where that one did not pass. No tool would help, so [`REQUIRE`] changes nothing.
///
/// # Panics
/// When there is no such guest test.
pub fn kernel<T, E: Display>(what: &str, guest: &str, found: Result<T, E>) -> Option<T> {
    found.map_err(|reason| note(&lacking(what, guest, reason))).ok()
}

fn lacking(what: &str, guest: &str, reason: impl Display) -> String {
    let name = guest.strip_prefix("guest/").unwrap_or_default();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest/tests");
    // In a guest there is the test binary, and no tree.
    let known = !tests.is_dir() || tests.join(format!("{name}.sh")).is_file();
    assert!(known, "there is no {guest}: guest/run --list shows what there is");
    format!("skipped: kernel lacks {what} ({guest} covers it): {reason}")
}

/// Past the capture of the test runner, so that a skipped test is seen.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A program on the `PATH`. It may be missing, unless [`REQUIRE`] is `1`.
///
/// # Panics
/// When the program is missing and must not be.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    let required = std::env::var_os(REQUIRE).is_some_and(|value| value == "1");
    require(name, required_tool(name, found, required))
}

fn required_tool(name: &str, found: Option<PathBuf>, required: bool) -> Result<PathBuf, &'static str> {
    assert!(found.is_some() || !required, "{name} is not on the PATH, and {REQUIRE}=1 says that it must be");
    found.ok_or("not on the PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_skipped_unless_it_is_required() {
        assert!(tool("sh").is_some());
        assert!(required_tool("no-such-tool", None, false).is_err());
        let required = std::panic::catch_unwind(|| required_tool("no-such-tool", None, true));
        assert!(required.is_err());
    }

    #[test]
    fn what_is_found_is_handed_on() {
        assert_eq!(require("a number", Ok::<_, &str>(7)), Some(7));
        assert_eq!(kernel("a number", "guest/numbers", Ok::<_, &str>(7)), Some(7));
    }

    #[test]
    fn what_a_kernel_lacks_is_covered_by_a_guest_test_that_exists() {
        let line = "skipped: kernel lacks a number (guest/smoke covers it): none here";
        assert_eq!(lacking("a number", "guest/smoke", "none here"), line);
        for guest in ["guest/no-such-test", "smoke", "guest/"] {
            assert!(std::panic::catch_unwind(|| lacking("a number", guest, "none here")).is_err(), "{guest}");
        }
    }
}
