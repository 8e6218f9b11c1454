# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    VFIO takes the mapping of a BAR away while it is served: SIGBUS, contained, and it comes back
#: devices  intel-iommu ivshmem
#: built    vfio-command
#: programs qemu-io strace
#: kernels  6.12 7.3
#: seconds  300

bar=$(ivshmem_bar)
bind_vfio "$(pci_function 0x1af4 0x1110)"
strace -f -qq -e trace=none -e signal=SIGBUS -o signals pageless serve "$bar" --nbd unix:/tmp/nbd.sock >/tmp/serve.log 2>&1 &
tracer=$!
uri='nbd+unix:///?socket=/tmp/nbd.sock'
check "the server is ready" await grep -q '^ready' /tmp/serve.log
server=$(pidof pageless)
check "a pattern in the BAR" qemu-io -f raw "$uri" -c "write -P 0x5a 0 8M" -c "read -P 0x5a 0 8M"

( while qemu-io -f raw "$uri" -c "read -P 0x5a 0 8M"; do :; done ) >/tmp/reads 2>&1 &
reader=$!
check "reads are under way" await grep -q 'read 8388608' /tmp/reads
check_equal "signals so far" 0 "$(wc -l <signals)"
check "the function stops decoding memory" vfio-command "$server" 0
wait $reader
check_equal "reads that were acknowledged and wrong" 0 "$(grep -c 'verification failed' /tmp/reads)"
check_says "the last read is an error" "read failed" cat /tmp/reads
expect_fail "a write is an error too" "write failed" qemu-io -f raw "$uri" -c "write -P 0xa5 0 1M"
check_says "it was a SIGBUS" "SIGBUS.*BUS_ADRERR" cat signals
check "the server lives" kill -0 "$server"

check "the function decodes memory again" vfio-command "$server" 2
check "and is read and written as before" qemu-io -f raw "$uri" -c "read -P 0x5a 0 8M" -c "write -P 0xa5 0 1M" -c "read -P 0xa5 0 1M"
kill -INT "$server"
check "the server ends well" wait $tracer
