# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a virtual machine whose memory is secret, so that the kernel pins none of it: its disks are served all the same
#: devices  vhost-user=pmem vhost-user=file
#: memory   secret
#: programs fio
#: kernels  6.12 7.3
#: seconds  600

modprobe -a virtio_blk ext4
for disk in vdb:pmem vdc:file; do
    device=/dev/${disk%:*} name=${disk#*:}
    mkdir -p "/mnt/$name"
    check "$name: ext4 is made" mkfs.ext4 -q -F "$device"
    check "$name: ext4 is mounted" mount -t ext4 "$device" "/mnt/$name"
    check "$name: fio verifies on both queues" fio --name=v --directory="/mnt/$name" --rw=randrw --bsrange=4k-64k --size=16M --numjobs=2 \
        --ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --fsync=32
    random_file "/mnt/$name/data" 16
    cp "/mnt/$name/data" data
    check "$name: trimmed" fstrim "/mnt/$name"
    umount "/mnt/$name"
    mount -t ext4 "$device" "/mnt/$name"
    check "$name: the bytes are the same" cmp data "/mnt/$name/data"
    umount "/mnt/$name"
done
check_equal "errors that the kernel saw" "" "$(dmesg | grep -iE 'I/O error|timed out|blocked for|corrupt')"
