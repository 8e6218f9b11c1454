#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# fio jobs that never fault, under `pageless run` against the same without it: what the preload library costs who does not need it.
#
#   cargo build --release -p pageless && benches/preload.sh          FILE_DIR=/mnt/nvme ROUNDS=25 SECONDS_EACH=2 benches/preload.sh
#
# Two jobs are bound by the system call (buffered preads of a file in the page cache, 512 bytes and 4 KiB), two by the disk (O_DIRECT,
# psync and libaio). Each round runs with, without, without, with; its ratio is of the sums. Bar: 0.98, within 2 %.
# Then what is bounced: O_DIRECT into secret memory under `pageless run` against ordinary memory without it, 128 KiB and 1 MiB. No bar
# here: 0.9 is the library's, which overlaps the copy with the device; a preloaded call has one thread and waits for both.
# On a machine that does other work the rates swing by more than that; the instructions per call, by callgrind, do not.
set -eu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
need fio awk python3 gcc valgrind
[ -e /usr/include/libaio.h ] || { echo "needs libaio.h: apt install libaio-dev" >&2; exit 77; }
need_pageless
rounds=${ROUNDS:-15}
each=${SECONDS_EACH:-1}
dir=${FILE_DIR:-$work}
file=$dir/pageless-preload-bench.$$
trap 'rm -f "$file"; finish' EXIT
dd if=/dev/urandom of="$file" bs=1M count=64 conv=fsync status=none

# iops WITH? FIO-ARGUMENT...
iops() {
    local with=()
    [ "$1" = with ] && with=("$PAGELESS" run --)
    shift
    "${with[@]}" fio --name=x --filename="$file" --size=64m --rw=randread --invalidate=0 --fadvise_hint=0 --time_based --runtime="$each" \
        --output-format=json "$@" | python3 -c '
import json, sys
text = sys.stdin.read()
print(json.loads(text[text.index("{"):])["jobs"][0]["read"]["iops"])'
}

job() { # NAME FIO-ARGUMENT...
    local name=$1 round a b c d
    shift
    iops without "$@" >/dev/null
    for round in $(seq "$rounds"); do
        a=$(iops with "$@"); b=$(iops without "$@"); c=$(iops without "$@"); d=$(iops with "$@")
        awk -v a="$a" -v d="$d" 'BEGIN { print (a + d) / 2 }' >>"$work/$name.with"
        awk -v b="$b" -v c="$c" 'BEGIN { print (b + c) / 2 }' >>"$work/$name.without"
    done
    verdict "$name" "$work/$name.with" "$work/$name.without" 0.98
}

# One call in a loop: what it costs at best, and how many instructions of user space.
gcc -O2 -x c -o "$work/loop" - <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    static char buf[512];
    int fd = open(argv[1], O_RDONLY), calls = atoi(argv[2]);
    double best = 1e9;
    for (int round = 0; argc > 0 && round < (calls > 1000 ? 100 : 1); round++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int n = 0; n < calls; n++)
            if (pread(fd, buf, sizeof buf, n % 1000 * 512) != sizeof buf)
                return 1;
        clock_gettime(CLOCK_MONOTONIC, &b);
        double ns = ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / calls;
        best = ns < best ? ns : best;
    }
    printf("%.1f\n", best);
}
C
instructions() { # PROGRAM LIBRARY CALLS
    LD_PRELOAD=$2 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$work/$1" "$file" "$3" 2>&1 | awk '/Collected/ { print $4 }'
}
"$PAGELESS" run -- sh -c 'echo "$LD_PRELOAD"' >"$work/library"
library=$(cat "$work/library")
# The same of a request through libaio: one io_submit, one io_getevents.
gcc -O2 -x c -o "$work/aio" - -laio <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <libaio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    static char buf[4096] __attribute__((aligned(4096)));
    int fd = open(argv[1], O_RDONLY | O_DIRECT), calls = argc > 2 ? atoi(argv[2]) : 0;
    io_context_t context = 0;
    if (io_setup(8, &context) != 0)
        return 1;
    for (int n = 0; n < calls; n++) {
        struct iocb iocb, *list[1] = { &iocb };
        struct io_event event;
        io_prep_pread(&iocb, fd, buf, sizeof buf, n % 1000 * 4096LL);
        if (io_submit(context, 1, list) != 1 || io_getevents(context, 1, 1, &event, NULL) != 1 || event.res != sizeof buf)
            return 1;
    }
    return 0;
}
C
count() { echo $((($(instructions "$1" "$2" 1000) - $(instructions "$1" "$2" 500)) / 500)); }
with=$(count loop "$library") without=$(count loop "")
echo "instructions of user space per pread: $with with, $without without: $((with - without)) more"
with=$(count aio "$library") without=$(count aio "")
echo "instructions of user space per libaio request: $with with, $without without: $((with - without)) more"
for round in $(seq "$rounds"); do
    "$PAGELESS" run -- "$work/loop" "$file" 10000 >>"$work/loop.with"
    "$work/loop" "$file" 10000 >>"$work/loop.without"
done
echo "ns per cached 512-byte pread, best of $rounds: $(sort -g "$work/loop.with" | head -n 1) with, $(sort -g "$work/loop.without" | head -n 1) without"

echo "IOPS, median [min .. max] of $rounds rounds of 4 x $each s on $(df --output=fstype "$file" | tail -1)"
job cached-512 --ioengine=psync --bs=512
job cached-4k --ioengine=psync --bs=4k
job direct-psync-4k --ioengine=psync --direct=1 --bs=4k
job direct-libaio-4k --ioengine=libaio --iodepth=32 --direct=1 --bs=4k

gcc -O1 -shared -fPIC -o "$work/secret.so" "$(dirname "${BASH_SOURCE[0]}")/../pageless/tests/programs/secret_memory.c"
truncate -s 4M "$work/secret"
bounced() { # NAME FIO-ARGUMENT...
    local name=$1 round
    shift
    for round in $(seq "$rounds"); do
        SECRET_MEMORY_OF=$work/secret LD_PRELOAD=$work/secret.so iops with --iomem="mmapshared:$work/secret" "$@" >>"$work/$name.with"
        iops without "$@" >>"$work/$name.without"
    done
    printf '%-26s bounced %-30s direct %-30s ratio %s\n' "$name" "$(summary <"$work/$name.with")" "$(summary <"$work/$name.without")" \
        "$(ratios "$work/$name.with" "$work/$name.without" | summary)"
}
echo "IOPS into secret memory, bounced, against ordinary memory, direct"
for size in 128k 1m; do
    bounced "bounced-psync-$size" --ioengine=psync --direct=1 --bs="$size"
    bounced "bounced-libaio-$size" --ioengine=libaio --iodepth=2 --direct=1 --bs="$size"
done
