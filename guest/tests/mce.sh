# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a machine check for a page of persistent memory under a served disk: the server lives, and from its next opening on that page fails
#: devices  intel-cpu nvdimm
#: built    physical
#: programs qemu-io nbdcopy
#: kernels  6.12 7.3
#: seconds  300

fsdax ext4
random_file data 16
check "a file on persistent memory" pageless copy file:data pmem:/mnt/dax/disk,size=16M --verify
bad=$((8 * 1024 * 1024 + 4096))
at=$(physical /mnt/dax/disk $bad)
memory=$(($(cat /sys/bus/nd/devices/pfn*/resource 2>/dev/null | grep -v '^0x0*$' | head -n 1) + at))
spec=pmem:/mnt/dax/disk
serve $spec
check "all of it is read before" qemu-io -f raw "$uri" -c "read 0 16M"

# Uncorrected, found by the memory controller's scrubber, in one page: bank 9, MCi_STATUS, MCG_STATUS, address, page.
host "mce -b 0 9 0xbd000000000000c0 0x5 $(printf 0x%x $memory) 0x8c"
listed() { grep -q "^$((at / 512)) " "/sys/block/$namespace/badblocks"; }
check "the kernel lists the block" await listed
check_says "and has set the page aside" "HardwareCorrupted: +4 kB" cat /proc/meminfo
check "the server lives" kill -0 $server
# The kernel leaves a mapping as it is. Memory that is bad would end each load of it with a SIGBUS (guest/poison has that); this is
# only said to be, and still has its bytes.
check "who has it mapped reads what it still has" nbdcopy "$uri" read
check "which is right" cmp data read
check "the server lives on" kill -0 $server
stop_serving
check_says "whoever opens it then knows before anybody touches it" "bad: [0-9]+ bytes at $bad \(the kernel's badblocks\)" pageless region probe $spec
expect_fail "a copy ends at that very byte" "at byte $bad: media error" pageless copy $spec ram:16M
serve $spec
expect_fail "a read of it is an I/O error" "Input/output error" qemu-io -f raw "$uri" -c "read $bad 4096"
check "what lies before it is read" qemu-io -f raw "$uri" -c "read 0 $bad"
check "what lies behind it is read" qemu-io -f raw "$uri" -c "read $((bad + 4096)) 4M"
expect_fail "nbdcopy is told" "Input/output error" nbdcopy "$uri" read
stop_serving
