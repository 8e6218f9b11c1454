#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# `pageless copy` of a file into secret memory (bounced) against the same file into ram: (direct) and against dd iflag=direct.
#
#   cargo build --release -p pageless && benches/copy.sh          SIZE=64M FILE_DIR=/mnt/nvme ROUNDS=9 benches/copy.sh
#
# secret: counts against RLIMIT_MEMLOCK: as root the script raises it, else SIZE must fit `ulimit -l`.
# Bars: secret / ram >= 0.9, secret / dd >= 1 (a median of 0.95 or better).
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need dd awk python3
need_pageless
SIZE=${SIZE:-64M}
dir=${FILE_DIR:-$work}
file=$dir/pageless-copy-bench.$$
[ "$(id -u)" = 0 ] && ulimit -l unlimited 2>/dev/null || true # not every root may; CAP_IPC_LOCK does as well
trap 'rm -f "$file"; finish' EXIT

dd if=/dev/urandom of="$file" bs=1M count="$SIZE" iflag=count_bytes conv=fsync status=none
bytes=$(stat -c %s "$file")

# pageless_rate MEMORY: GB/s as its own report says it (the transfer, without start-up)
pageless_rate() {
    "$PAGELESS" copy "file:$file" "$1" --json | python3 -c '
import json, sys
report = [json.loads(line) for line in sys.stdin if line.strip()][-1]
print(report["bytes"] / report["seconds"] / 1e9)'
}
# dd reports to a nanosecond only the wall clock does: its start-up is a millisecond in its disfavour, so read the time it prints
dd_rate() {
    LC_ALL=C dd if="$file" of=/dev/null bs=1M iflag=direct 2>&1 |
        awk -v b="$bytes" '/copied/ { for (i = 1; i <= NF; i++) if ($i == "s,") print b / $(i - 1) / 1e9 }'
}

"$PAGELESS" copy "file:$file" "secret:$SIZE" --verify
pageless_rate "ram:$SIZE" >/dev/null
for round in $(seq "$ROUNDS"); do
    pageless_rate "secret:$SIZE" >>"$work/secret"
    pageless_rate "ram:$SIZE" >>"$work/ram"
    dd_rate >>"$work/dd"
    echo "round $round of $ROUNDS done" >&2
done
echo "GB/s, median [min .. max] of $ROUNDS rounds, $SIZE from $(df --output=fstype "$file" | tail -1) $(df --output=source "$file" | tail -1)"
verdict "secret against ram" "$work/secret" "$work/ram" 0.9
verdict "secret against dd" "$work/secret" "$work/dd" 1
