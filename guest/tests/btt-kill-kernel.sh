# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    the kernel's BTT under four writers while the power is cut; we recover it, and the kernel goes on with what we left
#: devices  nvdimm-plain
#: built    stamps
#: cuts     yes
#: kernels  6.12 7.3

round=$(sed 's/.*round=\([0-9]*\).*/\1/' /proc/cmdline)
modprobe -a nfit nd_pmem nd_btt
await ls /sys/bus/nd/devices/region0
if [ "$round" = 1 ]; then
    await ls /dev/pmem0
    check "a BTT on it" ndctl create-namespace -f -e namespace0.0 -m sector -l 512
fi
check "the kernel opens it" await ls /dev/pmem0s
first=$((round * 4294967296))
echo "@disk 512 $(($(blockdev --getsize64 /dev/pmem0s) / 512)) 4 $first"
ACKED=/tmp/acked stamps write /dev/pmem0s 512 $(($(blockdev --getsize64 /dev/pmem0s) / 512)) 4 $first &
await ls /tmp/acked || not_ok "a write is acknowledged" "none is"
echo "@cut"
wait
