#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# The fault table in every way it can be linked: debug, release, thin and fat LTO, by another linker, and as a shared library in
# a host that is not Rust. Each run truncates a mapped file under copies that are inlined in two places and expects exact counts.
set -euo pipefail
cd "$(dirname "$0")/../../.."
target=${CARGO_TARGET_DIR:-target}/link # of what is built as nothing else is
run() { echo "== $1"; shift; cargo run --quiet -p pageless-mem --example contained "$@"; }
run debug
run release --release
run "thin LTO" --target-dir "$target" --release --config 'profile.release.lto="thin"'
run "fat LTO" --target-dir "$target" --release --config 'profile.release.lto="fat"' --config 'profile.release.codegen-units=1'
if command -v ld.bfd >/dev/null; then
    run "ld.bfd, sections that nobody names dropped" --target-dir "$target" --release \
        --config 'build.rustflags=["-Clink-arg=-fuse-ld=bfd","-Clink-arg=-Wl,--gc-sections"]'
fi
echo "== cdylib, fat LTO, loaded by Python"
cargo build --quiet --release -p pageless-mem --example contained_cdylib --target-dir "$target" \
    --config 'profile.release.lto="fat"' --config 'profile.release.codegen-units=1'
command -v python3 >/dev/null || { echo "skipped: needs python3"; [ -z "${PAGELESS_REQUIRE:-}" ]; exit; }
python3 - "$target/release/examples/libcontained_cdylib.so" <<'PY'
import ctypes, sys
assert ctypes.CDLL(sys.argv[1]).pageless_contained() == 0
PY
