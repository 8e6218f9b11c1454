#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# I3: what the region table costs in instructions over a hand-written base and offset with the same copy, and that the
# feature `pmem-io` costs page-backed memory nothing. Bars: on = off to the instruction; table <= 2 % over base and offset.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "skipped: needs valgrind"; [ -z "${PAGELESS_REQUIRE:-}" ]; exit; }
target=${CARGO_TARGET_DIR:-target}/pmem-io
count() { # features function: instructions per 4 KiB copy
    cargo build --quiet --release -p pageless-mem --example i3 --no-default-features --features "$1" --target-dir "$target"
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="*$2*" "$target/release/examples/i3" 2>&1 >/dev/null |
        awk '/Collected/ { printf "%d\n", $NF / 1000 }'
}
hand=$(count "" base_and_offset)
off=$(count "" through_the_table)
on=$(count "pmem-io" through_the_table)
echo "instructions per 4 KiB copy: base+offset $hand, table $off (pmem-io off), $on (pmem-io on)"
[ "$on" -eq "$off" ] || { echo "FAILED: pmem-io costs page-backed memory $((on - off)) instructions"; exit 1; }
[ $((off * 100)) -le $((hand * 102)) ] || { echo "FAILED: the table costs $((off - hand)) instructions over base and offset"; exit 1; }
