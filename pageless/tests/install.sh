#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# The preload library comes with the binary: a clean clone is built and installed, clone and build folder are deleted, and the
# installed `pageless run` still loads it.
#
#   bash pageless/tests/install.sh          needs git and cargo, and what is committed
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/pageless-install.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What is committed; all there is but build folders where that is not known.
git clone --quiet "file://$root" "$work/clone" 2>/dev/null || {
    mkdir -p "$work/clone"
    tar -C "$root" --exclude=target --exclude=.git -cf - . | tar -C "$work/clone" -xf -
}
export CARGO_TARGET_DIR=$work/target
(cd "$work/clone" && cargo build --quiet --locked && cargo run --quiet --locked -- run --stats -- true 2>"$work/run")
grep -q 'in 1 program that the library was loaded into' "$work/run" || { cat "$work/run" >&2; exit 1; }
cargo install --quiet --locked --debug --path "$work/clone/pageless" --root "$work/installed"
rm -rf "$work/clone" "$work/target"

mkdir -m 700 "$work/runtime"
XDG_RUNTIME_DIR=$work/runtime "$work/installed/bin/pageless" run --stats -- true 2>"$work/said"
grep -q 'in 1 program that the library was loaded into' "$work/said" || { cat "$work/said" >&2; exit 1; }
[ "$(find "$work/runtime" -type f | wc -l)" = 1 ]
echo "installed from a clean clone, and the library was loaded"
