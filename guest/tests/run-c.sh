# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a C program that calls the whole read and write family with its buffers in a BAR: EFAULT alone, right under `pageless run`
#: devices  ivshmem
#: built    direct
#: kernels  6.12 7.3
#: seconds  300

# preadv2 and pwritev2 with their flags, short reads at the end, appends, writes that the kernel had half done: see
# pageless/tests/programs/direct.c. It exits with 3 where a call was EFAULT that had to work.
resource=/sys/bus/pci/devices/$(pci_function 0x1af4 0x1110)/resource2
for case in reads writes iovecs many_iovecs end_of_file alignment appends half_done flags; do
    direct "$resource" /disk/file "$case" >/tmp/said 2>&1
    check_equal "alone: $case" 3 $?
    check "under pageless run: $case" pageless run -- direct "$resource" /disk/file "$case"
done
