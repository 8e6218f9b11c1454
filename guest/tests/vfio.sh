# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a BAR of a function that is bound to vfio-pci, which sysfs does not map
#: devices  intel-iommu ivshmem
#: programs nbdcopy qemu-io strace
#: kernels  6.12 7.3

bar=$(ivshmem_bar)
function=$(pci_function 0x1af4 0x1110)
random_file data 16
check "before: copy a file into the BAR by sysfs" pageless copy file:data "$bar" --verify
bind_vfio "$function"
probe "$bar" is=page-less bytes=16777216 cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
probe_flag "$bar" pf
check_says "it is mapped through VFIO" "/dev/vfio/[0-9]" strace -f -e trace=openat pageless region probe "$bar"
check "what was stored by sysfs is read by VFIO" pageless copy "$bar" file:back,size=16M --verify
check "the bytes are the same" cmp data back
random_file other 16
check_says "copy a file into it" '"bounce":16777216.*"verified":true' pageless copy file:other "$bar" --verify --json
serve "$bar"
check "nbdcopy reads it" nbdcopy "$uri" returned
check "the bytes are the same" cmp other returned
check "qemu-io writes, reads and compares" qemu-io -f raw "$uri" -c "write -P 0x5a 64k 1M" -c "read -P 0x5a 64k 1M"

# Asked to let the function go, the kernel waits for its user: we let go at the next I/O, which is an error.
read_fails() { qemu-io -f raw "$uri" -c "read -P 0x5a 64k 1M" >/tmp/read 2>&1; grep -q 'read failed' /tmp/read; }
host device_del ivshmem
check "a read is an error when the function is to go" await read_fails
check "then it goes" await gone "/sys/bus/pci/devices/$function"
check "the server lives" kill -0 "$server"
expect_fail "a write is an error" "write failed" qemu-io -f raw "$uri" -c "write 64k 1M"
stop_serving
