# SPDX-License-Identifier: MIT OR Apache-2.0
# Sourced by the scripts beside it: tools asked for by name, medians, and a verdict line.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
PAGELESS=${PAGELESS:-$target/release/pageless}
ROUNDS=${ROUNDS:-5}
work=$(mktemp -d "${TMPDIR:-/tmp}/pageless-bench.XXXXXX")
started=()

finish() {
    local pid
    # `set -e` holds in a trap too, and what was killed does not end with 0
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# need TOOL...: says what is missing and stops (77 is the usual "skipped")
need() {
    local tool missing=0
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "needs $tool" >&2; missing=1; }
    done
    [ "$missing" = 0 ] || exit 77
}

need_pageless() {
    [ -x "$PAGELESS" ] || { echo "needs $PAGELESS: cargo build --release -p pageless" >&2; exit 77; }
}

# wait_for COMMAND...: until it succeeds, 10 s at most
wait_for() {
    local _
    for _ in $(seq 200); do "$@" && return 0; sleep 0.05; done
    echo "gave up waiting for: $*" >&2
    return 1
}

now_ns() { date +%s%N; }

# summary < numbers: "median [min .. max]"
summary() {
    sort -g | awk '{ v[NR] = $1 } END {
        if (NR == 0) { print "nothing measured"; exit }
        h = int((NR + 1) / 2)
        m = NR % 2 ? v[h] : (v[h] + v[h + 1]) / 2
        printf "%.2f [%.2f .. %.2f]", m, v[1], v[NR]
    }'
}

# ratios A B: line by line, the two files side by side
ratios() { paste "$1" "$2" | awk '$2 > 0 { print $1 / $2 }'; }

# verdict NAME OURS THEIRS BAR [STRETCH]: one line; a bar of 1 is met by a median of 0.95
verdict() {
    local ratio median bar=$4
    ratio=$(ratios "$2" "$3" | summary)
    median=${ratio%% *}
    printf '%-26s ours %-30s theirs %-30s ratio %-24s bar %s%s ' "$1" "$(summary <"$2")" "$(summary <"$3")" "$ratio" "$bar" \
        "${5:+ (stretch $5)}"
    awk -v m="$median" -v b="$bar" 'BEGIN { if (b == 1) b = 0.95; print (m >= b ? "met" : "MISSED") }'
}
