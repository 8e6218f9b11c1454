# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a function bound to vfio-pci is pulled out while its BAR is served: errors, never garbage, and the process lives
#: devices  intel-iommu ivshmem=64M
#: programs qemu-io
#: kernels  6.12 7.3
#: seconds  300

bar=$(ivshmem_bar)
function=$(pci_function 0x1af4 0x1110)
bind_vfio "$function"
serve "$bar"
check "a pattern in the BAR" qemu-io -f raw "$uri" -c "write -P 0x5a 0 16M"

# Pulled out: nobody asks the kernel, no signal is raised, loads return what the bus makes of them.
( while qemu-io -f raw "$uri" -c "read -P 0x5a 0 16M"; do :; done ) >/tmp/reads 2>&1 &
reader=$!
check "reads are under way" await grep -q 'read 16777216' /tmp/reads
pull_out "$function"
wait $reader
check_equal "reads that were acknowledged and wrong" 0 "$(grep -c 'verification failed' /tmp/reads)"
check_says "the last read is an error" "read failed" cat /tmp/reads
expect_fail "a write is an error now" "write failed" qemu-io -f raw "$uri" -c "write -P 0xa5 0 1M"
check "the server lives" kill -0 "$server"
stop_serving
