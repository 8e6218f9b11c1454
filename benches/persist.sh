#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# copy_persist against libpmem's pmem_memcpy_persist at 64 B to 1 MiB, in one run, into one file on tmpfs. Needs libpmem-dev and cc;
# nothing else of the project does. ROUNDS=21, SIZE=256M.
set -euo pipefail
. "$(dirname "$0")/common.sh"
need cc cargo
peer=$work/persist-peer
cc -O2 -o "$peer" "$here/persist-peer.c" -lpmem || { echo "needs libpmem-dev" >&2; exit 77; }
file=$(mktemp /dev/shm/pageless-persist.XXXXXX)
trap 'rm -f "$file"; finish' EXIT
truncate -s "${SIZE:-256M}" "$file"
cargo build --quiet --release -p pageless-benches --bin persist
[ "$ROUNDS" -ge 20 ] || export ROUNDS=21
"$target/release/persist" "$file" "$peer"
