# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a PCI BAR, which has no struct page, as the buffer of O_DIRECT, as a disk, and as either side of a copy
#: devices  ivshmem
#: programs fio nbdcopy nbdinfo qemu-io
#: kernels  6.12 7.3

bar=$(ivshmem_bar)
resource=/sys/bus/pci/devices/${bar#bar:}
resource=${resource%/2}/resource2
random_file data 16

# Without us: the kernel will not have it as the buffer of a direct read or write, whoever asks.
direct_io() { # read|write
    fio --name=alone --ioengine=psync --direct=1 --rw="$1" --bs=64k --size=1M --filename=/disk/scratch \
        --mem=mmapshared:"$resource"
}
dd if=/dev/zero of=/disk/scratch bs=1M count=1 2>/dev/null
expect_fail "fio reads directly into the BAR: EFAULT" "Bad address" direct_io read
expect_fail "fio writes directly from the BAR: EFAULT" "Bad address" direct_io write

# With us: through a bounded pool, and it says why.
check_says "copy a file into the BAR" '"verified":true' pageless copy file:data "$bar" --verify --json
check_says "every byte of it was bounced" '"direct":0,"bounce":16777216' pageless copy file:data "$bar" --json
check_says "and the reason is named" "page-less \(O_DIRECT: EFAULT\), bounced" pageless copy file:data "$bar"
check "copy the BAR into a file" pageless copy "$bar" file:back,size=16M --verify
check "the bytes are the same" cmp data back

# As a disk, for clients that are not ours.
serve "$bar"
check_equal "nbdinfo sees its size" 16777216 "$(nbdinfo --size "$uri")"
random_file other 16
check "nbdcopy writes all of it" nbdcopy other "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" returned
check "the bytes are the same" cmp other returned
check "qemu-io writes, reads and compares a pattern" qemu-io -f raw "$uri" -c "write -P 0x5a 64k 1M" -c "read -P 0x5a 64k 1M" -c flush
check "a write within a sector of another" qemu-io -f raw "$uri" -c "write -P 0xa5 66048 512" -c "read -P 0xa5 66048 512" -c "read -P 0x5a 65536 512"
check "fio writes and verifies" fio --name=verify --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --size=4M --iodepth=8 --verify=crc32c
stop_serving
