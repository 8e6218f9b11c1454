# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    os.preadv and os.pwritev with mmap objects over every kind of memory: EFAULT alone, right under `pageless run`
#: devices  ivshmem nvdimm
#: append   memmap=16M$0x3c000000
#: programs python3
#: files    programs/direct.py
#: kernels  6.12 7.3

resource=/sys/bus/pci/devices/$(pci_function 0x1af4 0x1110)/resource2
for kind in "file=$resource" devmem=0x3c000000 heap udmabuf; do
    name=${kind##*/}
    expect_fail "alone: $name" "EFAULT" python3 /guest/direct.py "$kind"
    check_says "under pageless run: $name" "the same bytes both ways" pageless run -- python3 /guest/direct.py "$kind"
done

# A DAX file has pages: the kernel takes it, and is not interfered with.
fsdax ext4
dd if=/dev/zero of=/mnt/dax/file bs=1M count=1 2>/dev/null
check_says "alone: a DAX file" "the same bytes both ways" python3 /guest/direct.py file=/mnt/dax/file
check_says "under pageless run: a DAX file" "the same bytes both ways" pageless run -- python3 /guest/direct.py file=/mnt/dax/file
