# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    persistent memory that only the host can flush (virtio-pmem): no MAP_SYNC, so a FLUSH is the file system's
#: devices  virtio-pmem
#: programs qemu-io strace
#: kernels  6.12 7.3
#: seconds  300

modprobe -a virtio_pmem nd_pmem ext4
await ls /dev/pmem0
random_file data 8
check_equal "its region is virtio's" virtio-pmem "$(cat /sys/bus/nd/devices/ndbus0/provider)"
mkfs.ext4 -q -F -b 4096 /dev/pmem0
mkdir -p /mnt/dax
check "mount ext4 on it with DAX" mount -t ext4 -o dax=always /dev/pmem0 /mnt/dax
spec=pmem:/mnt/dax/disk,size=16M
probe "$spec" durability=msync survives_power_loss=true
check_says "what makes a store durable" "flush domain: DAX file of ext4 whose device takes no MAP_SYNC: msync$" pageless region probe "$spec"
check "a copy into it" pageless copy file:data "$spec" --verify

launch strace -f -qq -e trace=mmap,msync,fsync,fdatasync,sync_file_range -o trace pageless serve "$spec"
check "write" qemu-io -f raw "$uri" -c "write -P 0x11 0 1M"
before=$(grep -cE '(msync|fsync|fdatasync)\(.* = 0' trace)
check "flush" qemu-io -f raw "$uri" -c "write -P 0x12 1M 4k" -c flush
after=$(grep -cE '(msync|fsync|fdatasync)\(.* = 0' trace)
check_equal "a flush is the kernel's" yes "$([ "$after" -gt "$before" ] && echo yes)"
check "write through" qemu-io -f raw "$uri" -c "write -f -P 0x22 2M 64k"
check_equal "so is what is written through" yes "$([ "$(grep -cE '(msync|fsync|fdatasync)\(.* = 0' trace)" -gt "$after" ] && echo yes)"
check_says "MAP_SYNC was tried, and refused" "MAP_SYNC.* = -1 EOPNOTSUPP" cat trace
stop_serving
check "its bytes are there" qemu-io -f raw -r /mnt/dax/disk -c "read -P 0x11 0 1M" -c "read -P 0x12 1M 4k" -c "read -P 0x22 2M 64k"

check "a BTT on a file of it" pageless btt create /mnt/dax/btt --size 32M
serve btt:/mnt/dax/btt
check_says "btt: what it is safe from is told" "if the process dies, not if power does" cat /tmp/serve.log
stop_serving
serve btt:/mnt/dax/btt,order=strict
check_equal "btt: with order=strict from power" 0 "$(grep -c 'sectors are atomic' /tmp/serve.log)"
check "btt: write, flush, read" qemu-io -f raw "$uri" -c "write -P 0x33 0 1M" -c flush -c "read -P 0x33 0 1M"
stop_serving
umount /mnt/dax

# The block device itself, through its page cache.
check "raw: a BTT on the block device" pageless btt create /dev/pmem0 --force
serve btt:/dev/pmem0
check "raw: write, flush, read" qemu-io -f raw "$uri" -c "write -P 0x44 0 1M" -c flush -c "read -P 0x44 0 1M"
stop_serving
check_says "raw: consistent" "consistent" pageless btt check /dev/pmem0
expect_fail "raw: it is not mapped without a page cache" "no regular file, so it cannot be mapped" pageless region probe pmem:/dev/pmem0

# Nobody asks the host when stores to device DAX are to be durable: the kernel has no flush there, and CLWB reaches the host's page cache.
modprobe -a device_dax dax_pmem
check "devdax on it" ndctl create-namespace -f -e namespace0.0 -m devdax -a 4096
await ls /dev/dax0.0
check "devdax: the kernel offers no deep flush" gone /sys/bus/nd/devices/region0/deep_flush
probe dax:/dev/dax0.0 durability=volatile survives_power_loss=false
check_says "devdax: nothing there outlives power, and why" "flush domain: devdax, virtio-pmem, which a host flushes .*: volatile$" pageless region probe dax:/dev/dax0.0
expect_fail "devdax: no place for a BTT" "nothing there outlives power \(devdax, virtio-pmem" pageless btt create /dev/dax0.0 --force
check "devdax: unless that is known" pageless btt create /dev/dax0.0 --force --volatile
serve btt:/dev/dax0.0
check_says "devdax: what its sectors are safe from is told" "power takes them all" cat /tmp/serve.log
stop_serving
