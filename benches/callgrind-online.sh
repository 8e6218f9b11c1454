#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What being revocable costs a 4 KiB copy, in instructions: fault containment (a copy whose faults are known and looked for, beside
# one that nobody contains, between the same windows), and the online section, which a memory disk shares among the copies it does
# together. Bars: 0 more inside the copy; both <= 10 around each of 32. Then, without a bar: a section for one copy alone, what a
# memory disk does besides for each 4 KiB read, and what taking memory in flight and letting go of it costs.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "skipped: needs valgrind"; [ -z "${PAGELESS_REQUIRE:-}" ]; exit; }
target=${CARGO_TARGET_DIR:-target}/pmem-io
cargo build --quiet --release -p pageless-mem --example online --features pmem-io --target-dir "$target"
cargo build --quiet --release -p pageless-benches --bin batch --target-dir "$target"
count() { # program function: instructions in all of its calls
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="*$2*" "$target/release/$1" 2>&1 >/dev/null |
        awk '/Collected/ { print $NF }'
}
per() { echo $((($2 + $1 / 2) / $1)); } # calls instructions: rounded, of one
each=$(per 1000 "$(count examples/online section_of_its_own)")
one=$(per 1000 "$(count examples/online ::contained)")
hand=$(per 1000 "$(count examples/online uncontained)")
around=$((one - hand + (each - one + 31) / 32))
echo "4 KiB copy: $hand instructions between two windows, $one contained, $each in a section of its own"
echo "around each of 32 in one section: containment $((one - hand)) + section $((each - one))/32 = $around (bar <= 10); inside: 0, the routine is one rep movsb"
echo "a memory disk: $(per 32000 "$(count batch polls_many)") for each of 32 reads, $(per 1000 "$(count batch polls_one)") for one, the copy included"
echo "in flight and back: $(per 1000 "$(count examples/online pins_of_one)") instructions for 1 range, $(per 1000 "$(count examples/online pins_of_sixty_four)") for 64"
if [ "$around" -le 10 ]; then echo "bar met"; else
    echo "bar MISSED"
    exit 1
fi
