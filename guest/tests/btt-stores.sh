# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    every store, write-back and fence of our BTT on persistent memory, recorded; what power failures would have left of it
#: devices  nvdimm
#: qemu     10
#: stores   low=0x100000000,high=0x120000000
#: built    stamps
#: programs nbd-client
#: kernels  6.12
#: seconds  300

modprobe -a nfit nd_pmem dax_pmem device_dax nbd
namespace devdax -s 32M -a 4096
resource=$(cat /sys/bus/dax/devices/dax0.0/resource)
check_equal "the module is where its stores are recorded" 0x100000000 "$(cat /sys/bus/nd/devices/region0/resource)"
check "a BTT on /dev/dax0.0" pageless btt create /dev/dax0.0 --sector-size 4096
# On one processor: what it writes back is fenced where it was.
launch taskset 1 pageless serve btt:/dev/dax0.0
check "the kernel's NBD client" nbd-client -unix /tmp/nbd.sock /dev/nbd0 -b 4096 -C 2
blocks=$(($(blockdev --getsize64 /dev/nbd0) / 4096))
first=4294967296
echo "@data $((resource - 4294967296)) $(cat /sys/bus/dax/devices/dax0.0/size)"
echo "@disk 4096 $blocks 2 $first"
check "stamped writes" stamps write /dev/nbd0 4096 $blocks 2 $first 100
nbd-client -d /dev/nbd0 >/dev/null 2>&1
stop_serving
