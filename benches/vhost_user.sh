#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# pageless serving vhost-user disks against qemu-storage-daemon, and against the copies alone; the same from page-less memory.
#
#   cargo build --release -p pageless -p pageless-benches && benches/vhost_user.sh       ROUNDS=8 SECS=2 ONLY="peer poll" benches/vhost_user.sh
#
# 4 KiB at random places of a 1 GiB disk in memory, 32 in flight, by libblkio's virtio-driver, which never sleeps; the client on one core and
# the server on the other. Every round runs all of them; a ratio is taken within a round. Parts, chosen by ONLY, and bars:
#   peer    default settings over qemu-storage-daemon: 10 (12)
#   poll    --poll over a loop of the same copies that looks ahead: 0.75
#   queues  two queues on two cores over one on one: 1.7. Two cores is all there is here, so each holds a client and a worker
#   secret  secret memory over ordinary: 0.85 (0.95) on ram: and pmem:, 0.85 on file:
#   table   1 TiB of memory in 8 slots is accepted in 5 ms; a server with a client that asks nothing takes less than 1 % of a core
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need taskset awk getconf
need_pageless
client=$target/release/vhost_user
[ -x "$client" ] || { echo "needs $client: cargo build --release -p pageless-benches" >&2; exit 77; }
SECS=${SECS:-1}
ONLY=${ONLY:-peer poll queues secret table}
CLIENT=${CLIENT:-0}
SERVER=${SERVER:-1}
shm=$(mktemp -d /dev/shm/pageless-bench.XXXXXX)
disk=$(mktemp -d "${DIR:-$target}/pageless-bench.XXXXXX")
trap 'finish; rm -rf "$shm" "$disk"' EXIT

# ours NAME SPEC [ARGUMENT...]: a server of ours, on the server's core
ours() {
    local name=$1 spec=$2
    shift 2
    taskset -c "${CORES:-$SERVER}" "$PAGELESS" serve "$spec" --vhost-user "$work/$name.sock" "$@" >"$work/$name.log" 2>&1 &
    started+=($!)
    wait_for grep -q '^ready' "$work/$name.log" || { cat "$work/$name.log" >&2; exit 1; }
    fill "$name"
}

# peer NAME FILE: qemu-storage-daemon with its faster engine and a thread of its own for the export
peer() {
    taskset -c "$SERVER" qemu-storage-daemon --object iothread,id=thread \
        --blockdev "driver=file,node-name=disk,filename=$2,aio=${AIO:-io_uring}" \
        --export "type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=thread,addr.type=unix,addr.path=$work/$1.sock" >"$work/$1.log" 2>&1 &
    started+=($!)
    wait_for test -S "$work/$1.sock" || { cat "$work/$1.log" >&2; exit 1; }
    fill "$1"
}

# rate NAME WHAT KIND [CORE...]: operations per second; how many the client got together goes to NAME.together
rate() {
    local name=$1 rate together
    read -r rate together < <("$client" rate "$work/$name.sock" "$2" "$3" "$SECS" "${@:4}")
    echo "$rate"
    echo "$together" >>"$work/$name.together"
}

# both sides hold real data: unwritten memory is cheaper to read than memory
fill() { "$client" fill "$work/$1.sock"; }

each_round() { # function
    local _
    for _ in $(seq "$ROUNDS"); do "$1"; done
}

together() { printf '  came back together, of 32: %s\n' "$(summary <"$work/$1.together")"; }

part_peer() {
    need qemu-storage-daemon
    truncate -s 1G "$shm/peer"
    ours default ram:1G
    peer theirs "$shm/peer"
    round() {
        local what
        for what in read write; do
            rate default $what ordinary "$CLIENT" >>"$work/default.$what"
            rate theirs $what ordinary "$CLIENT" >>"$work/theirs.$what"
        done
    }
    each_round round
    verdict "peer: read" "$work/default.read" "$work/theirs.read" 10 12
    verdict "peer: write" "$work/default.write" "$work/theirs.write" 10 12
    together default
}

part_poll() {
    ours poll ram:1G --poll
    round() {
        local what
        for what in read write; do
            rate poll $what ordinary "$CLIENT" >>"$work/poll.$what"
            taskset -c "$SERVER" "$client" copies $what ordinary "$SECS" 1 >>"$work/copies.$what"
        done
    }
    each_round round
    verdict "poll: read" "$work/poll.read" "$work/copies.read" 0.75
    verdict "poll: write" "$work/poll.write" "$work/copies.write" 0.75
    together poll
}

# spread: each worker of the server just started on a core of its own
spread() {
    local core=0 task
    for task in /proc/"${started[-1]}"/task/*; do
        case $(cat "$task/comm") in
            vhost-[0-9]*) taskset -cp "$core" "${task##*/}" >/dev/null; core=$(((core + 1) % 2)) ;;
        esac
    done
}

part_queues() {
    CORES=0 ours one ram:1G --queues 1
    CORES=0,1 ours two ram:1G --queues 2
    spread
    round() {
        local what
        for what in read write; do
            rate one $what ordinary 0 >>"$work/one.$what"
            rate two $what ordinary 0 1 >>"$work/two.$what"
        done
    }
    each_round round
    verdict "queues: read" "$work/two.read" "$work/one.read" 1.7
    verdict "queues: write" "$work/two.write" "$work/one.write" 1.7
}

part_secret() {
    local medium
    truncate -s 1G "$shm/pmem" "$disk/file"
    ours ram ram:1G
    ours pmem "pmem:$shm/pmem"
    ours file "file:$disk/file"
    round() {
        local what medium kind
        for what in read write; do
            for medium in ram pmem file; do
                for kind in ordinary secret; do
                    rate $medium $what $kind "$CLIENT" >>"$work/$medium.$what.$kind"
                done
            done
        done
    }
    each_round round
    for medium in ram pmem file; do
        verdict "secret: $medium read" "$work/$medium.read.secret" "$work/$medium.read.ordinary" 0.85
        verdict "secret: $medium write" "$work/$medium.write.secret" "$work/$medium.write.ordinary" 0.85
    done
}

# spent PROCESS: what it has run for, in ticks
spent() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

part_table() {
    local server before
    ours table ram:16M --queues 2
    server=${started[-1]}
    for _ in $(seq "$((4 * ROUNDS))"); do "$client" table "$work/table.sock" >>"$work/table"; done
    echo "table: 1 TiB in 8 slots: $(summary <"$work/table") ms   bar < 5 ms"
    "$client" idle "$work/table.sock" 12 >"$work/idle" &
    wait_for grep -q idle "$work/idle"
    sleep 1
    before=$(spent "$server")
    sleep 10
    echo "idle: $(awk -v t=$(($(spent "$server") - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN { print 10 * t / hz }') % of a core   bar < 1 %"
    wait $!
}

for part in $ONLY; do "part_$part"; done
