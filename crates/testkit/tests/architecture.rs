// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules of `docs/design.md` and `CONTRIBUTING.md` that a machine can hold: who may depend on whom, where unsafe code and
//! global state may live, and that the pages which say so still speak of files and tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[path = "architecture/source.rs"]
mod source;

use source::{Source, words};

/// What each package may use of the others when it is built to be used. An arrow points down or it does not exist.
const MAY_USE: &[(&str, &[&str])] = &[
    ("pageless-sys", &[]),
    ("pageless-mem", &["pageless-sys"]),
    ("pageless-block", &["pageless-mem", "pageless-sys"]),
    ("pageless-drivers", &["pageless-block", "pageless-mem", "pageless-sys"]),
    ("pageless-export", &["pageless-block", "pageless-mem", "pageless-sys"]),
    // Compiled by the binary's build.rs: nobody links it.
    ("pageless-preload", &[]),
    ("pageless", &["pageless-export", "pageless-drivers", "pageless-block", "pageless-mem", "pageless-sys"]),
    ("pageless-testkit", &["pageless-drivers", "pageless-block", "pageless-mem", "pageless-sys"]),
    (
        "pageless-benches",
        &[
            "pageless",
            "pageless-export",
            "pageless-drivers",
            "pageless-block",
            "pageless-mem",
            "pageless-sys",
            "pageless-testkit",
        ],
    ),
];

/// What tests alone may use beside `testkit`: a server is tried on real disks.
const TESTS_MAY_USE: &[(&str, &str)] = &[("pageless-export", "pageless-drivers")];

/// The crates that speak to the kernel. Only `sys` may name them.
const KERNEL_CRATES: &[&str] = &["libc", "rustix", "io-uring", "nix", "linux-raw-sys", "userfaultfd", "memmap2"];

/// Crates that hold unsafe code at all; every other crate root forbids it.
const UNSAFE_CRATES: &[&str] = &["pageless-sys", "pageless-mem", "pageless-preload"];

const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit lies two levels below the root").to_path_buf()
}

fn read(relative: &str) -> String {
    let path = root().join(relative);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fails with every finding at once: one run of the test shows all that is to be mended.
fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

struct Package {
    name: String,
    dir: PathBuf,
    /// (dependency, kind): kind is "normal", "dev" or "build".
    uses: Vec<(String, String)>,
    /// Source files of libraries and binaries.
    roots: Vec<PathBuf>,
}

fn packages() -> Vec<Package> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let json: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let list = |v: &Value| v.as_array().expect("an array").clone();
    list(&json["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dir: Path::new(&text(&package["manifest_path"])).parent().expect("a file has a folder").to_path_buf(),
            uses: list(&package["dependencies"])
                .iter()
                .map(|d| (text(&d["name"]), d["kind"].as_str().unwrap_or("normal").to_owned()))
                .collect(),
            roots: list(&package["targets"])
                .iter()
                .filter(|t| list(&t["kind"]).iter().any(|k| matches!(k.as_str(), Some("lib" | "bin"))))
                .map(|t| PathBuf::from(text(&t["src_path"])))
                .collect(),
        })
        .collect()
}

