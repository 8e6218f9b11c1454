// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rust sources as far as the architecture rules need to see them: text with comments and literals blanked out, so that a
//! rule about code is not fooled by prose, and with test modules cut away, so that a rule about the product is not about tests.

use std::fs;
use std::path::{Path, PathBuf};

/// One `.rs` file of the tree.
pub(crate) struct Source {
    /// Path relative to the workspace root, with forward slashes.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// The same lines and columns with comments and literals turned into spaces.
    pub(crate) code: String,
}

impl Source {
    /// Whether the whole file is test code.
    pub(crate) fn is_test(&self) -> bool {
        let under = |dir: &str| self.path.starts_with(&format!("{dir}/")) || self.path.contains(&format!("/{dir}/"));
        self.path.ends_with("/tests.rs") || under("tests")
    }

    /// `code` without the modules and items marked `#[cfg(test)]` or `#[cfg(all(test, …))]`.
    pub(crate) fn product_code(&self) -> String {
        let mut out = String::with_capacity(self.code.len());
        let mut rest = self.code.as_str();
        while let Some(at) = next_test_attribute(rest) {
            out.push_str(&rest[..at]);
            rest = &rest[at + item_length(&rest[at..])..];
        }
        out.push_str(rest);
        out
    }

    /// The words of `code`: identifiers, keywords and numbers.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        words(&self.code)
    }
}

/// The identifiers, keywords and numbers of blanked-out code.
pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty())
}

fn next_test_attribute(code: &str) -> Option<usize> {
    ["#[cfg(test)]", "#[cfg(all(test,"].iter().filter_map(|a| code.find(a)).min()
}

/// The length of the item that starts here: to the `;` or the matching `}`, whichever ends it.
fn item_length(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every `.rs` file below `root` that belongs to the project.
pub(crate) fn all(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    for dir in ["crates", "pageless", "benches", "examples", "fuzz"] {
        collect(&root.join(dir), &mut found);
    }
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let code = blank(&text);
            let path = path.strip_prefix(root).expect("collected below root");
            Source { path: path.to_string_lossy().replace('\\', "/"), text, code }
        })
        .collect()
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("directory entry").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Turns comments, strings and character literals into spaces, keeping line breaks.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            for b in &mut out[at..end] {
                if *b != b'\n' {
                    *b = b' ';
                }
            }
            at = end;
        } else if bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' {
            // A word is skipped whole, so that the `r` in `for"x"` is not taken for a raw string.
            at += bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).expect("blanking keeps UTF-8: multi-byte characters are blanked whole or not at all")
}

/// Where the comment or literal that starts at `at` ends; `at` when none does.
fn literal_end(b: &[u8], at: usize) -> usize {
    let rest = &b[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        let mut depth = 0;
        let mut i = at;
        while i < b.len() {
            if b[i..].starts_with(b"/*") {
                depth += 1;
                i += 2;
            } else if b[i..].starts_with(b"*/") {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            } else {
                i += 1;
            }
        }
        return b.len();
    }
    let prefix = rest.iter().take_while(|c| matches!(c, b'b' | b'c' | b'r')).count();
    if prefix <= 2 {
        let raw = rest[..prefix].contains(&b'r');
        let hashes = if raw { rest[prefix..].iter().take_while(|c| **c == b'#').count() } else { 0 };
        if rest.get(prefix + hashes) == Some(&b'"') {
            return string_end(b, at + prefix + hashes + 1, raw, hashes);
        }
    }
    if rest[0] == b'\'' {
        return char_end(b, at);
    }
    at
}

fn string_end(b: &[u8], mut i: usize, raw: bool, hashes: usize) -> usize {
    while i < b.len() {
        if !raw && b[i] == b'\\' {
            i += 2;
        } else if b[i] == b'"' && b[i + 1..].iter().take(hashes).filter(|c| **c == b'#').count() == hashes {
            return i + 1 + hashes;
        } else {
            i += 1;
        }
    }
    b.len()
}

/// A character literal ends at its quote; a lifetime is no literal and ends where it starts.
fn char_end(b: &[u8], at: usize) -> usize {
    if b.get(at + 1) == Some(&b'\\') {
        return b[at + 3..].iter().position(|c| *c == b'\'').map_or(b.len(), |n| at + 3 + n + 1);
    }
    let width = match b.get(at + 1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    if b.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
}

#[test]
fn blanking_hides_prose_and_literals_and_keeps_code() {
    let text = "let a = \"unsafe\"; // unsafe\nlet b = r#\"un\"safe\"#; /* x /* unsafe */ */ let c: &'a u8 = '\"'; unsafe { 'é' }";
    let code = blank(text);
    assert_eq!(code.lines().count(), 2);
    assert_eq!(words(&code).filter(|w| *w == "unsafe").count(), 1, "{code}");
    assert_eq!(words(&code).collect::<Vec<_>>(), ["let", "a", "let", "b", "let", "c", "a", "u8", "unsafe"]);
}

#[test]
fn product_code_leaves_test_items_out() {
    let code =
        "fn a() {}\n#[cfg(test)]\nmod tests { fn t() { if x { } } }\nfn b() {}\n#[cfg(test)]\nmod more;\nfn c() {}\n";
    let source = Source { path: "x/src/a.rs".into(), text: code.into(), code: code.into() };
    assert_eq!(words(&source.product_code()).collect::<Vec<_>>(), ["fn", "a", "fn", "b", "fn", "c"]);
}
