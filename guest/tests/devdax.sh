# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    persistent memory as a character device: probed, copied to and from, served
#: devices  nvdimm
#: programs nbdcopy nbdinfo qemu-io strace
#: kernels  6.12 7.3

namespace devdax -s 32M -a 4096
size=$(cat "/sys/class/dax/$namespace/size" 2>/dev/null || cat "/sys/bus/dax/devices/$namespace/size")
spec=dax:/dev/$namespace
probe "$spec" is=page-backed "bytes=$size" cpu_map=ok short_pin=ok long_pin=ok send=ok send_zerocopy=ok

check_says "what makes a store durable" "flush domain: devdax, .*: (CLWB and fence|CLFLUSHOPT and fence|CLFLUSH)" pageless region probe "$spec"
dd if=/dev/urandom of=data bs=4096 count=$((size / 4096)) 2>/dev/null
check_says "copy a file into it" '"verified":true' pageless copy file:data "$spec" --verify --json
check_says "without a bounce" "\"direct\":$size,\"bounce\":0" pageless copy file:data "$spec" --json
check "copy it into a file" pageless copy "$spec" "file:back,size=$size" --verify
check "the bytes are the same" cmp data back

launch strace -f -qq -e trace=msync,fsync,fdatasync -o trace pageless serve "$spec"
check_equal "nbdinfo sees its size" "$size" "$(nbdinfo --size "$uri")"
check "qemu-io writes, flushes, writes through and reads" \
    qemu-io -f raw "$uri" -c "write -P 0x11 0 1M" -c flush -c "write -f -P 0x22 1M 64k" -c "read -P 0x11 0 1M" -c "read -P 0x22 1M 64k"
check "nbdcopy writes all of it" nbdcopy data "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" returned
check "the bytes are the same" cmp data returned
expect_fail "a second user of it is refused, and told who has it" "$server" pageless copy file:data "$spec"
stop_serving
check_equal "system calls made to flush" 0 "$(grep -cE 'msync|fsync|fdatasync' trace)"
