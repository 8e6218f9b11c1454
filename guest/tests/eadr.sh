# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    persistent memory whose power-fail domain has the CPU caches: a fence makes stores durable, and nothing is written back
#: devices  eadr nvdimm
#: programs qemu-io strace
#: kernels  6.12 7.3
#: seconds  300

namespace devdax -s 32M -a 4096
check_equal "the kernel says so" cpu_cache "$(cat /sys/bus/nd/devices/region0/persistence_domain)"
spec=dax:/dev/$namespace
probe "$spec" is=page-backed durability=fence survives_power_loss=true
check_says "devdax: and so do we, with the reason" "flush domain: devdax, nvdimm region persistence_domain=cpu_cache: fence$" pageless region probe "$spec"
launch strace -f -qq -e trace=msync,fsync,fdatasync -o trace pageless serve "$spec"
check "devdax: write, flush, write through, read" \
    qemu-io -f raw "$uri" -c "write -P 0x11 0 1M" -c flush -c "write -f -P 0x22 1M 64k" -c "read -P 0x11 0 1M" -c "read -P 0x22 1M 64k"
stop_serving
check_equal "devdax: system calls made to flush" 0 "$(grep -cE 'msync|fsync|fdatasync' trace)"
check "a BTT on it" pageless btt create "/dev/$namespace" --force
serve "btt:$spec"
check_equal "whose sectors are safe from power: nothing is said of them" 0 "$(grep -c 'sectors are atomic' /tmp/serve.log)"
check "btt: write, flush, write through, read" \
    qemu-io -f raw "$uri" -c "write -P 0x11 0 1M" -c flush -c "write -f -P 0x22 1M 64k" -c "read -P 0x11 0 1M" -c "read -P 0x22 1M 64k"
stop_serving
check_says "btt: consistent" "consistent" pageless btt check "/dev/$namespace"
ndctl destroy-namespace -f all >/dev/null 2>&1

fsdax ext4
check_equal "the kernel writes no lines back" 0 "$(cat "/sys/block/$namespace/dax/write_cache")"
spec=pmem:/mnt/dax/disk,size=16M
check_says "fsdax: with the reason" "flush domain: MAP_SYNC mapping of a DAX file, nvdimm region persistence_domain=cpu_cache: fence$" pageless region probe "$spec"
check "fsdax: a copy" pageless copy ram:16M "$spec" --verify
# Whoever switches that on does not trust what the platform says.
echo 1 >"/sys/block/$namespace/dax/write_cache"
check_says "fsdax: overruled, and lines are written back again" \
    "persistence_domain=cpu_cache but write_cache=1: (CLWB and fence|CLFLUSHOPT and fence|CLFLUSH)$" pageless region probe "$spec"
