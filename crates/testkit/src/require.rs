// SPDX-License-Identifier: MIT OR Apache-2.0
//! Skipping what this host does not have, and saying so.

use std::fmt::Display;
use std::path::PathBuf;

/// The variable that turns a missing tool into a failure.
pub const REQUIRE: &str = "PAGELESS_REQUIRE";

/// What was found; else says `skipped: needs …` where `cargo test -- --nocapture` and CI logs show it.
pub fn require<T, E: Display>(what: &str, found: Result<T, E>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            eprintln!("skipped: needs {what} ({reason})");
            None
        }
    }
}

/// What was found in this kernel; else says `skipped: kernel lacks …`, and which guest test has a kernel that does not.
pub fn kernel<T, E: Display>(what: &str, guest: &str, found: Result<T, E>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            eprintln!("skipped: kernel lacks {what} ({guest} covers it): {reason}");
            None
        }
    }
}

/// A program on the `PATH`. It may be missing, unless [`REQUIRE`] is `1`.
///
/// # Panics
/// When the program is missing and must not be.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    let required = std::env::var_os(REQUIRE).is_some_and(|value| value == "1");
    require_tool(name, found, required)
}

fn require_tool(name: &str, found: Option<PathBuf>, required: bool) -> Option<PathBuf> {
    assert!(found.is_some() || !required, "{name} is not on the PATH, and {REQUIRE}=1 says that it must be");
    require(name, found.ok_or("not on the PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_skipped_unless_it_is_required() {
        assert!(tool("sh").is_some());
        assert_eq!(require_tool("no-such-tool", None, false), None);
        let required = std::panic::catch_unwind(|| require_tool("no-such-tool", None, true));
        assert!(required.is_err());
    }

    #[test]
    fn what_is_found_is_handed_on() {
        assert_eq!(require("a number", Ok::<_, &str>(7)), Some(7));
        assert_eq!(require::<u8, _>("a number", Err("no numbers here")), None);
        assert_eq!(kernel("a number", "guest/numbers", Ok::<_, &str>(7)), Some(7));
        assert_eq!(kernel::<u8, _>("a number", "guest/numbers", Err("no numbers here")), None);
    }
}
