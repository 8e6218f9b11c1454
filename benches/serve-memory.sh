#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# What `pageless serve` costs while nothing happens: resident memory for a 1 TiB sparse image with 100 connections, and idle CPU.
#
#   cargo build --release -p pageless && benches/serve-memory.sh   CONNECTIONS=1000 IMAGE=file IMAGE_DIR=/dev/shm benches/serve-memory.sh
#
# Bars: < 64 MiB resident (VmRSS, data touched is none), < 1 % of one core when idle.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need python3 truncate
need_pageless
CONNECTIONS=${CONNECTIONS:-100}
SIZE=${SIZE:-1T}
IDLE=${IDLE:-5}
IMAGE=${IMAGE:-pmem}
dir=${IMAGE_DIR:-$work}
image=$dir/pageless-serve-bench.$$.img
trap 'finish; rm -f "$image"' EXIT

truncate -s "$SIZE" "$image"
"$PAGELESS" serve "$IMAGE:$image" --nbd "unix:$work/s.sock" >"$work/log" 2>&1 &
server=$!
started+=("$server")
wait_for test -S "$work/s.sock" || { cat "$work/log" >&2; exit 1; }

# Every connection is negotiated and has answered one 4 KiB read (of a hole) before anything is measured.
python3 - "$work/s.sock" "$CONNECTIONS" "$server" "$IDLE" <<'PY'
import os, socket, struct, sys, time

path, count, server, idle = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

def exactly(sock, n):
    data = b""
    while len(data) < n:
        got = sock.recv(n - len(data))
        if not got:
            sys.exit("the server hung up")
        data += got
    return data

def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    exactly(sock, 18)
    sock.sendall(struct.pack(">I", 3))                                   # fixed newstyle, no zeroes
    sock.sendall(struct.pack(">QII", 0x49484156454F5054, 1, 0))          # EXPORT_NAME ""
    size, _flags = struct.unpack(">QH", exactly(sock, 10))
    sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, size // 2, 4096))
    magic, error, handle = struct.unpack(">IIQ", exactly(sock, 16))
    if (magic, error, handle) != (0x67446698, 0, 7) or exactly(sock, 4096) != bytes(4096):
        sys.exit("a bad answer")
    return sock

def rss_kib():
    with open(f"/proc/{server}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

def cpu_seconds():
    with open(f"/proc/{server}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

def word(met):
    return "met" if met else "MISSED"

alone = rss_kib()
held = [connect() for _ in range(count)]
time.sleep(0.5)
rss = rss_kib()
before, begin = cpu_seconds(), time.monotonic()
time.sleep(idle)
percent = 100 * (cpu_seconds() - before) / (time.monotonic() - begin)
print(f"resident: {alone / 1024:.1f} MiB alone, {rss / 1024:.1f} MiB with {count} connections   bar < 64 MiB {word(rss < 64 * 1024)}")
print(f"idle CPU over {idle:.0f} s: {percent:.2f} % of a core   bar < 1 % {word(percent < 1)}")
PY
