#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What atomic sectors cost: our BTT against the raw medium it lies on, and against fio's pmemblk engine (PMDK) on the same file, a
# pool that both have in turn; how long a BTT of 1 TiB takes to open, and how fast a check goes through its map.
#
#   cargo build --release && benches/btt.sh          ROUNDS=10 DIR=/mnt/pm SIZE=512 benches/btt.sh
#
# Every round runs all of them; a ratio is taken within a round. Bars: 4 KiB random write >= 0.6 of raw and >= 1.5 of pmemblk,
# read >= 0.85 of raw; opening 1 TiB < 1 s. On tmpfs, which nothing makes durable, PMDK is told to flush nothing either.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need fio pmempool truncate awk
need_pageless
program=$target/release/btt_files
[ -x "$program" ] || { echo "needs $program: cargo build --release -p pageless-benches" >&2; exit 77; }
SIZE=${SIZE:-512}
SECS=${SECS:-2}
folder=$(mktemp -d "${DIR:-/dev/shm}/pageless-bench.XXXXXX")
trap 'finish; rm -rf "$folder"' EXIT

truncate -s "${SIZE}M" "$folder/raw"
pmempool create --write-layout --size "${SIZE}M" blk 4096 "$folder/pool"
export PMEM_IS_PMEM_FORCE=1
if [ "$(stat -f -c %T "$folder")" = tmpfs ]; then export PMEM_NO_FLUSH=1; fi

# pmemblk RW: operations per second; three quarters of the pool, since fio asks for more than it has otherwise
pmemblk() {
    local field=8
    [ "$1" = randwrite ] && field=49
    fio --name=x --ioengine=pmemblk --filename="$folder/pool,4096,$SIZE" --thread --rw="$1" --bs=4k --size="$((SIZE * 3 / 4))M" \
        --time_based --runtime="$SECS" --ramp_time=1 --norandommap --terse-version=3 --output-format=terse 2>/dev/null |
        awk -F';' -v f="$field" 'NF > 50 { print $f }'
}

# every page is there before anything is measured
for what in write read; do "$program" "$folder/raw" "$folder/pool" "$what" >/dev/null; done
pmemblk randwrite >/dev/null
for _ in $(seq "$ROUNDS"); do
    for what in write read; do
        read -r raw btt < <("$program" "$folder/raw" "$folder/pool" "$what")
        echo "$raw" >>"$work/raw.$what"
        echo "$btt" >>"$work/btt.$what"
        pmemblk "rand$what" >>"$work/pmemblk.$what"
    done
done
echo "4 KiB operations per second, median [min .. max] of $ROUNDS interleaved rounds, ${SIZE} MiB in $folder"
verdict "write, raw pmem" "$work/btt.write" "$work/raw.write" 0.6
verdict "write, fio pmemblk" "$work/btt.write" "$work/pmemblk.write" 1.5
verdict "read, raw pmem" "$work/btt.read" "$work/raw.read" 0.85
verdict "read, fio pmemblk" "$work/btt.read" "$work/pmemblk.read" 0

# A terabyte, sparse; its map is there, as after use.
"$PAGELESS" btt create "$folder/large" --size 1T --volatile >/dev/null
seconds() { local begin; begin=$(now_ns); "$@" >/dev/null 2>&1; awk -v ns=$(($(now_ns) - begin)) 'BEGIN { print ns / 1e9 }'; }
serve_it() {
    rm -f "$work/s.sock"
    "$PAGELESS" serve "btt:$folder/large" --nbd "unix:$work/s.sock" >"$work/log" 2>&1 &
    local server=$!
    until grep -q '^ready' "$work/log"; do sleep 0.002; done
    kill "$server"
    wait "$server" || true
}
for _ in $(seq "$ROUNDS"); do
    seconds serve_it >>"$work/open"
    seconds "$PAGELESS" btt check "$folder/large" >>"$work/check"
done
echo "open a sparse BTT of 1 TiB, serve and stop: $(summary <"$work/open") s   bar < 1 s"
map=$((($("$PAGELESS" btt info "$folder/large" --json | grep -o '"external_nlba":[0-9]*' | cut -d: -f2 | paste -sd+)) * 4 / 1048576))
echo "check it: $(summary <"$work/check") s for a map of $map MiB, a hole"