/// The lines of the fenced block of `docs/invariants.md` with this tag.
fn listed(tag: &str) -> Vec<String> {
    let page = read("docs/invariants.md");
    let fence = format!("```{tag}");
    let block = page.split_once(&fence).unwrap_or_else(|| panic!("docs/invariants.md has no block {tag}")).1;
    let block = block.split_once("```").expect("the block is closed").0;
    block.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// A listed path covers a file when it is that file, or a folder written `folder/**` above it.
fn covers(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix("**").map_or(pattern == path, |folder| path.starts_with(folder))
}

#[test]
fn dependencies_point_down_and_siblings_are_strangers() {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let packages = packages();
    let ours: BTreeSet<_> = packages.iter().map(|p| p.name.clone()).collect();
    let mut findings = Vec::new();
    for package in &packages {
        let Some(may) = allowed.get(package.name.as_str()) else {
            findings.push(format!("{} is not in the table: say what it may use", package.name));
            continue;
        };
        for (name, kind) in package.uses.iter().filter(|(name, _)| ours.contains(name)) {
            let known = TESTS_MAY_USE.contains(&(package.name.as_str(), name.as_str()));
            let test_only = kind == "dev" && (known || name == "pageless-testkit" || *name == package.name);
            if !may.contains(&name.as_str()) && !test_only {
                findings.push(format!("{} -> {name} ({kind})", package.name));
            }
        }
    }
    none("edges that docs/design.md does not have", &findings);
    assert!(
        packages.iter().any(|p| p.uses.iter().any(|(n, k)| n == "pageless-testkit" && k == "dev")),
        "testkit is used by nobody"
    );
}

#[test]
fn only_sys_names_a_crate_that_speaks_to_the_kernel() {
    let mut findings = Vec::new();
    for package in packages().iter().filter(|p| p.name != "pageless-sys") {
        let kernel = package.uses.iter().filter(|(name, _)| KERNEL_CRATES.contains(&name.as_str()));
        findings.extend(kernel.map(|(name, kind)| format!("{} -> {name} ({kind})", package.name)));
    }
    none("only crates/sys may use these", &findings);
}

#[test]
fn every_package_takes_the_house_lints() {
    let manifest = |p: &Package| fs::read_to_string(p.dir.join("Cargo.toml")).expect("manifest");
    // `sys` is the one crate whose every file may hold unsafe code, so it spells the other rules out.
    let takes = |p: &Package| match p.name.as_str() {
        "pageless-sys" => manifest(p).contains("undocumented_unsafe_blocks = \"deny\""),
        _ => manifest(p).contains("[lints]\nworkspace = true"),
    };
    let findings: Vec<_> = packages().iter().filter(|p| !takes(p)).map(|p| p.name.clone()).collect();
    none("packages without `[lints] workspace = true`", &findings);
}

#[test]
fn crates_without_unsafe_forbid_it() {
    let mut findings = Vec::new();
    for package in packages().iter().filter(|p| !UNSAFE_CRATES.contains(&p.name.as_str())) {
        for path in &package.roots {
            let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if !text.contains("#![forbid(unsafe_code)]") {
                findings.push(path.display().to_string());
            }
        }
    }
    none("crate roots without #![forbid(unsafe_code)]", &findings);
}

#[test]
fn unsafe_code_is_where_the_invariants_say() {
    let list = listed("unsafe-files");
    let mut used = BTreeSet::new();
    let mut findings = Vec::new();
    for source in source::all(&root()) {
        let has = source.words().any(|w| w == "unsafe") || source.code.contains("allow(unsafe_code");
        match list.iter().find(|pattern| covers(pattern, &source.path)) {
            Some(pattern) if has => drop(used.insert(pattern.clone())),
            None if has => findings.push(format!("{} has unsafe code and is not listed", source.path)),
            _ => {}
        }
    }
    let stale = list.iter().filter(|p| !used.contains(*p)).map(|p| format!("{p} is listed and has none"));
    findings.extend(stale);
    none("docs/invariants.md, block unsafe-files", &findings);
}

#[test]
fn every_unsafe_operation_says_what_it_rests_on() {
    let mut findings = Vec::new();
    for source in source::all(&root()) {
        let all: Vec<_> = source.words().collect();
        let bare = source.code.matches("unsafe {").count() + source.code.matches("unsafe impl").count();
        let said = source.text.matches("SAFETY:").count();
        if said < bare {
            findings.push(format!("{}: {bare} unsafe blocks and impls, {said} SAFETY comments", source.path));
        }
        let functions = all.windows(3).filter(|w| w[0] == "pub" && w[1] == "unsafe" && w[2] == "fn").count();
        if source.text.matches("# Safety").count() < functions {
            findings.push(format!(
                "{}: {functions} public unsafe functions without a `# Safety` heading each",
                source.path
            ));
        }
    }
    none("unsafe without its reason", &findings);
}

/// The statics of a file that are not plain constants by their type, as `NAME`, and `thread_local!`.
fn global_state(source: &Source) -> Vec<String> {
    const PLAIN: &[&str] = &["u8", "u16", "u32", "u64", "usize", "i32", "i64", "bool", "str", "static", "char"];
    let code = source.product_code();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("static ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'') {
            continue;
        }
        let item = &code[at + "static ".len()..];
        let Some(end) = end_of_type(item) else { continue };
        // `static NAME: TYPE;` is a symbol of an extern block: the linker's, not a variable of ours.
        let Some((name, kind)) = item[..end].split_once(':').filter(|_| item[end..].starts_with('=')) else { continue };
        let mutable = name.trim_start().starts_with("mut ");
        let plain = words(kind).all(|w| PLAIN.contains(&w) || w.bytes().all(|b| b.is_ascii_digit()));
        if mutable || !plain {
            found.push(name.trim().trim_start_matches("mut ").to_owned());
        }
    }
    if code.contains("thread_local!") {
        found.push("thread_local!".to_owned());
    }
    found
}

/// Where the `=` or the final `;` of a static is: not the `;` of an array type.
fn end_of_type(item: &str) -> Option<usize> {
    let mut brackets = 0usize;
    item.char_indices().find_map(|(at, c)| {
        match c {
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            '=' | ';' if brackets == 0 => return Some(at),
            _ => {}
        }
        None
    })
}

#[test]
fn global_state_is_listed_with_its_reason() {
    let list = listed("statics");
    let mut findings: Vec<_> =
        list.iter().filter(|l| l.split_whitespace().count() < 5).map(|l| format!("{l}: no reason given")).collect();
    let mut seen = BTreeSet::new();
    for source in source::all(&root()).iter().filter(|s| !s.is_test()) {
        for name in global_state(source) {
            let entry = format!("{} {name}", source.path);
            if !list.iter().any(|l| l.starts_with(&format!("{entry} "))) {
                findings.push(format!("{entry} is not listed"));
            }
            seen.insert(entry);
        }
    }
    let stale = list.iter().filter(|l| !seen.iter().any(|s| l.starts_with(&format!("{s} "))));
    findings.extend(stale.map(|l| format!("{l}: listed, and not there")));
    none("docs/invariants.md, block statics", &findings);
}

