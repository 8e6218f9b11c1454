# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    a virtual machine that moves while its vhost-user disk is read and written: what the server put into memory moves too
#: devices  vhost-user=pmem
#: qemu     10
#: programs e2fsck fio
#: kernels  6.12 7.3
#: seconds  240

modprobe -a virtio_blk ext4
check "ext4 is made" mkfs.ext4 -q -F /dev/vdb
mkdir -p /mnt/disk
mount -t ext4 /dev/vdb /mnt/disk
for n in 1 2 3 4 5 6 7 8; do random_file "/mnt/disk/data$n" 3; done
md5sum /mnt/disk/data? >/tmp/sums
sync

# What is in the page cache was put there by the server, and no processor has written to it since.
(
    while [ ! -e /tmp/enough ]; do
        echo 3 >/proc/sys/vm/drop_caches
        md5sum -c /tmp/sums >/tmp/read 2>&1 || cat /tmp/read >>/tmp/bad
        echo round >>/tmp/rounds
    done
) &
reading=$!
(
    while [ ! -e /tmp/enough ]; do
        fio --name=v --directory=/mnt/disk --rw=randrw --bsrange=4k-64k --size=16M --ioengine=libaio --direct=1 --iodepth=16 --fsync=32 \
            --verify=crc32c --verify_fatal=1 --verify_backlog=64 >/tmp/fio 2>&1 || exit 1
    done
) &
writing=$!
await test -e /tmp/rounds
sleep 3
wc -l </tmp/rounds >/tmp/before
echo "@move"
sleep 30
touch /tmp/enough
check "fio found every byte" wait $writing
wait $reading
check_equal "files that were read wrong" "" "$(cat /tmp/bad 2>/dev/null)"
note "$(cat /tmp/before) rounds before the move, $(wc -l </tmp/rounds) in all"
check "the page cache holds what was read" md5sum -c /tmp/sums
echo 3 >/proc/sys/vm/drop_caches
check "and so does the disk" md5sum -c /tmp/sums
umount /mnt/disk
check "ext4 is sound" e2fsck -fn /dev/vdb
check_equal "errors that the kernel saw" "" "$(dmesg | grep -iE 'I/O error|timed out|blocked for|corrupt')"
