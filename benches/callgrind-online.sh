#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What being revocable costs a 4 KiB copy, in instructions: the online section around it (both ends), fault containment (the
# call of a routine whose faults are known, and the look at how it ended), and the copy itself, beside a `rep movsb` by hand.
# Bars: 0 more inside the copy; section and containment <= 10 around it. Then, without a bar, what taking memory in flight
# and letting go of it costs.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "skipped: needs valgrind"; [ -z "${PAGELESS_REQUIRE:-}" ]; exit; }
target=${CARGO_TARGET_DIR:-target}/pmem-io
cargo build --quiet --release -p pageless-mem --example online --features pmem-io --target-dir "$target"
count() { # function: instructions in all of its 1000 rounds
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="*$1*" "$target/release/examples/online" 2>&1 >/dev/null |
        awk '/Collected/ { print $NF }'
}
per() { echo $((($1 + 500) / 1000)); } # rounded, of one round
one=$(count copies_in_one_section)
each=$(count copies_in_sections_of_their_own)
cursors=$(count cursors_in_one_section)
hand=$(count ::copies_by_hand)
none=$(count no_copies_by_hand)
section=$(per $((each - one)))
contained=$(per $((one - cursors)))
bare=$(per $((hand - none)))
containment=$((contained - bare))
echo "4 KiB copy: $bare instructions by hand, $contained contained; a section for each copy adds $section"
echo "around it: section $section + containment $containment = $((section + containment)) (bar <= 10); inside: 0, the routine is one rep movsb"
echo "in flight and back: $(per "$(count pins_of_one)") instructions for 1 range, $(per "$(count pins_of_sixty_four)") for 64"
if [ $((section + containment)) -le 10 ]; then echo "bar met"; else echo "bar MISSED"; fi
