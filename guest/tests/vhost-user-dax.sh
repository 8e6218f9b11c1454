# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a vhost-user disk whose data goes to and from persistent memory of the virtual machine, which is in the memory table too
#: devices  nvdimm vhost-user=pmem vhost-user=file
#: programs fio
#: kernels  6.12 7.3

modprobe -a virtio_blk
fsdax ext4
truncate -s 8M /mnt/dax/buffer
for disk in vdb:pmem vdc:file; do
    # Its buffers are in the file, which has no page cache: descriptors name the module's own memory.
    check "${disk#*:}: fio verifies out of a DAX file" fio --name=v --filename="/dev/${disk%:*}" --iomem=mmapshared:/mnt/dax/buffer --size=16M \
        --rw=randrw --bsrange=4k-64k --ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_backlog=64
done
check_equal "errors that the kernel saw" "" "$(dmesg | grep -iE 'I/O error|timed out|blocked for|corrupt')"
