#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# pageless serving ram:1G against nbdkit's memory plugin, over unix sockets, on the same two cores.
#
#   cargo build --release -p pageless && benches/nbd.sh          ROUNDS=8 SECS=5 CORES=0,1 benches/nbd.sh
#
# Every round runs each workload on both servers, the order swapped from round to round; a ratio is taken within a round.
# Bars (stretch): 4 KiB depth 32 read 1.6 (1.9), write 1.1 (1.25); 256 KiB depth 8 read 1.8 (2.2), write 1.25 (1.45);
# 4 KiB depth 1 read 2.0 (2.4); nbdcopy to null, 4 connections, 1.5 (1.7).
#
# At depth 1 client and server sleep in turn, and on a virtual machine waking a core that halted costs more than all that is
# compared here. So that workload runs a second time with the cores kept from halting (a PM QoS request, which needs root).
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need fio nbdkit nbdcopy nbdinfo taskset awk
need_pageless
SECS=${SECS:-3}
CORES=${CORES:-0,1}
SIZE=${SIZE:-1G}
pin() { taskset -c "$CORES" "$@"; }

# by taskset itself and not by `pin`, so that $! is the server and not a shell that waits for it
taskset -c "$CORES" "$PAGELESS" serve "ram:$SIZE" --nbd "unix:$work/ours.sock" >"$work/ours.log" 2>&1 &
started+=($!)
taskset -c "$CORES" nbdkit -f -U "$work/theirs.sock" memory "$SIZE" >"$work/theirs.log" 2>&1 &
started+=($!)
uri() { echo "nbd+unix:///?socket=$work/$1.sock"; }
answers() { nbdinfo --size "$(uri "$1")" >/dev/null 2>&1; }
for server in ours theirs; do
    wait_for answers "$server" || { cat "$work/$server.log" >&2; exit 1; }
done

# fio_rate SERVER RW BS DEPTH: operations per second
fio_rate() {
    local field=8
    [ "$2" = randwrite ] && field=49
    pin fio --name=x --ioengine=nbd --uri="$(uri "$1")" --rw="$2" --bs="$3" --iodepth="$4" --size="$SIZE" --time_based \
        --runtime="$SECS" --ramp_time=0.5 --norandommap --randrepeat=1 --terse-version=3 --output-format=terse 2>/dev/null |
        awk -F';' -v f="$field" 'NF > 50 { print $f }'
}

# copy_rate SERVER: MiB per second of nbdcopy to null
copy_rate() {
    local begin end bytes
    bytes=$(nbdinfo --size "$(uri "$1")")
    begin=$(now_ns)
    pin nbdcopy --connections=4 "$(uri "$1")" null:
    end=$(now_ns)
    awk -v b="$bytes" -v ns=$((end - begin)) 'BEGIN { print b / 1048576 / (ns / 1e9) }'
}

# both sides hold real data: unwritten memory is cheaper to read than memory
for server in ours theirs; do
    pin fio --name=fill --ioengine=nbd --uri="$(uri "$server")" --rw=write --bs=1M --iodepth=4 --size="$SIZE" \
        --refill_buffers >"$work/fill.log" 2>&1 || { cat "$work/fill.log" >&2; exit 1; }
done

# awake COMMAND...: while no core may take longer than 0 µs to wake (Documentation/power/pm_qos_interface.rst)
awake() {
    {
        printf '\0\0\0\0' >&9
        "$@"
    } 9>/dev/cpu_dma_latency
}
workloads="r4k w4k r256k w256k q1 copy"
if [ -w /dev/cpu_dma_latency ]; then workloads="$workloads q1awake"; fi

# measure WORKLOAD SERVER
measure() {
    case $1 in
        r4k) fio_rate "$2" randread 4k 32 ;;
        w4k) fio_rate "$2" randwrite 4k 32 ;;
        r256k) fio_rate "$2" randread 256k 8 ;;
        w256k) fio_rate "$2" randwrite 256k 8 ;;
        q1) fio_rate "$2" randread 4k 1 ;;
        q1awake) awake fio_rate "$2" randread 4k 1 ;;
        copy) copy_rate "$2" ;;
    esac >>"$work/$2.$1"
}
for round in $(seq "$ROUNDS"); do
    if [ $((round % 2)) = 1 ]; then order="ours theirs"; else order="theirs ours"; fi
    for workload in $workloads; do
        # back to back, so that whatever slows the machine slows both
        for server in $order; do measure "$workload" "$server"; done
    done
    echo "round $round of $ROUNDS done" >&2
done

echo "IOPS (nbdcopy: MiB/s), median [min .. max] of $ROUNDS rounds of $SECS s; both servers and the client on cores $CORES"
verdict "4 KiB depth 32 read" "$work/ours.r4k" "$work/theirs.r4k" 1.6 1.9
verdict "4 KiB depth 32 write" "$work/ours.w4k" "$work/theirs.w4k" 1.1 1.25
verdict "256 KiB depth 8 read" "$work/ours.r256k" "$work/theirs.r256k" 1.8 2.2
verdict "256 KiB depth 8 write" "$work/ours.w256k" "$work/theirs.w256k" 1.25 1.45
verdict "4 KiB depth 1 read" "$work/ours.q1" "$work/theirs.q1" 2.0 2.4
if [ -w /dev/cpu_dma_latency ]; then
    verdict "the same, cores awake" "$work/ours.q1awake" "$work/theirs.q1awake" 2.0 2.4
else
    echo "the same, cores awake      not measured: needs write access to /dev/cpu_dma_latency"
fi
verdict "nbdcopy to null" "$work/ours.copy" "$work/theirs.copy" 1.5 1.7