#[test]
fn files_stay_short_and_carry_their_licence() {
    let mut findings = Vec::new();
    for source in source::all(&root()) {
        if source.text.lines().next() != Some("// SPDX-License-Identifier: MIT OR Apache-2.0") {
            findings.push(format!("{}: the first line is not the SPDX line", source.path));
        }
        let code = source.product_code();
        let lines = code.lines().count();
        if lines > MAX_LINES && !source.is_test() {
            findings.push(format!("{}: {lines} lines without tests, {MAX_LINES} is the most", source.path));
        }
    }
    none("files", &findings);
}

#[test]
fn each_crate_has_one_error() {
    let mut count: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in source::all(&root()).iter().filter(|s| !s.is_test()) {
        let code = source.product_code();
        let all: Vec<_> = words(&code).collect();
        for _ in all.windows(2).filter(|w| matches!(w[0], "enum" | "struct") && w[1] == "Error") {
            let krate = source.path.split("/src/").next().unwrap_or_default().to_owned();
            count.entry(krate).or_default().push(source.path.clone());
        }
    }
    let findings: Vec<_> =
        count.iter().filter(|(_, files)| files.len() > 1).map(|(k, files)| format!("{k}: {files:?}")).collect();
    none("crates with more than one `Error`", &findings);
    assert!(count.len() >= 2, "the rule sees no crate with an Error: {count:?}");
}

#[test]
fn nothing_is_left_for_later_and_nothing_names_the_machine_it_was_written_on() {
    // Spelt in halves, so that this file does not find itself.
    let later = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimpl", "emented!(")];
    let here = format!("{}/", root().display());
    let mut findings = Vec::new();
    let pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/design.md", "docs/invariants.md", ".ci/run"];
    let texts = source::all(&root())
        .into_iter()
        .map(|s| (s.path, s.text))
        .chain(pages.iter().map(|p| ((*p).to_owned(), read(p))));
    for (path, text) in texts {
        findings.extend(later.iter().filter(|w| text.contains(**w)).map(|w| format!("{path}: {w}")));
        if text.contains(&here) {
            findings.push(format!("{path}: an absolute path into this checkout"));
        }
    }
    none("words that do not belong in the tree", &findings);
}

/// The code spans of a page that name something in the tree: `path` or `path: test_name`.
fn references(page: &str) -> Vec<(String, Option<String>)> {
    const TREES: &[&str] = &["crates/", "pageless/", "benches/", "docs/", ".ci/", "fuzz/", "examples/"];
    let spans = page.split('`').skip(1).step_by(2);
    spans
        .filter(|span| TREES.iter().any(|tree| span.starts_with(tree)) && !span.contains('\n'))
        .map(|span| match span.split_once(": ") {
            Some((path, name)) => (path.to_owned(), Some(name.to_owned())),
            None => (span.to_owned(), None),
        })
        .collect()
}

#[test]
fn the_pages_speak_of_files_and_tests_that_exist() {
    let mut findings = Vec::new();
    let mut tests = 0;
    for page in ["README.md", "CONTRIBUTING.md", "docs/design.md", "docs/invariants.md", "docs/performance.md"] {
        // Fenced blocks hold commands and lists, which have their own checks.
        let prose: String = read(page).split("```").step_by(2).collect();
        for (path, name) in references(&prose) {
            let file = root().join(path.trim_end_matches("**"));
            if !file.exists() {
                findings.push(format!("{page}: {path} does not exist"));
            } else if let Some(name) = name {
                tests += 1;
                let text = fs::read_to_string(&file).unwrap_or_default();
                if !text.contains(&format!("fn {name}(")) {
                    findings.push(format!("{page}: {path} has no test {name}"));
                }
            }
        }
    }
    none("stale references", &findings);
    assert!(tests >= 11, "docs/invariants.md names {tests} tests: fewer than one per invariant");
}

#[test]
fn each_invariant_has_its_section() {
    let page = read("docs/invariants.md");
    let missing: Vec<_> = (1..=11).map(|n| format!("## I{n}: ")).filter(|h| !page.contains(h.as_str())).collect();
    none("docs/invariants.md lacks", &missing);
}

#[test]
fn the_front_door_is_two_commands() {
    let readme = read("README.md");
    for command in ["cargo run --release -- serve", "cargo test --workspace"] {
        assert!(
            readme.lines().any(|l| l.trim_start_matches("$ ") == command),
            "README.md does not show `{command}` on a line of its own"
        );
    }
    assert!(read(".ci/run").contains("cargo test --workspace"), ".ci/run does not run the command of the README");
    assert!(read("CONTRIBUTING.md").lines().count() <= 120, "CONTRIBUTING.md is to stay within 120 lines");
}
