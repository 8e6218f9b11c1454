# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    VFIO takes the mapping of a BAR away while it is copied and served: SIGBUS, contained, and it comes back
#: devices  intel-iommu ivshmem
#: built    vfio-command
#: programs qemu-io strace
#: kernels  6.12 7.3
#: seconds  300

bar=$(ivshmem_bar)
random_file data 16
bind_vfio "$(pci_function 0x1af4 0x1110)"
check "copy a file into the BAR" pageless copy file:data "$bar"

# A copy by the CPU: the SIGBUS is one inside its loads.
freeze_copy "$bar" begun 16M
strace -f -qq -e trace=none -e signal=SIGBUS -o copy-signals -p $frozen &
tracer=$!
check "and watched" await grep -q '^TracerPid:.[1-9]' "/proc/$frozen/status"
check "the function stops decoding memory" vfio-command "$frozen" 0
expect_fail "the copy ends where it was, with an error" '^exit 1: .*cannot [a-z]* at byte [1-9][0-9]*: media error' thaw_copy
note "$(cat /tmp/said)"
moved=$(sed -n 's/.* at byte \([0-9]*\): .*/\1/p' /tmp/said)
check "and what it had moved until there is good" cmp -n "${moved:-0}" data begun
wait $tracer
check_says "it was a SIGBUS" "SIGBUS.*BUS_ADRERR" cat copy-signals

launch strace -f -qq -e trace=none -e signal=SIGBUS -o signals pageless serve "$bar"
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
stop_serving
