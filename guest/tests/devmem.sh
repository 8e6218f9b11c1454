# SPDX-License-Identifier: MIT OR Apache-2.0
#: about    memory kept from the kernel at boot, by /dev/mem: probed, copied to and from, served
#: append   memmap=16M$0x3c000000
#: programs fio nbdcopy qemu-io
#: kernels  6.12 7.3

spec=devmem:0x3c000000,size=16M
random_file data 16
check_says "the range is reserved" "^3c000000-3cffffff : Reserved" sed 's/^ *//' /proc/iomem
probe "$spec" is=page-less bytes=16777216 cpu_map=ok short_pin=EFAULT long_pin=EFAULT send=ok send_zerocopy=EFAULT
probe_flag "$spec" pf
check_says "copy a file into it" '"bounce":16777216.*"verified":true' pageless copy file:data "$spec" --verify --json
check "copy it into a file" pageless copy "$spec" file:back,size=16M --verify
check "the bytes are the same" cmp data back
check "a part of it begins where it says" pageless copy devmem:0x3c100000,size=1M file:part,size=1M
dd if=data of=want bs=1M skip=1 count=1 2>/dev/null
check "the bytes are the same" cmp want part

serve "$spec"
random_file other 16
check "nbdcopy writes all of it" nbdcopy other "$uri"
check "nbdcopy reads it back" nbdcopy "$uri" returned
check "the bytes are the same" cmp other returned
stop_serving

# Memory that the kernel does have is not ours to take.
expect_fail "the kernel's own memory is refused, with what to do" "memmap=" pageless region probe devmem:0x10000000,size=1M
