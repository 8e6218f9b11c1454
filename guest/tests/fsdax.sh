# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    files on persistent memory: MAP_SYNC, cache-line write-back in place of msync, copies and a disk
#: devices  nvdimm
#: programs fio nbdcopy nbdinfo qemu-io strace
#: kernels  6.12 7.3
#: seconds  300

random_file data 32

for filesystem in ext4 xfs; do
    fsdax $filesystem || continue
    spec=pmem:/mnt/dax/disk,size=64M
    check_says "$filesystem: copy into a new file" '"verified":true' pageless copy file:data "$spec" --verify --json
    check_says "$filesystem: without a bounce" '"direct":33554432,"bounce":0' pageless copy file:data "$spec" --json
    probe "$spec" cpu_map=ok short_pin=ok long_pin=EOPNOTSUPP
    probe_flag "$spec" sf
    check_says "$filesystem: what makes a store durable" "flush domain: MAP_SYNC mapping of a DAX file, .*: (CLWB and fence|CLFLUSHOPT and fence|CLFLUSH)" \
        pageless region probe "$spec"
    check "$filesystem: the file system reads what was stored" cmp -n 33554432 data /mnt/dax/disk
    check_says "$filesystem: copy back" '"verified":true' pageless copy "$spec" file:back-$filesystem,size=64M --verify --json

    # Durable by the CPU's own means: no flush may reach the file system, and the mapping must be the synchronous one.
    launch strace -f -qq -e trace=mmap,msync,fsync,fdatasync,sync_file_range -o trace pageless serve "$spec"
    check "$filesystem: write, flush, write through" \
        qemu-io -f raw "$uri" -c "write -P 0x11 0 1M" -c flush -c "write -f -P 0x22 1M 64k" -c "read -P 0x11 0 1M" -c "read -P 0x22 1M 64k"
    check "$filesystem: fio with flushes" \
        fio --name=v --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --size=2M --iodepth=8 --fsync=16 --verify=crc32c
    cp trace trace.served
    stop_serving
    check_says "$filesystem: mapped with MAP_SYNC" "mmap\(.*MAP_SYNC.*\) = 0x" cat trace.served
    check_equal "$filesystem: system calls made to flush" 0 "$(grep -cE 'msync|fsync|fdatasync|sync_file_range' trace.served)"
    umount /mnt/dax
    ndctl destroy-namespace -f all >/dev/null 2>&1
done

# The counter-check: the same on the same file system without DAX does flush.
launch strace -f -qq -e trace=msync,fsync,fdatasync -o trace.plain pageless serve pmem:/disk/plain,size=4M
check "ext4 without DAX: write and flush" qemu-io -f raw "$uri" -c "write -P 0x11 0 1M" -c flush
stop_serving
check_says "ext4 without DAX: flushed by system calls" "msync|fdatasync" cat trace.plain
