# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a C program that calls the whole read and write family with its buffers in a BAR: EFAULT alone, right under `pageless run`
#: devices  ivshmem nvme=400M
#: built    direct
#: kernels  6.12 7.3
#: seconds  300

# preadv2 and pwritev2 with their flags, short reads at the end, appends, writes that the kernel had half done: see
# pageless/tests/programs/direct.c. It exits with 3 where a call was EFAULT that had to work.
resource=/sys/bus/pci/devices/$(pci_function 0x1af4 0x1110)/resource2
# What a file grows by is taken before our memory is met, by each file system in its own way.
modprobe -a nvme xfs
mkdir -p /mnt/xfs
check "a disk for XFS" await ls /dev/nvme0n1
check "make an XFS" mkfs.xfs -q -f /dev/nvme0n1
check "mount it" mount -t xfs /dev/nvme0n1 /mnt/xfs
for place in ext4:/disk xfs:/mnt/xfs; do
    filesystem=${place%%:*} folder=${place#*:}
    for case in reads writes iovecs many_iovecs end_of_file alignment appends half_done flags; do
        direct "$resource" "$folder/file" "$case" >/tmp/said 2>&1
        check_equal "$filesystem, alone: $case" 3 $?
        check "$filesystem, under pageless run: $case" pageless run -- direct "$resource" "$folder/file" "$case"
    done
done
check "unmount it" umount /mnt/xfs
