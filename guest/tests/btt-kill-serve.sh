# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    our BTT on persistent memory, served to the kernel's NBD client and four writers, while the power is cut; recovered here and there
#: devices  nvdimm
#: built    stamps
#: cuts     yes
#: programs nbd-client
#: kernels  6.12 7.3

round=$(sed 's/.*round=\([0-9]*\).*/\1/' /proc/cmdline)
modprobe -a nfit nd_pmem dax_pmem device_dax nbd
await ls /sys/bus/nd/devices/region0
if [ "$round" = 1 ]; then
    namespace devdax -s 64M -a 4096
    check "a BTT on /dev/dax0.0" pageless btt create /dev/dax0.0 --sector-size 4096
fi
await ls /dev/dax0.0
# Where its bytes are in the image of the module.
region=$(cat /sys/bus/nd/devices/region0/resource)
echo "@data $(($(cat /sys/bus/dax/devices/dax0.0/resource) - region)) $(cat /sys/bus/dax/devices/dax0.0/size)"
serve btt:/dev/dax0.0
check "the kernel's NBD client" nbd-client -unix /tmp/nbd.sock /dev/nbd0 -b 4096 -C 2
blocks=$(($(blockdev --getsize64 /dev/nbd0) / 4096))
first=$((round * 4294967296))
echo "@disk 4096 $blocks 4 $first"
ACKED=/tmp/acked stamps write /dev/nbd0 4096 $blocks 4 $first &
await ls /tmp/acked || not_ok "a write is acknowledged" "none is"
echo "@cut"
wait
